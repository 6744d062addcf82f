import builtins

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from hf_rws import plots
from hf_rws.errors import AccessError, MissingExtraError, OptionError

CURVE = [{"scale": s, "ta": 0.8 - 0.2 * s, "ra": 0.3 + 0.3 * s} for s in (0.0, 0.5, 1.0)]


def draw(path):
    pixels = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    pixels[:, 0] = 255
    row = plots.OverviewRow("fog", pixels, ["cat", "dog", "dog"], ["dog", "dog", "dog"], CURVE)
    plots.overview(pixels, ["dog", "dog", "cat"], ["dog", "cat", "cat"], [row, row], save=path)
    return path


def test_the_overview_is_a_picture_of_the_images(tmp_path):
    path = draw(tmp_path / "overview.png")
    with Image.open(path) as picture:
        colours = {colour for count, colour in picture.convert("RGB").getcolors(1 << 24) if count > 500}
        assert (255, 0, 0) in colours
        assert min(picture.size) > 300
    assert path.stat().st_size < 200_000


def test_the_same_figure_is_the_same_file(tmp_path):
    assert draw(tmp_path / "a.png").read_bytes() == draw(tmp_path / "b.png").read_bytes()


def test_the_scale_curve_shows_what_it_is_given():
    (ax,) = plots.scale_curve(CURVE).axes
    shown = {line.get_label(): line.get_data() for line in ax.get_lines()}
    assert all(list(x) == [0.0, 0.5, 1.0] for x, _ in shown.values())
    assert list(shown["clean"][1]) == pytest.approx([80, 70, 60])
    assert list(shown["corrupted"][1]) == pytest.approx([30, 45, 60])


def test_similarity_and_layers_are_pictures(tmp_path):
    matrix = torch.tensor([[1.0, -0.9], [-0.9, 1.0]])
    plots.similarity(matrix, ["rws-fog", "rws-snow"], save=tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        reds, blues = (
            sum(n for n, c in picture.convert("RGB").getcolors(1 << 24) if c[strong] > c[weak] + 60)
            for strong, weak in ((0, 2), (2, 0))
        )
    assert reds > 1000
    assert blues > 1000
    plots.layer_differences({"fog": [0.5, 0.2, 0.1], "snow": [0.4, 0.2, 0.1]}, save=tmp_path / "b.png")
    assert (tmp_path / "b.png").stat().st_size > 5000


@pytest.mark.parametrize(("names", "size", "zoom"), [(3, (32, 32), 2), (19, (16, 10), 4), (6, (224, 224), 1)])
def test_a_sheet_shows_every_pixel_of_every_image(names, size, zoom, tmp_path):
    """Each image has a colour of its own."""
    colours = [[(10 + 12 * name, 20 + 30 * severity, 90) for severity in range(6)] for name in range(names)]
    images = {
        f"corruption_{name}": torch.tensor(row, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, *size)
        for name, row in enumerate(colours)
    }
    figure = plots.corruption_sheet(images, save=tmp_path / "sheet.png")
    assert figure._repr_png_() == (tmp_path / "sheet.png").read_bytes()
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.mode == "RGB"
        pixels = np.asarray(sheet).astype(int) @ (1 << 16, 1 << 8, 1)
    middles = np.zeros((names, 6, 2))
    for place in np.ndindex(names, 6):
        found = np.argwhere(pixels == np.dot(colours[place[0]][place[1]], (1 << 16, 1 << 8, 1)))
        assert len(found) == size[0] * size[1] * zoom**2
        assert tuple(np.ptp(found, 0) + 1) == (size[0] * zoom, size[1] * zoom)
        middles[place] = found.mean(0)
    assert (np.ptp(middles[:, :, 0], 1) == 0).all()  # a row for each corruption
    assert (np.diff(middles[:, :, 1]) > 0).all()  # severities from left to right
    assert len({tuple(middle) for middle in middles[:, 0]}) == names


def test_without_matplotlib_the_message_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    plots._figure_class.cache_clear()
    with pytest.raises(MissingExtraError, match=r"hf-rws\[plots\]"):
        plots._figure(1, 1)


# --- figures, as other libraries give them ---

METRICS = {"standard": {"ta": 0.8, "ra": 0.3}, "patched": {"ta": 0.7, "ra": 0.6}, "scale_curve": CURVE}
BLACK = torch.zeros(6, 3, 32, 32, dtype=torch.uint8)
FIGURES = {
    "before_and_after": lambda **options: plots.before_and_after(METRICS, **options),
    "scale_curve": lambda **options: plots.scale_curve(CURVE, **options),
    "similarity": lambda **options: plots.similarity(torch.eye(2), ["a", "b"], **options),
    "layer_differences": lambda **options: plots.layer_differences({"fog": [0.5, 0.2]}, **options),
    "curves": lambda **options: plots.curves({"fog": [(0, 0.5), (1, 0.2)]}, x="scale", y="RA", **options),
    "corruption_sheet": lambda **options: plots.corruption_sheet({"fog": BLACK}, **options),
    "overview": lambda **options: plots.overview(BLACK[:1], ["a"], ["b"], [], **options),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_plot_is_a_figure_that_notebooks_show_and_that_can_be_saved(name, tmp_path):
    figure = FIGURES[name](save=tmp_path / "new" / "a.png")
    assert isinstance(figure, Figure)
    shown = (tmp_path / "new" / "a.png").read_bytes()
    assert figure._repr_png_() == plots.png(FIGURES[name]()) == shown
    figure.savefig(tmp_path / "b.png")
    with Image.open(tmp_path / "b.png") as picture:
        assert min(picture.size) > 50
    FIGURES[name](save=str(tmp_path / "c.PDF"))
    assert (tmp_path / "c.PDF").read_bytes().startswith(b"%PDF")
    assert set(FIGURES) | {"OverviewRow"} == set(plots.__all__)


def test_what_cannot_be_saved_is_our_error(tmp_path):
    with pytest.raises(OptionError, match=r"no figure can be saved as 'a.xls': its name may end in .*\.png"):
        FIGURES["scale_curve"](save=tmp_path / "a.xls")
    (tmp_path / "file").touch()
    with pytest.raises(AccessError, match="cannot write"):
        FIGURES["scale_curve"](save=tmp_path / "file" / "a.png")


@pytest.mark.parametrize("metrics", [None, {}, {"n": 5}])
def test_a_signature_without_results_has_no_picture(metrics):
    with pytest.raises(OptionError, match="there are no results to show"):
        plots.before_and_after(metrics)
