"""The first generation's VMConfig, with environment variables that are changed later."""

from smolvm import CommandResult, SmolVM, SmolVMError, VMConfig
from smolvm.exceptions import ValidationError
from smolvm.types import CommandResult as SameResult

config = VMConfig(vm_id="old-config", vcpu_count=1, mem_size_mib=512, env_vars={"STAGE": "test"})
with SmolVM(config) as vm:
    assert vm.vm_id == "old-config"
    assert vm.run("echo $STAGE").stdout.strip() == "test"
    assert vm.set_env_vars({"TOKEN": "abc", "MODE": "x"}) == ["MODE", "TOKEN"]
    assert vm.run("echo $TOKEN-$MODE").stdout.strip() == "abc-x"
    assert vm.unset_env_vars(["TOKEN"]) == {"TOKEN": "abc"}
    assert vm.list_env_vars() == {"STAGE": "test", "MODE": "x"}
    assert isinstance(vm.run("true"), CommandResult) and CommandResult is SameResult

try:
    VMConfig(vm_id="Not Valid")
except (ValidationError, ValueError) as e:
    assert isinstance(e, SmolVMError)
else:
    raise AssertionError("a bad id was taken")
