"""The pattern for any framework over MCP: the official client and a loop.

Run it with OPENAI_API_KEY set, after pip install openai mcp.
"""

import asyncio
import json

from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client
from openai import AsyncOpenAI

SERVER = StdioServerParameters(command="smolvm", args=["mcp", "--memory", "512M"])


def schema(tool) -> dict:
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": tool.input_schema},
    }


async def answer(session: ClientSession, question: str) -> str:
    client = AsyncOpenAI()
    tools = [schema(t) for t in (await session.list_tools()).tools]
    messages = [{"role": "user", "content": question}]
    while True:
        reply = await client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=tools)
        message = reply.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            return message.content
        for call in message.tool_calls:
            result = await session.call_tool(call.function.name, json.loads(call.function.arguments))
            text = "\n".join(part.text for part in result.content if part.type == "text")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": text})


async def main() -> None:
    async with stdio_client(SERVER) as (read, write), ClientSession(read, write) as session:
        await session.initialize()
        print(await answer(session, "Change a file, and then undo it."))


asyncio.run(main())
