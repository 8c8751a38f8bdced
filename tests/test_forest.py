"""The forest plot has room for its rows."""

from __future__ import annotations

from pathlib import Path

import pytest

from dermagan_jax.study import forest

VERDICTS = ("no evidence", "harms", None, "helps", "no difference")


@pytest.mark.parametrize("count", [1, 2, 5])
@pytest.mark.parametrize("phantom", [False, True])
def test_few_rows_fit_between_title_and_note(tmp_path: Path, count: int, *, phantom: bool) -> None:
    """Where they do not, the library that lays them out warns, which is an error here."""
    rows = [forest.Row("A4 x1", -3.0, -15.0, 9.0, [-3.0], each) for each in VERDICTS[:count]]
    path = forest.draw(rows, tmp_path / "forest.png", margin=2.0, phantom=phantom)
    assert path.stat().st_size > 1000
