"""All traffic with the Hugging Face Hub: what an id means, looking, fetching of one commit, pushing as one commit."""

from huggingface_hub.utils import is_agent

from hf_rws.hub.bundles import bundle
from hf_rws.hub.catalogue import SORTS, ListedSignature, SignatureInfo, info, list_signatures
from hf_rws.hub.folders import PushedStudy, push_all, push_folder
from hf_rws.hub.ids import Location, parse_id
from hf_rws.hub.reading import Fetched, fetch
from hf_rws.hub.writing import push_base, push_folder_files

__all__ = [
    "SORTS",
    "Fetched",
    "ListedSignature",
    "Location",
    "PushedStudy",
    "SignatureInfo",
    "bundle",
    "fetch",
    "info",
    "is_agent",
    "list_signatures",
    "parse_id",
    "push_all",
    "push_base",
    "push_folder",
    "push_folder_files",
]
