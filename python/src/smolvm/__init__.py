"""smolvm: disposable computers for AI agents.

    from smolvm import SmolVM

    with SmolVM() as vm:
        print(vm.run("python3 -c 'print(6 * 7)'").output)

Programs written for the Python package of the same name run unchanged, in both
generations of its names. Everything goes through the user's gateway, ``smolvm
serve``, which is started where none runs.
"""

from __future__ import annotations

from .absent import (
    SSH_BOOT_ARGS,
    BootImage,
    BrowserSession,
    BrowserSessionConfig,
    BrowserSessionInfo,
    BrowserViewport,
    DesktopEndpoint,
    DirectKernelBoot,
    DisplaySandboxProtocol,
    DockerRootfsBuilder,
    FirmwareBoot,
    HostManager,
    ImageBuilder,
    ImageManager,
    ImageSource,
    LocalImage,
    MacOSMachineConfig,
    NetworkAttachmentConfig,
    S3ImageManifest,
    S3ImageRef,
    SmolVMManager,
    SSHClient,
    VsockConfig,
    ensure_base_kernel_for_backend,
)
from .callbacks import Callback, RunContext
from .client import Client
from .commands import BackgroundProcess
from .compat import IDLE_SECONDS
from .errors import (
    BridgeTapOwnershipError,
    BrowserSessionAlreadyExistsError,
    BrowserSessionNotFoundError,
    Cancelled,
    CommandBlockedError,
    CommandExecutionUnavailableError,
    ConflictError,
    DeniedError,
    ExhaustedError,
    FirecrackerAPIError,
    GatewayError,
    HostError,
    ImageError,
    NetworkError,
    NotFoundError,
    OperationTimeoutError,
    SmolVMError,
    SnapshotAlreadyExistsError,
    SnapshotNotFoundError,
    UnavailableError,
    UnsupportedError,
    ValidationError,
    VMAlreadyExistsError,
    VMNotFoundError,
)
from .models import (
    Change,
    CommandResult,
    FileInfo,
    GuestFlushPolicy,
    GuestOS,
    GuestProcess,
    History,
    InternetSettings,
    NetworkConfig,
    PendingFlow,
    Policy,
    Pool,
    Port,
    PortForwardConfig,
    Process,
    QemuMachine,
    Rule,
    SandboxInfo,
    Secret,
    Snapshot,
    SnapshotArtifacts,
    SnapshotCapturePolicy,
    SnapshotInfo,
    SnapshotType,
    Step,
    Template,
    VMConfig,
    VMInfo,
    VMState,
    WorkspaceMount,
)
from .sandbox import SmolVM
from .streams import CommandStream, Output

__version__ = "0.1.0"

__all__ = [name for name in dir() if not name.startswith("_") and name[0].isupper()] + [
    "ensure_base_kernel_for_backend",
]
