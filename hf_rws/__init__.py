"""Robust weight signatures for timm models: robustness as easy as patching weights."""

import hf_rws.models  # noqa: F401  (registers vgg16_gap and vgg16_bn_gap with timm)

__version__ = "0.1.0"
