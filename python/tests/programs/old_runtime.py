"""A shell executor as an agent framework has it: arguments passed through, no delete at the end."""

import importlib
import math


class Runtime:
    def __init__(self, timeout=None, start=True, **options):
        self.timeout = timeout
        self.vm = importlib.import_module("smolvm").SmolVM(**options)
        if start:
            self.vm.start()

    def execute(self, command, env=None, directory=None, timeout_ms=None):
        if env:
            self.vm.set_env_vars(env)
        if directory:
            command = f"cd {directory} && {command}"
        seconds = math.ceil(timeout_ms / 1000) if timeout_ms else self.timeout or 30
        result = self.vm.run(command, timeout=seconds)
        return result.stdout + result.stderr

    def close(self):
        self.vm.stop()
        self.vm.close()


runtime = Runtime(mem_size_mib=512, disk_size_mib=8192)
try:
    assert runtime.execute("pwd", directory="/tmp") == "/tmp\n"
    assert runtime.execute("echo $WHO", env={"WHO": "agent"}, timeout_ms=2500) == "agent\n"
finally:
    runtime.close()

late = Runtime(start=False, memory=512)
late.vm.set_env_vars({"EARLY": "yes"})
assert late.execute("echo $EARLY") == "yes\n"
late.close()
