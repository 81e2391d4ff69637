"""The second generation's asyncio twins."""

import asyncio

from smolvm import Callback, CommandBlockedError, SmolVM, VMConfig


class Veto(Callback):
    def on_pre_run(self, ctx):
        raise CommandBlockedError("no")


async def main():
    vm = SmolVM(memory=512)
    await vm.async_start(60)
    await vm.async_wait_for_ready()
    results = await asyncio.gather(*(vm.async_run(f"echo {i}", timeout=30) for i in range(5)))
    assert [r.output for r in results] == list("01234")
    vm.add_callback(Veto())
    try:
        await vm.async_run("echo no")
    except CommandBlockedError:
        pass
    else:
        raise AssertionError("the veto was passed by")
    await vm.async_stop()
    await vm.async_delete()

    vms = await SmolVM.async_create_many([VMConfig(vm_id=f"many-{i}", vcpu_count=1) for i in range(2)], boot_timeout=300)
    assert [v.vm_id for v in vms] == ["many-0", "many-1"]
    await asyncio.gather(*(v.async_delete() for v in vms))


asyncio.run(main())
