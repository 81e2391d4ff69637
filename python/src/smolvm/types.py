"""The original's name of smolvm.models."""

from .absent import BrowserSessionConfig, BrowserSessionInfo, BrowserViewport, VsockConfig  # noqa: F401
from .models import *  # noqa: F403
