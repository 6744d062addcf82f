"""The Hugging Face Hub: pushing signatures, bases and whole studies, finding and looking at signatures, bundles."""

from hf_rws.hub.bases import push_base
from hf_rws.hub.bundles import bundle
from hf_rws.hub.catalogue import ListedSignature, SignatureInfo, info, list_signatures
from hf_rws.hub.folders import PushedStudy, push_all, push_folder

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
]
