r"""Make a standard model, robust models and their signatures from one start, and measure them.

    python scripts/train_study.py --init-from pretrained-cifar100 --dataset uoft-cs/cifar10 \
        --corruption fog --corruption gaussian_noise --output-dir study

The options are those of `hf-rws study`. What is finished is skipped, what was interrupted is resumed: the same command
goes on where it stopped. With `accelerate launch` or `torchrun` each process makes models of its own, e.g. on two nodes
that see the same folder, a GPU each (on CPUs with `ACCELERATE_USE_CPU=true`):

    torchrun --nnodes 2 --nproc_per_node 1 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \
        scripts/train_study.py ... --corruption all
"""

from hf_rws.cli import run
from hf_rws.cli.making import study

if __name__ == "__main__":
    run(study)
