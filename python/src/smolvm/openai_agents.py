"""The sandbox client interface of the OpenAI Agents SDK (openai-agents), with smolvm behind it.

    client = SmolVMSandboxClient()
    config = SandboxRunConfig(client=client, options=SmolVMSandboxClientOptions(memory=512))
    await Runner.run(sandbox_agent, "...", run_config=RunConfig(sandbox=config))

Needs openai-agents, which this package does not ask for.
"""

# The SDK is not there where this package is checked.
# mypy: ignore-errors

from __future__ import annotations

import io
import uuid
from pathlib import Path
from typing import Literal

from agents.sandbox import (
    ExecResult,
    ExecTimeoutError,
    ExecTransportError,
    ExposedPortEndpoint,
    ExposedPortUnavailableError,
    Manifest,
    WorkspaceArchiveReadError,
    WorkspaceArchiveWriteError,
    WorkspaceReadNotFoundError,
    WorkspaceWriteTypeError,
    resolve_snapshot,
)
from agents.sandbox.session.base_sandbox_session import BaseSandboxSession
from agents.sandbox.session.runtime_helpers import RESOLVE_WORKSPACE_PATH_HELPER
from agents.sandbox.session.sandbox_client import BaseSandboxClient, BaseSandboxClientOptions
from agents.sandbox.session.sandbox_session_state import SandboxSessionState
from agents.sandbox.session.tar_workspace import shell_tar_exclude_args
from agents.sandbox.util.tar_utils import UnsafeTarMemberError, validate_tar_bytes

from . import aio
from .errors import NotFoundError, OperationTimeoutError, SmolVMError, VMNotFoundError
from .models import VMState
from .sandbox import SmolVM


class SmolVMSandboxClientOptions(BaseSandboxClientOptions):
    """What sandboxes are made of; None: smolvm's defaults. memory and disk_size are MiB.

    With keep a session's end saves the sandbox, and resume() goes on in it, its
    processes included. Without, it is removed, and what the SDK's snapshot has is restored.
    """

    type: Literal["smolvm"] = "smolvm"
    image: str | None = None
    memory: int | None = None
    disk_size: int | None = None
    cpus: int | None = None
    exposed_ports: tuple[int, ...] = ()
    keep: bool = False


class SmolVMSandboxSessionState(SandboxSessionState):
    type: Literal["smolvm"] = "smolvm"
    vm_id: str
    options: SmolVMSandboxClientOptions


class SmolVMSandboxSession(BaseSandboxSession):
    state: SmolVMSandboxSessionState

    def __init__(self, state: SmolVMSandboxSessionState, vm: SmolVM) -> None:
        self.state = state
        self.vm = vm
        self._ports: dict[int, int] = {}

    async def _ensure_backend_started(self) -> None:
        await self.vm.async_start()

    async def _prepare_backend_workspace(self) -> None:
        await aio.call(self.vm.files.mkdir, self.state.manifest.root, parents=True)

    async def _shutdown_backend(self) -> None:
        if self.state.options.keep:
            await aio.call(self.vm.hibernate)
        else:
            await self.vm.async_delete()

    async def running(self) -> bool:
        try:
            return await aio.call(lambda: self.vm.status) is VMState.RUNNING
        except SmolVMError:
            return False

    async def _exec_internal(self, *command: str | Path, timeout: float | None = None) -> ExecResult:
        words, user = [str(c) for c in command], None
        if words[:2] == ["sudo", "-u"] and words[3:4] == ["--"]:  # the SDK's way to say who; images may have no sudo
            words, user = words[4:], words[2]
        env = await self.state.manifest.environment.resolve()
        try:
            result = await self.vm.async_run(words, timeout, cwd=self.state.manifest.root, env=env, user=user)
        except OperationTimeoutError as e:
            raise ExecTimeoutError(command=command, timeout_s=timeout, cause=e) from e
        except SmolVMError as e:
            raise ExecTransportError(command=command, cause=e) from e
        return ExecResult(stdout=result.stdout_bytes, stderr=result.stderr_bytes, exit_code=result.exit_code)

    async def _resolve_exposed_port(self, port: int) -> ExposedPortEndpoint:
        try:
            if port not in self._ports:
                self._ports[port] = await aio.call(self.vm.expose_local, port)
        except SmolVMError as e:
            raise ExposedPortUnavailableError(
                port=port, exposed_ports=self.state.exposed_ports, reason="backend_unavailable", cause=e
            ) from e
        return ExposedPortEndpoint(host="127.0.0.1", port=self._ports[port])

    # Files. The SDK's helper in the guest sees to it that links lead nowhere else.

    def _runtime_helpers(self):
        return (RESOLVE_WORKSPACE_PATH_HELPER,)

    async def _validate_path_access(self, path: Path | str, *, for_write: bool = False) -> Path:
        return await self._validate_remote_path_access(path, for_write=for_write)

    async def read(self, path: Path, *, user=None) -> io.IOBase:
        if user is not None:
            await self._check_read_with_exec(path, user=user)
        where = await self._validate_path_access(path)
        try:
            return io.BytesIO(await aio.call(self.vm.files.read, where.as_posix()))
        except NotFoundError as e:
            raise WorkspaceReadNotFoundError(path=Path(path), cause=e) from e
        except SmolVMError as e:
            raise WorkspaceArchiveReadError(path=Path(path), cause=e) from e

    async def write(self, path: Path, data: io.IOBase, *, user=None) -> None:
        if user is not None:
            await self._check_write_with_exec(path, user=user)
        where = await self._validate_path_access(path, for_write=True)
        await self._put(where.as_posix(), _bytes(path, data))

    async def _put(self, path: str, data: bytes) -> None:
        try:
            await aio.call(self.vm.files.write, path, data, parents=True)
        except SmolVMError as e:
            raise WorkspaceArchiveWriteError(path=Path(path), cause=e) from e

    async def persist_workspace(self) -> io.IOBase:
        root, archive = self.state.manifest.root, self._archive()
        leave_out = " ".join(shell_tar_exclude_args(self._persist_workspace_skip_relpaths()))
        try:
            await self._exec_checked_nonzero("sh", "-c", f'tar -C "$0" {leave_out} -cf "$1" .', root, archive)
            return io.BytesIO(await aio.call(self.vm.files.read, archive))
        except SmolVMError as e:
            raise WorkspaceArchiveReadError(path=Path(root), cause=e) from e
        finally:
            await self._forget(archive)

    async def hydrate_workspace(self, data: io.IOBase) -> None:
        root, archive = self.state.manifest.root, self._archive()
        packed = _bytes(root, data)
        try:
            validate_tar_bytes(packed, allow_external_symlink_targets=False)
        except UnsafeTarMemberError as e:
            raise WorkspaceArchiveWriteError(path=Path(root), context={"member": e.member}, cause=e) from e
        try:
            await self._put(archive, packed)
            await self._exec_checked_nonzero("tar", "-C", root, "-xf", archive)
        finally:
            await self._forget(archive)

    def _archive(self) -> str:
        return f"/tmp/.workspace-{uuid.uuid4().hex}.tar"

    async def _forget(self, path: str) -> None:
        await aio.call(self.vm.files.remove, path, force=True)


