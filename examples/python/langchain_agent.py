"""LangChain: an agent whose tools share one sandbox, and whose words are streamed.

Run it with OPENAI_API_KEY set, after pip install smolvm langchain langchain-openai.
"""

from langchain.agents import create_agent
from langchain.tools import tool
from smolvm import SmolVM

with SmolVM(memory=512) as vm:

    @tool
    def run_command(command: str) -> str:
        """Run a shell command on the computer and return what it printed."""
        result = vm.run(command, timeout=60)
        return f"{result.stdout}{result.stderr}\n(exit code {result.exit_code})"

    @tool
    def write_file(path: str, content: str) -> str:
        """Write a file on the computer. The path is absolute."""
        vm.files.write(path, content, parents=True)
        return f"wrote {len(content)} characters to {path}"

    agent = create_agent(
        "openai:gpt-5-mini",
        tools=[run_command, write_file],
        system_prompt="You have a computer. Its files stay between your commands.",
    )
    question = {"messages": [{"role": "user", "content": "Write a program that prints the 20th prime, and run it."}]}
    for message, _ in agent.stream(question, stream_mode="messages"):
        if message.type == "AIMessageChunk":
            print(message.text, end="", flush=True)
    print()
