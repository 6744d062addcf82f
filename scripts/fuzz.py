"""Feed broken documents to all that reads files: a table of what came of them; exit code 1 if anything but an RWSError.

python scripts/fuzz.py --cases 1000000 --with-model 50000 --seed 0 --processes 2
python scripts/fuzz.py --kind config --only 4711 --seed 0  # one case again, with its traceback
"""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import multiprocessing
import random
import sys
import time
from functools import reduce
from operator import add
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from tests import fuzzing


def run(job: tuple[str, range, int]) -> tuple[str, fuzzing.Tally]:
    torch.set_num_threads(1)
    kind, numbers, seed = job
    return kind, fuzzing.run_cases(kind, numbers, seed)


def jobs(arguments: argparse.Namespace) -> list[tuple[str, range, int]]:
    """Cases in pieces, by their shares."""
    found = []
    kinds = {name: kind for name, kind in fuzzing.KINDS.items() if arguments.kind in (None, name)}
    for with_model, cases in ((False, arguments.cases), (True, arguments.with_model)):
        chosen = {name: kind.share for name, kind in kinds.items() if kind.with_model == with_model}
        for name, share in chosen.items():
            count = cases * share // sum(chosen.values())
            piece = max(100, count // (4 * arguments.processes))
            found += [(name, range(n, min(n + piece, count)), arguments.seed) for n in range(0, count, piece)]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100_000, help="without a model")
    parser.add_argument("--with-model", type=int, default=2_000, help="that build or patch one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kind", choices=fuzzing.KINDS, help="this one only")
    parser.add_argument("--only", type=int, help="run one case of --kind, and let its exception out")
    arguments = parser.parse_args()
    if arguments.only is not None:
        fuzzing.KINDS[arguments.kind].case(random.Random(f"{arguments.seed} {arguments.kind} {arguments.only}"))
        return
    start, tallies = time.monotonic(), dict[str, list[fuzzing.Tally]]()
    # each process handles one kind's piece after the other, with samples of its own
    with multiprocessing.get_context("spawn").Pool(arguments.processes) as pool:
        for kind, tally in pool.imap_unordered(run, jobs(arguments)):
            tallies.setdefault(kind, []).append(tally)
        pool.map(finish, range(arguments.processes))
    print("| kind | cases | success | RWSErrors | faults | slowest |\n|---|---|---|---|---|---|")
    faults = []
    for kind in (kind for kind in fuzzing.KINDS if kind in tallies):
        whole = reduce(add, tallies[kind])
        outcomes = dict(whole.outcomes.most_common())
        success = outcomes.pop("success", 0)
        count = whole.outcomes.total() + len([fault for fault in whole.faults if not fault[1].startswith("takes")])
        errors = ", ".join(f"{name} {number:,}" for name, number in outcomes.items())
        slowest = f"{1000 * whole.slowest[0]:.0f} ms (#{whole.slowest[1]})"
        print(f"| {kind} | {count:,} | {success:,} | {errors} | {len(whole.faults)} | {slowest} |")
        faults += [(kind, number, what) for number, what in sorted(whole.faults)]
    print(f"\n{time.monotonic() - start:.0f} s, {arguments.processes} process(es), seed {arguments.seed}")
    for kind, number, what in faults[:50]:
        again = f"python scripts/fuzz.py --kind '{kind}' --only {number} --seed {arguments.seed}"
        print(f"{kind} #{number}: {what}\n    {again}")
    sys.exit(bool(faults))


def finish(_: int) -> None:
    fuzzing.clean_up()


if __name__ == "__main__":
    main()
