"""The openai package: a whole answer, a streamed answer, and an error with the package's own class."""

import json
import sys

import openai

base_url, key = sys.argv[1:]
client = openai.OpenAI(base_url=base_url, api_key=key, max_retries=0)
messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is my deductible?"}]
whole = client.chat.completions.create(
    model="ragcore", messages=messages, max_tokens=100, temperature=0.5, stop=["END"]
)
stream = client.chat.completions.create(
    model="ragcore", messages=messages, stream=True, stream_options={"include_usage": True}
)
pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
try:
    client.chat.completions.create(model="ragcore", messages=messages, response_format={"type": "json_object"})
except openai.BadRequestError as error:
    refused = [error.param, error.code, bool(error.request_id)]
print(
    json.dumps(
        {
            "whole": whole.choices[0].message.content,
            "streamed": "".join(pieces),
            "refused": refused,
            "id": whole._request_id,
        }
    )
)
