"""The older name of smolvm.images.builder."""

from .images import *  # noqa: F403
