"""OpenAI Agents SDK: a function tool that runs commands in a sandbox.

Run it with OPENAI_API_KEY set, after pip install smolvm openai-agents.
"""

import asyncio

from agents import Agent, Runner, function_tool
from smolvm import SmolVM


@function_tool
async def run_command(command: str) -> str:
    """Run a shell command in a new, empty sandbox, which is removed afterwards."""
    async with SmolVM(memory=512) as vm:
        result = await vm.async_run(command, timeout=60)
    return f"{result.stdout}{result.stderr}\n(exit code {result.exit_code})"


async def main() -> None:
    agent = Agent(
        name="Engineer",
        model="gpt-5-mini",
        instructions="Run commands to find out; do not guess.",
        tools=[run_command],
    )
    result = Runner.run_streamed(agent, "How many processors does the sandbox have?")
    async for event in result.stream_events():
        if event.type == "raw_response_event" and event.data.type == "response.output_text.delta":
            print(event.data.delta, end="", flush=True)
    print()


asyncio.run(main())
