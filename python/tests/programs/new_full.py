"""The second generation's facade: files, ports, snapshots, settings of the internet, callbacks."""

import tempfile
import urllib.request
from pathlib import Path

from smolvm import Callback, CommandBlockedError, InternetSettings, SmolVM, VMState


class Guard(Callback):
    def __init__(self):
        self.log = []

    def on_pre_run(self, ctx):
        if "rm -rf /" in ctx.command:
            raise CommandBlockedError(f"blocked: {ctx.command}", ctx.vm_id, ctx.command)

    def on_post_run(self, ctx):
        self.log.append((ctx.command, ctx.result.exit_code))


guard = Guard()
vm = SmolVM(
    os="alpine",
    backend="qemu",
    memory=512,
    disk_size=8192,
    qemu_machine="auto",
    internet_settings=InternetSettings(allowed_domains=["pypi.org"]),
    callbacks=[guard],
)
assert vm.status is VMState.CREATED
vm.start(boot_timeout=300)
try:
    vm.wait_for_ready(60)
    assert vm.refresh().status.value == "running" and vm.can_run_commands()
    try:
        vm.run("rm -rf / --no-preserve-root")
    except CommandBlockedError as e:
        assert e.vm_id == vm.vm_id
    else:
        raise AssertionError("it ran")
    assert vm.run("true", shell="raw").ok and guard.log == [("true", 0)]
    assert not vm.run("curl -fs -m 5 http://example.com").ok

    with tempfile.TemporaryDirectory() as dir:
        source = Path(dir, "page.html")
        source.write_text("<h1>served</h1>")
        assert vm.upload_file(str(source), "/srv/page.html") == "/srv/page.html"
        back = vm.download_file("/srv/page.html", str(Path(dir, "copy.html")))
        assert Path(back).read_text() == "<h1>served</h1>"

    vm.run("cd /srv && nohup python3 -m http.server 8000 >/dev/null 2>&1 &")
    vm.wait_for_guest_tcp_ports([8000], timeout=60)
    port = vm.expose_local(8000)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/page.html", timeout=60) as page:
        assert page.read() == b"<h1>served</h1>"
    vm.unexpose_local(port, 8000)

    saved = vm.snapshot("new-full", resume_source=True)
    assert saved.snapshot_id == "new-full" and saved.vm_id == vm.vm_id
finally:
    vm.delete()

copy = SmolVM.from_snapshot("new-full", resume_vm=True)
assert copy.run("cat /srv/page.html").stdout == "<h1>served</h1>"
copy.delete()
copy._client.delete_snapshot("new-full")
