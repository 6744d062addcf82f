"""Are tensors of a model still the ones that they were, and does anything show that they were written to?"""

from collections.abc import Iterable
from operator import attrgetter, is_not
from typing import Any

from torch import Tensor, nn

from hf_rws.errors import IntegrityError
from hf_rws.patching._samples import Samples

_version = attrgetter("_version")


class Watch:
    """Finds tensors in a model and notices when they are replaced or written to.

    There are three kinds of evidence, all of them cheap: which objects are in the model and where their memory is;
    the version counters, which writes through the tensors raise; and samples of the values, for those that do not.

    Attributes:
        tensors: The tensors by name.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        """Raises IntegrityError if a tensor is not there."""
        self._links: dict[tuple[int, str], tuple[dict[str, Any], str, Any]] = {}
        self.tensors = {name: self._find(model, name) for name in names}
        self._in_order = list(self.tensors.values())
        self._holders = [holder for holder, _, _ in self._links.values()]
        self._keys = [key for _, key, _ in self._links.values()]
        self._values = [value for _, _, value in self._links.values()]
        self._addresses = list(map(Tensor.data_ptr, self._in_order))
        self._counted = not any(tensor.is_inference() for tensor in self._in_order)
        self._versions: list[int] | None = None
        self._samples: Samples | None = None  # from the first mark on

    def mark(self) -> None:
        """Take the tensors as they are from now on."""
        self._versions = self._read_versions()
        if self._samples is None:
            self._samples = Samples(self._in_order)
        self._samples.mark()

    def sees_replaced(self) -> bool:
        """Whether a tensor is no longer the one in the model, or no longer where it was in memory."""
        if any(map(is_not, map(dict.get, self._holders, self._keys), self._values)):
            return True
        return list(map(Tensor.data_ptr, self._in_order)) != self._addresses

    def sees_no_change(self) -> bool:
        """Whether nothing shows that tensors are others or were written to since `mark`.

        On a GPU the samples tell later, in `saw_change`. Without version counters one cannot know.
        """
        if self._samples is None or self._versions is None or self._read_versions() != self._versions:
            return False
        return not self.sees_replaced() and not self._samples.differ()  # in this order: what is gone cannot be read

    def saw_change(self, *, wait: bool = False) -> bool:
        """Whether `sees_no_change` was wrong before, as samples on a GPU have shown since; told once."""
        return self._samples is not None and self._samples.differed(wait=wait)

    def doubt(self) -> None:
        """See changes from now on until the next `mark`."""
        self._versions = None

    def forget(self) -> None:
        """What `saw_change` would tell later is of no interest any more."""
        self.saw_change(wait=True)

    def _read_versions(self) -> list[int] | None:
        return list(map(_version, self._in_order)) if self._counted else None

    def _find(self, model: nn.Module, name: str) -> Tensor:
        module: Any = model
        *path, leaf = name.split(".")
        for key in path:
            module = self._link(module._modules, key, name)
        parameters = module._parameters
        return self._link(parameters if parameters.get(leaf) is not None else module._buffers, leaf, name)

    def _link(self, holder: dict[str, Any], key: str, name: str) -> Any:
        value = holder.get(key)
        if value is None:
            raise IntegrityError(f"{name} is gone from the model; it was patched. Use bake() and patch again")
        self._links[id(holder), key] = (holder, key, value)
        return value
