"""The package against real sandboxes. Run by python_test.go, which starts the gateway."""

import asyncio
import contextlib
import http.client
import io
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import smolvm
from smolvm import SmolVM, aio, errors
from smolvm.models import Policy, Rule, VMConfig, VMState

TIMEOUT = 120  # seconds; only a failure takes it
client = smolvm.Client()


def names():
    return {s.name for s in client.sandboxes()}


def eventually(what, done):
    """Wait for something of another process that tells nobody when it happens."""
    deadline = time.monotonic() + TIMEOUT
    while not done():
        if time.monotonic() > deadline:
            raise AssertionError(f"it did not happen: {what}")
        time.sleep(0.05)


def sleepers(vm, seconds):
    return [p for p in vm.ps() if p.argv == ["sleep", str(seconds)]]


class Shared(unittest.TestCase):
    """Tests that can share one sandbox."""

    @classmethod
    def setUpClass(cls):
        cls.vm = SmolVM()
        cls.vm.start()
        cls.addClassCleanup(cls.vm.delete)

    def test_results(self):
        r = self.vm.run("echo out; echo err >&2; exit 3")
        self.assertEqual((r.exit_code, r.stdout, r.stderr, r.ok, r.output), (3, "out\n", "err\n", False, "out"))
        self.assertGreater(r.wall_ms, 0)
        self.assertEqual(self.vm.run(["printf", "%s|", "a b", "$HOME"]).stdout, "a b|$HOME|")
        self.assertEqual(self.vm.run("kill -KILL $$").exit_code, 137)
        self.assertEqual(self.vm.run(r"printf '\377\0ok'").stdout_bytes, b"\xff\0ok")

    def test_directory_user_environment_and_input(self):
        r = self.vm.run("pwd; id -un; echo $A; cat", cwd="/tmp", user="nobody", env={"A": "x y"}, stdin="typed")
        self.assertEqual(r.stdout, "/tmp\nnobody\nx y\ntyped")
        self.assertEqual(self.vm.run("cat | wc -c", stdin=b"\0" * 3_000_000).output, "3000000")
        with self.assertRaises(errors.ValidationError):
            self.vm.run("true", cwd="/nonexistent")
        with self.assertRaises(errors.NotFoundError):
            self.vm.run(["/no/such/program"])

    def test_time_is_over(self):
        start = time.monotonic()
        with self.assertRaises(errors.OperationTimeoutError) as caught:
            self.vm.run("echo so far; echo bad >&2; sleep 771 & sleep 771", timeout=3)
        self.assertLess(time.monotonic() - start, 20)
        self.assertEqual((caught.exception.stdout, caught.exception.stderr), ("so far\n", "bad\n"))
        self.assertEqual(sleepers(self.vm, 771), [])

    def test_output_is_bounded(self):
        r = self.vm.run("head -c 3000000 /dev/zero | tr '\\0' x", output_limit=1000)
        self.assertEqual((len(r.stdout), r.truncated), (1000, True))

    def test_streams(self):
        with self.vm.stream("for i in 1 2 3; do echo $i; sleep 0.2; done; echo e >&2; exit 4") as output:
            pieces = list(output)
        self.assertEqual("".join(p.text for p in pieces if p.stream == "stdout"), "1\n2\n3\n")
        self.assertGreater(len([p for p in pieces if p.stream == "stdout"]), 1, "it came all at once")
        self.assertEqual((output.result.exit_code, output.result.stderr), (4, "e\n"))
        told = []
        self.vm.run("echo told", on_stdout=told.append)
        self.assertEqual("".join(told), "told\n")

    def test_leaving_a_stream_ends_the_command(self):
        with self.vm.stream("echo up; sleep 772") as output:
            for _ in output:
                break
            self.assertTrue(sleepers(self.vm, 772))
        eventually("the command ended", lambda: not sleepers(self.vm, 772))

    def test_cancelling_ends_the_command(self):
        async def main():
            task = asyncio.ensure_future(self.vm.async_run("sleep 773", timeout=None))
            await asyncio.to_thread(eventually, "it runs", lambda: sleepers(self.vm, 773))
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        eventually("the command ended", lambda: not sleepers(self.vm, 773))

    def test_asyncio(self):
        async def main():
            results = await asyncio.gather(*(self.vm.async_run(f"sleep 0.3; echo {i}") for i in range(20)))
            pieces = [p.text async for p in self.vm.async_stream("echo a; echo b")]
            return [r.output for r in results], "".join(pieces), await aio.call(self.vm.files.exists, "/etc/passwd")

        outputs, streamed, exists = asyncio.run(main())
        self.assertEqual((outputs, streamed, exists), ([str(i) for i in range(20)], "a\nb\n", True))

    def test_background_processes(self):
        p = self.vm.spawn("cat; echo done >&2; exit 5", keep_stdin=True, tag="reader")
        p.write("one ")
        p.write("two", close=True)
        r = p.wait(timeout=TIMEOUT)
        self.assertEqual((r.exit_code, r.stdout, r.stderr), (5, "one two", "done\n"))
        self.assertFalse(p.running)
        self.assertEqual(self.vm.process(p.id).output().wait().stdout, "one two")
        p.forget()
        self.assertNotIn(p.id, [q.id for q in self.vm.processes()])
        p = self.vm.spawn("sleep 774")
        with self.assertRaises(errors.OperationTimeoutError):
            p.wait(timeout=0.3)
        p.kill()
        self.assertEqual(p.wait(timeout=TIMEOUT).signal, "SIGKILL")

    def test_environment(self):
        vm = self.vm
        self.assertEqual(vm.set_env_vars({"B": "2", "A": "1"}), ["A", "B"])
        self.assertEqual(vm.run("echo $A$B").output, "12")
        self.assertEqual(vm.run("echo $A", shell="raw").output, "1")
        self.assertEqual(vm.unset_env_vars(["A", "Z"]), {"A": "1"})
        vm.set_env_vars({"C": "3"}, merge=False)
        self.assertEqual(vm.list_env_vars(), {"C": "3"})

    def test_files(self):
        f = self.vm.files
        data = os.urandom(5 << 20)
        with tempfile.TemporaryDirectory() as dir:
            local = Path(dir, "tool")
            local.write_bytes(data)
            local.chmod(0o700)
            self.assertEqual(self.vm.upload_file(local, "/work/deep/tool"), "/work/deep/tool")
            self.assertEqual((f.stat("/work/deep/tool").size, f.stat("/work/deep/tool").mode & 0o777), (5 << 20, 0o700))
            self.vm.download_file("/work/deep/tool", Path(dir, "new", "back"))
            self.assertEqual(Path(dir, "new", "back").read_bytes(), data)
            Path(dir, "src", "sub").mkdir(parents=True)
            Path(dir, "src", "sub", "x").write_text("x")
            f.upload_dir(Path(dir, "src"), "/work/tree")
            self.assertEqual(f.read_text("/work/tree/sub/x"), "x")
            self.vm.run("ln -s /etc/shadow /work/tree/link; echo more > /work/tree/y")
            with contextlib.suppress(Exception):  # Python refuses the link that leads out
                f.download_dir("/work/tree", Path(dir, "out"))
            self.assertFalse(Path(dir, "out", "link").exists())
            self.vm.run("rm /work/tree/link")
            f.download_dir("/work/tree", Path(dir, "out2"))
            self.assertEqual(Path(dir, "out2", "y").read_text(), "more\n")
        f.write("/work/a b.txt", "text")
        f.write("/work/a b.txt", io.BytesIO(b" more"), append=True)
        self.assertEqual(f.read("/work/a b.txt"), b"text more")
        self.assertEqual(sorted(i.name for i in f.list("/work")), ["a b.txt", "deep", "tree"])
        f.rename("/work/a b.txt", "/work/c")
        f.mkdir("/work/d/e", mode=0o711)
        self.assertTrue(f.exists("/work/c") and not f.exists("/work/a b.txt"))
        f.remove("/work", recursive=True)
        self.assertFalse(f.exists("/work"))
        with self.assertRaises(errors.NotFoundError):
            f.read("/nothing")

    def test_ports(self):
        with self.vm.stream("cd /etc && exec python3 -m http.server 8000 --bind 127.0.0.1"):
            self.vm.wait_for_guest_tcp_ports([8000], timeout=TIMEOUT)
            port = self.vm.expose_local(8000)
            conn = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT)
            conn.request("GET", "/hostname")
            self.assertEqual(conn.getresponse().read().decode().strip(), self.vm.run("hostname").output)
            conn.close()
            with self.assertRaises(errors.NetworkError):
                self.vm.expose_local(8001, port)
            self.vm.unexpose_local(port, 8000)
            self.assertEqual(self.vm.list_ports(), [])
        with self.assertRaises(errors.OperationTimeoutError):
            self.vm.wait_for_guest_tcp_ports([8099], timeout=1)

    def test_description(self):
        info = self.vm.info
        self.assertEqual((info.status, info.vm_id, info.sandbox.memory_mib), (VMState.RUNNING, self.vm.vm_id, 512))
        self.assertEqual((info.sandbox.idle_timeout_seconds, info.sandbox.idle_action), (3600, "remove"))
        self.assertTrue(self.vm.can_run_commands())
        self.assertGreater(self.vm.stats()["memory_total_kib"], 0)
        self.assertIsInstance(self.vm.console(tail=5), str)
        self.assertEqual(self.vm.wait_for_ssh().refresh(), self.vm)

    def test_from_id_in_another_process(self):
        program = "import sys, smolvm; print(smolvm.SmolVM.from_id(sys.argv[1]).run('echo found').output)"
        done = subprocess.run([sys.executable, "-c", program, self.vm.vm_id], capture_output=True, text=True, timeout=TIMEOUT)
        self.assertEqual((done.stdout, done.stderr), ("found\n", ""))

    def test_callbacks_really_keep_commands_out(self):
        class No(smolvm.Callback):
            def on_pre_run(self, ctx):
                if "touch" in ctx.command:
                    raise smolvm.CommandBlockedError("no", ctx.vm_id, ctx.command)

        vm = SmolVM.from_id(self.vm.vm_id, callbacks=[No()])
        with self.assertRaises(smolvm.CommandBlockedError):
            vm.run("touch /vetoed")
        with self.assertRaises(smolvm.CommandBlockedError):
            asyncio.run(vm.async_run("touch /vetoed"))
        self.assertTrue(vm.run("test ! -e /vetoed").ok)

    def test_overhead(self):
        """Print what the package adds to a request that is sent by hand on a kept connection."""
        body = b'{"command":":","shell":"raw","encoding":"base64"}'
        raw = client.http.dial()
        path = f"/v1/sandboxes/{self.vm._ref}/exec"

        def by_hand():
            raw.request("POST", path, body, {"Content-Type": "application/json"})
            raw.getresponse().read()

        def by_package():
            self.vm.run(":", shell="raw")

        def median(ways):
            took = {way: [] for way in ways}
            for i in range(110):
                for way, times in took.items():
                    start = time.perf_counter()
                    way()
                    if i >= 10:
                        times.append((time.perf_counter() - start) * 1000)
            return [statistics.median(t) for t in took.values()]

        hand, package = median([by_hand, by_package])
        print(f"\nexec p50 over HTTP {hand:.2f} ms, by the package {package - hand:+.2f} ms", file=sys.stderr)
        raw.close()


