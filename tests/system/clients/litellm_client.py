"""litellm, as a gateway calls it."""

import json
import os
import sys

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # otherwise litellm downloads a list of prices

import litellm

base_url, key = sys.argv[1:]
litellm.telemetry = False
asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is my deductible?"}]
options = {
    "model": "openai/ragcore",
    "messages": asked,
    "api_base": base_url,
    "api_key": key,
    "num_retries": 0,
    "max_tokens": 100,
}
whole = litellm.completion(**options).choices[0].message.content
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**options, stream=True))
print(json.dumps({"whole": whole, "streamed": streamed}))
