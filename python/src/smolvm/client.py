"""Client: one gateway, and what is not of a single sandbox."""

from __future__ import annotations

import contextlib
import os
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import (
    CommandExecutionUnavailableError,
    NotFoundError,
    SnapshotNotFoundError,
    UnavailableError,
    VMNotFoundError,
)
from .gateway import Lease, start, state_dir
from .models import Pool, SandboxInfo, Snapshot, Template
from .transport import Transport, join
from .wire import NDJSON, SSE, encode, meaning, ndjson, pick, refuse, sse


class Client:
    """A gateway. Without arguments: SMOLVM_URL, else the user's own, which is started where none runs.

    data_dir is another state directory, url and api_key another gateway.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        data_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        if url is None and data_dir is None:
            url = os.environ.get("SMOLVM_URL") or None
        if api_key is None:
            api_key = os.environ.get("SMOLVM_API_KEY", "")
        if url is None:
            self.home: Path | None = state_dir(data_dir)
            self.http = Transport("unix://" + urllib.parse.quote(str(self.home / "api.sock")), start=self._start)
        else:
            self.home = None
            self.http = Transport(url, api_key)
        self.lease = Lease(self.http)

    def _start(self) -> None:
        assert self.home is not None
        start(self.home)

    def close(self) -> None:
        """Close the connections. Ephemeral sandboxes of this client are removed."""
        self.lease.close()
        self.http.forget()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def version(self) -> dict[str, Any]:
        """Return the gateway's version."""
        return dict(self.http.json("GET", join("version")))

    def get(self, ref: str) -> SandboxInfo:
        """Describe a sandbox by id, unique beginning of an id, or name."""
        with meaning(NotFoundError, VMNotFoundError, ref):
            return pick(SandboxInfo, self.http.json("GET", join("sandboxes", ref)))

    @contextlib.contextmanager
    def about(self, vm_id: str, ref: str) -> Iterator[None]:
        """Name the sandbox, whose id is ref, in errors that say it is gone or does not run."""
        try:
            yield
        except NotFoundError as e:
            if type(e) is NotFoundError:
                self._see(vm_id, ref)  # is it the sandbox, or something in it?
            raise
        except UnavailableError as e:
            if e.code != "not_running":
                raise
            raise CommandExecutionUnavailableError(
                vm_id, e.message, e.recovery, code=e.code, request_id=e.request_id
            ) from None

    def _see(self, vm_id: str, ref: str) -> None:
        with meaning(NotFoundError, VMNotFoundError, vm_id):
            self.http.json("GET", join("sandboxes", ref))

    def sandboxes(self, *, state: str | None = None, labels: Mapping[str, str] | None = None) -> list[SandboxInfo]:
        """Describe the sandboxes, oldest first."""
        query = {"state": state, "label": [f"{k}={v}" for k, v in (labels or {}).items()]}
        answer = self.http.json("GET", join("sandboxes"), query=query)
        return [pick(SandboxInfo, s) for s in answer["sandboxes"]]

    def events(self) -> Iterator[dict[str, Any]]:
        """Tell what happens to sandboxes, from now on."""
        with self.http.stream("GET", join("events"), headers=SSE, timeout=None) as lines:
            yield from sse(lines)

    def snapshots(self) -> list[Snapshot]:
        """Describe the snapshots, oldest first."""
        return [pick(Snapshot, s) for s in self.http.json("GET", join("snapshots"))["snapshots"]]

    def delete_snapshot(self, name: str) -> None:
        """Remove a snapshot. Sandboxes that were made of it do not notice."""
        with meaning(NotFoundError, SnapshotNotFoundError, name):
            self.http.json("DELETE", join("snapshots", name))

    def templates(self) -> list[Template]:
        """Describe the templates that new sandboxes continue."""
        return [pick(Template, t) for t in self.http.json("GET", join("templates"))["templates"]]

    def build_template(self, *, image: str = "", memory: int = 0, disk_size: int = 0, cpus: int = 0) -> Template:
        """Make the template of an image and sizes where it is not there yet."""
        spec = {"image": image, "memory_mib": memory, "disk_mib": disk_size, "cpus": cpus}
        return pick(Template, self.http.json("POST", join("templates"), spec, timeout=None))

    def delete_template(self, key: str) -> None:
        """Remove a template by its key or a unique beginning of it."""
        self.http.json("DELETE", join("templates", key))

    def set_pool(self, size: int, *, image: str = "", memory: int = 0, disk_size: int = 0, cpus: int = 0) -> Pool:
        """Keep size sandboxes waiting, so that a new one takes milliseconds. Zero ends the pool."""
        body = {"size": size, "image": image, "memory_mib": memory, "disk_mib": disk_size, "cpus": cpus}
        return pick(Pool, self.http.json("PUT", join("pools"), body))

    def pools(self) -> list[Pool]:
        return [pick(Pool, p) for p in self.http.json("GET", join("pools"))["pools"]]

    def drain_pools(self, image: str = "") -> list[Pool]:
        """End the waiting sandboxes of an image's pools, or of all."""
        answer = self.http.json("DELETE", join("pools"), query={"image": image or None}, timeout=None)
        return [pick(Pool, p) for p in (answer or {}).get("pools", [])]

    def images(self) -> list[dict[str, Any]]:
        return list(self.http.json("GET", join("images"))["images"])

    def pull_image(self, ref: str, on_progress: Callable[[str], object] | None = None) -> None:
        """Get an image from its registry."""
        body = encode({"image": ref})
        with self.http.stream("POST", join("images", "pull"), body, headers=NDJSON, timeout=None) as lines:
            for event in ndjson(lines):
                refuse(event)
                if on_progress and "progress" in event:
                    on_progress(str(event["progress"].get("step", "")))


_lock = threading.Lock()
_clients: dict[tuple[str, str], Client] = {}


def default_client(data_dir: str | os.PathLike[str] | None = None) -> Client:
    """Return the process's client of a gateway: one for each, so that it has one lease."""
    url, key = os.environ.get("SMOLVM_URL", ""), os.environ.get("SMOLVM_API_KEY", "")
    if data_dir is not None or not url:
        url = str(state_dir(data_dir))
    with _lock:
        client = _clients.get((url, key))
        if client is None:
            client = _clients[url, key] = Client(data_dir=data_dir)
        return client


def _after_fork() -> None:
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
