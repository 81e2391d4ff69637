"""A sandbox that lives across turns: made at the first, found by its id later, deleted at the end."""

from smolvm import SmolVM, VMNotFoundError

vm_id = None


def turn(command):
    global vm_id
    if vm_id is None:
        vm = SmolVM()
        vm.start()
        vm_id = vm.vm_id
    else:
        vm = SmolVM.from_id(vm_id)
    try:
        return vm.run(command, timeout=30).stdout.strip()
    finally:
        vm.close()


assert turn("echo remembered > /root/note") == ""
assert turn("cat /root/note") == "remembered"
last = SmolVM.from_id(vm_id)
last.stop()
last.start()
assert last.run("cat /root/note").stdout.strip() == "remembered"
last.delete()
try:
    SmolVM.from_id(vm_id)
except VMNotFoundError as e:
    assert e.vm_id == vm_id
else:
    raise AssertionError("it is there still")
