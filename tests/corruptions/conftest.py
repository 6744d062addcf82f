import pytest

from hf_rws.corruptions.frost import FOLDER_VARIABLE
from tests.corruptions.pictures import write_frost


@pytest.fixture(scope="session")
def frost_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frost")
    write_frost(folder)
    return folder


@pytest.fixture(autouse=True)
def frost_pictures(frost_folder, monkeypatch):
    """Frost works in every test, with pictures of our own."""
    monkeypatch.setenv(FOLDER_VARIABLE, str(frost_folder))
