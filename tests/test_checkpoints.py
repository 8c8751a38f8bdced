"""Checkpoints come back as they were, are kept as asked, and a damaged one is named."""

from __future__ import annotations

import gc
import json
import sys
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dermagan_jax import parallel
from dermagan_jax.checkpoints import DAMAGED, FOLDER, Checkpoints
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


def test_what_is_saved_is_the_state_of_that_moment(tmp_path: Path) -> None:
    """A step that gives its buffers away cannot change what is still being written."""
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = {"w": jnp.zeros((512, 1024))}
    with Checkpoints(tmp_path, keep=4) as checkpoints:
        for index in range(4):
            checkpoints.save(index, state=state, config=CONFIG)
            state = step(state)
        for index in range(4):
            found = checkpoints.restore_state(state, index)
            chex.assert_trees_all_equal(found, {"w": jnp.full((512, 1024), float(index))})


def test_what_all_devices_have_is_saved_without_a_program_for_each_shape(tmp_path: Path) -> None:
    mesh = parallel.make_mesh(4)
    # Each of a shape that no other test has.
    shapes = [(4 * size, 8) for size in range(301, 311)]
    state = parallel.replicate({str(shape): np.ones(shape) for shape in shapes}, mesh)
    compiled: list[str] = []

    def listen(event: str, _: float, **__: object) -> None:
        if "compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=state, config=CONFIG)
        jax.monitoring.unregister_event_duration_listener(listen)
        found = checkpoints.restore_state(state, 1)
    chex.assert_trees_all_equal(found, state)
    assert all(leaf.sharding == state[name].sharding for name, leaf in found.items())
    assert not compiled


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ValueError("RESOURCE_EXHAUSTED: x [os_error_code='28']"), r"\(No space left on device"),
        (OSError(30, "Read-only file system"), "Read-only file system"),
    ],
)
def test_a_disk_that_does_not_take_it_is_named_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG)
        assert checkpoints.steps() == [1]
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(DermaganError, match=rf"checkpoints: .*{reason}.*free some space"):
            checkpoints.save(2, state=STATE, config=CONFIG)
        monkeypatch.undo()
        assert checkpoints.latest_step() == 1


def test_an_error_that_is_no_disks_stays_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ValueError("a state of another structure")

    with Checkpoints(tmp_path) as checkpoints:
        monkeypatch.setattr(checkpoints._manager, "save", fail)
        with pytest.raises(ValueError, match="another structure"):
            checkpoints.save(1, state=STATE, config=CONFIG)


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
        checkpoints.resume(STATE)
    assert (tmp_path / FOLDER / "1").is_dir()


@pytest.mark.parametrize("harm", ["rubbish", "torn", "gone", "flipped"])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    later = {**STATE, "step": jnp.asarray(4)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(3, state=STATE, config=CONFIG)
        checkpoints.save(4, state=later, config=CONFIG)
    for path in (tmp_path / FOLDER / "4" / "state").rglob("*"):
        if not path.is_file():
            continue
        if harm == "rubbish":
            path.write_bytes(b"rubbish")
        elif harm == "torn":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        elif harm == "flipped":
            path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))
        else:
            path.unlink()
    with Checkpoints(tmp_path) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.resume(STATE), STATE)
        assert checkpoints.steps() == [3]
        checkpoints.save(4, state=later, config=CONFIG)
    assert "4: item 'state' cannot be restored" in caplog.text
    assert (tmp_path / DAMAGED / "4").is_dir()
    with Checkpoints(tmp_path) as checkpoints:
        chex.assert_trees_all_equal(checkpoints.resume(STATE), later)


