"""Checks of options that several parts share."""

from collections.abc import Iterable

from hf_rws.errors import OptionError


def check_numbers(
    options: object, *, whole: Iterable[str] = (), real: Iterable[str] = (), optional: Iterable[str] = ()
) -> None:
    """OptionError unless attributes are numbers; True and False are none.

    Args:
        options: What has the attributes.
        whole: Names of those that are integers.
        real: Names of those that are integers or floats, infinite ones and NaN among them.
        optional: Names of those that may also be None.
    """
    optional = set(optional)
    for kind, what, names in ((int, "a whole number", whole), (int | float, "a number", real)):
        for name in names:
            value = getattr(options, name)
            if value is None and name in optional:
                continue
            if isinstance(value, bool) or not isinstance(value, kind):
                raise OptionError(f"{name} must be {what}, got {value!r}")
