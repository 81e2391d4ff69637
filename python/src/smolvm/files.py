"""Files of a sandbox, whole or streamed."""

from __future__ import annotations

import os
import stat as stats
import tarfile
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import NotFoundError, ValidationError
from .models import FileInfo
from .wire import SSE, pick, sse

if TYPE_CHECKING:
    from .core import Core

OCTETS = {"Content-Type": "application/octet-stream"}
TAR = {"Content-Type": "application/x-tar"}
COPY_TIMEOUT = 300.0  # seconds without a byte


class Files:
    """What vm.files is. Paths are the sandbox's and absolute."""

    def __init__(self, vm: Core) -> None:
        self._vm = vm

    def read(self, path: str) -> bytes:
        """Return what is in a file."""
        with self._vm.open("GET", "files", "content", query={"path": path}, timeout=COPY_TIMEOUT) as body:
            return b"".join(iter(body.read, b""))

    def read_text(self, path: str, encoding: str = "utf-8") -> str:
        return self.read(path).decode(encoding)

    def write(
        self,
        path: str,
        data: str | bytes | IO[bytes],
        *,
        mode: int | None = None,
        owner: str | None = None,
        parents: bool = True,
        append: bool = False,
    ) -> None:
        """Write a file: all of it or nothing. parents makes the directories above it."""
        query = {
            "path": path,
            "mode": None if mode is None else f"{mode:o}",
            "owner": owner,
            "parents": parents or None,
            "append": append or None,
        }
        body = data.encode() if isinstance(data, str) else data
        with self._vm.open("PUT", "files", "content", body=body, query=query, headers=OCTETS, timeout=COPY_TIMEOUT):
            pass

    def download(self, path: str, local: str | os.PathLike[str], *, make_dirs: bool = True) -> str:
        """Copy a file to the host: whole, or not at all."""
        dest = Path(local)
        if dest.is_dir():
            dest = dest / os.path.basename(path)
        if make_dirs:
            dest.parent.mkdir(parents=True, exist_ok=True)
        with self._vm.open("GET", "files", "content", query={"path": path}, timeout=COPY_TIMEOUT) as body:
            with _whole(dest) as out:
                while data := body.read():
                    out.write(data)
        return str(dest)

    def upload(self, local: str | os.PathLike[str], path: str, *, make_dirs: bool = True) -> str:
        """Copy a file of the host into the sandbox, with its mode."""
        if not os.path.isfile(local):
            raise ValidationError(f"upload {os.fspath(local)!r}: it is no file", recovery="Use upload_dir for a folder.")
        with open(local, "rb") as source:
            mode = stats.S_IMODE(os.fstat(source.fileno()).st_mode)
            self.write(path, source, mode=mode, parents=make_dirs)
        return path

    def upload_dir(self, local: str | os.PathLike[str], path: str, *, owner: str | None = None) -> None:
        """Copy a folder's content into a directory of the sandbox."""
        if not os.path.isdir(local):
            raise ValidationError(f"upload {os.fspath(local)!r}: it is no folder")
        with tempfile.TemporaryFile() as packed:
            with tarfile.open(fileobj=packed, mode="w") as tar:
                for name in sorted(os.listdir(local)):
                    tar.add(os.path.join(local, name), arcname=name)
            packed.seek(0)
            query = {"dir": path, "owner": owner}
            self.mkdir(path)
            with self._vm.open("PUT", "files", "archive", body=packed, query=query, headers=TAR, timeout=COPY_TIMEOUT):
                pass

    def download_dir(self, path: str, local: str | os.PathLike[str]) -> None:
        """Copy a directory's content to a folder of the host. Nothing is written outside of it."""
        os.makedirs(local, exist_ok=True)
        with self._vm.open("GET", "files", "archive", query={"dir": path, "path": "."}, timeout=COPY_TIMEOUT) as body:
            with tempfile.TemporaryFile() as packed:
                while data := body.read():
                    packed.write(data)
                packed.seek(0)
                _unpack(packed, Path(local))

    def list(self, path: str = "/") -> list[FileInfo]:
        return [pick(FileInfo, f) for f in self._vm.call("GET", "files", "list", query={"path": path})["files"] or []]

    def stat(self, path: str) -> FileInfo:
        return pick(FileInfo, self._vm.call("GET", "files", "stat", query={"path": path}))

    def exists(self, path: str) -> bool:
        try:
            self.stat(path)
        except NotFoundError as e:
            if type(e) is not NotFoundError:
                raise
            return False
        return True

    def mkdir(self, path: str, *, mode: int | None = None, owner: str | None = None, parents: bool = True) -> None:
        octal = None if mode is None else f"{mode:o}"
        body: dict[str, Any] = {"path": path, "mode": octal, "owner": owner, "parents": parents}
        self._vm.call("POST", "files", "mkdir", body={k: v for k, v in body.items() if v is not None})

    def remove(self, path: str, *, recursive: bool = False, force: bool = False) -> None:
        """Remove a file, or with recursive a directory; with force nothing need be there."""
        query = {"path": path, "recursive": recursive or None, "force": force or None}
        self._vm.call("DELETE", "files", query=query)

    def rename(self, old: str, new: str) -> None:
        self._vm.call("POST", "files", "rename", body={"from": old, "to": new})

    def watch(self, path: str, *, recursive: bool = False) -> Iterator[dict[str, Any]]:
        """Tell what changes below a path, as {"path", "what"}, until it is closed."""
        query = {"path": path, "recursive": recursive or None}
        with self._vm.open("GET", "files", "watch", query=query, headers=SSE, timeout=None) as lines:
            yield from sse(lines)


class _whole:
    """A file that is there only once all of it is written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._temp = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.part")

    def __enter__(self) -> IO[bytes]:
        self._file = open(self._temp, "wb")
        return self._file

    def __exit__(self, kind: object, *_: object) -> None:
        self._file.close()
        if kind is None:
            os.replace(self._temp, self._path)
        else:
            self._temp.unlink(missing_ok=True)


def _unpack(packed: IO[bytes], dest: Path) -> None:
    """Unpack an archive that a guest made: no path, link or device leads out of dest."""
    with tarfile.open(fileobj=packed, mode="r:") as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(dest, filter="data")
            return
        # Pythons without filters (3.10.0 to 3.10.11): plain files and directories alone.
        root = os.path.realpath(dest)
        for m in tar:
            target = os.path.realpath(os.path.join(root, m.name))
            if (m.isfile() or m.isdir()) and os.path.commonpath([root, target]) == root:
                m.mode &= 0o755
                tar.extract(m, dest, set_attrs=True)
