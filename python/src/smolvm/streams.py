"""Streams: what a command writes while it runs, and how it ended."""

from __future__ import annotations

import base64
import codecs
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .errors import GatewayError, OperationTimeoutError
from .models import CommandResult, Step
from .transport import Stream
from .wire import ndjson, pick, refuse

KEEP = 1 << 20  # bytes of each output that a stream's result has


@dataclass(frozen=True)
class Output:
    """A piece of what a command wrote."""

    stream: str  # "stdout" or "stderr"
    data: bytes
    text: str  # data as UTF-8; a character that was cut is in the next piece


def result_of(ended: Mapping[str, Any], out: bytes, err: bytes, step: Mapping[str, Any] | None = None) -> CommandResult:
    return pick(
        CommandResult,
        {k: v for k, v in ended.items() if k not in ("stdout", "stderr", "step")},
        stdout=out.decode("utf-8", "replace"),
        stderr=err.decode("utf-8", "replace"),
        stdout_bytes=out,
        stderr_bytes=err,
        step=pick(Step, step) if step else None,
    )


def in_time(result: CommandResult, timeout: float | None) -> CommandResult:
    """Return the result of a command that ended by itself; else raise, with what it wrote."""
    if result.timed_out:
        raise OperationTimeoutError("run a command", timeout or 0, result=result)
    return result


class CommandStream:
    """A command under way. Iterating gives its output; afterwards result says how it ended.

    Leaving it early, by close() or the end of ``with``, ends the command.
    """

    def __init__(
        self,
        stream: Stream,
        timeout: float | None,
        limit: int = KEEP,
        done: Callable[[CommandResult | None, BaseException | None], None] | None = None,
    ) -> None:
        self._stream = stream
        self._timeout = timeout
        self._text = {k: codecs.getincrementaldecoder("utf-8")("replace") for k in ("stdout", "stderr")}
        self._kept = {"stdout": bytearray(), "stderr": bytearray()}
        self._limit = limit
        self._done = done
        self.pid = 0
        self.result: CommandResult | None = None

    def __iter__(self) -> Iterator[Output]:
        try:
            yield from self._outputs()
        except Exception as e:
            self._stream.close()
            if self._done:
                self._done(None, e)
            raise
        if self._done and self.result:
            self._done(self.result, None)
        self._done = None

    def _outputs(self) -> Iterator[Output]:
        while self.result is None:
            line = self._stream.readline()
            if not line:
                raise GatewayError("the gateway ended the stream before the command had ended")
            for event in ndjson([line]):
                refuse(event)
                output = self._take(event)
                if output:
                    yield output

    def _take(self, event: Mapping[str, Any]) -> Output | None:
        kind = str(event.get("type"))
        if kind == "started":
            self.pid = int(event.get("pid") or 0)
        elif kind in self._kept:
            data = base64.b64decode(event.get("data") or "")
            kept = self._kept[kind]
            kept += data[: max(0, self._limit - len(kept))]
            return Output(kind, data, self._text[kind].decode(data))
        elif kind == "exit":
            ended = event.get("ended") or {}
            self.result = result_of(ended, bytes(self._kept["stdout"]), bytes(self._kept["stderr"]), event.get("step"))
            self.close()
            in_time(self.result, self._timeout)
        return None

    def wait(self) -> CommandResult:
        """Read to the end, and return how it ended with the first megabyte of each output."""
        for _ in self:
            pass
        assert self.result is not None
        return self.result

    def close(self) -> None:
        self._stream.close()

    def __enter__(self) -> CommandStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.close()
