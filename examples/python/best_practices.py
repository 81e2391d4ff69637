"""Good habits with sandboxes, each in a function.

Run it after pip install smolvm. It prints what each habit does.
"""

import asyncio
import contextlib

from smolvm import OperationTimeoutError, Policy, Secret, SmolVM, SmolVMError, VMNotFoundError


def removed_on_every_way_out() -> None:
    """with removes the sandbox: after an exception, a cancelled task, a killed program."""
    with contextlib.suppress(ZeroDivisionError), SmolVM(memory=512) as vm:
        name = vm.vm_id
        raise ZeroDivisionError
    try:
        SmolVM.from_id(name)
    except VMNotFoundError:
        print("removed after an exception")


async def removed_when_cancelled() -> None:
    async with SmolVM(memory=512) as vm:
        task = asyncio.create_task(vm.async_run("sleep 1000", timeout=2000))
        await asyncio.sleep(0)
        task.cancel()  # ends the command, too
        with contextlib.suppress(asyncio.CancelledError):
            await task
        print("still sleeping:", (await vm.async_run("pgrep -c sleep || true", timeout=30)).output)


def a_timeout_on_every_call() -> None:
    with SmolVM(memory=512) as vm:
        try:
            vm.run("echo started; sleep 1000", timeout=10)
        except OperationTimeoutError as e:
            print("out of time, having said:", e.stdout.strip())


def environment_and_secrets() -> None:
    """What is no secret goes into the environment. What is stays outside of the sandbox."""
    secrets = {"API_TOKEN": Secret("s3cret-value", hosts=["api.example.com"])}
    with SmolVM(memory=512, env={"STAGE": "test"}, secrets=secrets) as vm:
        print("stage:", vm.run("echo $STAGE", timeout=30).output)
        # Programs see a placeholder; requests to api.example.com carry the value.
        print("the token is inside:", "s3cret-value" in vm.run("env", timeout=30).stdout)


def limits() -> None:
    """Memory, disk, processors, output and network each have one."""
    policy = Policy(default="deny")
    with SmolVM(memory=512, disk_size=1024, cpus=1, policy=policy, ttl=600) as vm:
        result = vm.run("yes | head -c 10000000", timeout=60, output_limit=1000)
        print("kept of the output:", len(result.stdout), "cut:", result.truncated)


def errors_say_what_to_do() -> None:
    """Every error is a SmolVMError: a code for programs, a next step for people and models."""
    try:
        SmolVM.from_id("no-such-sandbox")
    except SmolVMError as e:
        print(f"{e.code}: {e.message} (next: {e.recovery or 'nothing'})")
    try:
        with SmolVM(image="no-such-image:1") as vm:
            vm.run("true", timeout=30)
    except SmolVMError as e:
        print(f"{e.code}: {e.message} (next: {e.recovery})")


if __name__ == "__main__":
    removed_on_every_way_out()
    asyncio.run(removed_when_cancelled())
    a_timeout_on_every_call()
    environment_and_secrets()
    limits()
    errors_say_what_to_do()
