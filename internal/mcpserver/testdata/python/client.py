"""Lists and calls tools as told: client.py PLAN stdio COMMAND ARG... | http URL KEY"""

import asyncio
import contextlib
import json
import os
import sys

from mcp import ClientSession, StdioServerParameters, stdio_client
from mcp.client.streamable_http import create_mcp_http_client, streamable_http_client


@contextlib.asynccontextmanager
async def transport(way, rest):
    if way == "stdio":
        params = StdioServerParameters(command=rest[0], args=rest[1:], env=dict(os.environ))
        async with stdio_client(params) as streams:
            yield streams
        return
    async with create_mcp_http_client(headers={"Authorization": "Bearer " + rest[1]}) as http:
        async with streamable_http_client(rest[0], http_client=http) as streams:
            yield streams


async def run(plan, way, *rest):
    async with transport(way, list(rest)) as streams, ClientSession(streams[0], streams[1]) as client:
        await client.initialize()
        tools = (await client.list_tools()).tools
        out = {"tools": [t.name for t in tools], "calls": [], "progress": 0}
        saved = {}

        async def told(progress, total, message):
            out["progress"] += 1

        for c in json.load(open(plan)):
            args = {k: saved[v[1:]] if isinstance(v, str) and v.startswith("$") else v for k, v in c.get("args", {}).items()}
            res = await client.call_tool(c["tool"], args, read_timeout_seconds=300, progress_callback=told)
            if "save" in c:
                saved[c["save"]] = res.structured_content[c["save"]]
            out["calls"].append({
                "tool": c["tool"], "text": getattr(res.content[0], "text", ""), "error": bool(res.is_error),
                "structured": res.structured_content is not None,
            })
        uri = f"smolvm://sandbox/{saved['sandbox']}/file/tmp/hello.txt"
        out["resource"] = (await client.read_resource(uri)).contents[0].text
        out["templates"] = len((await client.list_resource_templates()).resource_templates)
        print(json.dumps(out))


asyncio.run(run(*sys.argv[1:]))
