// Vercel's ai package with its OpenAI-compatible provider.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, streamText } from "ai";

const [baseURL, apiKey] = process.argv.slice(2);
const model = createOpenAICompatible({ name: "ragcore", baseURL, apiKey })("ragcore");
const asked = { model, system: "Be brief.", prompt: "What is my deductible?", maxOutputTokens: 100, maxRetries: 0 };
const whole = await generateText(asked);
let streamed = "";
for await (const piece of streamText(asked).textStream) streamed += piece;
console.log(JSON.stringify({ whole: whole.text, streamed }));
