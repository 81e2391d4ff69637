"""The original's names of what builds images; see smolvm.absent."""

from ..absent import (  # noqa: F401
    BootImage,
    DirectKernelBoot,
    DockerRootfsBuilder,
    FirmwareBoot,
    ImageBuilder,
    ImageManager,
    ImageSource,
    LocalImage,
    ensure_base_kernel_for_backend,
)
