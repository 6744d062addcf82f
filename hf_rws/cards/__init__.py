"""Model cards, from the config and the measured results alone; what is not known is left out.

A card never computes accuracies and never asks the Hub. A later push replaces a card that nobody has edited; of one
that somebody has, it replaces the metadata and the results, which stand between two HTML comments (`merge_card`).
"""

from typing import TYPE_CHECKING

from hf_rws._lazy import lazy_names

if TYPE_CHECKING:
    from hf_rws.cards.kinds import PICTURE_NAME, base_card, merged_card, signature_card, signature_files
    from hf_rws.cards.merging import (
        RESULTS_BEGIN,
        RESULTS_END,
        folder_license,
        folder_words,
        is_unedited,
        merge_card,
        metadata_words,
        readdress,
        updated,
    )
    from hf_rws.cards.metadata import checked_metrics, corruption_tag, patched_accuracies
    from hf_rws.cards.text import publishable
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "kinds": ["PICTURE_NAME", "base_card", "merged_card", "signature_card", "signature_files"],
            "merging": [
                "RESULTS_BEGIN",
                "RESULTS_END",
                "folder_license",
                "folder_words",
                "is_unedited",
                "merge_card",
                "metadata_words",
                "readdress",
                "updated",
            ],
            "metadata": ["checked_metrics", "corruption_tag", "patched_accuracies"],
            "text": ["publishable"],
        },
    )

__all__ = [
    "PICTURE_NAME",
    "RESULTS_BEGIN",
    "RESULTS_END",
    "base_card",
    "checked_metrics",
    "corruption_tag",
    "folder_license",
    "folder_words",
    "is_unedited",
    "merge_card",
    "merged_card",
    "metadata_words",
    "patched_accuracies",
    "publishable",
    "readdress",
    "signature_card",
    "signature_files",
    "updated",
]
