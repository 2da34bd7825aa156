"""pydantic-ai's agent, with a tool that it does not have to call."""

import asyncio
import json
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

base_url, key = sys.argv[1:]
model = OpenAIChatModel("ragcore", provider=OpenAIProvider(base_url=base_url, api_key=key))
agent = Agent(model, instructions="Be brief.")


@agent.tool_plain
def today() -> str:
    """Return the date."""
    return "2026-11-26"


async def main() -> None:
    whole = (await agent.run("What is my deductible?")).output
    async with agent.run_stream("What is my deductible?") as run:
        streamed = "".join([piece async for piece in run.stream_text(delta=True)])
    print(json.dumps({"whole": whole, "streamed": streamed}))


asyncio.run(main())
