"""The original's module of what builds images; see smolvm.absent."""

from . import *  # noqa: F403
