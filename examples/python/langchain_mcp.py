"""LangChain over MCP: smolvm mcp gives the tools.

Run it with OPENAI_API_KEY set, after pip install langchain langchain-openai langchain-mcp-adapters.
"""

import asyncio

from langchain.agents import create_agent
from langchain_mcp_adapters.client import MultiServerMCPClient
from langchain_mcp_adapters.tools import load_mcp_tools

client = MultiServerMCPClient({"smolvm": {"transport": "stdio", "command": "smolvm", "args": ["mcp", "--memory", "512M"]}})


async def main() -> None:
    # One session for the whole run: its sandboxes live as long as it does.
    async with client.session("smolvm") as session:
        agent = create_agent("openai:gpt-5-mini", tools=await load_mcp_tools(session))
        question = "Write /tmp/hello.txt, then read it again."
        answer = await agent.ainvoke({"messages": [{"role": "user", "content": question}]})
        print(answer["messages"][-1].text)


asyncio.run(main())
