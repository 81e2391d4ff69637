"""The original's arguments, in both generations' spellings, said in the HTTP API's words.

What the original offers and smolvm does not is refused here, with what does it instead.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from .errors import UnsupportedError, ValidationError
from .models import (
    InternetSettings,
    Policy,
    Port,
    PortForwardConfig,
    Secret,
    VMConfig,
    WorkspaceMount,
    check_name,
    check_range,
    new_name,
    replace_config,
)
from .wire import bare

IDLE_SECONDS = 3600.0
"""After this long without a use a sandbox is removed that nobody ties to a program
and nobody gave another limit. The original keeps such sandboxes, stopped or not,
until somebody deletes them, and its users never do. An hour is far longer than an
agent thinks between two commands, and short enough that a day's runs do not add up."""

UBUNTU_MEMORY = 1024  # what the original gives to a guest of that name

OLDER = {
    "mem_size_mib": "memory",
    "memory_mb": "memory",
    "disk_size_mib": "disk_size",
    "disk_size_mb": "disk_size",
}

_OTHER = {
    "windows": "guests run Linux",
    "macos": "guests run Linux",
    "libkrun": "sandboxes run in QEMU",
    "vz": "sandboxes run in QEMU",
    "firecracker": "sandboxes run in QEMU, with KVM where the host has it",
}


@dataclass
class Options:
    """The arguments of SmolVM that have to do with what is made."""

    vm_id: str | None = None
    image: str | None = None
    backend: str | None = None
    os: str | None = None
    memory: int | None = None
    disk_size: int | None = None
    cpus: int | None = None
    comm_channel: str | None = None
    internet_settings: InternetSettings | Mapping[str, Any] | None = None
    mounts: Sequence[str | WorkspaceMount] | None = None
    writable_mounts: bool = False
    env: Mapping[str, str] | None = None
    labels: Mapping[str, str] | None = None
    ttl: float | None = None
    idle_timeout: float | None = None
    idle_action: str | None = None
    network: str | Mapping[str, Any] | None = None
    policy: Policy | Mapping[str, Any] | None = None
    secrets: Mapping[str, Secret | tuple[str, Sequence[str]]] | Sequence[Secret] | None = None
    ports: Sequence[int | Port | PortForwardConfig | tuple[int, int]] | None = None
    snapshot: str | None = None
    checkpoint: str | None = None
    min_isolation: str | None = None
    accel: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)


def unsupported(what: str, why: str, instead: str = "") -> NoReturn:
    raise UnsupportedError(f"{what} is not supported: {why}", {"what": what}, recovery=instead)


def old_names(kwargs: dict[str, Any], memory: int | None, disk_size: int | None) -> tuple[int | None, int | None]:
    """Take the older spellings of memory and disk_size out of kwargs, and refuse what is left."""
    found = {"memory": memory, "disk_size": disk_size}
    for old, new in OLDER.items():
        value = kwargs.pop(old, None)
        if value is None:
            continue
        if found[new] is not None and found[new] != value:
            raise ValidationError(f"{new} and {old}, its older name, say different things")
        found[new] = value
    if kwargs:
        raise TypeError(f"SmolVM() got an unexpected keyword argument {next(iter(kwargs))!r}")
    return found["memory"], found["disk_size"]


def refuse_ssh(key: object, password: object, channel: str | None) -> None:
    for name, value in (("ssh_key_path", key), ("ssh_password", password)):
        if value is not None:
            unsupported(name, "commands and files need no SSH", "Leave it out.")
    if channel == "ssh":
        unsupported("comm_channel 'ssh'", "commands take the guest agent's channel", "Leave it out.")
    if channel not in (None, "vsock", "auto"):
        raise ValidationError(f"comm_channel {channel!r} is not known")


def config_of(config: VMConfig | Mapping[str, Any] | None, o: Options) -> VMConfig:
    """Return what the sandbox is to be, with a name."""
    if isinstance(config, Mapping):
        try:
            config = VMConfig(**config)
        except TypeError as e:
            raise ValidationError(f"config: {e}") from None
    system = str(o.os or (config.guest_os if config else "") or "").lower()
    backend = str(o.backend or (config.backend if config else "") or os.environ.get("SMOLVM_BACKEND") or "auto").lower()
    for what in (system, backend):
        if what in _OTHER:
            unsupported(what, _OTHER[what], "Leave it out.")
    if system not in ("", "alpine", "ubuntu", "debian", "linux"):
        raise ValidationError(f"os {o.os!r} is not known")
    if backend not in ("auto", "qemu"):
        raise ValidationError(f"backend {backend!r} is not known")
    if o.memory is not None:
        check_range("memory", o.memory, 128, 1 << 20)
    if o.disk_size is not None:
        check_range("disk_size", o.disk_size, 64, 16 << 20)
    if o.cpus is not None:
        check_range("cpus", o.cpus, 1, 64)
    if config is not None:
        _refuse_config(config)
        return replace_config(
            config, vm_id=o.vm_id, memory=o.memory, disk_size_mib=o.disk_size, vcpu_count=o.cpus, image=o.image
        )
    return VMConfig(
        vm_id=check_name(o.vm_id) if o.vm_id else new_name(),
        vcpu_count=o.cpus or 1,
        memory=o.memory or (UBUNTU_MEMORY if system == "ubuntu" else 512),
        disk_size_mib=o.disk_size,
        guest_os=system or "alpine",
        image=o.image,
    )


