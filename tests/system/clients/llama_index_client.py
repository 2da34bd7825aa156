"""LlamaIndex's OpenAILike."""

import json
import sys

from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

base_url, key = sys.argv[1:]
model = OpenAILike(model="ragcore", api_base=base_url, api_key=key, is_chat_model=True, max_retries=0, max_tokens=100)
asked = [ChatMessage(role="system", content="Be brief."), ChatMessage(role="user", content="What is my deductible?")]
whole = model.chat(asked).message.content
streamed = "".join(piece.delta or "" for piece in model.stream_chat(asked))
print(json.dumps({"whole": whole, "streamed": streamed}))
