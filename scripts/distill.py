"""Make a signature from a base and unlabelled images; for `python`, `torchrun` and `accelerate launch`.

    accelerate launch scripts/distill.py --base user/model --images photos/ --corruption fog --output-dir rws-fog

The options are those of `hf-rws distill`.
"""

from hf_rws.cli import run
from hf_rws.cli.distilling import distill

if __name__ == "__main__":
    run(distill)
