"""What is added to the first layers of a model to make it robust: `Signature`, its config, its bits."""

from typing import TYPE_CHECKING

from hf_rws._lazy import lazy_names

if TYPE_CHECKING:
    from hf_rws.signature.bits import PRESETS
    from hf_rws.signature.config import BaseModel, CorruptionSpec, Method, SignatureConfig, TensorSpec
    from hf_rws.signature.signature import Signature, similarity
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "config": ["BaseModel", "CorruptionSpec", "Method", "SignatureConfig", "TensorSpec"],
            "bits": ["PRESETS"],
            "signature": ["Signature", "similarity"],
        },
    )

__all__ = [
    "PRESETS",
    "BaseModel",
    "CorruptionSpec",
    "Method",
    "Signature",
    "SignatureConfig",
    "TensorSpec",
    "similarity",
]
