"""What the library says of its arguments, in the words of the command line: `image_size` is --image-size there.

Messages name an argument as Python spells it, where that can be told from an ordinary word: with an underscore
("image_size"), with an equals sign ("pass token="), or before "must" ("lr must be above 0"). What stands in quotation
marks or in a path is somebody's text, and stays.
"""

import re

import click

_ARGUMENT = re.compile(
    r"""(?<![\w.'"/-])(?P<name>[a-z][a-z0-9]*(?:_[a-z0-9]+)*)(?P<given>=(?P<value>[\w.]*\w)?|(?![\w'"/(]|\.\w))"""
)
# What Python calls otherwise than the option, beyond dashes.
_RENAMED = {"config": "--dataset-config"}


def _options_by_argument(command: click.Command) -> dict[str, str]:
    """The options of a command by the names of Python's arguments: `{"image_size": "--image-size", ...}`."""
    flags = {}
    for option in command.params:
        if isinstance(option, click.Option):
            flag = max(option.opts, key=len)
            flags[str(option.name)] = flag
            flags[flag.removeprefix("--").replace("-", "_")] = flag
    return flags | {name: flag for name, flag in _RENAMED.items() if flag in flags.values()}


def _names_argument(found: re.Match[str]) -> bool:
    """Whether a match of `_ARGUMENT` names an argument, and is no ordinary word."""
    return bool("_" in found["name"] or found["given"]) or found.string.startswith(" must ", found.end())


def in_options(message: str, command: click.Command) -> str:
    """The message with the options of the command in place of arguments; others stay as they are."""
    flags = _options_by_argument(command)

    def option(found: re.Match[str]) -> str:
        flag = flags.get(found["name"])
        if flag is None or not _names_argument(found):
            return found[0]
        value = found["value"]
        if value is None:
            follows = message[found.end() : found.end() + 1]
            return f"{flag} " if found["given"] and follows and follows in "'\"[({-" else flag
        return flag if value == "True" else f"{flag} {'none' if value == 'None' else value}"

    return _ARGUMENT.sub(option, message)
