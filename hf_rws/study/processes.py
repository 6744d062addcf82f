"""The models of a study over the processes of a launch: each makes some of them on its own, and then all meet.

Nothing of a training is shared out then, so what it gives depends on the number of processes no more than on the order
of the models. The processes wait for each other without a limit, as some have a model more to train than others; but
when one ends, by an error or a kill, the others learn of it as soon as they wait.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar

from torch import distributed

from hf_rws._accelerator import alone, process_state
from hf_rws.errors import RWSError

_T = TypeVar("_T")

Spread = Literal["auto", "models", "batches"]

_PATIENCE = timedelta(days=365)  # a study takes as long as it takes


class _Processes:
    """The processes that make a study: apart, each with models of its own, or all together on every batch.

    Attributes:
        apart: Whether each has models of its own.
        first: Whether this one writes what there is one of.

    Args:
        rank: Number of this process.
        count: How many there are.
        group: What connects them while they are apart; None where they are not.
    """

    def __init__(self, rank: int, count: int, group: Any = None) -> None:
        self.apart, self.first = group is not None, rank == 0
        self._rank, self._count, self._group = rank, count, group

    def share(self, names: Sequence[str], done: Collection[str] = ()) -> list[str]:
        """Those that this process makes, in their order: all of them where the processes are not apart.

        Args:
            names: The same in every process.
            done: Those that will take no time, so that what is left is shared out evenly.
        """
        if not self.apart:
            return list(names)
        mine = set(sorted(names, key=set(done).__contains__)[self._rank :: self._count])
        return [name for name in names if name in mine]

    def meet(self, brought: _T) -> list[_T]:
        """Wait for all processes, and return what each brings; those that are not apart do not wait.

        Raises:
            RWSError: A process has ended.
        """
        if not self.apart:
            return [brought]
        found: list[Any] = [None] * self._count
        try:
            distributed.all_gather_object(found, brought, group=self._group)
        except RuntimeError as error:
            raise RWSError(
                f"another process of this study has ended before its share was made: see what it says, then start "
                f"the study again, which goes on from what is finished ({error})"
            ) from error
        return found


@contextmanager
def spread_over_processes(spread: Spread, models: int) -> Iterator[_Processes]:
    """The processes of this launch; within, those that are apart know of each other by what is yielded alone.

    Args:
        spread: "models" sets them apart, "batches" does not, "auto" does where there is a model for each.
        models: How many can be made at the same time.
    """
    state = process_state()
    rank, count = state.process_index, state.num_processes
    if count == 1 or spread == "batches" or (spread == "auto" and models < count):
        yield _Processes(rank, count)
        return
    state.wait_for_everyone()  # within the launcher's patience
    group = distributed.new_group(backend="gloo", timeout=_PATIENCE)
    try:
        with alone():
            yield _Processes(rank, count, group)
    finally:
        distributed.destroy_process_group(group)  # whoever waits for a process that has failed need not
