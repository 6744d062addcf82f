"""What commands print, in the formats of the `hf` command: data on stdout, everything else on stderr."""

import functools
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from hf_rws._text import one_line

_FORMATS = ("auto", "human", "agent", "json", "quiet")


@dataclass(frozen=True)
class Output:
    """The printer of one command.

    Attributes:
        style: "human", "agent" (tab-separated, fractions to 4 digits), "json" or "quiet" (one id a line).
        asked: Whether an option said so.
    """

    style: str
    asked: bool = False

    def table(self, rows: Sequence[Mapping[str, Any]], *, id_key: str, human: str | None = None) -> None:
        """Rows with the same keys.

        Args:
            rows: The values.
            id_key: What "quiet" prints of each.
            human: What people read instead of columns.
        """
        if self.style == "json":
            click.echo(_json(list(rows)))
        elif self.style == "quiet":
            for row in rows:
                click.echo(_cell(row[id_key]))
        elif not rows:
            click.echo("No results found.")
        elif self.style == "agent":
            for line in (list(rows[0]), *([_cell(_short(value)) for value in row.values()] for row in rows)):
                click.echo("\t".join(line))
        else:
            click.echo(columns(rows) if human is None else _lines(human))

    def record(self, data: Mapping[str, Any], *, id_key: str, human: str | None = None) -> None:
        """One thing with named values; what is None is left out."""
        known = {key: value for key, value in data.items() if value is not None}
        if self.style == "json" or (self.style == "agent" and human is not None):
            click.echo(_json(known))
        elif self.style == "quiet":
            click.echo(_cell(known[id_key]))
        elif self.style == "agent":
            click.echo(" ".join(f"{key}={_cell(value)}" for key, value in known.items()))
        else:
            lines = "\n".join(f"{key}: {_cell(value)}" for key, value in known.items())
            click.echo(lines if human is None else _lines(human))


def note(text: object) -> None:
    """A line on stderr, for people."""
    click.echo(one_line(text), err=True)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of `hf` for its formats; the command gets an `Output` as `output`."""

    @click.option(
        "--format", "style", type=click.Choice(_FORMATS), help="Of what is printed.  [default: auto, human or agent]"
    )
    @click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
    @click.option("-q", "--quiet", is_flag=True, help="The same as --format quiet: one id a line, no bars.")
    @functools.wraps(command)
    def with_output(*args: Any, style: str | None, as_json: bool, quiet: bool, **options: Any) -> Any:
        given = [name for name in (style, "json" if as_json else None, "quiet" if quiet else None) if name]
        if len(given) > 1:
            raise click.UsageError("give only one of --format, --json and --quiet")
        printer = Output(_resolved(*given), asked=bool(given))
        if printer.style != "quiet":
            return command(*args, output=printer, **options)

        from hf_rws._progress import no_bars

        with no_bars():
            return command(*args, output=printer, **options)

    return with_output


def _resolved(style: str = "auto") -> str:
    """As `hf` does: "agent" where a coding agent runs the command, else "human".

    An agent is known by the variables that are the standard among them; `hf` has a list besides, from the Hub.
    """
    if style != "auto":
        return style
    run_by_an_agent = any(os.environ.get(name) for name in ("AI_AGENT", "AGENT"))
    return "agent" if run_by_an_agent and not sys.stdout.isatty() else "human"


def columns(rows: Sequence[Mapping[str, Any]]) -> str:
    """Padded columns, without those that are empty."""
    names = [name for name in rows[0] if any(row[name] is not None for row in rows)]
    lines = [[name.upper() for name in names], *([_cell(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _cell(value: Any) -> str:
    """A value on one line, whatever it may hold from elsewhere."""
    if value is None:
        return ""
    return one_line(", ".join(map(str, value)) if isinstance(value, list | tuple) else value)


def _short(value: Any) -> Any:
    """Accuracies and the like as far as they mean something."""
    return round(value, 4) if isinstance(value, float) else value


def _lines(text: str) -> str:
    return "\n".join(map(one_line, text.split("\n")))


def _json(value: Any) -> str:
    """JSON in ASCII, DEL escaped, too."""
    return json.dumps(value).replace("\x7f", "\\u007f")
