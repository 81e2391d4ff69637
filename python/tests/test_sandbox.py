"""SmolVM over a stub: what it sends, and what it makes of the answers."""

import asyncio
import base64
import contextlib
import json
import os
import threading
import unittest

from stub import Stub

import smolvm
from smolvm import aio, errors
from smolvm.models import InternetSettings, Policy, Rule, Secret, VMConfig, VMState, WorkspaceMount

TIMEOUT = 10  # seconds; only a failure takes it


def b64(data):
    return base64.b64encode(data).decode()


def result(out=b"", err=b"", code=0, **more):
    return {"exit_code": code, "stdout": b64(out), "stderr": b64(err), "encoding": "base64", "wall_ms": 1.5, **more}


class Making(Stub):
    def spec(self, **options):
        self.vm(**options).start()
        return self.bodies("POST /v1/sandboxes")[-1]

    def test_a_new_object_makes_nothing(self):
        vm = self.vm()
        self.assertEqual(vm.status, VMState.CREATED)
        self.assertRegex(vm.vm_id, "^sbx-")
        vm.stop()
        vm.close()
        vm.delete()
        self.assertEqual(self.seen, [])
        with self.assertRaises(errors.VMNotFoundError):
            vm.run("true")

    def test_both_generations_of_names(self):
        for options in [
            {"memory": 1024, "disk_size": 2048},
            {"mem_size_mib": 1024, "disk_size_mib": 2048},
            {"config": VMConfig(memory=1024, disk_size_mib=2048, vcpu_count=1)},
            {"config": VMConfig(mem_size_mib=1024, disk_size=2048, vcpu_count=1)},
            {"config": {"memory": 1024, "disk_size_mib": 2048, "vcpu_count": 1}},
        ]:
            spec = self.spec(**options)
            self.assertEqual((spec["memory_mib"], spec["disk_mib"], spec["cpus"]), (1024, 2048, 1), options)
        with self.assertRaises(errors.ValidationError):
            self.vm(memory=512, mem_size_mib=1024)
        with self.assertRaises(TypeError):
            self.vm(nonsense=1)

    def test_everything_that_can_be_said(self):
        spec = self.spec(
            vm_id="my_box",
            image="python:3.12",
            env={"A": "b"},
            labels={"k": "v"},
            ttl=5,
            internet_settings={"allowed_domains": ["pypi.org"]},
            mounts=["/src", WorkspaceMount("/data", "/data", writable=True)],
            secrets={"KEY": Secret("v", ["api.example.com"])},
            ports=[80, (8080, 81)],
            os="ubuntu",
            qemu_machine="q35",
            backend="qemu",
            comm_channel="vsock",
        )
        self.assertEqual(
            spec,
            {
                "name": "my-box",
                "image": "python:3.12",
                "cpus": 1,
                "memory_mib": 1024,
                "env": {"A": "b"},
                "labels": {"k": "v"},
                "ttl_seconds": 5,
                "network": {"internet_settings": {"allowed_domains": ["pypi.org"], "allowed_http_methods": ["*"]}},
                "mounts": [
                    {"host": "/src", "guest": "/workspace", "writable": False},
                    {"host": "/data", "guest": "/data", "writable": True},
                ],
                "secrets": [{"name": "KEY", "hosts": ["api.example.com"], "value": "v"}],
                "ports": [{"guest_port": 80}, {"guest_port": 81, "host_port": 8080}],
            },
        )
        spec = self.spec(policy=Policy([Rule("allow", domains=["*.pypi.org"], ports=["443"])]))
        self.assertEqual(
            spec["network"]["policy"]["rules"], [{"action": "allow", "domains": ["*.pypi.org"], "ports": ["443"]}]
        )
        self.assertEqual(self.spec(config=VMConfig(internet_settings=InternetSettings(["x.org"])))["cpus"], 2)

    def test_nothing_leaks_without_a_limit(self):
        spec = self.spec()
        self.assertEqual((spec["idle_timeout_seconds"], spec["idle_action"]), (3600, "remove"))
        self.assertNotIn("ephemeral", spec)
        for limit in [{"ttl": 60}, {"idle_timeout": 60}, {"ttl": 0}]:
            self.assertNotIn("idle_action", self.spec(**limit))

    def test_with_is_ephemeral_and_removes(self):
        with self.vm() as vm:
            self.assertTrue(vm.ephemeral)
        body = self.bodies("POST /v1/sandboxes")[0]
        self.assertTrue(body["ephemeral"])
        self.assertNotIn("idle_action", body)
        made = next(s for s in self.seen if s[:2] == ("POST", "/v1/sandboxes"))
        self.assertEqual(made[2]["Smolvm-Lease"], "L1")
        self.assertTrue(made[2]["Idempotency-Key"])
        self.assertEqual(self.seen[-1][:2], ("DELETE", "/v1/sandboxes/ID"))
        self.assertEqual(vm.status, VMState.STOPPED)
        vm.delete()

    def test_with_keeps_the_error_of_its_block(self):
        def refuse(request):
            return (500, {"class": "internal", "message": "no"})

        self.routes["DELETE /v1/sandboxes/ID"] = refuse
        with self.assertRaises(KeyError), self.vm():
            raise KeyError("mine")
        with self.assertRaises(errors.SmolVMError), self.vm():
            pass

    def test_one_lease_a_process_until_it_is_lost(self):
        for _ in range(2):
            with self.vm():
                pass
        self.assertEqual(sum(p == "/v1/leases" for _, p, _, _ in self.seen), 1)
        self.client.lease._conn.sock.shutdown(2)  # as where the gateway died
        with self.vm():
            pass
        self.assertEqual(sum(p == "/v1/leases" for _, p, _, _ in self.seen), 2)

    def test_a_forked_child_does_not_keep_the_lease(self):
        with self.vm():
            r, w = os.pipe()
            pid = os.fork()
            if pid == 0:
                os.read(r, 1)
                os._exit(0)
            self.client.lease.close()
            self.assertTrue(self.lease_ended.wait(TIMEOUT))
            os.write(w, b"x")
            os.waitpid(pid, 0)

    def test_what_is_refused_and_how(self):
        for options, kind, says in [
            ({"os": "windows"}, errors.UnsupportedError, "Linux"),
            ({"os": "macos"}, errors.UnsupportedError, "Linux"),
            ({"backend": "libkrun"}, errors.UnsupportedError, "QEMU"),
            ({"backend": "firecracker"}, errors.UnsupportedError, "QEMU"),
            ({"ssh_key_path": "/k"}, errors.UnsupportedError, "SSH"),
            ({"ssh_password": "p"}, errors.UnsupportedError, "SSH"),
            ({"comm_channel": "ssh"}, errors.UnsupportedError, "channel"),
            ({"config": VMConfig(rootfs_path="/r")}, errors.UnsupportedError, "images"),
            ({"memory": 1}, errors.ValidationError, "128"),
            ({"memory": "big"}, errors.ValidationError, "big"),
            ({"os": "plan9"}, errors.ValidationError, "plan9"),
            ({"vm_id": "Not A Name"}, errors.ValidationError, "lower-case"),
            ({"config": {"nonsense": 1}}, errors.ValidationError, "nonsense"),
            ({"secrets": {"K": ("v", [])}}, errors.ValidationError, "hosts"),
            ({"env": {"A": 1}}, errors.ValidationError, "no text"),
        ]:
            with self.assertRaisesRegex(kind, says, msg=str(options)):
                self.vm(**options)
        for use in [smolvm.ImageBuilder, smolvm.BrowserSession, smolvm.SmolVM.browser, smolvm.ensure_base_kernel_for_backend]:
            with self.assertRaises(errors.UnsupportedError):
                use()
        with self.assertRaises(errors.UnsupportedError):
            self.vm().ssh_commands()

    def test_a_name_that_is_taken(self):
        self.routes["POST /v1/sandboxes"] = (409, {"class": "conflict", "message": "taken"})
        with self.assertRaises(errors.VMAlreadyExistsError) as caught:
            self.vm(vm_id="web", memory=512).start()
        self.assertEqual(caught.exception.vm_id, "web")

    def test_a_creation_that_fails_midway_says_why(self):
        def fail(request):
            request.begin()
            request.line({"progress": {"step": "boot"}})
            request.line({"error": {"class": "unavailable", "message": "no kernel", "code": "missing_dependency"}})
            request.end()

        self.routes["POST /v1/sandboxes"] = fail
        steps = []
        with self.assertRaisesRegex(errors.HostError, "no kernel"):
            self.vm().start(on_progress=steps.append)
        self.assertEqual(steps, ["boot"])

    def test_a_lost_answer_leaves_no_sandbox(self):
        def lose(request):
            request.begin()
            request.close_connection = True

        self.routes["POST /v1/sandboxes"] = lose
        vm = self.vm()
        self.routes[f"DELETE /v1/sandboxes/{vm.vm_id}"] = (204, None)
        with self.assertRaises(errors.GatewayError):
            vm.start()
        self.assertEqual(self.seen[-1][:2], ("DELETE", f"/v1/sandboxes/{vm.vm_id}"))
        # A name that the caller chose may be somebody else's.
        with self.assertRaises(errors.GatewayError):
            self.vm(vm_id="web", memory=512).start()
        self.assertEqual(self.seen[-1][:2], ("POST", "/v1/sandboxes"))

    def test_a_start_that_is_given_up_is_undone(self):
        self.routes["POST /v1/sandboxes"] = lambda request: request.hangs_up() and None
        vm = self.vm()
        self.routes[f"DELETE /v1/sandboxes/{vm.vm_id}"] = (204, None)
        with self.assertRaises(errors.OperationTimeoutError):
            vm.start(boot_timeout=0.1)
        self.assertEqual(self.seen[-1][0], "DELETE")
        vm = self.vm()
        self.routes[f"DELETE /v1/sandboxes/{vm.vm_id}"] = (204, None)
        with self.assertRaises(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(vm.async_start(), 0.1))
        self.assertEqual(self.seen[-1][:2], ("DELETE", f"/v1/sandboxes/{vm.vm_id}"))

    def test_from_id(self):
        self.routes["GET /v1/sandboxes/web"] = {"id": "ID", "name": "web", "state": "stopped", "memory_mib": 512, "cpus": 1}
        for vm in [smolvm.SmolVM.from_id("web", client=self.client), self.vm(vm_id="web")]:
            with vm:
                self.assertEqual(vm.info.pid, None)
            self.assertEqual([s[:2] for s in self.seen[-3:]], [
                ("POST", "/v1/sandboxes/ID/start"), ("GET", "/v1/sandboxes/ID"), ("POST", "/v1/sandboxes/ID/stop"),
            ])  # fmt: skip
        for find in [lambda: smolvm.SmolVM.from_id("gone", client=self.client), lambda: self.vm(vm_id="gone")]:
            with self.assertRaises(errors.VMNotFoundError):
                find()

    def test_stop_ends_an_ephemeral_one_for_good(self):
        with self.vm() as vm:
            vm.stop()
            with self.assertRaisesRegex(errors.ConflictError, "ephemeral=False"):
                vm.start()

    def test_environment_before_the_start(self):
        vm = self.vm(env={"A": "1"})
        self.assertEqual(vm.set_env_vars({"B": "2", "C": "3"}), ["B", "C"])
        self.assertEqual(vm.unset_env_vars(["C", "D"]), {"C": "3"})
        vm.start()
        self.assertEqual(self.bodies("POST /v1/sandboxes")[0]["env"], {"A": "1", "B": "2"})


