"""An environment that outlives the program: a named sandbox, with steps to go back to.

Run it as often as you like; each run finds what the last one left.
python long_running.py --end removes it.
"""

import sys

from smolvm import SmolVM, VMNotFoundError

NAME = "my-assistant"


def environment() -> SmolVM:
    """Return the sandbox of that name; make it where there is none."""
    try:
        return SmolVM.from_id(NAME).start()
    except VMNotFoundError:
        # It is not tied to this program, but nobody's forgotten machine stays for ever.
        return SmolVM(vm_id=NAME, memory=512, ephemeral=False, idle_timeout=24 * 3600).start()


def work(vm: SmolVM) -> None:
    vm.run("echo visited >> /root/log", timeout=30)
    before = vm.checkpoint("before an experiment")
    vm.run("rm -rf /root/log", timeout=30)  # an agent's mistake
    vm.rewind(before)
    print("visits:", vm.run("wc -l < /root/log", timeout=30).output)


if __name__ == "__main__":
    vm = environment()
    if "--end" in sys.argv:
        vm.delete()
    else:
        work(vm)
        vm.close()  # lets go of it; the sandbox lives on
