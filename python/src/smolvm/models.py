"""What the package takes and gives: settings, results, descriptions.

Sizes are MiB and times seconds, unless a name says otherwise. Where the original
has a class of the same name, its fields are here too.
"""

from __future__ import annotations

import dataclasses
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from .errors import ValidationError

NAME = re.compile(r"[a-z0-9]([a-z0-9_-]{0,61}[a-z0-9])?\Z")


class _Word(str, Enum):
    def __str__(self) -> str:
        return str(self.value)


class VMState(_Word):
    CREATED = "created"  # chosen but not made: start() or the first run() makes it
    RUNNING = "running"
    PAUSED = "paused"
    STOPPED = "stopped"
    HIBERNATED = "hibernated"  # on disk, processes included; a command continues them
    ERROR = "error"


class GuestOS(_Word):
    ALPINE = "alpine"
    UBUNTU = "ubuntu"
    WINDOWS = "windows"
    MACOS = "macos"


class QemuMachine(_Word):
    AUTO = "auto"
    Q35 = "q35"
    MICROVM = "microvm"


class SnapshotType(_Word):
    FULL = "full"
    DIFF = "diff"
    DISK = "disk"


class SnapshotCapturePolicy(_Word):
    ALLOW_PAUSE = "allow-pause"
    LIVE_ONLY = "live-only"


class GuestFlushPolicy(_Word):
    REQUIRED = "required"
    BEST_EFFORT = "best-effort"
    SKIP = "skip"


@dataclass(frozen=True)
class CommandResult:
    """How a command ended and what it wrote."""

    exit_code: int  # 128+n where signal n ended it
    stdout: str = ""
    stderr: str = ""
    stdout_bytes: bytes = b""  # exact, where the output is no UTF-8
    stderr_bytes: bytes = b""
    signal: str = ""
    timed_out: bool = False
    truncated: bool = False  # output beyond the limit was dropped
    oom: bool = False  # the guest ran out of memory and ended it
    wall_ms: float = 0.0
    user_ms: float = 0.0
    system_ms: float = 0.0
    step: Step | None = None  # the checkpoint, where one was asked for

    @property
    def ok(self) -> bool:
        return self.exit_code == 0

    @property
    def output(self) -> str:
        """stdout without white space around it."""
        return self.stdout.strip()

    @property
    def duration(self) -> float:
        """Seconds from start to end."""
        return self.wall_ms / 1000


@dataclass
class InternetSettings:
    """What a sandbox may reach, in the original's words. Here it is enforced."""

    allowed_domains: list[str] = field(default_factory=lambda: ["*"])
    allowed_http_methods: list[str] = field(default_factory=lambda: ["*"])


@dataclass
class Rule:
    """One rule of a Policy; see the guide on network policy."""

    action: str  # "allow", "deny" or "ask"
    id: str = ""
    domains: Sequence[str] = ()
    groups: Sequence[str] = ()
    cidrs: Sequence[str] = ()
    ports: Sequence[str] = ()
    protocols: Sequence[str] = ()
    methods: Sequence[str] = ()
    paths: Sequence[str] = ()
    expires: str = ""
    note: str = ""


@dataclass
class Policy:
    """What may leave a sandbox. Without rules: nothing."""

    rules: Sequence[Rule] = ()
    default: str = ""  # "allow", "deny" or "ask"; empty: deny
    ech: str = ""
    version: int = 1


@dataclass
class Secret:
    """A value that the guest never sees: it holds a placeholder, which becomes the value in requests to hosts."""

    value: str = field(repr=False)
    hosts: Sequence[str] = ()
    name: str = ""  # of the environment variable


@dataclass
class WorkspaceMount:
    """A folder of the host in the sandbox. Unless writable, what the sandbox writes stays in it."""

    host_path: str | Path
    guest_path: str = "/workspace"
    mount_tag: str | None = None
    writable: bool = False


@dataclass
class PortForwardConfig:
    host_port: int
    guest_port: int
    host_address: str = "127.0.0.1"


