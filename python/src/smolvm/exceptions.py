"""The original's name of smolvm.errors."""

from .errors import *  # noqa: F403
