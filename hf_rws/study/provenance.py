"""Where numbers are from: the facts that stand beside every table."""

import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch

from hf_rws._version import __version__


def about(n: int | Mapping[str, int], **more: Any) -> dict[str, Any]:
    """What a table of results says of the images, the code and the machine behind it.

    Args:
        n: Number of test images; by dataset where there are several.
        more: Further facts, as they are.
    """
    root = Path(__file__).resolve().parent.parent.parent
    return {
        "n": n,
        "commit": _commit(root),
        "cpu": _cpu(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "hf_rws": __version__,
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        **more,
    }


def _commit(root: Path) -> str:
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=root, capture_output=True, text=True)
    except OSError:  # no git
        return ""
    return done.stdout.strip()


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
