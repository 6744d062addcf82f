"""The Hugging Face Hub: pushing signatures, bases and whole studies, finding and looking at signatures, bundles."""

from typing import TYPE_CHECKING

from hf_rws._lazy import lazy_names

if TYPE_CHECKING:
    from hf_rws.hub.bases import push_base, save_base
    from hf_rws.hub.bundles import bundle
    from hf_rws.hub.catalogue import ListedSignature, SignatureInfo, info, list_signatures
    from hf_rws.hub.folders import PushedStudy, push_all, push_folder
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "bases": ["push_base", "save_base"],
            "bundles": ["bundle"],
            "catalogue": ["ListedSignature", "SignatureInfo", "info", "list_signatures"],
            "folders": ["PushedStudy", "push_all", "push_folder"],
        },
    )

__all__ = [
    "ListedSignature",
    "PushedStudy",
    "SignatureInfo",
    "bundle",
    "info",
    "list_signatures",
    "push_all",
    "push_base",
    "push_folder",
    "save_base",
]
