"""Train a standard or a robust model; for `python`, `torchrun` and `accelerate launch`.

    accelerate launch scripts/train.py --model vgg16_gap --dataset uoft-cs/cifar10 --corruption fog --output-dir fog

The options are those of `hf-rws train`. On several CPU processes:
`ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2 scripts/train.py ...`
"""

from hf_rws.cli import run
from hf_rws.cli.making import train

if __name__ == "__main__":
    run(train)
