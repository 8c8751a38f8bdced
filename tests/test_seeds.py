"""Ranges of seeds, and their scores by hand."""

from __future__ import annotations

import pytest

from dermagan_jax import console, seeds
from dermagan_jax.errors import DermaganError


def test_a_range_leaves_its_end_out() -> None:
    assert seeds.parse("0:8") == [0, 1, 2, 3, 4, 5, 6, 7]
    assert seeds.parse("12:13") == [12]
    assert seeds.parse("") == []


@pytest.mark.parametrize("text", ["8", "0", "3:3", "5:4", ":", ":4", "0:", "-1:3", "a:b", "0:4:2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(DermaganError, match=f"--seeds={text}: give .* such as 0:8 for seeds 0 to"):
        seeds.parse(text)


def _summary(accuracy: float, loss: float) -> dict:
    scores = {"accuracy": accuracy, "balanced_accuracy": accuracy / 2, "loss": loss, "n": 20}
    common = {"num_steps": 40, "num_train_real": 1500, "num_train_generated": 4, "best_step": 20}
    return {"test": scores, "validation": scores, **common, "data": {"kind": "phantom"}}


def test_scores_by_hand() -> None:
    found = seeds.summarise({3: _summary(0.5, 1.0), 4: _summary(0.7, 2.0), 9: _summary(0.6, 6.0)})
    assert found["seeds"] == [3, 4, 9]
    assert (found["num_steps"], found["num_train_generated"]) == (40, 4)
    for split in seeds.SPLITS:
        loss = found[split]["loss"]
        assert loss == {"mean": 3.0, "sd": 7**0.5, "min": 1.0, "max": 6.0, "values": [1, 2, 6]}
        assert found[split]["accuracy"]["mean"] == pytest.approx(0.6)
        assert found[split]["accuracy"]["sd"] == pytest.approx(0.1)


def test_one_seed_has_no_spread(capsys: pytest.CaptureFixture[str]) -> None:
    found = seeds.summarise({3: _summary(0.5, 1.0)})
    assert found["test"]["loss"]["sd"] is None
    console.show_seeds(found, "runs/x")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Trained 1 seeds on 1,500 real and 4 generated images, 40 steps each."
    assert lines[3:6] == [
        "seed 3                 50.0%     25.0%  1.000",
        "mean                   50.0%     25.0%  1.000",
        "standard deviation         -         -      -",
    ]
    assert lines[-1].startswith("Phantom data")
