"""Names of the original whose things smolvm does not have.

A program may import them; using one raises UnsupportedError, which says what to use
instead.
"""

from __future__ import annotations

from typing import Any

from .compat import unsupported

_IMAGES = "images are built and kept by the smolvm program"
_IMAGE_HELP = "Use smolvm image build or pull, and image= of SmolVM."
_HOST = "a sandbox's host side belongs to its supervisor"
_BROWSER = "this version has no browser sandboxes yet"


class _Absent:
    why = ""
    instead = ""

    def __init__(self, *_: Any, **__: Any) -> None:
        unsupported(type(self).__name__, self.why, self.instead)


class ImageBuilder(_Absent):
    why, instead = _IMAGES, _IMAGE_HELP


class DockerRootfsBuilder(ImageBuilder):
    pass


class ImageManager(ImageBuilder):
    pass


class ImageSource(ImageBuilder):
    pass


class LocalImage(ImageBuilder):
    pass


class S3ImageManifest(ImageBuilder):
    pass


class S3ImageRef(ImageBuilder):
    pass


class BootImage(ImageBuilder):
    pass


class DirectKernelBoot(ImageBuilder):
    pass


class FirmwareBoot(ImageBuilder):
    pass


class SmolVMManager(_Absent):
    why, instead = _HOST, "Use smolvm.Client."


class HostManager(_Absent):
    why, instead = _HOST, "Use smolvm doctor and smolvm setup."


class SSHClient(_Absent):
    why, instead = "commands and files need no SSH", "Use SmolVM.run and SmolVM.files."


class NetworkAttachmentConfig(_Absent):
    why, instead = "each sandbox has a network of its own", "Use network= and policy= of SmolVM."


class VsockConfig(_Absent):
    why, instead = _HOST, "Leave it out."


class MacOSMachineConfig(_Absent):
    why, instead = "guests run Linux", ""


class DesktopEndpoint(_Absent):
    why, instead = _BROWSER, ""


class DisplaySandboxProtocol(DesktopEndpoint):
    pass


class BrowserViewport(DesktopEndpoint):
    pass


class BrowserSession(DesktopEndpoint):
    pass


class BrowserSessionConfig(DesktopEndpoint):
    pass


class BrowserSessionInfo(DesktopEndpoint):
    pass


SSH_BOOT_ARGS = ""  # guests have no kernel arguments of their callers


def ensure_base_kernel_for_backend(*_: Any, **__: Any) -> Any:
    unsupported("ensure_base_kernel_for_backend", "the kernel belongs to the smolvm program", "Run: smolvm setup")