def test_damage_is_told_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Orbax's readers of the other arrays would each say that they were let go."""
    arrays = {f"w{index}": jax.random.normal(jax.random.key(0), (64, 64)) for index in range(60)}
    unraisable: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)
    with Checkpoints(tmp_path, keep=9) as checkpoints:
        for step in range(9):
            checkpoints.save(step, state=arrays, config=CONFIG)
    for step in range(9):
        for path in (tmp_path / FOLDER / str(step) / "state").rglob("d/*"):
            path.write_bytes(path.read_bytes()[: path.stat().st_size * step // 9])
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        for step in range(9):
            with pytest.raises(DermaganError, match="cannot be restored"):
                checkpoints.restore_state(arrays, step)
    gc.collect()
    assert not unraisable
    assert "Traceback" not in capfd.readouterr().err


def test_a_checkpoint_with_damaged_metrics_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with Checkpoints(tmp_path, best_metric="kid") as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state=STATE, config=CONFIG, metrics={"kid": 1 / step})
    (tmp_path / FOLDER / "2" / "metrics" / "metrics").write_text('{"ki')
    with pytest.raises(DermaganError, match=r"2: item 'metrics' cannot be restored"):
        Checkpoints(tmp_path, best_metric="kid", read_only=True)
    with Checkpoints(tmp_path, best_metric="kid") as checkpoints:
        assert (checkpoints.best_step(), checkpoints.steps()) == (1, [1])
    assert "item 'metrics' cannot be restored" in caplog.text
    assert (tmp_path / DAMAGED / "2").is_dir()


def test_a_note_of_fewer_fields_is_no_damage(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG)
    path = tmp_path / FOLDER / "1" / "_CHECKPOINT_METADATA"
    note = json.loads(path.read_text())
    del note["performance_metrics"]
    path.write_text(json.dumps(note))
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]
        chex.assert_trees_all_equal(checkpoints.restore_state(STATE, 1), STATE)


@pytest.mark.parametrize("note", ["1.5", "[]", '{"metrics": 3}', '{"item_handlers": {"state": 1}}'])
def test_a_checkpoint_with_a_damaged_note_is_passed_over(tmp_path: Path, note: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state=STATE, config=CONFIG)
    (tmp_path / FOLDER / "2" / "_CHECKPOINT_METADATA").write_text(note)
    with pytest.raises(DermaganError, match="2: item '_CHECKPOINT_METADATA' cannot be restored"):
        Checkpoints(tmp_path, read_only=True)
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.steps() == [1]


@pytest.mark.parametrize("digests", ["1.5", "null", "[]"])
def test_damaged_digests_are_damage(tmp_path: Path, digests: str) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG)
    (tmp_path / FOLDER / "1" / "digests" / "metadata").write_text(digests)
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(DermaganError, match="its digests are no JSON object"),
    ):
        checkpoints.restore_state(STATE, 1)


@pytest.mark.parametrize("document", [{"config": {"seed": 1}, "data": {"kind": "phantom"}}, [1]])
def test_a_configuration_that_changed_is_damage(tmp_path: Path, document: object) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG)
    (tmp_path / FOLDER / "1" / "config" / "metadata").write_text(json.dumps(document))
    with (
        Checkpoints(tmp_path, read_only=True) as checkpoints,
        pytest.raises(DermaganError, match=r"item 'config' .*\(its content is not what was saved"),
    ):
        checkpoints.restore_config(1)


def test_checkpoints_from_before_configurations_had_digests_are_read(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state=STATE, config=CONFIG | {"range": (0.5, 1)})
    path = tmp_path / FOLDER / "1" / "digests" / "metadata"
    digests = json.loads(path.read_text())
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.restore_config(1) == CONFIG | {"range": [0.5, 1]}
        del digests["config"]
        path.write_text(json.dumps(digests))
        assert checkpoints.restore_config(1)["range"] == [0.5, 1]


def test_a_checkpoint_without_a_measure_is_the_latest_and_never_the_best(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, keep=1, best_metric="loss") as checkpoints:
        checkpoints.save(2, state=STATE, config=CONFIG, metrics={"loss": 0.3})
        checkpoints.save(3, state=STATE, config=CONFIG)
    with Checkpoints(tmp_path, keep=1, best_metric="loss") as checkpoints:
        assert (checkpoints.latest_step(), checkpoints.best_step()) == (3, 2)
        checkpoints.save(4, state=STATE, config=CONFIG, metrics={"loss": 0.5})
        assert checkpoints.steps() == [2, 4]


def test_reading_makes_no_folder(tmp_path: Path) -> None:
    with pytest.raises(DermaganError, match="holds no checkpoints"):
        Checkpoints(tmp_path / "run", read_only=True)
    assert list(tmp_path.iterdir()) == []
