"""Finds the user's gateway, starts one where none runs, and holds its lease.

Where it is: ``SMOLVM_URL`` with ``SMOLVM_API_KEY``, else the socket api.sock in the
state directory. One that is started here ends by itself when nobody uses it.
"""

from __future__ import annotations

import http.client
import json
import os
import select
import shutil
import subprocess
import threading
import weakref
from pathlib import Path

from .errors import GatewayError, HostError, from_api
from .transport import Transport, join

IDLE_EXIT = "60s"  # long enough to be there for the next of several scripts
START_TIMEOUT = 30.0  # seconds; it takes well under one
LEASE_TIMEOUT = 30.0


def state_dir(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the state directory, as ``smolvm`` itself finds it."""
    if data_dir is not None:
        return Path(data_dir).expanduser().absolute()
    if home := os.environ.get("SMOLVM_HOME"):
        return Path(home).absolute()
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if os.path.isabs(base) else Path.home() / ".local" / "state") / "smolvm"


def find_binary() -> str:
    """Return the path of the smolvm program: $SMOLVM_BIN, the one that came with this package, or one in $PATH."""
    if named := os.environ.get("SMOLVM_BIN"):
        if os.access(named, os.X_OK):
            return named
        raise HostError(f"SMOLVM_BIN is {named!r}, which is no program", code="missing_dependency")
    for path in _shipped():
        if os.access(path, os.X_OK) and path.is_file():
            return str(path)
    if found := shutil.which("smolvm"):
        return found
    raise HostError(
        "the smolvm program is not there",
        code="missing_dependency",
        recovery="Install it with: make install, or set SMOLVM_BIN to its path.",
    )


def _shipped() -> list[Path]:
    """Return where a wheel that carries the program has put it."""
    import importlib.metadata  # takes longer than all that most programs do with this module

    here = Path(__file__).parent
    paths = [here / "bin" / "smolvm", here.parent / "bin" / "smolvm"]
    try:
        files = importlib.metadata.distribution("smolvm").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    paths += [Path(str(f.locate())) for f in files if f.parts[-2:] == ("bin", "smolvm")]
    return [p.resolve() for p in paths]


def start(home: Path) -> None:
    """Start a gateway for a state directory and return when it listens.

    It has a session of its own, so that a Ctrl-C here does not end it.
    """
    command = [find_binary(), "serve", "--idle-exit", IDLE_EXIT, "--if-needed", "--json"]
    env = {**os.environ, "SMOLVM_HOME": str(home)}
    env.pop("SMOLVM_URL", None)  # of a client, not of a gateway
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    # A file and no pipe: it would end at a write to a pipe that nobody reads.
    log = os.open(home / "gateway.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        proc = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            env=env,
            cwd="/",
            start_new_session=True,
        )
    except OSError as e:
        raise HostError(f"start {command[0]}: {e}") from e
    finally:
        os.close(log)
    _await_ready(proc, home)


def _await_ready(proc: subprocess.Popen[bytes], home: Path) -> None:
    assert proc.stdout is not None
    with proc.stdout as out:
        ready, _, _ = select.select([out], [], [], START_TIMEOUT)
        line = out.readline() if ready else b""
    if not ready:
        proc.kill()
        proc.wait()
        raise GatewayError(f"start the gateway: it was not ready within {START_TIMEOUT:g} seconds")
    if not line and proc.wait() != 0:
        said = (home / "gateway.log").read_text(errors="replace").strip()[-2000:]
        raise GatewayError(f"start the gateway: {said or 'it ended'}", recovery="See: smolvm doctor")
    # Whoever starts a process waits for it; nobody else may here.
    threading.Thread(target=proc.wait, name="smolvm-gateway", daemon=True).start()


class Lease:
    """Ties ephemeral sandboxes to this process: the gateway removes them when its connection ends."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._lock = threading.Lock()
        self._conn: http.client.HTTPConnection | None = None
        self._resp: http.client.HTTPResponse | None = None
        self._id = ""
        _leases.add(self)

    def id(self) -> str:
        """Return the lease's id; a new one where the gateway that gave the last has ended."""
        with self._lock:
            if not self._alive():
                self._open()
            return self._id

    def _alive(self) -> bool:
        """Report whether the connection stands, and take what the gateway sent to keep it so."""
        if self._conn is None or self._conn.sock is None or self._resp is None:
            return False
        poll = select.poll()
        poll.register(self._conn.sock, select.POLLIN)
        try:
            while poll.poll(0):
                if not self._resp.read1(4096):
                    return False
        except (OSError, http.client.HTTPException):
            return False
        return True

    def _open(self) -> None:
        self._close()
        stream = self._transport.stream("POST", join("leases"), b"", timeout=LEASE_TIMEOUT)
        line = stream.readline()
        try:
            answer = json.loads(line)
        except ValueError:
            stream.close()
            raise GatewayError(f"take a lease: the gateway sent {line[:200]!r}") from None
        if "id" not in answer:
            stream.close()
            raise from_api(answer.get("error", answer))
        self._conn, self._resp, self._id = stream._conn, stream._resp, str(answer["id"])

    def _close(self) -> None:
        if self._conn is not None:
            self._conn.close()
        self._conn = self._resp = None

    def close(self) -> None:
        """Give the lease up, which removes its sandboxes."""
        with self._lock:
            self._close()

    def after_fork(self) -> None:
        # A child's copy would keep the sandboxes of a parent that was killed.
        self._lock = threading.Lock()
        self._close()


_leases: weakref.WeakSet[Lease] = weakref.WeakSet()


def _after_fork() -> None:
    for lease in list(_leases):
        lease.after_fork()


os.register_at_fork(after_in_child=_after_fork)
