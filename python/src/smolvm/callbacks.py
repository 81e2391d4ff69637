"""Callbacks: code of the caller around every command.

    class NoNetwork(Callback):
        def on_pre_run(self, ctx):
            if "curl" in ctx.command:
                raise CommandBlockedError("no curl here", ctx.vm_id, ctx.command)

    SmolVM(callbacks=[NoNetwork()])

What on_pre_run raises, whatever it is, keeps the command from running and reaches
the caller. The other two look on: what they raise is logged. A method may be a
coroutine function, which then only commands of asyncio can await: run() refuses,
rather than go past a veto.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .errors import CommandBlockedError, ValidationError
from .models import CommandResult

log = logging.getLogger("smolvm")


@dataclass
class RunContext:
    """One command, as its callbacks see it."""

    vm_id: str
    command: str
    shell: str
    timeout: float | None
    result: CommandResult | None = None  # of on_post_run
    error: BaseException | None = None  # of on_run_error
    cwd: str | None = None
    user: str | None = None
    env: dict[str, str] | None = None


class Callback:
    """Override what is of interest."""

    def on_pre_run(self, ctx: RunContext) -> Any:
        """Before a command; raise to keep it from running."""

    def on_post_run(self, ctx: RunContext) -> Any:
        """After a command that ended by itself, with whatever exit code."""

    def on_run_error(self, ctx: RunContext) -> Any:
        """After a command that has no result, or whose time was over."""


PRE, POST, ERROR = "on_pre_run", "on_post_run", "on_run_error"


class Callbacks:
    """The callbacks of one sandbox, in order."""

    def __init__(self, callbacks: Iterable[Callback] | None = None) -> None:
        self._all: list[Callback] = []
        for c in callbacks or ():
            self.add(c)

    def __len__(self) -> int:
        return len(self._all)

    def add(self, callback: Callback) -> None:
        if not any(callable(getattr(callback, hook, None)) for hook in (PRE, POST, ERROR)):
            raise ValidationError(f"{callback!r} is no callback", recovery="Derive its class from smolvm.Callback.")
        self._all.append(callback)

    def fire(self, hook: str, ctx: RunContext) -> None:
        for method in self._methods(hook):
            try:
                waits = method(ctx)
                if inspect.isawaitable(waits):
                    _discard(waits)
                    raise CommandBlockedError(
                        f"{hook} of a callback is a coroutine function, which run() cannot await",
                        ctx.vm_id,
                        ctx.command,
                    )
            except Exception:
                if hook == PRE:
                    raise
                _note(hook, ctx)

    async def async_fire(self, hook: str, ctx: RunContext, call: Callable[..., Awaitable[Any]]) -> None:
        """Call a hook; call runs what is no coroutine function, so that it cannot hold up the event loop."""
        for method in self._methods(hook):
            try:
                waits = method(ctx) if inspect.iscoroutinefunction(method) else await call(method, ctx)
                if inspect.isawaitable(waits):
                    await waits
            except Exception:
                if hook == PRE:
                    raise
                _note(hook, ctx)

    def _methods(self, hook: str) -> list[Callable[[RunContext], Any]]:
        return [m for c in self._all if callable(m := getattr(c, hook, None))]


def _note(hook: str, ctx: RunContext) -> None:
    log.exception("%s of a callback raised; sandbox %s, command %r", hook, ctx.vm_id, ctx.command)


def _discard(waits: Any) -> None:
    close = getattr(waits, "close", None)
    if close is not None:
        close()  # or Python warns that it was never awaited