class Commands(Stub):
    def setUp(self):
        super().setUp()
        self.answer(result(b"out\n", b"err\n", 3))

    def answer(self, found):
        self.routes["POST /v1/sandboxes/ID/exec"] = found

    def test_the_first_command_makes_the_sandbox(self):
        vm = self.vm()
        r = vm.run("ls", cwd="/tmp", env={"A": "b"}, user="app", stdin="in")
        self.assertEqual((r.exit_code, r.stdout, r.stderr, r.ok, r.output), (3, "out\n", "err\n", False, "out"))
        self.assertEqual(r.duration, 0.0015)
        self.assertEqual(
            self.bodies("POST /v1/sandboxes/ID/exec")[0],
            {
                "command": "ls", "shell": "login", "timeout_seconds": 30, "encoding": "base64",
                "dir": "/tmp", "env": {"A": "b"}, "user": "app", "stdin": b64(b"in"),
            },
        )  # fmt: skip
        vm.run(["ls", 1], shell="raw", timeout=None)
        self.assertEqual(self.bodies("POST /v1/sandboxes/ID/exec")[1], {"argv": ["ls", "1"], "encoding": "base64"})
        self.assertEqual(len([s for s in self.seen if s[:2] == ("POST", "/v1/sandboxes")]), 1)

    def test_bytes_that_are_no_text(self):
        self.answer(result(b"\xff\x00ok"))
        r = self.vm().run("x")
        self.assertEqual((r.stdout_bytes, r.stdout), (b"\xff\x00ok", "\ufffd\x00ok"))

    def test_timeout_has_the_output_so_far(self):
        self.answer(result(b"half", code=137, timed_out=True))
        with self.assertRaises(errors.OperationTimeoutError) as caught:
            self.vm().run("x", timeout=2)
        e = caught.exception
        self.assertEqual((e.stdout, e.timeout_seconds, e.result.exit_code), ("half", 2, 137))
        for bad in [0, -1]:
            with self.assertRaises(errors.ValidationError):
                self.vm().run("x", timeout=bad)
        with self.assertRaises(errors.ValidationError):
            self.vm().run("x", shell="fish")

    def test_a_sandbox_that_does_not_run(self):
        self.answer((503, {"class": "unavailable", "code": "not_running", "message": "it is stopped", "recovery": "Start it"}))
        with self.assertRaisesRegex(errors.CommandExecutionUnavailableError, "Start it"):
            self.vm().run("x")
        self.answer((404, {"class": "not_found", "message": "run nosuch: no such program"}))
        with self.assertRaisesRegex(errors.NotFoundError, "no such program"):
            self.vm().run(["nosuch"])
        self.routes["GET /v1/sandboxes/ID"] = (404, {"class": "not_found", "message": "find sandbox"})
        with self.assertRaises(errors.VMNotFoundError):
            self.vm().run("x")

    def events(self, *events):
        def send(request):
            request.begin()
            for e in events:
                request.line(e)
            request.end()

        self.answer(send)

    def test_streams(self):
        euro = "€".encode()
        self.events(
            {"type": "started", "pid": 7},
            {"type": "stdout", "data": b64(b"a" + euro[:1])},
            {"type": "stderr", "data": b64(b"e")},
            {"type": "a kind of later"},
            {"type": "stdout", "data": b64(euro[1:])},
            {"type": "exit", "ended": {"exit_code": 0, "wall_ms": 2}},
        )
        with self.vm().stream("x") as output:
            pieces = [(p.stream, p.text) for p in output]
        self.assertEqual(pieces, [("stdout", "a"), ("stderr", "e"), ("stdout", "€")])
        self.assertEqual((output.pid, output.result.stdout, output.result.stderr, output.result.ok), (7, "a€", "e", True))
        told = []
        r = self.vm().run("x", on_stdout=told.append)
        self.assertEqual((told, r.stdout), (["a", "€"], "a€"))

    def test_streams_that_end_badly(self):
        self.events({"type": "started"}, {"type": "stdout", "data": b64(b"x")})
        with self.assertRaises(errors.GatewayError):
            self.vm().stream("x").wait()
        self.events({"type": "started"}, {"type": "error", "error": {"class": "unavailable", "message": "guest died"}})
        with self.assertRaisesRegex(errors.UnavailableError, "guest died"):
            self.vm().stream("x").wait()
        self.events(b"no json")
        with self.assertRaisesRegex(errors.GatewayError, "no json"):
            self.vm().stream("x").wait()
        self.events({"type": "exit", "ended": {"exit_code": 137, "timed_out": True}})
        with self.assertRaises(errors.OperationTimeoutError):
            self.vm().stream("x", timeout=1).wait()

    def hang(self):
        """Have a command hang, and return (it runs, its client has gone)."""
        runs, gone = threading.Event(), threading.Event()

        def wait(request):
            runs.set()
            if request.hangs_up():
                gone.set()
            request.close_connection = True

        self.answer(wait)
        return runs, gone

    def test_leaving_a_stream_ends_its_command(self):
        gone = threading.Event()

        def wait(request):
            request.begin()
            request.line({"type": "started", "pid": 1})
            request.line({"type": "stdout", "data": b64(b"x")})
            if request.hangs_up():
                gone.set()
            request.close_connection = True

        self.answer(wait)
        with self.vm().stream("x") as output:
            for _ in output:
                break
        self.assertTrue(gone.wait(TIMEOUT))

    def test_cancelling_a_task_ends_its_command(self):
        runs, gone = self.hang()

        async def main():
            task = asyncio.ensure_future(self.vm().async_run("x"))
            await asyncio.to_thread(runs.wait, TIMEOUT)
            task.cancel()
            with self.assertRaises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        self.assertTrue(gone.wait(TIMEOUT))
        asyncio.run(self.timed_out())

    async def timed_out(self):
        runs, gone = self.hang()
        with self.assertRaises(asyncio.TimeoutError):
            await asyncio.wait_for(self.vm().async_run("x"), 0.2)
        self.assertTrue(gone.wait(TIMEOUT))

    def test_many_tasks_wait_at_once(self):
        gate = threading.Barrier(30, timeout=TIMEOUT)

        def together(request):
            gate.wait()
            return result(b"ok")

        self.answer(together)

        async def main():
            vm = await self.vm().async_start()
            return await asyncio.gather(*(vm.async_run("x") for _ in range(30)))

        self.assertEqual({r.stdout for r in asyncio.run(main())}, {"ok"})

    def test_background_processes(self):
        self.routes["POST /v1/sandboxes/ID/processes"] = (201, {"id": "p1", "pid": 9, "running": True})
        self.routes["GET /v1/sandboxes/ID/processes"] = {"processes": [{"id": "p1", "pid": 9, "running": True}]}
        self.routes["POST /v1/sandboxes/ID/processes/p1/input"] = (204, None)
        self.routes["POST /v1/sandboxes/ID/processes/p1/signal"] = (204, None)
        p = self.vm().spawn("server", tag="web", keep_stdin=True)
        p.write("hello", close=True)
        p.signal()
        self.assertTrue(p.running)
        self.assertEqual(self.bodies("POST /v1/sandboxes/ID/processes")[0]["keep_stdin"], True)
        sent = next(s for s in self.seen if s[1].endswith("/input?close=true"))
        self.assertEqual(sent[3], b"hello")


