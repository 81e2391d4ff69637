"""OpenAI Agents SDK over MCP: smolvm mcp gives the tools.

Run it with OPENAI_API_KEY set, after pip install openai-agents.
"""

import asyncio

from agents import Agent, Runner
from agents.mcp import MCPServerStdio


async def main() -> None:
    # The SDK gives a call 5 seconds; commands may take longer.
    async with MCPServerStdio(
        params={"command": "smolvm", "args": ["mcp", "--memory", "512M"]},
        client_session_timeout_seconds=300,
    ) as sandboxes:
        agent = Agent(
            name="Engineer",
            model="gpt-5-mini",
            instructions="Run commands to find out; do not guess.",
            mcp_servers=[sandboxes],
        )
        result = await Runner.run(agent, "Write hello.py, run it, and tell me what it printed.")
        print(result.final_output)


asyncio.run(main())
