"""Signatures on models and off again: `patch`, `Patcher`, and the lockfile of what is on."""

from hf_rws.patching.patcher import Patcher, patch

__all__ = [
    "Patcher",
    "patch",
]
