"""A tool of an agent: one sandbox for each call."""

from smolvm import OperationTimeoutError, SmolVM, SmolVMError


def run_command(command: str, timeout: int = 30) -> str:
    try:
        with SmolVM() as vm:
            result = vm.run(command, timeout=timeout)
    except OperationTimeoutError as e:
        return f"timeout; so far: {e.stdout.strip()}"
    except SmolVMError as e:
        return f"failed: {e}"
    if result.exit_code != 0:
        return f"exit {result.exit_code}: {result.stderr.strip()}"
    return result.stdout.strip()


assert run_command("python3 -c 'print(2**10)'") == "1024"
assert run_command("echo bad >&2; exit 2") == "exit 2: bad"
assert run_command("echo half; sleep 60", timeout=5) == "timeout; so far: half"
