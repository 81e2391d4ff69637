"""HTTP to a gateway, over its Unix socket or TCP, on connections that are kept.

    t = Transport("unix:///run/user/1000/api.sock")
    t.json("GET", "/v1/sandboxes")
    with t.stream("GET", "/v1/events") as lines:
        for line in lines: ...

A connection belongs to one request at a time. When a request ends early, whatever
the reason, its connection is closed: that tells the gateway to end the command.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import select
import socket
import ssl
import struct
import threading
import time
import urllib.parse
import weakref
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import IO, Any, Union

from .errors import Cancelled, DeniedError, GatewayError, OperationTimeoutError, SmolVMError, ValidationError, from_api

JSON = dict[str, Any]
Body = Union[bytes, IO[bytes], Iterator[bytes], None]  # noqa: UP007  (evaluated in 3.10 too)

DEFAULT_TIMEOUT = 120.0  # seconds without a byte of the answer, where a call sets no other
CONNECT_TIMEOUT = 10.0
MAX_IDLE = 32  # connections kept for the next request
MAX_IDLE_SECONDS = 30.0
MAX_BODY = 256 << 20  # of an answer that is held whole; twice 10 MiB of output is usual
MAX_LINE = 64 << 20  # of a stream
BLOCK = 256 << 10
SUN_PATH = 107  # what a Unix address holds, unix(7), without the closing NUL

_SAFE = frozenset({"GET", "HEAD", "DELETE", "PUT"})


class CancelScope:
    """Ends the requests of a thread from another one, by shutting their sockets."""

    _local = threading.local()

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socks: set[socket.socket] = set()
        self.cancelled = False

    @classmethod
    def current(cls) -> CancelScope | None:
        scope: CancelScope | None = getattr(cls._local, "scope", None)
        return scope

    def __enter__(self) -> CancelScope:
        self._local.scope = self
        return self

    def __exit__(self, *_: object) -> None:
        self._local.scope = None

    def cancel(self) -> None:
        with self._lock:
            self.cancelled = True
            for sock in self._socks:
                _shut(sock)

    def add(self, sock: socket.socket) -> None:
        with self._lock:
            if self.cancelled:
                raise Cancelled("the call was cancelled")
            self._socks.add(sock)

    def drop(self, sock: socket.socket) -> None:
        with self._lock:
            self._socks.discard(sock)


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        sock.shutdown(socket.SHUT_RDWR)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket. The name in Host means nothing there."""

    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=CONNECT_TIMEOUT, blocksize=BLOCK)
        self._path = path

    def connect(self) -> None:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.settimeout(CONNECT_TIMEOUT)
            connect_unix(sock, self._path)
            _check_owner(sock, self._path)
        except BaseException:
            sock.close()
            raise
        self.sock = sock


class _PlainConnection(http.client.HTTPConnection):
    """HTTP that carries a key, and so goes to this machine alone."""

    def connect(self) -> None:
        super().connect()
        address = self.sock.getpeername()[0]
        if not ipaddress.ip_address(address.partition("%")[0]).is_loopback:
            self.close()
            raise ValidationError(
                f"connect to {address} with an API key: it would go over the network unencrypted",
                code="insecure_url",
                recovery="Use https, or a tunnel to a port of this machine.",
            )


def _check_owner(sock: socket.socket, path: str) -> None:
    """Refuse a socket that another user listens at: it would get all that is sent."""
    _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    if uid not in (0, os.geteuid()):
        raise DeniedError(
            f"connect to {path}: another user listens there (uid {uid})",
            code="foreign_gateway",
            recovery="Use a state directory that only you can write to.",
        )


def connect_unix(sock: socket.socket, path: str) -> None:
    """Connect to a socket at a path of any length."""
    if len(os.fsencode(path)) <= SUN_PATH:
        sock.connect(path)
        return
    fd = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        sock.connect(f"/proc/self/fd/{fd}/{os.path.basename(path)}")
    finally:
        os.close(fd)


