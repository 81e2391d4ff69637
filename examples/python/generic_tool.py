"""The pattern for any framework, with no framework: a function, its schema, a loop.

Run it with OPENAI_API_KEY set, after pip install smolvm openai.
"""

import json

from openai import OpenAI
from smolvm import OperationTimeoutError, SmolVM


def run_command(command: str, timeout: float = 30) -> str:
    """Make a sandbox, run a command, remove the sandbox."""
    with SmolVM(memory=512) as vm:
        try:
            result = vm.run(command, timeout=timeout)
        except OperationTimeoutError as e:
            return json.dumps({"error": str(e), "stdout": e.stdout})
    return json.dumps({"exit_code": result.exit_code, "stdout": result.stdout, "stderr": result.stderr})


TOOL = {
    "type": "function",
    "function": {
        "name": "run_command",
        "description": "Run a shell command in a new, empty sandbox, which is removed afterwards.",
        "parameters": {
            "type": "object",
            "properties": {
                "command": {"type": "string"},
                "timeout": {"type": "number", "description": "seconds; default 30"},
            },
            "required": ["command"],
        },
    },
}

if __name__ == "__main__":
    client = OpenAI()
    messages = [{"role": "user", "content": "What does uname -s print? Then find out what a slow command does."}]
    while True:
        answer = client.chat.completions.create(model="gpt-5-mini", messages=messages, tools=[TOOL])
        message = answer.choices[0].message
        messages.append(message)
        if not message.tool_calls:
            break
        for call in message.tool_calls:
            output = run_command(**json.loads(call.function.arguments))
            messages.append({"role": "tool", "tool_call_id": call.id, "content": output})
    print(message.content)
