r"""Make a standard model, robust models and their signatures from one start, and measure them.

    python scripts/train_study.py --init-from pretrained-cifar100 --dataset uoft-cs/cifar10 \
        --corruption fog --corruption gaussian_noise --output-dir study

The options are those of `hf-rws study`. What is finished is skipped, what was interrupted is resumed: the same command
goes on where it stopped.
"""

from hf_rws.cli import run
from hf_rws.cli.making import study

if __name__ == "__main__":
    run(study)
