"""PydanticAI: one sandbox for a whole conversation.

The first call makes the sandbox, the others find it by its id, as a web application
would whose requests come to different processes.
"""

from dataclasses import dataclass

from pydantic_ai import Agent, RunContext
from smolvm import SmolVM


@dataclass
class Conversation:
    vm_id: str = ""

    def sandbox(self) -> SmolVM:
        if self.vm_id:
            return SmolVM.from_id(self.vm_id)
        vm = SmolVM(memory=512)
        vm.start()
        self.vm_id = vm.vm_id
        return vm

    def end(self) -> None:
        if self.vm_id:
            SmolVM.from_id(self.vm_id).delete()


agent = Agent(
    "openai:gpt-5-mini",
    deps_type=Conversation,
    instructions="You have a computer. Its files stay between your commands.",
)


@agent.tool
def run_command(ctx: RunContext[Conversation], command: str) -> str:
    """Run a shell command on the computer and return what it printed."""
    vm = ctx.deps.sandbox()
    try:
        result = vm.run(command, timeout=60)
        return f"{result.stdout}{result.stderr}\n(exit code {result.exit_code})"
    finally:
        vm.close()  # lets go of it; the sandbox lives on


if __name__ == "__main__":
    conversation = Conversation()
    try:
        first = agent.run_sync("Note down that my favourite number is 42.", deps=conversation)
        print(first.output)
        second = agent.run_sync(
            "What was my favourite number?", deps=conversation, message_history=first.all_messages()
        )
        print(second.output)
    finally:
        conversation.end()
