"""Figures of results: they show what they are given and compute nothing.

Every function returns a matplotlib `Figure`, which a notebook shows as it is; `figure.savefig(...)`, or `save=` beside
it, writes it. All need `pip install "hf-rws[plots]"`.

```python
signature = hf_rws.Signature.from_pretrained("rws-fog")
hf_rws.plots.before_and_after(signature.config.metrics, save="fog.png")
```
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from torch import Tensor

from hf_rws._files import write_whole
from hf_rws._text import one_line
from hf_rws.errors import MissingExtraError, OptionError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "OverviewRow",
    "before_and_after",
    "corruption_sheet",
    "curves",
    "layer_differences",
    "overview",
    "scale_curve",
    "similarity",
]

_RIGHT, _WRONG, _CLEAN, _CORRUPTED = "#1a7f37", "#c0392b", "#57606a", "#0969da"
_TILE, _GAP, _LABEL, _LINE, _DOTS = 64, 2, 108, 16, 100  # of a sheet, in pixels; and pixels per inch
_LONGEST_NAME = 60  # characters
_BARS = (("standard", "before"), ("patched", "after"), ("robust", "robust model"))


@dataclass(frozen=True)
class OverviewRow:
    """What an overview shows of one corruption.

    Attributes:
        corruption: Its name.
        images: Corrupted images, uint8 of shape (N, 3, H, W).
        before: Predicted class names of the clean model on them.
        after: Predicted class names of the patched model.
        curve: Accuracies at several scales: {"scale", "ta", "ra"}, in [0, 1].
    """

    corruption: str
    images: Tensor
    before: Sequence[str]
    after: Sequence[str]
    curve: Sequence[Mapping[str, float]]


def overview(
    clean: Tensor,
    labels: Sequence[str],
    predicted: Sequence[str],
    rows: Sequence[OverviewRow],
    *,
    save: str | Path | None = None,
) -> "Figure":
    """Images clean and corrupted with predictions before and after patching, and a scale curve for each corruption.

    Args:
        clean: Clean images, uint8 of shape (N, 3, H, W).
        labels: Their class names.
        predicted: What the clean model takes them for.
        rows: One for each corruption; the same images corrupted.
        save: File to write, as its name ends: .png, .pdf, .svg, ...

    Returns:
        The figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: matplotlib writes no files of that ending.
        AccessError: The file cannot be written.
    """
    columns, lines = len(clean), len(rows) + 1
    figure = _figure(1.25 * columns + 4.2, 1.62 * lines)
    grid = figure.add_gridspec(lines, columns + 3, wspace=0.12, hspace=0.5)
    for column in range(columns):
        ax = figure.add_subplot(grid[0, column])
        _show(ax, clean[column], [(predicted[column], predicted[column] == labels[column])])
        if column == 0:
            ax.set_ylabel("clean", fontsize=9)
    legend = figure.add_subplot(grid[0, columns:])
    legend.axis("off")
    legend.text(0.12, 0.9, "below each image: what the model takes it for", fontsize=8, va="top")
    legend.text(0.12, 0.7, "corrupted: before the patch, then after it", fontsize=8, va="top")
    legend.text(0.12, 0.5, "right", fontsize=8, va="top", color=_RIGHT)
    legend.text(0.28, 0.5, "wrong", fontsize=8, va="top", color=_WRONG)
    for line, row in enumerate(rows, start=1):
        for column in range(columns):
            ax = figure.add_subplot(grid[line, column])
            names = (row.before[column], row.after[column])
            _show(ax, row.images[column], [(name, name == labels[column]) for name in names])
            if column == 0:
                ax.set_ylabel(_title(row.corruption), fontsize=9)
        curve = figure.add_subplot(grid[line, columns:])
        box = curve.get_position()
        curve.set_position((box.x0 + 0.06, box.y0 + 0.015, box.width - 0.06, box.height - 0.01))
        _draw_curve(curve, row.curve, legend=line == 1, axis_label=line == lines - 1)
    return _finished(figure, save)


def before_and_after(metrics: Mapping[str, Any] | None, *, save: str | Path | None = None) -> "Figure":
    """The picture of a signature's card: bars of TA and RA before and after the patch, and the scale curve.

    Args:
        metrics: Of the signature's config: "standard", "patched" and perhaps "robust", each {"ta", "ra"} in [0, 1], and
            perhaps "scale_curve".
        save: File to write, as its name ends: .png, .pdf, .svg, ...

    Returns:
        The figure. Its PNG has 10 to 30 kB, and the same bytes for the same metrics with the same matplotlib.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: The metrics hold no such accuracies, or matplotlib writes no files of that ending.
        AccessError: The file cannot be written.
    """
    metrics = metrics or {}
    models = [(key, title) for key, title in _BARS if key in metrics]
    if not models:
        raise OptionError("there are no results to show: give metrics with the accuracies of one model at least")
    curve = metrics.get("scale_curve", ())
    figure = _figure(6.4 if curve else 3.2, 2.3)
    bars, *right = figure.subplots(1, 2 if curve else 1, squeeze=False)[0]
    for offset, key, name, colour in ((-0.2, "ta", "clean", _CLEAN), (0.2, "ra", "corrupted", _CORRUPTED)):
        heights = [100 * metrics[model].get(key, 0.0) for model, _ in models]
        drawn = bars.bar([place + offset for place in range(len(models))], heights, 0.36, color=colour, label=name)
        bars.bar_label(drawn, fmt="%.1f", fontsize=7)
    bars.set_xticks(range(len(models)), [title for _, title in models])
    bars.tick_params(labelsize=7)
    bars.set_ylim(0, 100)
    bars.set_ylabel("accuracy, %", fontsize=7)
    bars.legend(fontsize=7, loc="lower left", bbox_to_anchor=(-0.02, 0.99), frameon=False, ncols=2)
    if curve:
        figure.subplots_adjust(wspace=0.28)
        _draw_curve(right[0], curve, legend=False)
    return _finished(figure, save)


def scale_curve(curve: Sequence[Mapping[str, float]], *, save: str | Path | None = None) -> "Figure":
    """Accuracy on clean (TA) and corrupted images (RA) against the scale of a signature.

    Args:
        curve: Points {"scale", "ta", "ra"}, accuracies in [0, 1], as `metrics["scale_curve"]` of a config holds them.
        save: File to write, as its name ends: .png, .pdf, .svg, ...

    Returns:
        The figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: matplotlib writes no files of that ending.
        AccessError: The file cannot be written.
    """
    figure = _figure(3.6, 2.6)
    _draw_curve(figure.add_subplot(), curve)
    return _finished(figure, save)


def _draw_curve(
    ax: "Axes", curve: Sequence[Mapping[str, float]], *, legend: bool = True, axis_label: bool = True
) -> None:
    scales = [point["scale"] for point in curve]
    for key, name, colour in (("ra", "corrupted", _CORRUPTED), ("ta", "clean", _CLEAN)):
        ax.plot(scales, [100 * point[key] for point in curve], color=colour, marker="o", markersize=3, label=name)
    ax.set_ylim(0, 100)
    ax.tick_params(labelsize=7)
    ax.grid(alpha=0.3)
    ax.set_ylabel("accuracy, %", fontsize=7)
    if axis_label:
        ax.set_xlabel("scale of the signature", fontsize=7)
    if legend:
        ax.legend(fontsize=7, loc="lower right", frameon=False)


def similarity(matrix: Tensor, names: Sequence[str], *, save: str | Path | None = None) -> "Figure":
    """Cosines between signatures, as coloured squares.

    Args:
        matrix: (n, n), values in [-1, 1], as `hf_rws.signature.similarity` gives it.
        names: n names of signatures.
        save: File to write, as its name ends: .png, .pdf, .svg, ...

    Returns:
        The figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: matplotlib writes no files of that ending.
        AccessError: The file cannot be written.
    """
    side = 1.6 + 0.34 * len(names)
    figure = _figure(side, side)
    ax = figure.add_subplot()
    shown = ax.imshow(matrix.cpu().numpy(), cmap="RdBu_r", vmin=-1, vmax=1)
    titles = [_label(name) for name in names]
    ax.set_xticks(range(len(names)), titles, rotation=90, fontsize=7)
    ax.set_yticks(range(len(names)), titles, fontsize=7)
    if len(names) <= 20:
        for row, values in enumerate(matrix.tolist()):
            for column, value in enumerate(values):
                colour = "white" if abs(value) > 0.6 else "black"
                ax.text(
                    column, row, f"{value:.2f}".replace("0.", "."), ha="center", va="center", fontsize=5, color=colour
                )
    figure.colorbar(shown, ax=ax, fraction=0.046, pad=0.03).ax.tick_params(labelsize=7)
    return _finished(figure, save)


def layer_differences(differences: Mapping[str, Sequence[float]], *, save: str | Path | None = None) -> "Figure":
    """How far robust models are from the standard one, layer by layer.

    Args:
        differences: For each corruption those of `hf_rws.extraction.relative_differences`.
        save: File to write, as its name ends: .png, .pdf, .svg, ...

    Returns:
        The figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: matplotlib writes no files of that ending.
        AccessError: The file cannot be written.
    """
    points = {name: list(enumerate(values, start=1)) for name, values in differences.items()}
    y = "difference of weights, relative"
    return curves(points, x="layer, from the shallow end", y=y, from_zero=True, save=save)


def curves(
    points: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    from_zero: bool = False,
    save: str | Path | None = None,
) -> "Figure":
    """Lines through points, each with its name in the legend.

    Args:
        points: For each line its points (x, y), in the order in which they are joined.
        x: What lies along the horizontal axis.
        y: What lies along the vertical axis.
        from_zero: Whether that begins at 0.
        save: File to write, as its name ends: .png, .pdf, .svg, ...

    Returns:
        The figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: matplotlib writes no files of that ending.
        AccessError: The file cannot be written.
    """
    figure = _figure(6, 3.6)
    ax = figure.add_subplot()
    from matplotlib import colormaps

    ax.set_prop_cycle(color=colormaps["tab20"](range(20)))
    for name, line in points.items():
        across, up = zip(*line, strict=True)
        ax.plot(across, up, marker="o", markersize=3, linewidth=1, label=_label(name))
    ax.set_xlabel(x, fontsize=8)
    ax.set_ylabel(y, fontsize=8)
    ax.tick_params(labelsize=7)
    ax.grid(alpha=0.3)
    ax.legend(fontsize=6, ncols=2, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    if from_zero:
        ax.set_ylim(bottom=0)
    return _finished(figure, save)


def corruption_sheet(images: Mapping[str, Tensor], *, save: str | Path | None = None) -> "Figure":
    """A row for each corruption: the clean image, then one column for each severity, pixel by pixel.

    Args:
        images: For each corruption the clean image and the image at severity 1, 2, ..., uint8 of shape (N, 3, H, W),
            the same shape for all; small ones are shown enlarged.
        save: File to write, as its name ends: .png, .pdf, .svg, ...

    Returns:
        The figure.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OptionError: matplotlib writes no files of that ending.
        AccessError: The file cannot be written.
    """
    first = next(iter(images.values()))
    count, _, height, width = first.shape
    zoom = max(1, round(_TILE / max(height, width)))
    across, down = width * zoom + _GAP, height * zoom + _GAP
    blocks = 1 if len(images) < 6 else 2
    rows = -(-len(images) // blocks)
    block_width, title = _LABEL + count * across, 2 * _LINE
    page = (blocks * block_width + (blocks - 1) * _LINE, title + rows * down)
    figure = _figure(page[0] / _DOTS, page[1] / _DOTS, pixel_by_pixel=True)
    figure.set_dpi(_DOTS)

    def write(text: str, x: float, y: float, **options: Any) -> None:
        figure.text(x / page[0], 1 - y / page[1], text, fontsize=8, **options)

    for place, (name, shown) in enumerate(images.items()):
        left, top = place // rows * (block_width + _LINE), title + place % rows * down
        write(_title(name), left + _LABEL - 6, top + down / 2, ha="right", va="center")
        for column, image in enumerate(shown):
            x = left + _LABEL + column * across
            pixels = image.permute(1, 2, 0).cpu().numpy().repeat(zoom, 0).repeat(zoom, 1)
            figure.figimage(pixels, x, page[1] - top - height * zoom, origin="upper")
            if place % rows == 0:
                write(str(column) if column else "clean", x + width * zoom / 2, top - _GAP, ha="center", va="bottom")
        if place % rows == 0:
            write("severity", left + _LABEL + across + (count - 1) * across / 2, _GAP, ha="center", va="top")
    return _finished(figure, save)


def png(figure: "Figure") -> bytes:
    """A figure of this module as a PNG; the same bytes for the same figure."""
    if getattr(figure, "pixel_by_pixel", False):
        return _exact_png(figure)
    return _file(figure, "png", metadata={"Software": None})


@cache
def _figure_class() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('figures need matplotlib: pip install "hf-rws[plots]"') from error

    class NotebookFigure(Figure):
        """A figure that notebooks show without pyplot."""

        pixel_by_pixel = False  # nothing cut off, nothing resampled

        def _repr_png_(self) -> bytes:
            return png(self)

    return NotebookFigure


def _figure(width: float, height: float, *, pixel_by_pixel: bool = False) -> Any:
    figure = _figure_class()(figsize=(width, height), layout=None)
    figure.pixel_by_pixel = pixel_by_pixel
    return figure


def _finished(figure: "Figure", save: str | Path | None) -> "Figure":
    """The figure, written if a file is named."""
    if save is not None:
        ending = Path(save).suffix.lower().removeprefix(".") or "png"
        known = figure.canvas.get_supported_filetypes()
        if ending not in known:
            endings = ", ".join(f".{name}" for name in sorted(known))
            raise OptionError(f"no figure can be saved as {Path(save).name!r}: its name may end in {endings}")
        write_whole(Path(save), png(figure) if ending == "png" else _file(figure, ending))
    return figure


def _file(figure: "Figure", ending: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format=ending, dpi=110, bbox_inches="tight", facecolor="white", **options)
    return stream.getvalue()


def _label(name: str) -> str:
    """A name as matplotlib must be given it to show just that: on one line, no formula."""
    return one_line(name, limit=_LONGEST_NAME).replace("$", r"\$")


def _title(name: str) -> str:
    return _label(name.replace("_", " "))


def _show(ax: "Axes", image: Tensor, captions: Sequence[tuple[str, bool]]) -> None:
    ax.imshow(image.permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    for line, (text, right) in enumerate(captions):
        ax.text(
            0.5, -0.04 - 0.17 * line, _label(text), transform=ax.transAxes, ha="center", va="top", fontsize=7,
            color=_RIGHT if right else _WRONG,
        )  # fmt: skip


def _exact_png(figure: "Figure") -> bytes:
    """Nothing cut off, nothing resampled, and as small as can be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, stream = FigureCanvasAgg(figure), io.BytesIO()
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(stream, "PNG", optimize=True)
    return stream.getvalue()
