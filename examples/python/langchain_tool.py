"""LangChain: a tool for a chat model, and the loop around it by hand.

Run it with OPENAI_API_KEY set, after pip install smolvm langchain langchain-openai.
"""

from langchain.chat_models import init_chat_model
from langchain.messages import HumanMessage
from langchain.tools import tool
from smolvm import SmolVM


@tool
def run_command(command: str) -> str:
    """Run a shell command in a new, empty sandbox, which is removed afterwards."""
    with SmolVM(memory=512) as vm:
        result = vm.run(command, timeout=60)
    return f"{result.stdout}{result.stderr}\n(exit code {result.exit_code})"


model = init_chat_model("openai:gpt-5-mini").bind_tools([run_command])
messages = [HumanMessage("How much memory does the sandbox have? Look.")]
while True:
    answer = model.invoke(messages)
    messages.append(answer)
    if not answer.tool_calls:
        break
    messages += [run_command.invoke(call) for call in answer.tool_calls]
print(answer.text)
