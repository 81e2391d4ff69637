"""Saving a sandbox and going on from what was saved: snapshots, forks, checkpoints, differences."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

from .compat import unsupported, wire_name
from .core import Core
from .errors import ConflictError, SnapshotAlreadyExistsError, ValidationError
from .models import (
    Change,
    GuestFlushPolicy,
    History,
    SandboxInfo,
    Snapshot,
    SnapshotCapturePolicy,
    SnapshotInfo,
    SnapshotType,
    Step,
    new_name,
    replace_config,
)
from .wire import meaning, pick

if TYPE_CHECKING:
    from pathlib import Path

SAVE_TIMEOUT = 600.0

Self = TypeVar("Self", bound="Saved")


class Saved(Core):
    """What can be saved of a sandbox and continued."""

    def snapshot(
        self,
        snapshot_id: str | None = None,
        *,
        snapshot_type: SnapshotType | str = SnapshotType.FULL,
        resume_source: bool = False,
        capture_policy: SnapshotCapturePolicy | str = SnapshotCapturePolicy.ALLOW_PAUSE,
        flush_policy: GuestFlushPolicy | str = GuestFlushPolicy.REQUIRED,
        timeout_seconds: float = SAVE_TIMEOUT,
        max_bytes_per_second: int | None = None,
    ) -> SnapshotInfo:
        """Save memory, processes and disk, or with snapshot_type="disk" the disk alone.

        The sandbox goes on, whatever resume_source says; it stands still for as long as
        memory is copied. A file system is always flushed. Any number of sandboxes can
        be made of a snapshot, by from_snapshot().
        """
        kind = SnapshotType(snapshot_type)
        if max_bytes_per_second is not None:
            unsupported("max_bytes_per_second", "a snapshot shares most of its data with its source", "Leave it out.")
        name = wire_name(snapshot_id) if snapshot_id else new_name("snap")
        body = {"name": name, "disk_only": kind is SnapshotType.DISK}
        with meaning(ConflictError, SnapshotAlreadyExistsError, name):
            answer = self.call("POST", "snapshots", body=body, timeout=timeout_seconds)
        return self._described(pick(Snapshot, answer))

    def _described(self, s: Snapshot) -> SnapshotInfo:
        kind = SnapshotType.DISK if s.kind == "disk" else SnapshotType.FULL
        return SnapshotInfo(s.name, self.vm_id, created_at=s.created, snapshot_type=kind, vm_config=self._config, snapshot=s)

    def fork(self: Self, n: int = 1, *, at: int | None = None, name: str | None = None) -> list[Self]:
        """Make n children that go on from here, or from the step at, each with an identity of its own.

        They are ephemeral if this sandbox is.
        """
        body: dict[str, Any] = {"n": n, "at": at, "name": wire_name(name) if name else None}
        headers = {}
        if self._ephemeral:
            body["ephemeral"] = True
            headers["Smolvm-Lease"] = self._client.lease.id()
        body = {k: v for k, v in body.items() if v is not None}
        answer = self.call("POST", "fork", body=body, headers=headers, timeout=SAVE_TIMEOUT)
        return [self._child(pick(SandboxInfo, s)) for s in answer["sandboxes"]]

    def _child(self: Self, s: SandboxInfo) -> Self:
        child = copy.copy(self)
        child._renew(replace_config(self._config, vm_id=s.name))
        child._adopt(s)
        return child

    def checkpoint(self, label: str = "") -> Step:
        """Record the sandbox as it is now as a step of its history."""
        return pick(Step, self.call("POST", "checkpoints", body={"label": label}, timeout=SAVE_TIMEOUT))

    def history(self) -> History:
        """Return the steps and the one that the sandbox goes on from."""
        answer = self.call("GET", "history")
        return History(int(answer["head"]), [pick(Step, s) for s in answer["steps"] or []])

    def rewind(self: Self, step: int | Step) -> Self:
        """Make the sandbox what it was at a step. What it is now is recorded first."""
        number = step.step if isinstance(step, Step) else step
        self.call("POST", "rewind", body={"step": number}, timeout=SAVE_TIMEOUT)
        return self

    def diff(self, start: int | None = None, end: int | None = None, *, patch: bool = False) -> list[Change]:
        """List the files that differ between two steps; None: the image, and the sandbox as it is now."""
        query = {"from": start, "to": end, "patch": patch}
        answer = self.call("GET", "diff", query=query, timeout=SAVE_TIMEOUT)
        return [pick(Change, c) for c in answer["changes"] or []]

    def export_diff(
        self, dest: str | Path, directory: str = "/", *, format: str = "patch", start: int | None = None, end: int | None = None
    ) -> None:
        """Write the differences below a directory of the sandbox to a file: a patch for git apply, or a tar."""
        if format not in ("patch", "tar"):
            raise ValidationError(f"format {format!r} is not known", recovery="Use patch or tar.")
        query = {"dir": directory, "format": format, "from": start, "to": end}
        with self.open("GET", "diff", "export", query=query, timeout=SAVE_TIMEOUT) as body, open(dest, "wb") as out:
            while data := body.read():
                out.write(data)

    def _renew(self, config: Any) -> None:
        raise NotImplementedError
