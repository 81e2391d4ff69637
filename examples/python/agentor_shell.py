"""Agentor: an agent whose shell is a sandbox.

Run it with OPENAI_API_KEY set, after pip install smolvm agentor.
"""

import os

from agentor import Agentor
from agentor.runtime import SmolVMRuntime
from agentor.tools.shell import ShellCommandRequest, ShellTool


def run(request: ShellCommandRequest | dict) -> str:
    # Agentor 0.1 hands the model's arguments over as they are, and its runtimes want
    # the request. Where that is mended, ShellTool(executor=runtime) does.
    return runtime(ShellCommandRequest.model_validate(request))


runtime = SmolVMRuntime(timeout=60, memory=512, disk_size=1024, ephemeral=True)
try:
    agent = Agentor(
        name="Engineer",
        model="gpt-5-mini",
        base_url=os.environ.get("OPENAI_BASE_URL"),
        instructions="Run commands to find out; do not guess.",
        tools=[ShellTool(executor=run)],
    )
    result = agent.run("Count the words of /etc/os-release.")
    print(result.final_output)
finally:
    # Agentor stops the machine and never deletes it. An ephemeral one is removed when
    # it is stopped or this program ends; any other an hour after its last use.
    runtime.close()
