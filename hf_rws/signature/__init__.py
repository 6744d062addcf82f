"""What is added to the first layers of a model to make it robust: `Signature`, its config, its bits."""

from hf_rws.signature.config import BaseModel, CorruptionSpec, Method, SignatureConfig, TensorSpec
from hf_rws.signature.quantization import PRESETS
from hf_rws.signature.signature import Signature, similarity

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
