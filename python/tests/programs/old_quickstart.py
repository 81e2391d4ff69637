"""The first generation's start: sizes in mem_size_mib and disk_size_mib, start and stop by hand."""

from smolvm import SmolVM

vm = SmolVM(mem_size_mib=512, disk_size_mib=8192)
vm.start()
result = vm.run("echo 'hello from the sandbox'")
assert result.output == "hello from the sandbox", result
assert result.exit_code == 0 and result.ok
assert vm.run("exit 7").exit_code == 7
vm.stop()
assert vm.status.value == "stopped"
vm.delete()
