"""Public names that are imported when they are first used (PEP 562): importing their package then costs nothing."""

from collections.abc import Callable, Collection, Mapping
from importlib import import_module
from sys import modules
from typing import Any


def lazy_names(
    package: str, names: Mapping[str, Collection[str]], inner: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The `__getattr__` and `__dir__` of a package.

    Type checkers read the same from imports under `if TYPE_CHECKING`; a test compares the two.

    Args:
        package: Its name.
        names: Its public names, by the module of the package that has them.
        inner: Modules of the package that are public names themselves.
    """
    homes = {name: f"{package}.{module}" for module, held in names.items() for name in held}

    def get(name: str) -> Any:
        if name in inner:
            return import_module(f"{package}.{name}")  # which makes it an attribute, too
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name]), name)
        setattr(modules[package], name, value)
        return value

    return get, lambda: sorted([*homes, *inner])
