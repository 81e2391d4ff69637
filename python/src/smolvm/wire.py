"""Reads and writes what the HTTP API says: JSON, lines of JSON, server-sent events."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from .errors import (
    GatewayError,
    SmolVMError,
    from_api,
)

T = TypeVar("T")

NDJSON = {"Accept": "application/x-ndjson", "Content-Type": "application/json"}
SSE = {"Accept": "text/event-stream"}


def encode(body: Any) -> bytes:
    return json.dumps(body, separators=(",", ":")).encode()


def pick(cls: type[T], data: Mapping[str, Any], **more: Any) -> T:
    """Make a dataclass of the fields that it knows: a newer gateway may send others."""
    names = {f.name for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return cls(**{k: v for k, v in data.items() if k in names}, **more)


def bare(value: Any) -> Any:
    """Return what a dataclass, or a collection of them, says, without fields that say nothing."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        said = {f.name: bare(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {k: v for k, v in said.items() if v not in (None, "", [], {}, 0, False)}
    if isinstance(value, Mapping):
        return {str(k): bare(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [bare(v) for v in value]
    return value


def ndjson(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the objects of a stream of lines. An error that ends it is raised."""
    for line in lines:
        if line.strip():
            yield _object(line)


def sse(lines: Iterable[bytes]) -> Iterator[dict[str, Any]]:
    """Yield the data of server-sent events (HTML standard, section 9.2)."""
    data: list[bytes] = []
    for line in lines:
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield _object(b"\n".join(data))
            data = []


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise GatewayError(f"the gateway sent {line[:200]!r} within a stream")
    return value


def refuse(event: Mapping[str, Any]) -> None:
    """Raise the error of an event, if it is one."""
    error = event.get("error")
    if isinstance(error, Mapping):
        raise from_api(error)


@contextlib.contextmanager
def meaning(found: type[SmolVMError], means: type[SmolVMError], *args: Any) -> Iterator[None]:
    """Raise another exception where the gateway's is exactly of the class found."""
    try:
        yield
    except found as e:
        if type(e) is not found:
            raise
        raise means(*args, code=e.code, recovery=e.recovery, request_id=e.request_id) from None