class Callbacks(Stub):
    def setUp(self):
        super().setUp()
        self.routes["POST /v1/sandboxes/ID/exec"] = result(b"out")

    def ran(self):
        return len(self.bodies("POST /v1/sandboxes/ID/exec"))

    def test_order_and_context(self):
        seen = []

        class Look(smolvm.Callback):
            def on_pre_run(self, ctx):
                seen.append(("pre", ctx.command, ctx.vm_id, ctx.shell, ctx.timeout, ctx.result))

            def on_post_run(self, ctx):
                seen.append(("post", ctx.result.stdout))
                raise RuntimeError("is logged and no more")

            def on_run_error(self, ctx):
                seen.append(("error", type(ctx.error)))

        vm = self.vm(callbacks=[Look()])
        with self.assertLogs("smolvm"):
            vm.run("ls")
        self.assertEqual(seen, [("pre", "ls", vm.vm_id, "login", 30, None), ("post", "out")])
        self.routes["POST /v1/sandboxes/ID/exec"] = (500, {"class": "internal", "message": "x"})
        seen.clear()
        with self.assertRaises(errors.SmolVMError):
            vm.run("ls")
        self.assertEqual(seen[1], ("error", errors.SmolVMError))

    def test_veto_everywhere(self):
        class No(smolvm.Callback):
            def on_pre_run(self, ctx):
                raise smolvm.CommandBlockedError("no", ctx.vm_id, ctx.command)

        class AsyncNo(smolvm.Callback):
            async def on_pre_run(self, ctx):
                await asyncio.sleep(0)
                raise smolvm.CommandBlockedError("no", ctx.vm_id, ctx.command)

        async def stream(vm):
            async for _ in vm.async_stream("ls"):
                pass

        for veto in [No(), AsyncNo()]:
            vm = self.vm()
            vm.add_callback(veto)
            for way in [vm.run, vm.stream, vm.spawn]:
                with self.assertRaises(smolvm.CommandBlockedError):
                    way("ls")
            for task in [vm.async_run("ls"), stream(vm)]:
                with self.assertRaises(smolvm.CommandBlockedError):
                    asyncio.run(task)
        self.assertEqual(self.seen, [], "and no sandbox was made for it")

    def test_coroutine_callbacks(self):
        seen = []

        class Look(smolvm.Callback):
            async def on_pre_run(self, ctx):
                seen.append("pre")

            def on_post_run(self, ctx):
                seen.append(threading.current_thread() is threading.main_thread())

        asyncio.run(self.vm(callbacks=[Look()]).async_run("ls"))
        self.assertEqual(seen, ["pre", False])

    def test_what_is_no_callback(self):
        with self.assertRaises(errors.ValidationError):
            self.vm(callbacks=[object()])