def _refuse_config(c: VMConfig) -> None:
    for name in ("kernel_path", "initrd_path", "rootfs_path", "macos_machine", "ssh_public_key", "network_attachment"):
        if getattr(c, name) is not None:
            unsupported(f"VMConfig.{name}", "sandboxes are made of images", "Use image=, with what smolvm image ls shows.")
    if c.extra_drives:
        unsupported("VMConfig.extra_drives", "a sandbox has one disk", "Use mounts= for folders of the host.")
    if c.disk_mode != "isolated":
        unsupported(f"disk_mode {c.disk_mode!r}", "each sandbox has a disk of its own")
    refuse_ssh(None, None, c.comm_channel)


def spec_of(c: VMConfig, o: Options) -> dict[str, Any]:
    """Return the body of a creation."""
    spec: dict[str, Any] = {
        "name": wire_name(c.vm_id),
        "image": c.image,
        "cpus": c.vcpu_count,
        "memory_mib": c.memory,
        "disk_mib": c.disk_size_mib,
        "env": {**c.env_vars, **(o.env or {})},
        "labels": dict(o.labels or {}),
        "ttl_seconds": o.ttl,
        "idle_timeout_seconds": o.idle_timeout,
        "idle_action": o.idle_action,
        "network": _network(c, o),
        "secrets": [_secret(s) for s in _secrets(o.secrets)],
        "ports": [_port(p) for p in [*c.port_forwards, *(o.ports or ())]],
        "mounts": _mounts([*c.workspace_mounts, *(o.mounts or ())], o.writable_mounts),
        "checkpoint": o.checkpoint,
        "min_isolation": o.min_isolation,
        "accel": o.accel,
    }
    if o.snapshot:
        for size in ("image", "cpus", "memory_mib", "disk_mib"):
            del spec[size]  # a snapshot has its own
        spec["from_snapshot"] = o.snapshot
    for key, value in spec["env"].items():
        if not isinstance(value, str):
            raise ValidationError(f"environment variable {key!r} is {value!r}, which is no text")
    return {k: v for k, v in spec.items() if v not in (None, {}, [], "")}


def limits(o: Options) -> dict[str, Any]:
    """Return what ends a sandbox that no program holds."""
    if o.ttl is None and o.idle_timeout is None and o.idle_action is None:
        return {"idle_timeout_seconds": IDLE_SECONDS, "idle_action": "remove"}
    return {}


def wire_name(vm_id: str) -> str:
    """Return a sandbox's name for the original's id, which may have underscores."""
    return vm_id.replace("_", "-")


def _network(c: VMConfig, o: Options) -> dict[str, Any]:
    network: dict[str, Any] = {}
    if isinstance(o.network, str):
        network["mode"] = {"off": "none", "restricted": "policy"}.get(o.network, o.network)
    elif o.network is not None:
        network = dict(o.network)
    settings = o.internet_settings if o.internet_settings is not None else c.internet_settings
    if settings is not None:
        network["internet_settings"] = internet(settings)
    if o.policy is not None:
        network["policy"] = policy(o.policy)
    if c.network_rate_limit_mbps:
        network["rate_kib"] = max(1, c.network_rate_limit_mbps * 1_000_000 // 8 // 1024)
    return network


def internet(settings: InternetSettings | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(settings, Mapping):
        try:
            settings = InternetSettings(**settings)
        except TypeError as e:
            raise ValidationError(f"internet_settings: {e}") from None
    return {"allowed_domains": list(settings.allowed_domains), "allowed_http_methods": list(settings.allowed_http_methods)}


def policy(p: Policy | Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy in the API's words."""
    if isinstance(p, Mapping):
        return dict(p)
    return {"version": p.version, "default": p.default or "deny", "ech": p.ech, "rules": [bare(r) for r in p.rules]}


def _secrets(given: Any) -> list[Secret]:
    if given is None:
        return []
    if not isinstance(given, Mapping):
        return list(given)
    return [
        Secret(s.value, s.hosts, name) if isinstance(s, Secret) else Secret(s[0], s[1], name)
        for name, s in given.items()
    ]


def _secret(s: Secret) -> dict[str, Any]:
    hosts = [s.hosts] if isinstance(s.hosts, str) else list(s.hosts)
    if not s.name or not hosts:
        raise ValidationError("a secret needs a name and the hosts that it is for")
    return {"name": s.name, "hosts": hosts, "value": s.value}


def _port(p: int | Port | PortForwardConfig | tuple[int, int]) -> dict[str, Any]:
    if isinstance(p, int):
        return {"guest_port": p}
    if isinstance(p, Port):
        return {"guest_port": p.guest_port, "host_port": p.host_port, "host_ip": p.host_ip, "proto": p.proto}
    if isinstance(p, PortForwardConfig):
        return {"guest_port": p.guest_port, "host_port": p.host_port, "host_ip": p.host_address}
    host, guest = p
    return {"guest_port": guest, "host_port": host}


def _mounts(mounts: Sequence[str | WorkspaceMount], writable: bool) -> list[dict[str, Any]]:
    made = []
    for m in mounts:
        if isinstance(m, str):
            host, _, guest = m.partition(":")
            m = WorkspaceMount(host, guest or "/workspace", writable=writable)
        folder = Path(m.host_path).expanduser().absolute()
        made.append({"host": os.path.normpath(folder), "guest": m.guest_path, "writable": m.writable or writable})
    return made