@dataclass(frozen=True)
class Port:
    """A port of the host that leads into a sandbox."""

    guest_port: int
    host_port: int = 0
    host_ip: str = "127.0.0.1"
    proto: str = "tcp"
    picked: bool = False


@dataclass
class NetworkConfig:
    """The guest's address. It is the same in each sandbox: none sees another."""

    guest_ip: str = ""
    gateway_ip: str = ""
    netmask: str = ""
    tap_device: str = ""
    guest_mac: str = ""
    ssh_host_port: int | None = None
    mode: str = "nat"
    bridge: str | None = None


@dataclass(frozen=True)
class VMConfig:
    """A sandbox to make. mem_size_mib is the older name of memory, disk_size of disk_size_mib."""

    vm_id: str = ""  # empty: one is chosen
    vcpu_count: int = 2
    memory: int = 512
    disk_size_mib: int | None = None
    guest_os: str | GuestOS = GuestOS.ALPINE
    image: str | None = None
    env_vars: Mapping[str, str] = field(default_factory=dict)
    internet_settings: InternetSettings | Mapping[str, Any] | None = None
    workspace_mounts: Sequence[WorkspaceMount] = ()
    port_forwards: Sequence[PortForwardConfig] = ()
    network_rate_limit_mbps: int | None = None
    backend: str | None = None
    qemu_machine: str | QemuMachine = QemuMachine.AUTO
    comm_channel: str | None = None
    mem_size_mib: int | None = None
    disk_size: int | None = None
    # What follows describes the original's kernels, disks and hosts. It is taken
    # and, where it asks for what is not here, refused when the sandbox is made.
    boot_mode: str = "direct_kernel"
    kernel_path: str | Path | None = None
    initrd_path: str | Path | None = None
    rootfs_path: str | Path | None = None
    rootfs_format: str | None = None
    macos_machine: Any = None
    extra_drives: Sequence[Any] = ()
    boot_args: str | None = None
    ssh_capable: bool = False
    qemu_network: str = "slirp"
    disk_mode: str = "isolated"
    grow_filesystem: bool = False
    retain_disk_on_delete: bool = False
    vsock: Any = None
    ssh_public_key: str | None = None
    guest_managed_networking: bool = False
    network_attachment: Any = None

    def __post_init__(self) -> None:
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("vm_id", check_name(self.vm_id) if self.vm_id else new_name())
        if self.mem_size_mib is not None:
            put("memory", self.mem_size_mib)
        if self.disk_size is not None:
            put("disk_size_mib", self.disk_size)
        check_range("vcpu_count", self.vcpu_count, 1, 64)
        check_range("memory", self.memory, 128, 1 << 20)


def check_name(name: str) -> str:
    if not isinstance(name, str) or not NAME.match(name):
        raise ValidationError(
            f"{str(name)[:80]!r} cannot name a sandbox",
            recovery="Use 1 to 63 lower-case letters, digits and dashes, not starting or ending with a dash.",
        )
    return name


def check_range(what: str, n: object, low: int, high: int) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or not low <= n <= high:
        raise ValidationError(f"{what} is {n!r}, not a whole number within {low} to {high}")


def new_name(prefix: str = "sbx") -> str:
    return f"{prefix}-{secrets.token_hex(5)}"


@dataclass
class SandboxInfo:
    """A sandbox as the gateway describes it."""

    id: str
    name: str
    state: str
    image: str = ""
    image_id: str = ""
    cpus: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    reason: str = ""  # why state is error or stopped, in words
    labels: dict[str, str] = field(default_factory=dict)
    ephemeral: bool = False
    created: str = ""  # times as in RFC 3339
    started: str = ""
    expires: str = ""
    idle_timeout_seconds: float = 0
    idle_action: str = ""
    origin: str = ""
    network: dict[str, Any] = field(default_factory=dict)
    ports: list[dict[str, Any]] = field(default_factory=list)
    secrets: list[dict[str, Any]] = field(default_factory=list)
    mounts: list[dict[str, Any]] = field(default_factory=list)
    isolation: str = ""  # "hardware" or "emulated"
    accel: str = ""
    machine: str = ""
    vmm: str = ""
    vmm_pid: int = 0
    timings: dict[str, Any] = field(default_factory=dict)


