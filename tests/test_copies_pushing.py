import pytest

from hf_rws import cli
from hf_rws.copies import push_copy, write_corrupted_copy
from hf_rws.errors import NotFoundError
from tests.helpers import datasets_cache, toy_dataset  # noqa: F401
from tests.hub import hub_fixture  # noqa: F401
from tests.hub.storage import WRITE
from tests.test_cli import call  # noqa: F401

pytestmark = pytest.mark.usefixtures("datasets_cache")


@pytest.fixture
def copy(tmp_path):
    dataset = toy_dataset(tmp_path / "toy", train=4, test_images=4)
    return write_corrupted_copy(str(dataset), tmp_path / "toy-fog", "fog")


def test_a_copy_becomes_a_dataset_that_its_card_loads(hub, copy):
    before = (copy / "README.md").read_bytes()
    push_copy(copy, "user/foggy", private=True, token=WRITE)
    pushed = hub.files("user/foggy")
    data = {f"data/{split}-00000-of-00001.parquet" for split in ("train", "test")}
    assert pushed.keys() == {"README.md", "corruption.json"} | data
    assert all(pushed[name] == (copy / name).read_bytes() for name in data)
    assert b'load_dataset("user/foggy")' in pushed["README.md"]
    assert (copy / "README.md").read_bytes() == before
    assert hub.repos["user/foggy"].private
    assert hub.asked("POST /api/datasets/user/foggy/commit/main") == 1
    head = hub.repos["user/foggy"].refs["main"]

    hub.commit("user/foggy", {"README.md": b"# Mine\n"})
    push_copy(copy, "user/foggy", token=WRITE)
    assert hub.files("user/foggy")["README.md"] == b"# Mine\n"  # what somebody wrote there stays
    assert hub.repos["user/foggy"].refs["main"] != head


def test_what_is_no_copy_is_not_pushed(hub, tmp_path):
    with pytest.raises(NotFoundError, match="holds no finished copy"):
        push_copy(tmp_path, "user/foggy", token=WRITE)
    assert not hub.repos


def test_corrupt_and_push_from_the_command_line(hub, copy, tmp_path, call):  # noqa: F811
    asked = ["corrupt", "--dataset", tmp_path / "toy", "--corruption", "fog", "--output-dir", copy, "--token", WRITE]
    code, _, err = call(cli.cli, *asked, "--push-to", "nobody's id")
    assert (code, err) == (1, 'error: "nobody\'s id" is no Hub id to push to: give user/name\n')
    code, out, _ = call(cli.cli, *asked, "--push-to", "user/foggy", "-q")
    assert code == 0
    assert "/user/foggy/commit/" in out
    assert "user/foggy" in hub.repos
