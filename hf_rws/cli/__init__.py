"""The command `hf-rws`: data on stdout, messages on stderr; exit codes 0, 1 (errors), 2 (usage), 130 (Ctrl-C)."""
# ruff: noqa: D301 (a raw docstring would take the meaning from click's \b, "leave these lines as they are")

import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

import click

from hf_rws._environment import is_first_process
from hf_rws._interrupts import stop_within_imports
from hf_rws._text import one_line
from hf_rws._version import __version__
from hf_rws.cli.corrupting import corrupt
from hf_rws.cli.distilling import distill
from hf_rws.cli.hub import apply, info, ls, push
from hf_rws.cli.making import extract, study, train
from hf_rws.cli.measuring import evaluate, quickstart
from hf_rws.cli.output import note
from hf_rws.cli.packing import bundle, save_base
from hf_rws.cli.wording import in_options
from hf_rws.errors import RWSError

__all__ = ["cli", "main", "run"]

# What is left of a command that was stopped.
_AFTER_A_STOP = {
    "train": "; with --resume the same command goes on",
    **dict.fromkeys(("study", "quickstart", "corrupt", "push"), "; the same command goes on"),
    **dict.fromkeys(("distill", "evaluate", "extract", "apply", "bundle", "save-base"), "; nothing is kept"),
}


def run(command: click.Command, arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave the process with its exit code."""
    words = sys.argv[1:] if arguments is None else arguments
    called = _called(command, words)
    try:
        with _plain_warnings(called):
            code = command.main(arguments, standalone_mode=False)
    except RWSError as error:
        note(f"error: {in_options(str(error), called)}")
        sys.exit(1)
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        for line in shown.getvalue().splitlines():
            note(line)
        sys.exit(error.exit_code)
    except OSError as error:  # e.g. a full disk, under stdout
        note(f"error: {error.strerror or error}" + (f": {error.filename}" if error.filename else ""))
        _give_up_stdout()
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        note("stopped" + _AFTER_A_STOP.get(str(called.name), ""))
        sys.exit(130)
    sys.exit(code if isinstance(code, int) else 0)


def _give_up_stdout() -> None:
    """Where stdout takes nothing more, drop what it still holds: Python would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, sys.stdout.fileno())
            os.close(nowhere)


def _called(command: click.Command, words: Sequence[str]) -> click.Command:
    """The command that the words name, if this is a group of them: the first word that is one's name."""
    named = command.commands if isinstance(command, click.Group) else {}
    return next((named[word] for word in words if word in named), command)


@contextmanager
def _plain_warnings(command: click.Command) -> Iterator[None]:
    """Within, the first process says a warning in one sentence on stderr; its place in the source is of no use here."""

    def show(message: Warning | str, *place: object) -> None:
        from hf_rws._progress import write

        if is_first_process():
            write(one_line(f"warning: {in_options(str(message), command)}"))

    with warnings.catch_warnings():
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def main() -> None:
    """What `hf-rws` runs."""
    stop_within_imports()
    run(cli)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="hf-rws")
def cli() -> None:
    """Robust weight signatures for timm models: robustness as easy as patching weights.

    \b
    Example:
      hf-rws distill --base user/model --images photos/ --corruption fog --output-dir rws-fog
      hf-rws evaluate user/model rws-fog --dataset user/photos --corruption fog
      hf-rws push rws-fog user/rws-fog
    """


for _command in (
    quickstart, train, study, extract, distill, corrupt, save_base, info, apply, bundle, evaluate, push, ls
):  # fmt: skip
    cli.add_command(_command)