class Reply:
    """The head of an answer, and its whole body."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body


class Stream:
    """The body of an answer as it comes. Iterating gives its lines; close it when done."""

    def __init__(self, transport: Transport, conn: http.client.HTTPConnection, answer: _Answer) -> None:
        self._transport = transport
        self._conn = conn
        self._resp = answer.resp
        self._sock = answer.sock
        self.headers = answer.resp.headers
        self.closed = False

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[bytes]:
        while line := self.readline():
            yield line

    def readline(self) -> bytes:
        """Return the next line; empty at the end."""
        line = self._read(lambda: self._resp.readline(MAX_LINE))
        if len(line) >= MAX_LINE:
            self.close()
            raise GatewayError(f"the gateway sent a line of more than {MAX_LINE} bytes")
        return line

    def read(self, n: int = BLOCK) -> bytes:
        """Return what has come, at most n bytes; empty at the end."""
        return self._read(lambda: self._resp.read1(n))

    def _read(self, read: Callable[[], bytes]) -> bytes:
        if self.closed:
            return b""
        try:
            with _Watch(self._sock):
                data = read()
        except BaseException:
            self.close()
            raise
        if not data:
            self._end()
        return data

    def _end(self) -> None:
        """Give the connection back after the last byte."""
        if not self.closed:
            self.closed = True
            self._transport.give_back(self._conn, self._resp)

    def close(self) -> None:
        """End the request if it is under way. A second call does nothing."""
        if self.closed:
            return
        self.closed = True
        _shut(self._sock)  # wakes a thread that reads
        self._conn.close()
        self._resp.close()


class Transport:
    """Requests to one gateway. May be used from many threads.

    url is unix:///PATH, http://HOST:PORT or https://HOST:PORT. start is called once a
    Unix socket turns out to have no listener; then it is tried again.
    """

    def __init__(self, url: str, api_key: str = "", start: Callable[[], None] | None = None) -> None:
        self.url = url
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._start = start
        self._dial = _dialer(url, keyed=bool(api_key))
        self._reset()
        _transports.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[float, http.client.HTTPConnection]] = []

    def forget(self) -> None:
        """Close what is kept."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, conn in idle:
            conn.close()

    def after_fork(self) -> None:
        """Let a child process have connections of its own."""
        idle = self._idle
        self._reset()
        for _, conn in idle:
            conn.close()  # its copy; the parent's stays open

    def json(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Send JSON, and return the JSON that comes back; None where nothing does."""
        headers = dict(more.pop("headers", None) or {})
        data: bytes | None = None
        if body is not None:
            data = json.dumps(body, separators=(",", ":")).encode()
            headers["Content-Type"] = "application/json"
        reply = self.request(method, path, data, headers=headers, **more)
        if not reply.body:
            return None
        try:
            return json.loads(reply.body)
        except ValueError as e:
            raise GatewayError(f"{method} {path}: the answer is no JSON: {e}") from e

    def request(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        again: bool = False,
    ) -> Reply:
        """Send a request and return its whole answer. again says that it may be sent twice."""
        stream = self.stream(method, path, body, query=query, headers=headers, timeout=timeout, again=again)
        resp = stream._resp
        try:
            with _Watch(stream._sock):
                data = resp.read(MAX_BODY + 1)
            if len(data) > MAX_BODY:
                raise GatewayError(f"{method} {path}: the answer has more than {MAX_BODY} bytes")
            if resp.length == 0 or resp.isclosed():
                stream._end()
            return Reply(resp.status, resp.headers, data)
        finally:
            stream.close()

    def stream(
        self,
        method: str,
        path: str,
        body: Body = None,
        *,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = DEFAULT_TIMEOUT,
        again: bool = False,
    ) -> Stream:
        """Send a request and return its answer once the head has come.

        timeout is the seconds without a byte after which it fails; None: none.
        An answer that is an error is raised as an exception.
        """
        if query:
            path += "?" + urllib.parse.urlencode(_flat(query))
        head = {**self._headers, **(headers or {})}
        again = (again or method in _SAFE) and (body is None or isinstance(body, bytes))
        conn, used = self._take()
        while True:
            try:
                answer = _exchange(conn, method, path, body, head, timeout)
                break
            except GatewayError:
                conn.close()
                # A connection that the gateway closed while it was idle says nothing of the request.
                if not (used and again):
                    raise
                conn, used = self._connect(), False
            except BaseException:
                conn.close()
                raise
        if answer.resp.status >= 400:
            raise self._refusal(conn, answer)
        return Stream(self, conn, answer)

    def _refusal(self, conn: http.client.HTTPConnection, answer: _Answer) -> SmolVMError:
        resp = answer.resp
        with _Watch(answer.sock):
            data = resp.read(1 << 20)
        self.give_back(conn, resp)
        try:
            body = json.loads(data)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            body = {"message": f"the gateway answered {resp.status}: {data[:200]!r}"}
        return from_api(body, resp.status)

    def _take(self) -> tuple[http.client.HTTPConnection, bool]:
        with self._lock:
            while self._idle:
                since, conn = self._idle.pop()
                if time.monotonic() - since < MAX_IDLE_SECONDS and _quiet(conn):
                    return conn, True
                conn.close()
        return self._connect(), False

    def give_back(self, conn: http.client.HTTPConnection, resp: http.client.HTTPResponse) -> None:
        if resp.will_close or not resp.isclosed() or conn.sock is None:
            conn.close()
            return
        with self._lock:
            if len(self._idle) < MAX_IDLE:
                self._idle.append((time.monotonic(), conn))
                return
        conn.close()

    def _connect(self) -> http.client.HTTPConnection:
        try:
            return self.dial()
        except (FileNotFoundError, ConnectionRefusedError) as e:
            if self._start is None:
                raise GatewayError(f"connect to {self.url}: {e}", recovery="Start it with: smolvm serve") from e
        except OSError as e:
            raise GatewayError(f"connect to {self.url}: {e}") from e
        self._start()
        try:
            return self.dial()
        except OSError as e:
            raise GatewayError(f"connect to {self.url}, which was just started: {e}") from e

    def dial(self) -> http.client.HTTPConnection:
        """Return a new connection; the error is the system's."""
        conn = self._dial()
        conn.connect()
        return conn

    def authorize(self) -> dict[str, str]:
        """Return the headers that every request has."""
        return dict(self._headers)


class _Watch:
    """While it is entered, the thread's CancelScope can end what a socket does, and errors become ours."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._scope = CancelScope.current()

    def __enter__(self) -> None:
        if self._scope:
            self._scope.add(self._sock)

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        if self._scope:
            self._scope.drop(self._sock)
            if self._scope.cancelled and err is not None:
                raise Cancelled("the call was cancelled") from None
        if isinstance(err, TimeoutError):
            seconds = self._sock.gettimeout() or 0
            raise OperationTimeoutError("wait for the gateway", seconds) from err
        if isinstance(err, (OSError, http.client.HTTPException)):
            raise GatewayError(f"the connection to the gateway broke: {err or type(err).__name__}") from err


class _Answer:
    """The head of an answer and the socket it came by, which http.client forgets where it will be closed."""

    def __init__(self, resp: http.client.HTTPResponse, sock: socket.socket) -> None:
        self.resp = resp
        self.sock = sock


def _exchange(
    conn: http.client.HTTPConnection,
    method: str,
    path: str,
    body: Body,
    headers: Mapping[str, str],
    timeout: float | None,
) -> _Answer:
    sock: socket.socket = conn.sock
    sock.settimeout(timeout)
    with _Watch(sock):
        try:
            conn.request(method, path, body, dict(headers))
        except (BrokenPipeError, ConnectionResetError):
            # It may have refused the body before it read all of it, and said why.
            with contextlib.suppress(http.client.ResponseNotReady, ConnectionError):
                return _Answer(_early(conn), sock)
            raise
        return _Answer(conn.getresponse(), sock)


def _early(conn: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """Return an answer that came before the request's body was sent."""
    resp = http.client.HTTPResponse(conn.sock)
    resp.begin()
    return resp


def _quiet(conn: http.client.HTTPConnection) -> bool:
    """Report whether an idle connection is open: one that has something to read was closed."""
    if conn.sock is None:
        return False
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN | select.POLLHUP)
    return not poll.poll(0)


