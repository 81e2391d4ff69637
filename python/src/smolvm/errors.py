"""The exceptions of this package.

Every one is a SmolVMError. Its message says what failed, its ``recovery`` what to
do now, and ``code`` is a word for programs:

    try:
        vm.run("make")
    except OperationTimeoutError as e:
        print(e.stdout)      # what the command wrote before its time was over
    except SmolVMError as e:
        print(e.code, e, e.recovery)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .models import CommandResult


class SmolVMError(Exception):
    """What all exceptions of this package are.

    ``code`` is stable, ``details`` are for programs, ``recovery`` is a sentence for
    people (empty: there is none) and ``request_id`` finds the request in the
    gateway's log.
    """

    default_code = "internal"

    def __init__(
        self,
        message: str,
        details: Mapping[str, Any] | None = None,
        *,
        code: str = "",
        recovery: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = dict(details or {})
        self.code = code or self.default_code
        self.recovery = recovery
        self.request_id = request_id

    def __str__(self) -> str:
        return f"{self.message}. {self.recovery}" if self.recovery else self.message


class ValidationError(SmolVMError, ValueError):
    """The caller's input is wrong."""

    default_code = "invalid"


class UnsupportedError(SmolVMError):
    """The original offers this and smolvm does not; ``recovery`` says what does it instead."""

    default_code = "unsupported"


class NotFoundError(SmolVMError):
    """What was named does not exist."""

    default_code = "not_found"


class ConflictError(SmolVMError):
    """A name is taken, or the state forbids the act."""

    default_code = "conflict"


class UnavailableError(SmolVMError):
    """Something needed is missing or does not run."""

    default_code = "unavailable"


class DeniedError(SmolVMError):
    """A policy or a permission refuses."""

    default_code = "denied"


class ExhaustedError(SmolVMError):
    """A limit of size, count or space was reached."""

    default_code = "exhausted"


class GatewayError(UnavailableError):
    """The gateway cannot be reached or started, or the connection to it broke."""

    default_code = "gateway"


class Cancelled(SmolVMError):
    """The call was cancelled from outside; asyncio's cancellation comes by way of it."""

    default_code = "cancelled"


class VMNotFoundError(NotFoundError):
    def __init__(self, vm_id: str, **more: Any) -> None:
        super().__init__(f"find sandbox {vm_id!r}: there is none of that id or name", {"vm_id": vm_id}, **more)
        self.vm_id = vm_id


class VMAlreadyExistsError(ConflictError):
    def __init__(self, vm_id: str, **more: Any) -> None:
        super().__init__(f"create sandbox {vm_id!r}: the name is taken", {"vm_id": vm_id}, **more)
        self.vm_id = vm_id


class SnapshotNotFoundError(NotFoundError):
    def __init__(self, snapshot_id: str, **more: Any) -> None:
        super().__init__(f"find snapshot {snapshot_id!r}: there is none of that name", {"snapshot_id": snapshot_id}, **more)
        self.snapshot_id = snapshot_id


class SnapshotAlreadyExistsError(ConflictError):
    def __init__(self, snapshot_id: str, **more: Any) -> None:
        super().__init__(f"take snapshot {snapshot_id!r}: the name is taken", {"snapshot_id": snapshot_id}, **more)
        self.snapshot_id = snapshot_id


class BrowserSessionNotFoundError(NotFoundError):
    def __init__(self, session_id: str) -> None:
        super().__init__(f"find browser session {session_id!r}: there is none", {"session_id": session_id})
        self.session_id = session_id


class BrowserSessionAlreadyExistsError(ConflictError):
    def __init__(self, session_id: str) -> None:
        super().__init__(f"start browser session {session_id!r}: the name is taken", {"session_id": session_id})
        self.session_id = session_id


class NetworkError(SmolVMError):
    """A port or the network of a sandbox."""

    default_code = "network"


class BridgeTapOwnershipError(NetworkError):
    """Never raised here: sandboxes have no TAP devices."""


class HostError(UnavailableError):
    """The host lacks something that sandboxes need; ``smolvm doctor`` tells what."""


class ImageError(SmolVMError):
    """An image is not there or cannot be used."""

    default_code = "image"


class FirecrackerAPIError(SmolVMError):
    """Never raised here: sandboxes run in QEMU."""

    def __init__(self, message: str, status_code: int | None = None) -> None:
        super().__init__(message, {"status_code": status_code})
        self.status_code = status_code


class OperationTimeoutError(SmolVMError):
    """A time limit was reached. Of a command, ``result`` holds what it wrote until then."""

    default_code = "timeout"

    def __init__(
        self,
        operation: str,
        timeout_seconds: float,
        *,
        recovery_command: str | None = None,
        result: CommandResult | None = None,
        message: str = "",
        request_id: str = "",
    ) -> None:
        super().__init__(
            message or f"{operation}: its time of {timeout_seconds:g} seconds is over",
            {"operation": operation, "timeout_seconds": timeout_seconds},
            recovery=f"Try: {recovery_command}" if recovery_command else "",
            request_id=request_id,
        )
        self.operation = operation
        self.timeout_seconds = timeout_seconds
        self.recovery_command = recovery_command
        self.result = result

    @property
    def stdout(self) -> str:
        """What the command wrote before its end; empty where nothing is known."""
        return self.result.stdout if self.result else ""

    @property
    def stderr(self) -> str:
        return self.result.stderr if self.result else ""


class CommandExecutionUnavailableError(UnavailableError):
    """The sandbox does not run, or its guest does not answer."""

    def __init__(self, vm_id: str, reason: str, remediation: str | None = None, **more: Any) -> None:
        more.setdefault("recovery", remediation or "")
        super().__init__(f"run a command in sandbox {vm_id!r}: {reason}", {"vm_id": vm_id, "reason": reason}, **more)
        self.vm_id = vm_id
        self.reason = reason
        self.remediation = remediation


class CommandBlockedError(SmolVMError):
    """Raised by Callback.on_pre_run to keep a command from running."""

    default_code = "blocked"

    def __init__(self, message: str, vm_id: str | None = None, command: str | None = None) -> None:
        super().__init__(message, {"vm_id": vm_id, "command": command})
        self.vm_id = vm_id
        self.command = command


BY_CLASS: dict[str, type[SmolVMError]] = {
    "not_found": NotFoundError,
    "conflict": ConflictError,
    "invalid": ValidationError,
    "unavailable": UnavailableError,
    "denied": DeniedError,
    "exhausted": ExhaustedError,
    "internal": SmolVMError,
}


def from_api(body: Mapping[str, Any], status: int = 0) -> SmolVMError:
    """Make an exception of the error that the HTTP API sent, by its class."""
    kind = str(body.get("class") or "internal")
    message = str(body.get("message") or f"the gateway answered with status {status}")
    details = body.get("details")
    more: dict[str, Any] = {
        "code": str(body.get("code") or kind),
        "recovery": str(body.get("recovery") or ""),
        "request_id": str(body.get("request_id") or ""),
    }
    if kind == "timeout":
        return OperationTimeoutError("request", 0, message=message, request_id=more["request_id"])
    if more["code"] == "missing_dependency":
        return HostError(message, details if isinstance(details, dict) else None, **more)
    make = BY_CLASS.get(kind, SmolVMError)
    return make(message, details if isinstance(details, dict) else None, **more)
