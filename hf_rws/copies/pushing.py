"""Pushing a copy, with a card that loads it from the Hub."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from hf_rws import cards
from hf_rws._files import README_NAME, is_file, read_text
from hf_rws._transport.pushing import push_folder_files
from hf_rws.copies.folder import DATA, RECORD
from hf_rws.errors import NotFoundError

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo


def push_copy(
    folder: str | os.PathLike[str],
    repo_id: str,
    *,
    private: bool | None = None,
    token: bool | str | None = None,
) -> "CommitInfo":
    """Push a finished copy to a dataset repo, with a card that names it. The folder stays as it is.

    Args:
        folder: What `write_corrupted_copy` gave back.
        repo_id: "user/name".
        private: This and the token, the result and further errors are those of `push_folder_files`.
        token: See there.

    Raises:
        NotFoundError: The folder holds no finished copy.
    """
    folder = Path(folder)
    readme, record = folder / README_NAME, folder / RECORD
    if not (is_file(readme) and is_file(record) and (folder / DATA).is_dir()):
        raise NotFoundError(f"{os.fspath(folder)!r} holds no finished copy of a dataset")
    name = folder.resolve().name
    card = cards.readdress(read_text(readme, str(readme)), name, {name: repo_id}, where=str(readme))
    data = sorted(path.relative_to(folder).as_posix() for path in (folder / DATA).glob("*.parquet"))
    return push_folder_files(
        repo_id,
        folder,
        [README_NAME, RECORD, *data],
        repo_type="dataset",
        instead={README_NAME: card},
        private=private,
        token=token,
    )
