"""Core: one sandbox, from the choice of its name to its removal.

A new object is a choice and nothing else; start(), ``with`` or the first command
makes the sandbox. What ``with`` makes is ephemeral: the gateway removes it when this
process ends, however it ends. What start() or a command makes is there for other
processes too, and for IDLE_SECONDS after its last use.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, TypeVar

from .client import Client
from .compat import Options, limits, spec_of
from .errors import (
    Cancelled,
    ConflictError,
    GatewayError,
    NotFoundError,
    OperationTimeoutError,
    SmolVMError,
    VMAlreadyExistsError,
    VMNotFoundError,
)
from .models import NetworkConfig, SandboxInfo, VMConfig, VMInfo, VMState
from .transport import CancelScope, Stream, join
from .wire import NDJSON, encode, ndjson, pick, refuse

START_TIMEOUT = 600.0  # seconds without a sign of progress; a first start may pull an image
GRACE_SECONDS = 3.0  # between SIGTERM and SIGKILL

Self = TypeVar("Self", bound="Core")
Progress = Callable[[str], object]


class Core:
    """The life of a sandbox. Methods may be called from many threads."""

    def __init__(self, client: Client, config: VMConfig, options: Options, ephemeral: bool | None = None) -> None:
        self._client = client
        self._config = config
        self._options = options
        self._ephemeral = ephemeral  # None: with decides
        self._ref = ""  # the sandbox's id, once it is made
        self._owned = True  # this object makes the sandbox, so leaving with removes it
        self._gone = ""  # why it cannot be used any more
        self._lock = threading.RLock()
        spec_of(config, options)  # refuses what is wrong now, not at the start

    @property
    def vm_id(self) -> str:
        """The sandbox's name, which any process can give to from_id."""
        return self._config.vm_id

    @property
    def ephemeral(self) -> bool:
        """Whether the sandbox ends with this process."""
        return bool(self._ephemeral)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.vm_id}>"

    # Life.

    def start(self: Self, boot_timeout: float | None = None, *, on_progress: Progress | None = None) -> Self:
        """Make the sandbox, or start one that is stopped. A running one is left as it is.

        boot_timeout is how many seconds may pass without progress; None: 600.
        on_progress is told what is done.
        """
        with self._lock:
            if self._gone:
                raise self._over()
            if not self._ref:
                self._create(boot_timeout or START_TIMEOUT, on_progress)
            else:
                self.call("POST", "start", timeout=boot_timeout or START_TIMEOUT)
        return self

    def stop(self: Self, timeout: float = GRACE_SECONDS) -> Self:
        """End the processes, with timeout seconds between SIGTERM and SIGKILL, and power off. The disk is kept.

        A sandbox made by ``with`` is ephemeral and is removed by this.
        """
        with self._lock:
            if self._ref and not self._gone:
                self._quietly("POST", "stop", body={"grace_seconds": timeout or -1}, timeout=timeout + 60)
                if self._ephemeral:
                    self._gone = "it was ephemeral, and removed when it was stopped"
        return self

    def pause(self: Self) -> Self:
        """Halt the processors; memory is kept."""
        self.call("POST", "pause")
        return self

    def resume(self: Self) -> Self:
        """Go on after pause()."""
        with self._lock:
            if not self._ref and not self._gone:
                return self.start()
        self.call("POST", "resume")
        return self

    def hibernate(self: Self) -> Self:
        """Save memory and processes and end the VM; start() or a command goes on from there."""
        self.call("POST", "stop", body={"hibernate": True}, timeout=START_TIMEOUT)
        return self

    def delete(self) -> None:
        """End the sandbox at once and remove everything of it. A second call does nothing."""
        with self._lock:
            if self._ref and not self._gone:
                with contextlib.suppress(NotFoundError):
                    self._request("DELETE", (), timeout=60)
            self._gone = self._gone or "it was deleted"

    def close(self) -> None:
        """Let go of the sandbox and leave it as it is, for from_id, until its time is over."""

    def refresh(self: Self) -> Self:
        """See to it that the sandbox is there: VMNotFoundError where it is not."""
        if self._gone:
            raise self._over()
        if self._ref:
            self._client.get(self._ref)
        return self

    def __enter__(self: Self) -> Self:
        with self._lock:
            if self._ephemeral is None:
                self._ephemeral = not self._ref
            return self.start()

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        try:
            if self._owned:
                self.delete()
            else:
                self.stop()
        except SmolVMError:
            if err is None:
                raise
            # The error that ends the block matters more.

    # State.

    def describe(self) -> SandboxInfo:
        """Return all that the gateway knows of the sandbox."""
        if not self._ref or self._gone:
            raise self._over()
        return self._client.get(self._ref)

    @property
    def status(self) -> VMState:
        """What the sandbox does now."""
        return self.info.status

    @property
    def info(self) -> VMInfo:
        """The sandbox as it is now."""
        if not self._ref:
            return VMInfo(self.vm_id, VMState.CREATED, self._config)
        try:
            s = self.describe()
        except NotFoundError:
            if not self._gone:
                raise
            return VMInfo(self.vm_id, VMState.STOPPED, self._config)
        status = VMState.CREATED if s.state == "creating" else VMState(s.state)
        return VMInfo(self.vm_id, status, self._config, NetworkConfig(), s.vmm_pid or None, sandbox=s)

    # Requests.

    def call(self, method: str, *path: str, body: Any = None, **more: Any) -> Any:
        """Send a request about the sandbox, which is made if it is not, and return the answer's JSON."""
        self._ensure()
        return self._request(method, path, body, **more)

    def open(self, method: str, *path: str, body: Any = None, **more: Any) -> Stream:
        """Like call, for an answer that is a stream."""
        self._ensure()
        with self._client.about(self.vm_id, self._ref):
            return self._client.http.stream(method, join("sandboxes", self._ref, *path), body, **more)

    def _request(self, method: str, path: tuple[str, ...], body: Any = None, **more: Any) -> Any:
        with self._client.about(self.vm_id, self._ref):
            return self._client.http.json(method, join("sandboxes", self._ref, *path), body, **more)

    def _quietly(self, method: str, *path: str, **more: Any) -> None:
        with contextlib.suppress(VMNotFoundError):
            self.call(method, *path, **more)

    def _ensure(self) -> None:
        if self._ref and not self._gone:
            return
        self.start()

    def _over(self) -> SmolVMError:
        if self._gone.startswith("it was eph"):
            return ConflictError(
                f"use sandbox {self.vm_id!r}: {self._gone}",
                recovery="Make it with ephemeral=False to stop and start it.",
            )
        return VMNotFoundError(self.vm_id)

    # Making.

    def _create(self, timeout: float, on_progress: Progress | None) -> None:
        spec = spec_of(self._config, self._options)
        headers = {**NDJSON, "Idempotency-Key": uuid.uuid4().hex}
        if self._ephemeral:
            spec["ephemeral"] = True
            headers["Smolvm-Lease"] = self._client.lease.id()
        else:
            spec.update(limits(self._options))
        try:
            self._adopt(self._send(spec, headers, timeout, on_progress))
        except ConflictError as e:
            if type(e) is not ConflictError:
                raise
            raise VMAlreadyExistsError(self.vm_id, recovery=e.recovery, request_id=e.request_id) from None
        except BaseException as e:
            if not isinstance(e, SmolVMError) or isinstance(e, (Cancelled, GatewayError, OperationTimeoutError)):
                self._abandon(spec["name"])
            raise

    def _send(self, spec: Any, headers: dict[str, str], timeout: float, on_progress: Progress | None) -> SandboxInfo:
        stream = self._client.http.stream(
            "POST", join("sandboxes"), encode(spec), headers=headers, timeout=timeout, again=True
        )
        with stream as lines:
            for event in ndjson(lines):
                refuse(event)
                if "sandbox" in event:
                    return pick(SandboxInfo, event["sandbox"])
                if on_progress and "progress" in event:
                    on_progress(str(event["progress"].get("step", "")))
        raise GatewayError(f"create sandbox {self.vm_id!r}: the gateway ended before it was made")

    def _abandon(self, name: str) -> None:
        """Remove what may have been made though the answer was lost; only where the name can be nobody else's."""
        if self._options.vm_id:
            return
        with _unscoped(), contextlib.suppress(SmolVMError):
            self._client.http.json("DELETE", join("sandboxes", name), timeout=10)

    def _adopt(self, s: SandboxInfo) -> None:
        self._ref = s.id
        self._ephemeral = s.ephemeral


@contextlib.contextmanager
def _unscoped() -> Iterator[None]:
    """Leave the scope of a call that is being cancelled."""
    scope = CancelScope.current()
    CancelScope._local.scope = None
    try:
        yield
    finally:
        CancelScope._local.scope = scope
