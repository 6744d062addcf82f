"""Pushing a timm model as a timm repo with a card."""

import tempfile
from collections.abc import Mapping
from typing import Any

from huggingface_hub import CommitInfo
from torch import nn

from hf_rws import cards
from hf_rws._files import README_NAME
from hf_rws._transport.pushing import destination, push_folder_files
from hf_rws.errors import OptionError
from hf_rws.layers import unwrap
from hf_rws.patching.patcher import check_clean
from hf_rws.timm_repo import CONFIG_NAME, MODEL_NAME, save_timm_repo


def push_base(
    model: nn.Module,
    repo_id: str,
    *,
    training: Mapping[str, Any] | None = None,
    metrics: Mapping[str, Any] | None = None,
    license: str | None = None,
    private: bool | None = None,
    token: bool | str | None = None,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    tag: str | None = None,
) -> CommitInfo:
    """Push a timm model as a timm repo with a card: `timm.create_model("hf-hub:user/name", pretrained=True)` loads it.

    Args:
        model: The model, without signatures on.
        repo_id: "user/name".
        training: How it was trained, for the card (what training_args.json says).
        metrics: What it reaches, for the card: `{"ta": 0.7, "ra": {"fog-5": 0.3}, "n": 10000}`, accuracies in [0, 1].
        license: For the card, as the Hub writes it, e.g. "apache-2.0"; none is named without.
        private: This and all further options, the result and the errors are those of `push_folder_files`.
        token: See there.
        revision: See there.
        create_pr: See there.
        commit_message: See there.
        tag: See there.
    """
    model = unwrap(model)
    check_clean(model, "push")
    if not getattr(model, "pretrained_cfg", None):
        raise OptionError(f"{type(model).__name__} is not a timm model: it has no pretrained_cfg")
    destination(repo_id, revision, create_pr=create_pr, tag=tag)

    def card(config: dict[str, Any], nbytes: int) -> str:
        return cards.base_card(
            config,
            training=training,
            metrics=metrics,
            repo_id=repo_id,
            nbytes=nbytes,
            license=license,
        )

    with tempfile.TemporaryDirectory() as temporary:
        folder = save_timm_repo(model, temporary, card=card)
        return push_folder_files(
            repo_id,
            folder,
            [CONFIG_NAME, MODEL_NAME, README_NAME],
            private=private,
            token=token,
            revision=revision,
            create_pr=create_pr,
            commit_message=commit_message,
            tag=tag,
            relicensed=license is not None,
        )
