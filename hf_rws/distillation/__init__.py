"""Base and unlabelled images -> signature: the base teaches its own first layers what it knows of clean images.

`distill` makes the signature; `Distiller` is its training loop, and an `Objective` what that minimises.
"""

from hf_rws.distillation._distill import DistillationStopped, distill
from hf_rws.distillation.loop import Distiller
from hf_rws.distillation.objective import Objective, softened_divergence

__all__ = ["DistillationStopped", "Distiller", "Objective", "distill", "softened_divergence"]
