"""Checkpoints come back as they were, are kept as asked, and a damaged one is named."""

from __future__ import annotations

from pathlib import Path

import chex
import jax.numpy as jnp
import pytest

from dermagan_jax.checkpoints import FOLDER, Checkpoints
from dermagan_jax.errors import DermaganError

STATE = {"step": jnp.asarray(3), "params": {"w": jnp.arange(6.0).reshape(2, 3)}}
CONFIG = {"config": {"seed": 0}, "data": {"kind": "phantom"}}


def test_items_come_back(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() is None
        checkpoints.save(3, state=STATE, generator={"w": jnp.ones(2)}, config=CONFIG)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3]
        chex.assert_trees_all_equal(checkpoints.restore_state(STATE, 3), STATE)
        chex.assert_trees_all_equal(checkpoints.restore_generator(3), {"w": jnp.ones(2)})
        assert checkpoints.restore_config(3) == CONFIG


def test_the_latest_and_the_best_are_kept(tmp_path: Path) -> None:
    losses = {1: 0.9, 2: 0.3, 3: 0.5, 4: 0.7}
    with Checkpoints(tmp_path, keep=1, best_metric="loss") as checkpoints:
        for step, loss in losses.items():
            checkpoints.save(step, state=STATE, config=CONFIG, metrics={"loss": loss})
        assert checkpoints.steps() == [2, 4]
        assert (checkpoints.best_step(), checkpoints.latest_step()) == (2, 4)
    with Checkpoints(tmp_path, keep=1, best_metric="loss") as checkpoints:
        assert checkpoints.best_step() == 2


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG)
        checkpoints.save(1, state={**STATE, "step": jnp.asarray(9)}, config=CONFIG)
        assert int(checkpoints.restore_state(STATE, 1)["step"]) == 3


def test_a_half_written_checkpoint_is_passed_over(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG)
    half = tmp_path / FOLDER / "2.orbax-checkpoint-tmp-0"
    (half / "state").mkdir(parents=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.latest_step() == 1


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG)
    for path in (tmp_path / FOLDER / "1" / "state").rglob("*"):
        if path.is_file():
            path.write_bytes(b"rubbish")
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(DermaganError, match=r"1: item 'state' cannot be restored .* delete"),
    ):
        checkpoints.restore_state(STATE, 1)


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DermaganError, match="holds no checkpoints"):
        Checkpoints(tmp_path / "run", read_only=True)
    assert list(tmp_path.iterdir()) == []
