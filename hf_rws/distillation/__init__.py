"""Base and unlabelled images -> signature: the base teaches its own first layers."""

from hf_rws.distillation._distill import distill

__all__ = [
    "distill",
]
