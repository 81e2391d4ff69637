"""asyncio: any method of this package, awaited.

    result = await call(vm.files.read, "/etc/hostname")

The method runs in a thread of its own. When the task is cancelled the method's
request is cut, which ends its command in the sandbox, and the thread is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any, ParamSpec, TypeVar

from .streams import CommandStream, Output
from .transport import CancelScope

P = ParamSpec("P")
T = TypeVar("T")

END_TIMEOUT = 10.0  # seconds that a cancelled call has to end


async def call(method: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Await a method that blocks."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()
    scope = CancelScope()
    context = contextvars.copy_context()

    def tell(set_it: Callable[[Any], None], value: Any) -> None:
        def settle() -> None:
            if not future.done():
                set_it(value)

        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle)

    def work() -> None:
        try:
            with scope:
                result = context.run(method, *args, **kwargs)
        except BaseException as e:
            # A future takes no StopIteration; nothing here raises it on purpose.
            tell(future.set_exception, RuntimeError(str(e)) if isinstance(e, StopIteration) else e)
        else:
            tell(future.set_result, result)

    # A daemon, so that the interpreter can end while it waits.
    thread = threading.Thread(target=work, name="smolvm-call", daemon=True)
    thread.start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        scope.cancel()
        with contextlib.suppress(Exception, asyncio.CancelledError):
            await asyncio.wait_for(asyncio.shield(future), END_TIMEOUT)
        if future.done() and not future.cancelled():
            future.exception()  # it was looked at, so that nobody logs it
        raise


async def iterate(stream: CommandStream) -> AsyncIterator[Output]:
    """Yield the output of a command as it comes; the command ends where this is left early."""
    outputs = iter(stream)
    try:
        while (piece := await call(next, outputs, None)) is not None:
            yield piece
    finally:
        stream.close()