def _bytes(path: Path | str, data: io.IOBase) -> bytes:
    content = data.read()
    if isinstance(content, str):
        content = content.encode()
    if not isinstance(content, bytes | bytearray):
        raise WorkspaceWriteTypeError(path=Path(path), actual_type=type(content).__name__)
    return bytes(content)


def _make(options: SmolVMSandboxClientOptions) -> SmolVM:
    return SmolVM(
        image=options.image,
        memory=options.memory,
        disk_size=options.disk_size,
        cpus=options.cpus,
        ephemeral=not options.keep,
    )


class SmolVMSandboxClient(BaseSandboxClient[SmolVMSandboxClientOptions | None]):
    """Makes, finds again and removes sandboxes for the SDK."""

    backend_id = "smolvm"
    supports_default_options = True

    def __init__(self, *, instrumentation=None, dependencies=None) -> None:
        self._instrumentation = instrumentation
        self._dependencies = dependencies

    async def create(self, *, snapshot=None, manifest=None, options=None):
        options = options or SmolVMSandboxClientOptions()
        manifest = self._validate_manifest_for_create(manifest or Manifest())
        session_id = uuid.uuid4()
        vm = _make(options)
        state = SmolVMSandboxSessionState(
            session_id=session_id,
            manifest=manifest,
            snapshot=resolve_snapshot(snapshot, str(session_id)),
            exposed_ports=options.exposed_ports,
            vm_id=vm.vm_id,
            options=options,
        )
        return self._session(state, vm)

    def _session(self, state: SmolVMSandboxSessionState, vm: SmolVM, preserved: bool = False):
        inner = SmolVMSandboxSession(state, vm)
        inner._set_start_state_preserved(preserved)
        return self._wrap_session(inner, instrumentation=self._instrumentation)

    async def resume(self, state: SandboxSessionState):
        if not isinstance(state, SmolVMSandboxSessionState):
            raise TypeError(f"{type(state).__name__} is no state of a smolvm session")
        state.assert_path_grants_rebound()
        try:
            vm = await aio.call(SmolVM.from_id, state.vm_id)
        except VMNotFoundError:
            vm = _make(state.options)
            state.vm_id, state.workspace_root_ready = vm.vm_id, False
            return self._session(state, vm)
        return self._session(state, vm, preserved=True)

    async def delete(self, session):
        inner = session._inner
        if not isinstance(inner, SmolVMSandboxSession):
            raise TypeError(f"{type(inner).__name__} is no smolvm session")
        await inner.vm.async_delete()
        return session

    def deserialize_session_state(self, payload):
        return self._deserialize_session_state_payload(payload, SmolVMSandboxSessionState)
