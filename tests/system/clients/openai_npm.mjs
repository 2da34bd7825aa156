// The openai package of npm.
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const messages = [{ role: "developer", content: "Be brief." }, { role: "user", content: "What is my deductible?" }];
const whole = await client.chat.completions.create({ model: "ragcore", messages, max_completion_tokens: 100 });
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model: "ragcore", messages, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
console.log(JSON.stringify({ whole: whole.choices[0].message.content, streamed }));