def _dialer(url: str, *, keyed: bool) -> Callable[[], http.client.HTTPConnection]:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme == "unix" and parts.path:
        path = urllib.parse.unquote(parts.path)
        return lambda: _UnixConnection(path)
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/") or parts.query:
        raise ValidationError(
            f"{url!r} is no address of a gateway",
            recovery="Use http://HOST:PORT, https://HOST:PORT or unix:///PATH.",
        )
    name = host
    if parts.scheme == "http":
        plain = _PlainConnection if keyed else http.client.HTTPConnection
        return lambda: plain(name, port, timeout=CONNECT_TIMEOUT, blocksize=BLOCK)
    context = ssl.create_default_context()
    return lambda: http.client.HTTPSConnection(name, port, timeout=CONNECT_TIMEOUT, blocksize=BLOCK, context=context)


def _flat(query: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a query's pairs: None is left out, a list gives several, and true is "true"."""
    pairs: list[tuple[str, str]] = []
    for key, value in query.items():
        for v in value if isinstance(value, (list, tuple)) else [value]:
            if v is not None:
                pairs.append((key, str(v).lower() if isinstance(v, bool) else str(v)))
    return pairs


def join(*parts: str) -> str:
    """Return the path below /v1 with these segments."""
    return "/v1/" + "/".join(urllib.parse.quote(p, safe="") for p in parts)


_transports: weakref.WeakSet[Transport] = weakref.WeakSet()


def _after_fork() -> None:
    CancelScope._local = threading.local()
    for t in list(_transports):
        t.after_fork()


os.register_at_fork(after_in_child=_after_fork)
