"""PydanticAI over MCP: smolvm mcp gives the tools, and removes their sandboxes at the end.

Run it with OPENAI_API_KEY set, after pip install 'pydantic-ai-slim[openai,mcp]'.
"""

import asyncio

from fastmcp.client.transports import StdioTransport
from pydantic_ai import Agent
from pydantic_ai.mcp import MCPToolset

sandboxes = MCPToolset(StdioTransport(command="smolvm", args=["mcp", "--memory", "512M"]))
agent = Agent("openai:gpt-5-mini", toolsets=[sandboxes], instructions="Run commands to find out; do not guess.")


async def main() -> None:
    async with agent, agent.run_stream("Which version of Python is in the sandbox?") as answer:
        async for text in answer.stream_text(delta=True):
            print(text, end="", flush=True)
    print()


asyncio.run(main())
