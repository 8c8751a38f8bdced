"""Figures: valid PNG files, the same bytes for the same data, marked where phantoms made them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from dermagan_jax import figures, images, lesions
from dermagan_jax.errors import DermaganError

COUNTS = dict(zip(lesions.CLASSES, (509, 513, 456, 498), strict=True))
SPLITS = {"train": COUNTS, "test": dict.fromkeys(lesions.CLASSES, 100)}
MATRIX = [[70, 10, 15, 5], [12, 71, 7, 10], [9, 12, 59, 20], [3, 5, 22, 70]]
SERIES = {
    "training": ([0, 10, 20], [1.4, 1.0, 0.8]),
    "validation": ([0, 20], [1.4, None]),
}
ESTIMATES = {
    "generated": {"melanoma": (0.4, 0.3, 0.55), "all_classes": (0.35, None, None)},
    "floor": {"melanoma": None, "all_classes": (0.01, -0.02, 0.03)},
}

DRAWINGS: dict[str, Callable[..., Path]] = {
    "class_counts": lambda path, **k: figures.class_counts(COUNTS, path, title="Images", **k),
    "split_counts": lambda path, **k: figures.split_counts(
        SPLITS, path, generated=dict.fromkeys(lesions.CLASSES, 100), title="Images", **k
    ),
    "confusion_matrix": lambda path, **k: figures.confusion_matrix(
        MATRIX, lesions.CLASSES, path, title="Test", **k
    ),
    "intervals": lambda path, **k: figures.intervals(
        ESTIMATES, path, ylabel="KID", title="KID", **k
    ),
    "curves": lambda path, **k: figures.curves(SERIES, path, ylabel="loss", title="Loss", **k),
    "reliability": lambda path, **k: figures.reliability(
        {"as trained": ([0.5, 0.9], [0.4, 0.7])}, path, title="Calibration", **k
    ),
}
every_drawing = pytest.mark.parametrize("draw", DRAWINGS.values(), ids=DRAWINGS.keys())


@pytest.fixture
def texts(monkeypatch) -> list[str]:
    """Every text of the figures that the test draws."""
    found: list[str] = []
    save = figures.save

    def read_and_save(figure: Figure, path: str | Path) -> Path:
        found.extend(text.get_text() for text in figure.findobj(matplotlib.text.Text))
        return save(figure, path)

    monkeypatch.setattr(figures, "save", read_and_save)
    return found


@every_drawing
class TestEveryFigure:
    def test_is_a_png_wide_enough_to_read(self, draw, tmp_path):
        path = draw(tmp_path / "a.png")
        with Image.open(path) as image:
            assert image.format == "PNG"
            assert image.mode == "RGB"
            assert image.size[0] == 900
            assert np.asarray(image).std() > 5
            assert not image.info.get("Software")

    def test_has_the_same_bytes_again_and_leaves_no_other_file(self, draw, tmp_path):
        first, second = draw(tmp_path / "a.png"), draw(str(tmp_path / "b.png"))
        assert first.read_bytes() == second.read_bytes()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]

    def test_is_marked_where_phantoms_made_it(self, draw, tmp_path, texts):
        plain = draw(tmp_path / "a.png").read_bytes()
        assert not any("phantom" in text for text in texts)
        marked = draw(tmp_path / "b.png", phantom=True).read_bytes()
        assert images.PHANTOM_NOTE in texts
        assert any(text.endswith("(phantom)") for text in texts)
        assert plain != marked

    def test_leaves_the_global_state_of_matplotlib_alone(self, draw, tmp_path):
        import matplotlib.pyplot as plt

        before, settings = plt.get_fignums(), dict(matplotlib.rcParams)
        draw(tmp_path / "a.png")
        assert plt.get_fignums() == before
        assert dict(matplotlib.rcParams) == settings

    def test_keeps_text_inside_the_image(self, draw, tmp_path):
        pixels = np.asarray(Image.open(draw(tmp_path / "a.png", phantom=True)))
        border = np.concatenate([pixels[:2].ravel(), pixels[-2:].ravel(), pixels[:, -2:].ravel()])
        assert (border == 255).all()

    def test_names_a_folder_that_is_missing(self, draw, tmp_path):
        with pytest.raises(DermaganError, match=r"missing.*a\.png"):
            draw(tmp_path / "missing" / "a.png")


class TestClassCounts:
    def test_prints_numbers_shares_and_their_total(self, tmp_path, texts):
        DRAWINGS["class_counts"](tmp_path / "a.png")
        assert "1,976\nimages" in texts
        assert "actinic keratosis\n509 (25.8%)" in texts

    @pytest.mark.parametrize("counts", [{}, {"a": 0, "b": 0}, {"a": -1, "b": 5}])
    def test_refuses_counts_that_make_no_ring(self, counts, tmp_path):
        with pytest.raises(ValueError, match="counts"):
            figures.class_counts(counts, tmp_path / "a.png", title="")


class TestSplitCounts:
    def test_adds_generated_images_to_train_alone(self, tmp_path, texts):
        DRAWINGS["split_counts"](tmp_path / "a.png")
        numbers = [text for text in texts if text.isdigit()]
        assert {"609", "613", "556", "598"} <= set(numbers)
        assert numbers.count("100") >= 4
        assert "200" not in numbers[: len(COUNTS) * len(SPLITS)]
        assert "generated" in texts

    def test_says_nothing_of_generated_images_where_there_are_none(self, tmp_path, texts):
        figures.split_counts(SPLITS, tmp_path / "a.png", title="Images")
        assert "generated" not in texts
        assert {"509", "513"} <= set(texts)

    @pytest.mark.parametrize(
        ("counts", "generated"),
        [
            ({}, None),
            ({"train": {"a": 1}, "test": {"b": 1}}, None),
            ({"test": {"a": 1}}, {"a": 1}),
            ({"train": {"a": 1}}, {"b": 1}),
        ],
    )
    def test_refuses_classes_that_do_not_match(self, counts, generated, tmp_path):
        with pytest.raises(ValueError, match="classes"):
            figures.split_counts(counts, tmp_path / "a.png", generated=generated, title="")


class TestConfusionMatrix:
    def test_prints_each_count_with_its_share_of_the_row(self, tmp_path, texts):
        figures.confusion_matrix([[3, 1], [0, 1200]], ("a_b", "c"), tmp_path / "a.png", title="T")
        assert {"3\n75%", "1\n25%", "0\n0%", "1,200\n100%", "a\nb"} <= set(texts)

    def test_rows_are_the_true_classes(self, tmp_path, texts):
        figures.confusion_matrix([[1, 3], [0, 0]], ("a", "b"), tmp_path / "a.png", title="T")
        assert {"1\n25%", "3\n75%", "0\n0%"} <= set(texts)  # an empty row has no shares

    @pytest.mark.parametrize("matrix", [[[1, 2]], [[1, 2, 3]] * 3, [1, 2], [[1, -1], [0, 1]], []])
    def test_refuses_another_shape_and_negative_counts(self, matrix, tmp_path):
        with pytest.raises(ValueError, match="matrix"):
            figures.confusion_matrix(matrix, ("a", "b"), tmp_path / "a.png", title="T")
        assert not list(tmp_path.iterdir())


class TestCurves:
    def test_names_axes_and_series_as_the_caller_does(self, tmp_path, texts):
        figures.curves(SERIES, tmp_path / "a.png", ylabel="nats", xlabel="epoch", title="Loss")
        assert {"training", "validation", "nats", "epoch", "Loss"} <= set(texts)

    def test_a_value_that_is_not_finite_leaves_a_gap(self, tmp_path):
        def draw(values: list[float | None]) -> bytes:
            series = {"a": (range(4), values)}
            path = figures.curves(series, tmp_path / "a.png", ylabel="y", title="t")
            return path.read_bytes()

        assert draw([0.0, 1.0, None, 1.0]) == draw([0.0, 1.0, float("nan"), 1.0])
        assert draw([0.0, 1.0, None, 1.0]) != draw([0.0, 1.0, 1.0, 1.0])

    @pytest.mark.parametrize("series", [{}, {"a": ([1, 2], [1.0])}])
    def test_refuses_no_series_and_uneven_ones(self, series, tmp_path):
        with pytest.raises(ValueError, match="series"):
            figures.curves(series, tmp_path / "a.png", ylabel="y", title="t")

    def test_long_titles_are_broken_into_lines(self, tmp_path, texts):
        figures.curves(SERIES, tmp_path / "a.png", ylabel="y", title="word " * 30)
        title = next(text for text in texts if text.startswith("word"))
        assert max(map(len, title.splitlines())) <= 60


class TestIntervals:
    def test_names_groups_and_series(self, tmp_path, texts):
        figures.intervals(ESTIMATES, tmp_path / "a.png", ylabel="KID", title="Near or far")
        assert {"melanoma", "all\nclasses", "generated", "floor", "KID"} <= set(texts)

    def test_bars_reach_from_low_to_high(self, tmp_path, monkeypatch):
        drawn = []
        monkeypatch.setattr(
            matplotlib.axes.Axes,
            "errorbar",
            lambda axes, x, y, yerr, **options: drawn.append((options["label"], x, y, yerr)),
        )
        monkeypatch.setattr(matplotlib.axes.Axes, "legend", lambda *_, **__: None)
        figures.intervals(ESTIMATES, tmp_path / "a.png", ylabel="KID", title="KID")
        (first, x, y, yerr), (second, other_x, other_y, other_yerr) = drawn
        assert (first, second) == ("generated", "floor")
        np.testing.assert_allclose(y, [0.4, 0.35])
        np.testing.assert_allclose(yerr, [[0.1, 0], [0.15, 0]])
        np.testing.assert_allclose(other_y, [np.nan, 0.01])
        np.testing.assert_allclose(other_yerr, [[np.nan, 0.03], [np.nan, 0.02]])
        assert (x < other_x).all()

    @pytest.mark.parametrize("series", [{}, {"a": {}}, {"a": {"x": None}, "b": {"y": None}}])
    def test_refuses_no_series_and_uneven_ones(self, series, tmp_path):
        with pytest.raises(ValueError, match="the same groups"):
            figures.intervals(series, tmp_path / "a.png", ylabel="KID", title="KID")


def test_class_colours_are_the_same_in_every_figure_and_all_differ():
    assert figures._class_colours(lesions.CLASSES) == list(figures.CLASS_COLOURS)
    assert figures._class_colours(["melanoma"]) == [figures.CLASS_COLOURS[3]]
    assert len(set(figures.CLASS_COLOURS)) == lesions.NUM_CLASSES


def test_png_holds_what_the_canvas_shows(tmp_path):
    figure = Figure(figsize=(2, 1), dpi=150, facecolor="#D55E00")
    data = figures.save(figure, tmp_path / "a.png").read_bytes()
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (150, 300, 3)
    assert (pixels == (0xD5, 0x5E, 0x00)).all()


def test_a_reliability_diagram_has_the_diagonal_and_all_of_its_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[np.ndarray] = []
    save = figures.save

    def read_and_save(figure: Figure, path: str | Path) -> Path:
        drawn.extend(np.asarray(line.get_xydata()) for line in figure.axes[0].lines)
        return save(figure, path)

    monkeypatch.setattr(figures, "save", read_and_save)
    series = {"as trained": ([0.5, 0.9], [0.4, 0.7]), "calibrated": ([0.6], [0.6])}
    figures.reliability(series, tmp_path / "r.png", title="A1")
    assert [each.tolist() for each in drawn] == [
        [[0, 0], [1, 1]],
        [[0.5, 0.4], [0.9, 0.7]],
        [[0.6, 0.6]],
    ]
    with pytest.raises(ValueError, match="at least one series"):
        figures.reliability({}, tmp_path / "none.png", title="A1")
