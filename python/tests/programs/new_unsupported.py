"""What smolvm does not offer can be imported, and says so where it is used."""

from smolvm import BootImage, ImageBuilder, SmolVM, SmolVMError, UnsupportedError
from smolvm.images.builder import DockerRootfsBuilder

for use in (
    ImageBuilder,
    DockerRootfsBuilder,
    BootImage,
    SmolVM.browser,
    SmolVM.desktop,
    SmolVM().ssh_commands,
    lambda: SmolVM(os="windows"),
    lambda: SmolVM(backend="libkrun"),
    lambda: SmolVM(ssh_key_path="/root/.ssh/id"),
):
    try:
        use()
    except UnsupportedError as e:
        assert isinstance(e, SmolVMError) and "not supported" in str(e)
    else:
        raise AssertionError(f"{use} was taken")
