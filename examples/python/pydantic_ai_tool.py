"""PydanticAI: a tool whose every call is a fresh sandbox.

Run it with OPENAI_API_KEY set, after pip install smolvm 'pydantic-ai-slim[openai]'.
"""

from pydantic_ai import Agent
from smolvm import SmolVM

agent = Agent("openai:gpt-5-mini", instructions="Run commands to find out; do not guess.")


@agent.tool_plain
def run_command(command: str, timeout: int = 30) -> dict[str, object]:
    """Run a shell command in a new, empty sandbox, which is removed afterwards.

    Args:
        command: What to run.
        timeout: Seconds that it may take.
    """
    with SmolVM(memory=512, disk_size=1024) as vm:
        result = vm.run(command, timeout=timeout)
    return {"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr}


if __name__ == "__main__":
    print(agent.run_sync("Which version of Python is in the sandbox?").output)
