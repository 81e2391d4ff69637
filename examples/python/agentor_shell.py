"""Agentor: an agent whose shell is a sandbox.

Run it with OPENAI_API_KEY set, after pip install smolvm agentor.
"""

import os

from agentor import Agentor
from agentor.runtime import SmolVMRuntime
from agentor.tools.shell import ShellTool

runtime = SmolVMRuntime(timeout=60, memory=512, disk_size=1024, ephemeral=True)
try:
    agent = Agentor(
        name="Engineer",
        model="gpt-5-mini",
        base_url=os.environ.get("OPENAI_BASE_URL"),
        instructions="Run commands to find out; do not guess.",
        tools=[ShellTool(executor=runtime)],
    )
    result = agent.run("Count the words of /etc/os-release.")
    print(result.final_output)
finally:
    # Agentor stops the machine and never deletes it. An ephemeral one is removed when
    # it is stopped or this program ends; any other an hour after its last use.
    runtime.close()
