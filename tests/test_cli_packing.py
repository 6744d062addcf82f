import json

import pytest
import timm
import torch

import hf_rws
from hf_rws import cli
from tests.helpers import CLASSES, model
from tests.models import identical, state
from tests.test_cli import call  # noqa: F401


def test_weights_become_a_base(tmp_path, call):  # noqa: F811
    own = model()
    torch.save(own.state_dict(), tmp_path / "model.pt")
    names = tmp_path / "names.txt"
    names.write_text("".join(f"{name}\n" for name in CLASSES))
    asked = ["save-base", tmp_path / "model.pt", "--model", "vgg16_gap", "--model-arg", "width=0.05"]
    asked += ["--image-size", "32", "--mean", "0.5,0.4,0.3", "--license", "mit", "--output-dir"]
    for labels, folder in ((",".join(CLASSES), tmp_path / "one"), (names, tmp_path / "two")):
        code, out, err = call(cli.cli, *asked, folder, "--label-names", labels, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["folder"] == str(folder)
        loaded = hf_rws.load_patched(folder, [])
        assert identical(loaded, state(own))
        config = json.loads((folder / "config.json").read_text())
        assert config["label_names"] == list(CLASSES)
        assert config["pretrained_cfg"]["input_size"] == [3, 32, 32]
        assert config["pretrained_cfg"]["mean"] == [0.5, 0.4, 0.3]
        assert "license: mit" in (folder / "README.md").read_text()
    code, _, err = call(cli.cli, *asked, tmp_path / "one")
    assert (code, err.endswith("give another folder, or --overwrite\n")) == (1, True)
    assert call(cli.cli, *asked, tmp_path / "one", "--overwrite")[0] == 0


def test_what_timm_saves_by_default_becomes_a_base(tmp_path, call):  # noqa: F811
    own = model()
    timm.models.save_for_hf(own, tmp_path / "saved", model_args={"width": 0.05}, safe_serialization=False)
    assert call(cli.cli, "save-base", tmp_path / "saved", "--output-dir", tmp_path / "base", "-q")[0] == 0
    assert identical(hf_rws.load_patched(tmp_path / "base", []), state(own))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        ([], 1, "say by --model which timm model they are of"),
        (["--model", "resnet18"], 1, "are not those of resnet18"),
        (["--model", "resnet81"], 1, "timm has no model 'resnet81'"),
        (["--model", "vgg16_gap", "--mean", "0.5"], 2, "give three numbers"),
        (["--model", "vgg16_gap", "--model-arg", "width"], 2, "must look like width=0.25"),
    ],
)
def test_what_is_in_the_way_is_said(options, code, message, tmp_path, call):  # noqa: F811
    torch.save(model().state_dict(), tmp_path / "model.pt")
    found, out, err = call(cli.cli, "save-base", tmp_path / "model.pt", *options, "--output-dir", tmp_path / "base")
    assert (found, out) == (code, "")
    assert message in err
    assert not (tmp_path / "base").exists()