@dataclass
class VMInfo:
    """A sandbox in the original's words. sandbox is all of it; None: it is not made yet."""

    vm_id: str
    status: VMState
    config: VMConfig
    network: NetworkConfig | None = None
    pid: int | None = None
    control_socket_path: Path | None = None
    vsock_uds_path: Path | None = None
    display: None = None
    sandbox: SandboxInfo | None = None


@dataclass
class Process:
    """A background process of a sandbox."""

    id: str
    pid: int = 0
    tag: str = ""
    argv: list[str] = field(default_factory=list)
    user: str = ""
    started: str = ""
    running: bool = False
    ended: dict[str, Any] | None = None


@dataclass
class GuestProcess:
    pid: int
    ppid: int = 0
    user: str = ""
    state: str = ""
    rss_kib: int = 0
    cpu_ms: int = 0
    argv: list[str] = field(default_factory=list)


@dataclass
class FileInfo:
    name: str
    type: str = "file"  # "file", "dir", "symlink" or "other"
    size: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    user: str = ""
    group: str = ""
    mtime: str = ""
    target: str = ""  # of a symbolic link


@dataclass
class Snapshot:
    name: str
    kind: str = "full"
    source: str = ""
    image: str = ""
    cpus: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    created: str = ""
    bytes: int = 0
    pause_ms: float = 0
    digest: str = ""


@dataclass
class SnapshotArtifacts:
    """The original's paths; smolvm keeps a snapshot's files to itself."""

    state_path: Path | None = None
    memory_path: Path | None = None
    disk_path: Path | None = None


@dataclass
class SnapshotInfo:
    """A snapshot in the original's words. It can be restored many times, at once too."""

    snapshot_id: str
    vm_id: str
    backend: str = "qemu"
    artifacts: SnapshotArtifacts = field(default_factory=SnapshotArtifacts)
    created_at: str = ""
    snapshot_type: SnapshotType = SnapshotType.FULL
    restored: bool = False
    restored_vm_id: str | None = None
    vm_config: VMConfig | None = None
    network_config: NetworkConfig | None = None
    snapshot: Snapshot | None = None


@dataclass(frozen=True)
class Step:
    """A checkpoint: memory, processes and disk of a sandbox at one moment."""

    step: int
    label: str = ""
    parent: int | None = None
    created: str = ""
    exit: int | None = None
    pause_ms: float = 0
    bytes: int = 0


@dataclass
class History:
    head: int  # the step that the sandbox goes on from; -1: none
    steps: list[Step]


@dataclass
class Change:
    """A file that differs between two states of a sandbox."""

    path: str
    what: str = ""  # "added", "changed" or "deleted"
    type: str = ""
    size: int = 0
    mode: int = 0
    patch: str = ""
    binary: bool = False


@dataclass
class PendingFlow:
    """A flow that waits for a person's answer."""

    id: str
    host: str = ""
    port: int = 0
    proto: str = ""
    address: str = ""
    method: str = ""
    path: str = ""
    asked: str = ""
    expires: str = ""
    rule: str = ""
    pid: int = 0
    argv: list[str] = field(default_factory=list)
    flows: int = 1


@dataclass
class Template:
    key: str
    image: str = ""
    cpus: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    accel: str = ""
    vmm: str = ""
    created: str = ""
    used: str = ""
    bytes: int = 0


@dataclass
class Pool:
    image: str
    cpus: int = 0
    memory_mib: int = 0
    disk_mib: int = 0
    size: int = 0
    ready: int = 0
    keeper_pid: int = 0
    error: str = ""


def replace_config(config: VMConfig, **changes: Any) -> VMConfig:
    """Return a config with changes, of which None means none."""
    changes = {k: v for k, v in changes.items() if v is not None}
    return dataclasses.replace(config, mem_size_mib=None, disk_size=None, **changes)
