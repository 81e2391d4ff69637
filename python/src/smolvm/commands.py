"""Commands: run one and wait, follow one, or leave one in the background."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Any, Union

from . import aio
from .callbacks import ERROR, POST, PRE, Callback, Callbacks, RunContext
from .core import Core
from .errors import OperationTimeoutError, ValidationError
from .models import CommandResult, GuestProcess, Process
from .streams import KEEP, CommandStream, Output, in_time, result_of
from .wire import NDJSON, encode, pick

DEFAULT_TIMEOUT = 30.0  # seconds that a command may take
SLACK = 30.0  # seconds beyond it until the gateway is taken for dead
QUIET_TIMEOUT = None  # of a stream: a command may be silent for as long as it likes
OUTPUT_LIMIT = 10 << 20  # that run() keeps

Command = Union[str, Sequence[str]]  # noqa: UP007


def exec_body(
    command: Command,
    *,
    shell: str = "login",
    timeout: float | None = None,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    user: str | None = None,
    stdin: str | bytes | None = None,
    output_limit: int | None = None,
    tag: str = "",
    checkpoint: bool = False,
    keep_stdin: bool = False,
) -> dict[str, Any]:
    """Return the body of an exec. A list is a program and its arguments; a text is for a shell."""
    if timeout is not None and not timeout > 0:
        raise ValidationError(f"timeout is {timeout!r}, not more than 0", recovery="Use None for no limit.")
    body: dict[str, Any] = {
        "env": dict(env or {}),
        "dir": cwd,
        "user": user,
        "timeout_seconds": timeout,
        "output_limit": output_limit,
        "encoding": "base64",
        "tag": tag,
        "checkpoint": checkpoint,
        "keep_stdin": keep_stdin,
    }
    if isinstance(command, str):
        if shell not in ("login", "raw"):
            raise ValidationError(f"shell {shell!r} is not known", recovery="Use login or raw.")
        body["command"], body["shell"] = command, shell
    else:
        body["argv"] = [str(word) for word in command]
    if stdin is not None:
        data = stdin.encode() if isinstance(stdin, str) else bytes(stdin)
        body["stdin"] = base64.b64encode(data).decode("ascii")
    return {k: v for k, v in body.items() if v not in (None, "", {}, False)}


class BackgroundProcess:
    """A command that goes on when this program ends. Its last megabyte of output is kept."""

    def __init__(self, vm: Commands, process: Process) -> None:
        self._vm = vm
        self.process = process
        self.id = process.id
        self.pid = process.pid

    def output(self, *, follow: bool = False) -> CommandStream:
        """Return its output so far; with follow until its end too."""
        query = {"follow": follow, "log": True, "encoding": "base64"}
        stream = self._vm.open("GET", "processes", self.id, "output", query=query, headers=NDJSON, timeout=QUIET_TIMEOUT)
        return CommandStream(stream, None)

    def wait(self, timeout: float | None = None) -> CommandResult:
        """Wait for its end. Where timeout passes first it goes on, and OperationTimeoutError is raised."""
        query = {"follow": True, "log": True, "encoding": "base64"}
        stream = self._vm.open("GET", "processes", self.id, "output", query=query, headers=NDJSON, timeout=timeout)
        with CommandStream(stream, None) as lines:
            return lines.wait()

    def write(self, data: str | bytes, *, close: bool = False) -> None:
        """Send input to a process that was started with keep_stdin; close ends the input."""
        raw = data.encode() if isinstance(data, str) else data
        with self._vm.open(
            "POST",
            "processes",
            self.id,
            "input",
            body=raw,
            query={"close": close},
            headers={"Content-Type": "application/octet-stream"},
        ):
            pass

    def signal(self, name: str = "SIGTERM") -> None:
        """Send a signal to the process and all it started."""
        self._vm.call("POST", "processes", self.id, "signal", body={"signal": name})

    def kill(self) -> None:
        self.signal("SIGKILL")

    def forget(self) -> None:
        """Drop a process that has ended, with its output."""
        self._vm.call("DELETE", "processes", self.id)

    @property
    def running(self) -> bool:
        return any(p.running for p in self._vm.processes() if p.id == self.id)


class Commands(Core):
    """What runs in a sandbox."""

    _callbacks: Callbacks
    _user: str | None = None  # that commands run as, where they name none

    def add_callback(self, callback: Callback) -> None:
        """Have a callback called around every command from now on."""
        self._callbacks.add(callback)

    def run(
        self,
        command: Command,
        timeout: float | None = DEFAULT_TIMEOUT,
        shell: str = "login",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        output_limit: int | None = None,
        checkpoint: bool = False,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> CommandResult:
        """Run a command and wait for it.

        A text goes to the user's login shell, with shell="raw" to /bin/sh; a list is
        executed as it is. timeout ends it and all it started, and OperationTimeoutError
        then has the output so far; None: no limit. output_limit bounds each of stdout
        and stderr in bytes (10 MiB). checkpoint records a step of the history.
        on_stdout and on_stderr are told the output as it comes.
        """
        ctx, body = self._prepare(command, timeout, shell, cwd, env, user, stdin, output_limit, checkpoint)
        self._callbacks.fire(PRE, ctx)
        try:
            ctx.result = self._run(body, timeout, on_stdout, on_stderr)
        except BaseException as e:
            ctx.error = e
            self._callbacks.fire(ERROR, ctx)
            raise
        self._callbacks.fire(POST, ctx)
        return ctx.result

    async def async_run(
        self,
        command: Command,
        timeout: float | None = DEFAULT_TIMEOUT,
        shell: str = "login",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
        output_limit: int | None = None,
        checkpoint: bool = False,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> CommandResult:
        """run(), awaited, with its callbacks. Cancelling the task ends the command."""
        ctx, body = self._prepare(command, timeout, shell, cwd, env, user, stdin, output_limit, checkpoint)
        await self._callbacks.async_fire(PRE, ctx, aio.call)
        try:
            ctx.result = await aio.call(self._run, body, timeout, on_stdout, on_stderr)
        except BaseException as e:
            ctx.error = e
            await self._callbacks.async_fire(ERROR, ctx, aio.call)
            raise
        await self._callbacks.async_fire(POST, ctx, aio.call)
        return ctx.result

    def stream(
        self,
        command: Command,
        timeout: float | None = None,
        shell: str = "login",
        *,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: str | bytes | None = None,
    ) -> CommandStream:
        """Start a command and return its output as it comes.

            with vm.stream("make") as output:
                for piece in output:
                    print(piece.text, end="")
            output.result.exit_code
        """
        ctx, body = self._prepare(command, timeout, shell, cwd, env, user, stdin, None, False)
        self._callbacks.fire(PRE, ctx)

        def done(result: CommandResult | None, error: BaseException | None) -> None:
            ctx.result, ctx.error = result, error
            self._callbacks.fire(POST if result else ERROR, ctx)

        return self._open_stream(body, timeout, KEEP, done)

    run_stream = stream

    async def async_stream(
        self,
        command: Command,
        timeout: float | None = None,
        shell: str = "login",
        **more: Any,
    ) -> AsyncIterator[Output]:
        """Yield a command's output as it comes; leaving the loop and closing it ends the command."""
        stream = await aio.call(self.stream, command, timeout, shell, **more)
        async for piece in aio.iterate(stream):
            yield piece

    def spawn(
        self,
        command: Command,
        *,
        shell: str = "login",
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        tag: str = "",
        keep_stdin: bool = False,
    ) -> BackgroundProcess:
        """Start a command in the background."""
        ctx = self._context(command, None, shell, cwd, env, user)
        body = exec_body(
            command, shell=shell, cwd=cwd, env=env, user=user or self._user, tag=tag, keep_stdin=keep_stdin
        )
        self._callbacks.fire(PRE, ctx)
        return BackgroundProcess(self, pick(Process, self.call("POST", "processes", body=body)))

    def processes(self) -> list[Process]:
        """Return the background processes, those that have ended too."""
        return [pick(Process, p) for p in self.call("GET", "processes")["processes"]]

    def process(self, id: str) -> BackgroundProcess:
        """Return a background process by its id."""
        for p in self.processes():
            if p.id == id:
                return BackgroundProcess(self, p)
        raise ValidationError(f"sandbox {self.vm_id!r} has no background process {id!r}")

    def ps(self) -> list[GuestProcess]:
        """Return all processes of the guest."""
        return [pick(GuestProcess, p) for p in self.call("GET", "ps")["processes"]]

    def _context(
        self,
        command: Command,
        timeout: float | None,
        shell: str,
        cwd: str | None,
        env: Mapping[str, str] | None,
        user: str | None,
    ) -> RunContext:
        line = command if isinstance(command, str) else " ".join(map(str, command))
        return RunContext(self.vm_id, line, shell, timeout, cwd=cwd, user=user or self._user, env=dict(env or {}))

    def _prepare(
        self,
        command: Command,
        timeout: float | None,
        shell: str,
        cwd: str | None,
        env: Mapping[str, str] | None,
        user: str | None,
        stdin: str | bytes | None,
        output_limit: int | None,
        checkpoint: bool,
    ) -> tuple[RunContext, dict[str, Any]]:
        ctx = self._context(command, timeout, shell, cwd, env, user)
        body = exec_body(
            command,
            shell=shell,
            timeout=timeout,
            cwd=cwd,
            env=env,
            user=user or self._user,
            stdin=stdin,
            output_limit=output_limit,
            checkpoint=checkpoint,
        )
        return ctx, body

    def _run(
        self,
        body: Mapping[str, Any],
        timeout: float | None,
        on_stdout: Callable[[str], object] | None = None,
        on_stderr: Callable[[str], object] | None = None,
    ) -> CommandResult:
        if on_stdout or on_stderr:
            tell = {"stdout": on_stdout, "stderr": on_stderr}
            with self._open_stream(body, timeout, body.get("output_limit") or OUTPUT_LIMIT) as output:
                for piece in output:
                    if told := tell[piece.stream]:
                        told(piece.text)
            assert output.result is not None
            return output.result
        with _named(timeout):
            r = self.call("POST", "exec", body=body, timeout=None if timeout is None else timeout + SLACK)
        out, err = base64.b64decode(r.get("stdout") or ""), base64.b64decode(r.get("stderr") or "")
        return in_time(result_of(r, out, err, r.get("step")), timeout)

    def _open_stream(
        self,
        body: Mapping[str, Any],
        timeout: float | None,
        keep: int,
        done: Callable[[CommandResult | None, BaseException | None], None] | None = None,
    ) -> CommandStream:
        wait = None if timeout is None else timeout + SLACK
        stream = self.open("POST", "exec", body=encode(body), headers=NDJSON, timeout=wait)
        return CommandStream(stream, timeout, keep, done)


@contextlib.contextmanager
def _named(timeout: float | None) -> Iterator[None]:
    """Say in a time-out of the connection what the command's own limit was."""
    try:
        yield
    except OperationTimeoutError as e:
        if e.result is not None or timeout is None:
            raise
        raise OperationTimeoutError("run a command", timeout, message=e.message) from e
