"""Corrupted copies of datasets, as parquet in the layout of the Hub, ready for `push_to_hub` and `hf upload`.

```python
from hf_rws.copies import write_corrupted_copy

folder = write_corrupted_copy("uoft-cs/cifar10", "cifar10-fog", "fog", severity=5)
datasets.load_dataset(str(folder))  # train and test, with the features of the source
```

Image i of a split is `hf_rws.corrupt(image, corruption, severity, seed=seed, index=i)`, whatever the number of shards
and processes. A folder can be loaded when it is finished and not before; until then its shards wait in a hidden folder,
each complete from the moment it has its name.
"""

from hf_rws.copies.copying import write_corrupted_copy
from hf_rws.copies.folder import RECORD
from hf_rws.copies.pushing import push_copy

__all__ = ["RECORD", "push_copy", "write_corrupted_copy"]
