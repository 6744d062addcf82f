"""What type checkers know after `import hf_rws`."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# Errors are expected where a line says so, and nowhere else.
USER = """
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

import hf_rws
from hf_rws.hub import ListedSignature

array: NDArray[np.uint8] = hf_rws.corrupt(np.zeros((4, 32, 32, 3), dtype=np.uint8), "fog", severity=5)
tensor: torch.Tensor = hf_rws.corrupt(torch.zeros(3, 32, 32), "fog")
picture: Image.Image = hf_rws.corrupt(Image.new("RGB", (32, 32)), "fog")
wrong_kind: torch.Tensor = hf_rws.corrupt(array, "fog")  # error: assignment
no_kind = hf_rws.corrupt([1, 2], "fog")  # error: call-overload
names: tuple[str, ...] = hf_rws.corruptions.available()
listed: list[ListedSignature] = hf_rws.hub.list_signatures(base="user/base")
number: int = hf_rws.hub.list_signatures(base="user/base")  # error: assignment
signature: hf_rws.Signature = hf_rws.distill("user/base", array)
folder: Path = signature.save_pretrained("rws-fog")
model: torch.nn.Module = hf_rws.load_patched("user/base", [signature])
level: int = hf_rws.logging.get_verbosity()
version: str = hf_rws.__version__
hf_rws.models, hf_rws.plots, hf_rws.study, hf_rws.training, hf_rws.data, hf_rws.errors
hf_rws.nonsense  # error: attr-defined
hf_rws.hub.nonsense  # error: attr-defined
"""
CONFIG = """
[mypy]
strict = true
follow_imports = silent
mypy_path = {root}
[mypy-torch.*,timm.*,huggingface_hub.*,accelerate.*,datasets.*,torchvision.*,safetensors.*,matplotlib.*,pyarrow.*,yaml.*,tqdm.*]
follow_imports = skip
ignore_missing_imports = true
[mypy-torch,torch._tensor,torch._C.*,torch.nn,torch.nn.modules,torch.nn.modules.module]
follow_imports = silent
"""


def test_a_strict_user_of_mypy(tmp_path):
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "mypy.ini").write_text(CONFIG.format(root=ROOT))
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "--cache-dir", str(ROOT / ".mypy_cache" / "user"),
         "--no-error-summary", "user.py"],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    found = re.findall(r"^user\.py:(\d+): error: .*\[([a-z-]+)\]$", done.stdout, re.MULTILINE)
    lines = enumerate(USER.splitlines(), start=1)
    assert found == [(str(number), line.partition("# error: ")[2]) for number, line in lines if "# error" in line], (
        done.stdout + done.stderr
    )
