"""The card of a corrupted copy of a dataset."""

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from huggingface_hub import DatasetCardData

from hf_rws.cards.merging import FOLDER
from hf_rws.cards.metadata import TASK, corruption_tag
from hf_rws.cards.text import clean, render

if TYPE_CHECKING:
    import datasets

_OPTIONS = {  # of the command, by what corruption.json calls them
    "--dataset-config": "dataset_config",
    "--dataset-revision": "dataset_revision",
    "--image-column": "image_column",
    "--corruption": "corruption",
    "--severity": "severity",
    "--seed": "seed",
    "--parameters": "parameters",
    "--jpeg-quality": "jpeg_quality",
}


def copy_card(record: Mapping[str, Any], info: "datasets.DatasetInfo", *, name: str, on_hub: bool) -> str:
    """The README.md of a corrupted copy: metadata that `datasets` reads, and how the copy was made.

    No license is named: it is that of the source, which is not ours to state.

    Args:
        record: What the copy's corruption.json says.
        info: Features and splits; its splits are looked for in `data/<split>-*`.
        name: What the copy is called: the folder's name.
        on_hub: Whether the record's dataset is a Hub id.
    """
    from datasets.info import DatasetInfosDict

    data_files = [{"split": split, "path": f"data/{split}-*"} for split in info.splits]
    data = DatasetCardData(
        task_categories=[TASK],
        source_datasets=[record["dataset"]] if on_hub else None,
        tags=["image-corruptions", "robustness", corruption_tag(record["corruption"])],
        configs=[{"config_name": "default", "data_files": data_files}],
    )
    DatasetInfosDict(default=info).to_dataset_card_data(data)
    record, name = clean(record), clean(name)
    return render(
        "copy.md.jinja",
        data,
        **record,
        name=name,
        comment=FOLDER,
        on_hub=on_hub,
        command=_command(record, name, on_hub),
    )


def _command(record: Mapping[str, Any], name: str, on_hub: bool) -> str:
    dataset = record["dataset"] if on_hub else f"path/to/{record['dataset']}"
    given = [("--dataset", dataset), *((option, record[key]) for option, key in _OPTIONS.items() if key in record)]
    given += [("--split", split) for split in record["splits"]]
    return shlex.join(str(part) for pair in [*given, ("--output-dir", name)] for part in pair)
