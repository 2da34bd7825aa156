"""LangChain's ChatOpenAI."""

import json
import sys

from langchain_openai import ChatOpenAI

base_url, key = sys.argv[1:]
model = ChatOpenAI(model="ragcore", base_url=base_url, api_key=key, max_retries=0, temperature=0.2, max_tokens=100)
asked = [("system", "Be brief."), ("human", "hello"), ("ai", "hello"), ("human", "What is my deductible?")]
whole = model.invoke(asked)
streamed = "".join(str(chunk.content) for chunk in model.stream(asked))
print(json.dumps({"whole": whole.content, "streamed": streamed}))
