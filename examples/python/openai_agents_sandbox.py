"""OpenAI Agents SDK: a SandboxAgent whose computer is a smolvm sandbox.

The agent has a shell and files there, a port is reached from here, and a second
session goes on with the files of the first, in another sandbox.
"""

import asyncio
import tempfile
import urllib.request
from pathlib import Path

from agents import RunConfig, Runner
from agents.sandbox import LocalSnapshotSpec, Manifest, SandboxAgent, SandboxRunConfig
from agents.sandbox.capabilities import Shell
from agents.sandbox.entries import File
from smolvm.openai_agents import SmolVMSandboxClient, SmolVMSandboxClientOptions


async def main(folder: Path) -> None:
    client = SmolVMSandboxClient()
    agent = SandboxAgent(
        name="Engineer",
        model="gpt-5-mini",
        instructions="Work in the workspace. Serve what you make on port 8000.",
        capabilities=[Shell()],
    )
    session = await client.create(
        manifest=Manifest(entries={"task.md": File(content=b"Make a page that greets the world.\n")}),
        snapshot=LocalSnapshotSpec(base_path=folder),
        options=SmolVMSandboxClientOptions(memory=512, exposed_ports=(8000,)),
    )
    async with session:
        config = RunConfig(sandbox=SandboxRunConfig(session=session))
        result = await Runner.run(agent, "Do what task.md says.", run_config=config)
        print(result.final_output)
        page = (await session.resolve_exposed_port(8000)).url_for("http")
        print("the page says:", urllib.request.urlopen(page, timeout=30).read().decode())

    # The sandbox is gone. Its files are in the snapshot, and its state is plain JSON.
    state = client.deserialize_session_state(client.serialize_session_state(session.state))
    async with await client.resume(state) as session:
        restored = await session.read(Path("index.html"))
        print("the file is back:", restored.read().decode())


with tempfile.TemporaryDirectory() as folder:
    asyncio.run(main(Path(folder)))
