"""Agentor over MCP: the sandboxes of a smolvm gateway, as tools.

Start the gateway with smolvm serve --listen 127.0.0.1:8080, make a key with
smolvm key create, and set SMOLVM_URL, SMOLVM_API_KEY and OPENAI_API_KEY.
"""

import os

from agentor import Agentor
from agentor.engine.mcp import MCPServer

sandboxes = MCPServer(
    url=os.environ["SMOLVM_URL"] + "/mcp",
    headers={"Authorization": "Bearer " + os.environ["SMOLVM_API_KEY"]},
)
agent = Agentor(
    name="Engineer",
    model="gpt-5-mini",
    base_url=os.environ.get("OPENAI_BASE_URL"),
    instructions="Run commands to find out; do not guess.",
    tools=[sandboxes],
)
result = agent.run("What is 2 to the power of 100? Compute it.")
print(result.final_output)
