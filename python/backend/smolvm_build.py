"""Builds this package (PEP 517, PEP 660) with the standard library alone.

So ``pip install ./python`` downloads nothing. With SMOLVM_WHEEL_BIN set to the path of
the smolvm program, the wheel carries it: pip puts it among its scripts, and the
package finds it there.
"""

import base64
import hashlib
import io
import os
import platform
import re
import tarfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src"
ENV_BINARY = "SMOLVM_WHEEL_BIN"

# A static program needs no C library, so it runs where either kind is.
PLATFORMS = "manylinux_2_17_{0}.manylinux2014_{0}.musllinux_1_1_{0}"
MACHINES = {"amd64": "x86_64", "x86_64": "x86_64", "arm64": "aarch64", "aarch64": "aarch64"}

# The earliest that a zip can say; the same files give the same wheel.
EPOCH = max(int(os.environ.get("SOURCE_DATE_EPOCH", "0")), 315532800)


def get_requires_for_build_wheel(config_settings=None):
    return []


get_requires_for_build_sdist = get_requires_for_build_editable = get_requires_for_build_wheel


def project():
    """Return the plain values of [project]. Python 3.10 has no reader of TOML."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(r"^\[project\]\n(.*?)(?=^\[|\Z)", text, re.M | re.S).group(1)
    return dict(re.findall(r'^([a-z-]+) = "([^"]*)"$', section, re.M))


def metadata():
    p = project()
    head = [
        ("Metadata-Version", "2.1"),
        ("Name", p["name"]),
        ("Version", p["version"]),
        ("Summary", p["description"]),
        ("License", p["license"]),
        ("Requires-Python", p["requires-python"]),
        ("Description-Content-Type", "text/markdown"),
    ]
    text = "".join(f"{k}: {v}\n" for k, v in head)
    return text + "\n" + (ROOT / p["readme"]).read_text(encoding="utf-8")


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    binary = os.environ.get(ENV_BINARY)
    w = Wheel(wheel_directory, tag_of(binary))
    for path in sorted(SOURCE.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and path.suffix in (".py", ".typed"):
            w.add(path.relative_to(SOURCE).as_posix(), path.read_bytes())
    if binary:
        w.add(f"{w.stem}.data/scripts/smolvm", Path(binary).read_bytes(), 0o755)
    return w.close()


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    w = Wheel(wheel_directory, "py3-none-any")
    w.add("smolvm-editable.pth", f"{SOURCE}\n".encode())
    return w.close()


def build_sdist(sdist_directory, config_settings=None):
    p = project()
    stem = f"{p['name']}-{p['version']}"
    with tarfile.open(Path(sdist_directory) / f"{stem}.tar.gz", "w:gz") as tar:
        for top in ("pyproject.toml", "README.md", "backend", "src"):
            tar.add(ROOT / top, f"{stem}/{top}", filter=_clean)
        info = tarfile.TarInfo(f"{stem}/PKG-INFO")
        data = metadata().encode()
        info.size, info.mtime = len(data), EPOCH
        tar.addfile(info, io.BytesIO(data))
    return f"{stem}.tar.gz"


def _clean(info):
    if "__pycache__" in info.name:
        return None
    info.uid = info.gid = 0
    info.uname = info.gname = ""
    return info


def tag_of(binary):
    """Return a wheel's tag: for any machine, or for that of the program it carries."""
    if not binary:
        return "py3-none-any"
    machine = MACHINES.get(os.environ.get("GOARCH", platform.machine()))
    if machine is None:
        raise SystemExit(f"no wheel can carry a program for {platform.machine()}")
    return "py3-none-" + PLATFORMS.format(machine)


class Wheel:
    """A wheel under way (packaging.python.org, binary distribution format)."""

    def __init__(self, directory, tag):
        p = project()
        self.stem = f"{p['name']}-{p['version']}"
        self.name = f"{self.stem}-{tag}.whl"
        self._tag = tag
        self._record = []
        self._zip = zipfile.ZipFile(Path(directory) / self.name, "w", zipfile.ZIP_DEFLATED)

    def add(self, name, data, mode=0o644):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        self._record.append(f"{name},sha256={digest},{len(data)}")
        self._write(name, data, mode)

    def _write(self, name, data, mode=0o644):
        info = zipfile.ZipInfo(name, time.gmtime(EPOCH)[:6])
        info.compress_type = zipfile.ZIP_DEFLATED
        info.external_attr = (0o100000 | mode) << 16
        self._zip.writestr(info, data)

    def close(self):
        info = f"{self.stem}.dist-info"
        python, abi, platforms = self._tag.split("-")
        tags = "".join(f"Tag: {python}-{abi}-{one}\n" for one in platforms.split("."))
        pure = "true" if platforms == "any" else "false"
        self.add(f"{info}/METADATA", metadata().encode())
        self.add(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: smolvm_build\nRoot-Is-Purelib: {pure}\n{tags}".encode())
        self._record.append(f"{info}/RECORD,,")
        self._write(f"{info}/RECORD", ("\n".join(self._record) + "\n").encode())
        self._zip.close()
        return self.name
