"""The corruptions of Hendrycks & Dietterich (2019), and those of Mintun et al. (2021), on batches, on CPU and GPU.

```python
from hf_rws.corruptions import corrupt

foggy = corrupt(images, "fog", severity=5)  # numpy NHWC, torch NCHW or PIL: the same kind back
```
"""

from hf_rws._choices import BAR, BENCHMARK, CORRUPTIONS, EXTRA
from hf_rws.corruptions.batch import corrupt
from hf_rws.corruptions.registry import available
from hf_rws.corruptions.transforms import Corrupt, RandomCorrupt

__all__ = ["BAR", "BENCHMARK", "CORRUPTIONS", "EXTRA", "Corrupt", "RandomCorrupt", "available", "corrupt"]
