"""The original's name of smolvm.sandbox."""

from .sandbox import *  # noqa: F403
