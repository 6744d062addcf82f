"""Write the corrupted copy of a dataset, the same as `hf-rws corrupt`.

    python scripts/make_corrupted.py --dataset uoft-cs/cifar10 --corruption fog --output-dir cifar10-fog --num-proc 4

What is finished is kept: the same command goes on where it was interrupted.
"""

from hf_rws.cli import run
from hf_rws.cli.corrupting import corrupt

if __name__ == "__main__":
    run(corrupt)