class Lives(unittest.TestCase):
    """Tests of sandboxes that come and go. After each nothing is left."""

    def setUp(self):
        before = names()
        self.addCleanup(lambda: eventually(f"only {before} is left", lambda: names() == before))

    def test_with_removes_on_every_way_out(self):
        with SmolVM() as vm:
            self.assertIn(vm.vm_id, names())
        self.assertNotIn(vm.vm_id, names())
        with self.assertRaises(KeyError), SmolVM() as vm:
            raise KeyError
        self.assertNotIn(vm.vm_id, names())

        async def cancelled():
            async with SmolVM() as vm:
                made.append(vm.vm_id)
                await vm.async_run("sleep 100", timeout=None)

        made = []
        with self.assertRaises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(cancelled(), 8))
        self.assertTrue(made)
        self.assertNotIn(made[0], names())

    def test_a_start_that_is_given_up_leaves_nothing(self):
        for patience in [0.05, 0.2, 0.4, 0.8]:
            with contextlib.suppress(asyncio.TimeoutError):
                vm = SmolVM()
                asyncio.run(asyncio.wait_for(vm.async_start(), patience))
                vm.delete()

    def program(self, text):
        """Start a program, and return it and the first line that it prints."""
        proc = subprocess.Popen([sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(proc.stdout.close)
        line = proc.stdout.readline().strip()
        self.assertTrue(line)
        return proc, line

    def test_killed_interpreters(self):
        text = (
            "import smolvm\nwith smolvm.SmolVM() as vm:\n"
            " print(vm.vm_id, flush=True)\n vm.run('sleep 300', timeout=None)"
        )
        for sig in [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]:
            proc, name = self.program(text)
            self.assertIn(name, names())
            proc.send_signal(sig)
            proc.wait(TIMEOUT)
            eventually(f"it went with {sig!r}", lambda name=name: name not in names())

    def test_a_child_of_a_killed_interpreter_keeps_nothing(self):
        text = (
            "import os, smolvm, time\nwith smolvm.SmolVM() as vm:\n"
            " if os.fork() == 0: os.close(1); time.sleep(30); os._exit(0)\n"
            " print(vm.vm_id, flush=True)\n time.sleep(300)"
        )
        proc, name = self.program(text)
        proc.kill()
        proc.wait(TIMEOUT)
        eventually("it went", lambda: name not in names())

    def test_stop_start_and_the_disk(self):
        vm = SmolVM(memory=512, vm_id="with_underscores")
        vm.run("echo kept > /root/file")
        vm.pause()
        self.assertEqual(vm.status, VMState.PAUSED)
        vm.resume().stop()
        self.assertEqual(vm.status, VMState.STOPPED)
        with self.assertRaises(errors.CommandExecutionUnavailableError):
            vm.run("true")
        with self.assertRaises(errors.VMAlreadyExistsError):
            SmolVM(memory=512, vm_id="with_underscores").start()
        again = SmolVM(vm_id="with_underscores")
        again.start()
        self.assertEqual(again.run("cat /root/file").output, "kept")
        vm.close()
        vm.delete()
        vm.delete()
        with self.assertRaises(errors.VMNotFoundError):
            again.run("true")
        with self.assertRaises(errors.VMNotFoundError):
            SmolVM.from_id("with_underscores")

    def test_forks_checkpoints_and_differences(self):
        with SmolVM() as vm:
            vm.run("echo one > /root/state")
            first = vm.checkpoint("one")
            vm.run("echo two > /root/state; touch /root/new")
            self.assertEqual({c.path: c.what for c in vm.diff(first.step) if "root/" in c.path},
                             {"/root/state": "changed", "/root/new": "added"})  # fmt: skip
            with tempfile.NamedTemporaryFile() as out:
                vm.export_diff(out.name, "/root", start=first.step)
                self.assertIn(b"+two", out.read())
            children = vm.fork(2)
            self.assertEqual([c.run("cat /root/state").output for c in children], ["two", "two"])
            self.assertEqual(len({c.run("hostname").output for c in children}), 2)
            for c in children:
                c.delete()
            vm.rewind(first)
            self.assertEqual(vm.run("cat /root/state; ls /root/new 2>&1 | wc -l").output.split()[0], "one")
            history = vm.history()
            self.assertIn("one", [s.label for s in history.steps])

    def test_snapshots(self):
        with SmolVM() as vm:
            vm.spawn("sleep 775")
            vm.run("echo saved > /root/file")
            info = vm.snapshot("py-snap")
            self.addCleanup(client.delete_snapshot, "py-snap")
            self.assertTrue(vm.run("true").ok, "the source goes on")
            with self.assertRaises(errors.SnapshotAlreadyExistsError):
                vm.snapshot("py-snap")
        two = SmolVM.from_snapshot("py-snap", resume_vm=True, ephemeral=True)
        with SmolVM.from_snapshot(info.snapshot_id) as one, two:
            for copy in (one, two):
                self.assertEqual(copy.run("cat /root/file").output, "saved")
                self.assertTrue(sleepers(copy, 775))
        with self.assertRaises(errors.SnapshotNotFoundError):
            SmolVM.from_snapshot("no-such")

    def test_many_at_once(self):
        async def main():
            vms = await SmolVM.async_create_many([VMConfig(vcpu_count=1) for _ in range(3)], concurrency=2)
            try:
                return [(await vm.async_run("hostname")).output for vm in vms], [vm.vm_id for vm in vms]
            finally:
                await asyncio.gather(*(vm.async_delete() for vm in vms))

        hosts, ids = asyncio.run(main())
        self.assertEqual(len(set(hosts)), 3)
        self.assertEqual(len(set(ids)), 3)

    def test_policy_questions_and_secrets(self):
        policy = Policy([Rule("ask", domains=["asked.example.com"], ports=["443"])])
        asked = []

        def decide(flow):
            asked.append(flow.host)
            return False

        with SmolVM(policy=policy, secrets={"KEY": smolvm.Secret("very secret", ["api.example.com"])}) as vm:
            self.assertNotIn("very secret", vm.run("env; cat /proc/1/environ").stdout)
            self.assertEqual([s["name"] for s in vm.secrets.list()], ["KEY"])
            vm.secrets.set("OTHER", "v", ["api.example.com"])
            vm.secrets.remove("OTHER")
            self.assertFalse(vm.run("curl -fsS -m 10 http://192.0.2.1/").ok)
            with vm.network.approvals(decide):
                r = vm.run("curl -sS -m 20 https://asked.example.com/", timeout=60)
            self.assertFalse(r.ok)
            self.assertEqual(asked, ["asked.example.com"])
            vm.network.allow("pypi.org", ports=["443"])
            self.assertEqual(vm.network.get()["policy"]["rules"][0]["domains"], ["pypi.org"])
            self.assertTrue([e for e in vm.network.log(denied=True)])

    def test_mounts(self):
        with tempfile.TemporaryDirectory() as dir:
            Path(dir, "in").write_text("from the host")
            with SmolVM(mounts=[dir]) as vm:
                self.assertEqual(vm.run("cat /workspace/in; echo x > /workspace/out").stdout, "from the host")
                self.assertFalse(Path(dir, "out").exists())

    def test_nobody_removes_it_and_it_goes(self):
        vm = SmolVM(idle_timeout=1.5, idle_action="remove")
        vm.start()
        vm.stop()
        vm.close()
        eventually("it went", lambda: vm.vm_id not in names())

    def test_threads_share_a_sandbox(self):
        wrong = []
        with SmolVM() as vm:

            def work(i):
                for j in range(3):
                    if vm.run(f"echo {i}-{j}").output != f"{i}-{j}":
                        wrong.append((i, j))

            threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
        self.assertEqual(wrong, [])


class Programs(unittest.TestCase):
    """Programs of both generations, and the guide's, each in an interpreter of its own."""

    def test_guide(self):
        before = names()
        guide = Path(__file__).parents[2] / "docs" / "guides" / "python.md"
        blocks = re.findall(r"^```python\n(.*?)^```$", guide.read_text(), re.M | re.S)
        self.assertGreater(len(blocks), 2)
        for block in blocks:
            done = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, timeout=600)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertEqual(names(), before)

    def test_programs(self):
        before = names()
        programs = sorted(Path(__file__).with_name("programs").glob("*.py"))
        self.assertGreater(len(programs), 5)
        for program in programs:
            with self.subTest(program.name):
                done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=600)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                left = names() - before
                # The original's users leave stopped sandboxes behind: those have a time to go.
                for name in left:
                    found = client.get(name)
                    self.assertEqual((found.idle_action, found.idle_timeout_seconds), ("remove", 3600))
                    SmolVM.from_id(name).delete()


if __name__ == "__main__":
    unittest.main()
