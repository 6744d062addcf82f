"""Robust weight signatures for timm models: robustness as easy as patching weights.

```python
import hf_rws

model = hf_rws.load_patched("user/base", ["user/rws-fog"])
model.rws.set({"rws-fog": 0.7})
model.rws.clear()
```

`import hf_rws.models` registers `vgg16_gap`, `vgg16_bn_gap` and ResNets for CIFAR with timm; whatever loads a model
here has done so.
"""

from typing import TYPE_CHECKING

from hf_rws._lazy import lazy_names

if TYPE_CHECKING:
    from hf_rws import bases as bases
    from hf_rws import copies as copies
    from hf_rws import corruptions as corruptions
    from hf_rws import data as data
    from hf_rws import distillation as distillation
    from hf_rws import errors as errors
    from hf_rws import evaluation as evaluation
    from hf_rws import extraction as extraction
    from hf_rws import hub as hub
    from hf_rws import loading as loading
    from hf_rws import logging as logging
    from hf_rws import models as models
    from hf_rws import patching as patching
    from hf_rws import plots as plots
    from hf_rws import signature as signature
    from hf_rws import study as study
    from hf_rws import training as training
    from hf_rws._choices import CORRUPTIONS
    from hf_rws._version import __version__ as __version__
    from hf_rws.corruptions import corrupt
    from hf_rws.distillation import distill
    from hf_rws.errors import RWSError
    from hf_rws.evaluation import evaluate
    from hf_rws.extraction import extract
    from hf_rws.hub import info, list_signatures, push_base
    from hf_rws.loading import load_patched
    from hf_rws.patching import patch
    from hf_rws.signature import Signature
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "_choices": ["CORRUPTIONS"],
            "_version": ["__version__"],
            "corruptions": ["corrupt"],
            "distillation": ["distill"],
            "errors": ["RWSError"],
            "evaluation": ["evaluate"],
            "extraction": ["extract"],
            "hub": ["info", "list_signatures", "push_base"],
            "loading": ["load_patched"],
            "patching": ["patch"],
            "signature": ["Signature"],
        },
        inner=[
            "bases",
            "copies",
            "corruptions",
            "data",
            "distillation",
            "errors",
            "evaluation",
            "extraction",
            "hub",
            "loading",
            "logging",
            "models",
            "patching",
            "plots",
            "signature",
            "study",
            "training",
        ],
    )

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
