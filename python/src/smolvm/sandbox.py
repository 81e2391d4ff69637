"""SmolVM: a disposable computer.

    with SmolVM() as vm:
        print(vm.run("uname -a").stdout)
"""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from . import aio
from .callbacks import Callback, Callbacks
from .client import Client, default_client
from .commands import Commands
from .compat import Options, config_of, old_names, refuse_ssh, unsupported, wire_name
from .core import GRACE_SECONDS, Progress
from .errors import ConflictError, NetworkError, OperationTimeoutError, SnapshotNotFoundError, ValidationError
from .files import Files
from .gateway import find_binary
from .models import (
    InternetSettings,
    Policy,
    Port,
    PortForwardConfig,
    Secret,
    SnapshotInfo,
    VMConfig,
    VMState,
    WorkspaceMount,
)
from .network import Network, Secrets
from .saved import Saved
from .wire import pick

Self = TypeVar("Self", bound="SmolVM")

PORT_POLL = "0.1"  # seconds between two looks for a listener in the guest


class SmolVM(Saved, Commands):
    """A sandbox. Leaving ``with`` removes it; so does the end of this program.

    A new object makes nothing yet: start(), ``with`` or the first command does.
    vm_id alone means the sandbox of that name, as from_id does.

    memory and disk_size are MiB. image is a name that ``smolvm image ls`` shows. ttl and
    idle_timeout are seconds until the sandbox is removed, from its making or its last
    use; 0: never. Without either, one that is not made by ``with`` is removed an hour
    after its last use. ephemeral ties it to this process (True) or not (False) in
    ``with`` and without. network is "policy", "open" or "none". secrets are
    {NAME: Secret(value, hosts)}. ssh_user is the user that commands run as.
    """

    def __init__(
        self,
        config: VMConfig | Mapping[str, Any] | None = None,
        *,
        vm_id: str | None = None,
        image: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        socket_dir: str | os.PathLike[str] | None = None,
        backend: str | None = None,
        os: str | None = None,
        qemu_machine: str = "auto",
        memory: int | None = None,
        disk_size: int | None = None,
        ssh_user: str = "root",
        ssh_key_path: object = None,
        ssh_password: str | None = None,
        comm_channel: str | None = None,
        internet_settings: InternetSettings | Mapping[str, Any] | None = None,
        mounts: Sequence[str | WorkspaceMount] | None = None,
        writable_mounts: bool = False,
        callbacks: Iterable[Callback] | None = None,
        cpus: int | None = None,
        env: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        ttl: float | None = None,
        idle_timeout: float | None = None,
        idle_action: str | None = None,
        ephemeral: bool | None = None,
        network: str | Mapping[str, Any] | None = None,
        policy: Policy | Mapping[str, Any] | None = None,
        secrets: Mapping[str, Secret | tuple[str, Sequence[str]]] | Sequence[Secret] | None = None,
        ports: Sequence[int | Port | PortForwardConfig | tuple[int, int]] | None = None,
        checkpoint: str | None = None,
        min_isolation: str | None = None,
        accel: str | None = None,
        client: Client | None = None,
        _snapshot: str | None = None,
        **older: Any,
    ) -> None:
        memory, disk_size = old_names(older, memory, disk_size)
        refuse_ssh(ssh_key_path, ssh_password, comm_channel)
        options = Options(
            vm_id=vm_id,
            image=image,
            backend=backend,
            os=os,
            memory=memory,
            disk_size=disk_size,
            cpus=cpus,
            internet_settings=internet_settings,
            mounts=mounts,
            writable_mounts=writable_mounts,
            env=env,
            labels=labels,
            ttl=ttl,
            idle_timeout=idle_timeout,
            idle_action=idle_action,
            network=network,
            policy=policy,
            secrets=secrets,
            ports=ports,
            snapshot=_snapshot,
            checkpoint=checkpoint,
            min_isolation=min_isolation,
            accel=accel,
        )
        super().__init__(client or default_client(data_dir), config_of(config, options), options, ephemeral)
        if isinstance(config, VMConfig) and config.vm_id:
            options.vm_id = options.vm_id or config.vm_id
        self._callbacks = Callbacks(callbacks)
        self._user = None if ssh_user == "root" else ssh_user
        self._parts()
        if config is None and options == Options(vm_id=vm_id) and vm_id:
            self._attach()

    def _parts(self) -> None:
        self.files = Files(self)
        self.network = Network(self)
        self.secrets = Secrets(self)

    def _renew(self, config: Any) -> None:
        self._config, self._owned, self._gone = config, True, ""
        self._parts()

    def _attach(self) -> None:
        self._adopt(self._client.get(wire_name(self.vm_id)))
        self._owned = False

    # Other ways to one.

    @classmethod
    def from_id(
        cls: type[Self],
        vm_id: str,
        *,
        data_dir: str | os.PathLike[str] | None = None,
        socket_dir: str | os.PathLike[str] | None = None,
        backend: str | None = None,
        ssh_user: str = "root",
        ssh_key_path: object = None,
        ssh_password: str | None = None,
        comm_channel: str | None = None,
        callbacks: Iterable[Callback] | None = None,
        client: Client | None = None,
    ) -> Self:
        """Return the sandbox of that name or id: VMNotFoundError where there is none.

        Leaving ``with`` stops it and does not remove it: somebody else made it.
        """
        refuse_ssh(ssh_key_path, ssh_password, comm_channel)
        client = client or default_client(data_dir)
        found = client.get(wire_name(vm_id))
        vm = cls(
            VMConfig(
                vm_id=found.name,
                vcpu_count=found.cpus,
                memory=found.memory_mib,
                disk_size_mib=found.disk_mib,
                image=found.image,
            ),
            backend=backend,
            ssh_user=ssh_user,
            callbacks=callbacks,
            client=client,
        )
        vm._adopt(found)
        vm._owned = False
        return vm

    @classmethod
    def from_snapshot(
        cls: type[Self],
        snapshot_id: str,
        *,
        vm_id: str | None = None,
        data_dir: str | os.PathLike[str] | None = None,
        socket_dir: str | os.PathLike[str] | None = None,
        backend: str | None = None,
        resume_vm: bool = False,
        force: bool = False,
        ssh_user: str = "root",
        ssh_key_path: object = None,
        comm_channel: str | None = None,
        client: Client | None = None,
        **more: Any,
    ) -> Self:
        """Return a new sandbox that goes on from a snapshot: SnapshotNotFoundError where there is none.

        It has a name of its own; the snapshot's source, if it is there still, is another
        sandbox. It is made by start(), resume(), ``with`` or the first command, and at
        once with resume_vm. more are arguments of SmolVM.
        """
        refuse_ssh(ssh_key_path, None, comm_channel)
        client = client or default_client(data_dir)
        name = wire_name(snapshot_id)
        if name not in (s.name for s in client.snapshots()):
            raise SnapshotNotFoundError(snapshot_id)
        vm = cls(vm_id=vm_id, backend=backend, ssh_user=ssh_user, client=client, _snapshot=name, **more)
        return vm.start() if resume_vm else vm

    @classmethod
    def from_image(
        cls: type[Self],
        image: Any,
        *,
        vm_id: str | None = None,
        name_prefix: str = "sbx",
        vcpus: int = 1,
        memory_mb: int = 512,
        guest_os: Any = "alpine",
        disk_size_mb: int | None = None,
        port_forwards: Sequence[PortForwardConfig] | None = None,
        **more: Any,
    ) -> Self:
        """Return a new sandbox of an image's name. Kernels and disks as files are not taken."""
        if not isinstance(image, str):
            unsupported(f"{type(image).__name__}", "sandboxes are made of images", "Give an image's name; see smolvm image.")
        for ignored in ("arch", "network", "vsock", "disk_mode", "grow_filesystem"):
            more.pop(ignored, None)
        from .models import new_name

        return cls(
            vm_id=vm_id or new_name(name_prefix),
            image=image,
            cpus=vcpus,
            memory=memory_mb,
            disk_size=disk_size_mb,
            os=str(guest_os),
            ports=port_forwards,
            **more,
        )

    @classmethod
    def browser(cls, **_: Any) -> Any:
        unsupported("SmolVM.browser", "this version has no browser sandboxes yet")

    @classmethod
    def desktop(cls, **_: Any) -> Any:
        unsupported("SmolVM.desktop", "this version has no desktop sandboxes yet")

    # Readiness.

    def wait_for_ready(self: Self, timeout: float = 60) -> Self:
        """Return once commands run."""
        self._ensure()
        self._run({"command": ":", "shell": "raw", "timeout_seconds": timeout, "encoding": "base64"}, timeout)
        return self

    wait_for_ssh = wait_for_ready
    wait_for_shell = wait_for_ready

    def ensure_shell_supported(self) -> None:
        """Every sandbox has a shell's way in."""

    def can_run_commands(self) -> bool:
        return self.status is VMState.RUNNING

    def wait_for_guest_tcp_ports(self: Self, ports: Iterable[int], timeout: float = 30, host: str = "127.0.0.1") -> Self:
        """Return once programs of the sandbox listen on all of these ports."""
        wanted = [int(p) for p in ports]
        # The kernel's tables have ports in hex; 0A is the state of a listener.
        looks = " && ".join(f"grep -qiE ':{p:04X} [0-9A-F]+:0000 0A ' /proc/net/tcp /proc/net/tcp6" for p in wanted)
        line = f"until {looks or ':'}; do sleep {PORT_POLL}; done 2>/dev/null"
        try:
            self._run({"command": line, "shell": "raw", "timeout_seconds": timeout, "encoding": "base64"}, timeout)
        except OperationTimeoutError:
            raise OperationTimeoutError(f"wait for listeners on {wanted}", timeout) from None
        return self

    # Environment.

    def set_env_vars(self, env: Mapping[str, str], *, merge: bool = True) -> list[str]:
        """Set variables that every new process sees, and return their names. Without merge others are removed."""
        wanted = {str(k): str(v) for k, v in env.items()}
        if not self._ref and not self._gone:
            old = {} if not merge else {**(self._options.env or {})}
            self._options.env = {**old, **wanted}
            return sorted(wanted)
        gone = [] if merge else [k for k in self.list_env_vars() if k not in wanted]
        self.call("POST", "env", body={"set": wanted, "unset": gone})
        return sorted(wanted)

    def unset_env_vars(self, names: Sequence[str]) -> dict[str, str]:
        """Remove variables, and return those that were there with their values."""
        before = self.list_env_vars()
        removed = {k: before[k] for k in names if k in before}
        if not self._ref:
            self._options.env = {k: v for k, v in before.items() if k not in removed}
        elif removed:
            self.call("POST", "env", body={"unset": list(removed)})
        return removed

    def list_env_vars(self) -> dict[str, str]:
        """Return the variables that were set, without those of the image."""
        if not self._ref and not self._gone:
            return {**self._config.env_vars, **(self._options.env or {})}
        return dict(self.call("GET", "env") or {})

    # Files and ports.

    def upload_file(self, local_path: str | os.PathLike[str], guest_path: str, *, make_dirs: bool = True) -> str:
        """Copy a file into the sandbox, and return its path there."""
        return self.files.upload(local_path, guest_path, make_dirs=make_dirs)

    def download_file(self, guest_path: str, local_path: str | os.PathLike[str], *, make_dirs: bool = True) -> Path:
        """Copy a file out of the sandbox, and return its path here."""
        return Path(self.files.download(guest_path, local_path, make_dirs=make_dirs))

    def expose_local(self, guest_port: int, host_port: int | None = None, *, guest_loopback: bool = False) -> int:
        """Lead a port of 127.0.0.1 into the sandbox, and return it. Without host_port a free one is picked.

        It reaches programs that listen on the guest's loopback too.
        """
        return self.expose(guest_port, host_port or 0).host_port

    def expose(self, guest_port: int, host_port: int = 0, *, host_ip: str = "127.0.0.1", proto: str = "tcp") -> Port:
        """Like expose_local, for other addresses and for UDP."""
        body = {"guest_port": guest_port, "host_port": host_port, "host_ip": host_ip, "proto": proto}
        try:
            return pick(Port, self.call("POST", "ports", body=body))
        except ConflictError as e:
            raise NetworkError(e.message, code=e.code, recovery=e.recovery, request_id=e.request_id) from None

    def unexpose_local(self, host_port: int, guest_port: int) -> None:
        """End what expose_local began."""
        self.call("DELETE", "ports", query={"host_port": host_port, "guest_port": guest_port})

    def list_ports(self) -> list[Port]:
        return [pick(Port, p) for p in self.call("GET", "ports")["ports"] or []]

    def preview(self, port: int, *, ttl: float = 3600) -> dict[str, Any]:
        """Return addresses under which a browser reaches a port by way of the gateway, for ttl seconds."""
        return dict(self.call("POST", "previews", body={"port": port, "ttl_seconds": ttl}))

    # Looking.

    def stats(self) -> dict[str, Any]:
        """Measure what the sandbox uses."""
        return dict(self.call("GET", "stats"))

    def console(self, tail: int = 0) -> str:
        """Return the guest kernel's console; tail: the last lines alone."""
        with self.open("GET", "console", query={"tail": tail or None}) as body:
            return b"".join(iter(body.read, b"")).decode("utf-8", "replace")

    @property
    def data_dir(self) -> Path | None:
        """The state directory; None where the gateway is not this user's own."""
        return self._client.home

    def get_ip(self) -> str:
        unsupported("get_ip", "no sandbox has an address that the host could reach", "Use expose_local.")

    def ssh_commands(self, **_: Any) -> dict[str, str]:
        unsupported("ssh_commands", "commands and files need no SSH", "Use attach_shell, or smolvm exec -it.")

    def open_desktop(self) -> Any:
        unsupported("open_desktop", "this version has no desktop sandboxes yet")

    @property
    def desktop_endpoint(self) -> None:
        return None

    def attach_shell(self, timeout: float = 30) -> int:
        """Give this program's terminal to a shell in the sandbox, and return its exit code."""
        self.wait_for_ready(timeout)
        where = {"SMOLVM_HOME": str(self._client.home)} if self._client.home else {}
        return subprocess.call([find_binary(), "exec", "-it", self._ref, "--", "/bin/sh", "-l"], env={**os.environ, **where})

    # asyncio. Other methods are awaited with smolvm.aio.call.

    async def __aenter__(self: Self) -> Self:
        return await aio.call(self.__enter__)

    async def __aexit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        # Goes on where the task is cancelled once more: a removal is never left half done.
        await asyncio.shield(asyncio.ensure_future(aio.call(self.__exit__, kind, err, tb)))

    async def async_start(self: Self, boot_timeout: float | None = None, *, on_progress: Progress | None = None) -> Self:
        return await aio.call(self.start, boot_timeout, on_progress=on_progress)

    async def async_stop(self: Self, timeout: float = GRACE_SECONDS) -> Self:
        return await aio.call(self.stop, timeout)

    async def async_delete(self) -> None:
        await aio.call(self.delete)

    async def async_pause(self: Self) -> Self:
        return await aio.call(self.pause)

    async def async_resume(self: Self) -> Self:
        return await aio.call(self.resume)

    async def async_wait_for_ready(self: Self, timeout: float = 60) -> Self:
        return await aio.call(self.wait_for_ready, timeout)

    async_wait_for_ssh = async_wait_for_ready

    async def async_snapshot(self, snapshot_id: str | None = None, **more: Any) -> SnapshotInfo:
        return await aio.call(self.snapshot, snapshot_id, **more)

    async def async_fork(self: Self, n: int = 1, **more: Any) -> list[Self]:
        return await aio.call(self.fork, n, **more)

    async def async_upload_file(self, local_path: str | os.PathLike[str], guest_path: str) -> str:
        return await aio.call(self.upload_file, local_path, guest_path)

    async def async_download_file(self, guest_path: str, local_path: str | os.PathLike[str]) -> Path:
        return await aio.call(self.download_file, guest_path, local_path)

    @classmethod
    async def async_create_many(
        cls: type[Self],
        configs: Iterable[VMConfig | Mapping[str, Any] | None],
        *,
        boot_timeout: float | None = 60,
        concurrency: int | None = None,
        **common: Any,
    ) -> list[Self]:
        """Make and start several sandboxes, at most concurrency at a time, in the order of configs.

        All start or none stays: where one fails, or the task is cancelled, the others are removed.
        """
        vms = [cls(c, **common) for c in configs]
        if concurrency is not None and concurrency < 1:
            raise ValidationError(f"concurrency is {concurrency}, less than 1")
        gate = asyncio.Semaphore(concurrency or max(2, 2 * (os.cpu_count() or 1)))

        async def start(vm: Self) -> None:
            async with gate:
                await vm.async_start(boot_timeout)

        tasks = [asyncio.ensure_future(start(vm)) for vm in vms]
        try:
            await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(vm.async_delete() for vm in vms), return_exceptions=True)
            raise
        return vms