class Many(Stub):
    def test_all_or_none(self):
        n = 0

        def create(request):
            nonlocal n
            n += 1
            if n == 3:
                return (503, {"class": "unavailable", "message": "host is full"})
            return self.create(request)

        self.routes["POST /v1/sandboxes"] = create

        async def main(count):
            return await smolvm.SmolVM.async_create_many([VMConfig() for _ in range(count)], client=self.client, concurrency=1)

        self.assertEqual(len(asyncio.run(main(2))), 2)
        n = 0
        with self.assertRaisesRegex(errors.UnavailableError, "full"):
            asyncio.run(main(4))
        self.assertEqual(len([s for s in self.seen if s[0] == "DELETE"]), 2)

    def test_concurrency_is_bounded(self):
        now, most, lock = 0, 0, threading.Lock()

        def create(request):
            nonlocal now, most
            with lock:
                now += 1
                most = max(most, now)
            threading.Event().wait(0.05)
            with lock:
                now -= 1
            return self.create(request)

        self.routes["POST /v1/sandboxes"] = create
        asyncio.run(smolvm.SmolVM.async_create_many([None] * 8, client=self.client, concurrency=3))
        self.assertEqual(most, 3)


class Rest(Stub):
    def test_files_go_as_they_are(self):
        store = {}

        def put(request):
            store["x"] = request.body
            return (204, None)

        self.routes["PUT /v1/sandboxes/ID/files/content"] = put
        self.routes["GET /v1/sandboxes/ID/files/content"] = lambda request: store["x"]
        vm = self.vm()
        here = os.path.dirname(self.path)
        local, back = os.path.join(here, "a"), os.path.join(here, "sub", "b")
        data = os.urandom(1 << 20)
        with open(local, "wb") as f:
            f.write(data)
        os.chmod(local, 0o750)
        self.assertEqual(vm.upload_file(local, "/x"), "/x")
        self.assertIn("mode=750", self.seen[-1][1])
        self.assertEqual(str(vm.download_file("/x", back)), back)
        with open(back, "rb") as f:
            self.assertEqual(f.read(), data)
        self.routes["GET /v1/sandboxes/ID/files/content"] = (404, {"class": "not_found", "message": "no file"})
        with self.assertRaises(errors.NotFoundError):
            vm.download_file("/x", os.path.join(here, "c"))
        self.assertFalse(os.path.exists(os.path.join(here, "c")))
        with self.assertRaises(errors.ValidationError):
            vm.upload_file(here, "/x")

    def test_ports(self):
        self.routes["POST /v1/sandboxes/ID/ports"] = lambda r: (201, {**json.loads(r.body), "host_port": 4711})
        vm = self.vm()
        self.assertEqual(vm.expose_local(80), 4711)
        self.routes["POST /v1/sandboxes/ID/ports"] = (409, {"class": "conflict", "code": "port_taken", "message": "taken"})
        with self.assertRaises(errors.NetworkError) as caught:
            vm.expose_local(80, 81)
        self.assertEqual(caught.exception.code, "port_taken")

    def test_snapshots(self):
        self.routes["POST /v1/sandboxes/ID/snapshots"] = lambda r: (201, {**json.loads(r.body), "kind": "full", "created": "now"})
        self.routes["GET /v1/snapshots"] = {"snapshots": [{"name": "s1"}]}
        info = self.vm().snapshot("s1", resume_source=True)
        self.assertEqual((info.snapshot_id, info.created_at, info.snapshot_type.value), ("s1", "now", "full"))
        vm = smolvm.SmolVM.from_snapshot("s1", client=self.client)
        vm.resume()
        spec = self.bodies("POST /v1/sandboxes")[-1]
        self.assertEqual(spec["from_snapshot"], "s1")
        self.assertNotIn("memory_mib", spec)
        with self.assertRaises(errors.SnapshotNotFoundError):
            smolvm.SmolVM.from_snapshot("s2", client=self.client)
        self.routes["POST /v1/sandboxes/ID/snapshots"] = (409, {"class": "conflict", "message": "taken"})
        with self.assertRaises(errors.SnapshotAlreadyExistsError):
            self.vm().snapshot("s1")

    def test_forks_are_the_callers(self):
        children = [{"id": "C1", "name": "c-1", "state": "running", "ephemeral": True}]
        self.routes["POST /v1/sandboxes/ID/fork"] = (201, {"sandboxes": children})
        self.routes["POST /v1/sandboxes/C1/start"] = {}
        self.routes["DELETE /v1/sandboxes/C1"] = (204, None)
        with self.vm() as vm, vm.fork()[0] as child:
            self.assertEqual((child.vm_id, child.ephemeral, child.files._vm), ("c-1", True, child))
        sent = next(s for s in self.seen if s[1].endswith("/fork"))
        self.assertEqual((json.loads(sent[3]), sent[2]["Smolvm-Lease"]), ({"n": 1, "ephemeral": True}, "L1"))
        self.assertEqual([s[1] for s in self.seen if s[0] == "DELETE"], ["/v1/sandboxes/C1", "/v1/sandboxes/ID"])

    def test_approvals(self):
        flow = {"id": "a1", "host": "pypi.org", "port": 443}
        asked = threading.Event()

        def events(request):
            request.begin()
            request.line(b"event: pending\ndata: " + json.dumps({"kind": "pending", "flow": flow}).encode() + b"\n")
            request.hangs_up()
            request.close_connection = True

        def answer(request):
            asked.set()
            return {}

        self.routes["GET /v1/sandboxes/ID/network/events"] = events
        self.routes["POST /v1/sandboxes/ID/network/answer"] = answer
        with self.vm().network.approvals(lambda f: f.host == "pypi.org"):
            self.assertTrue(asked.wait(TIMEOUT))
        self.assertEqual(self.bodies("POST /v1/sandboxes/ID/network/answer"), [{"id": "a1", "allow": True, "for": "once"}])

    def test_aio_call_takes_any_method(self):
        self.routes["GET /v1/sandboxes/ID/files/stat"] = {"name": "x", "size": 3}

        async def main():
            async with self.vm() as vm:
                return await aio.call(vm.files.stat, "/x")

        self.assertEqual(asyncio.run(main()).size, 3)
        self.assertEqual(self.seen[-1][0], "DELETE")

    def test_a_cancelled_async_with_removes(self):
        async def main():
            async with self.vm():
                await asyncio.sleep(TIMEOUT)

        with contextlib.suppress(asyncio.TimeoutError):
            asyncio.run(asyncio.wait_for(main(), 0.2))
        self.assertEqual(self.seen[-1][:2], ("DELETE", "/v1/sandboxes/ID"))


if __name__ == "__main__":
    unittest.main()
