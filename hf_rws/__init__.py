"""Robust weight signatures for timm models: robustness as easy as patching weights.

```python
import hf_rws

model = hf_rws.load_patched("user/base", ["user/rws-fog"])
model.rws.set({"rws-fog": 0.7})
model.rws.clear()
```
"""

import hf_rws.models  # noqa: F401  (registers vgg16_gap and vgg16_bn_gap with timm)
from hf_rws import corruptions, data, errors, hub, plots, study, training  # noqa: F401  (offered, see `__dir__`)
from hf_rws._version import __version__  # noqa: F401
from hf_rws.corruptions import CORRUPTIONS, corrupt
from hf_rws.distillation import distill
from hf_rws.errors import RWSError
from hf_rws.evaluation import evaluate
from hf_rws.extraction import extract
from hf_rws.hub import info, list_signatures, push_base
from hf_rws.loading import load_patched
from hf_rws.patching import patch
from hf_rws.signature import Signature

__all__ = [
    "CORRUPTIONS",
    "RWSError",
    "Signature",
    "corrupt",
    "distill",
    "evaluate",
    "extract",
    "info",
    "list_signatures",
    "load_patched",
    "patch",
    "push_base",
]
_MODULES = ("corruptions", "data", "errors", "hub", "plots", "study", "training")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
