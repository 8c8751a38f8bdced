"""Several seeds at once: each ends as it would have alone, whatever happened on the way."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import lesion_cnn
from dermagan_jax import checkpoints, classifier_runs, classifier_trainer, parallel, workdir
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.writers import METRICS_FILE, read_metrics

ROOT = Path(__file__).parents[1]
NUM_DEVICES = 2
SEEDS = (5, 6, 7)  # More than devices, and no multiple of them.
NUM_STEPS = 5


def _config(phantom_set: Path, num_steps: int = NUM_STEPS) -> ConfigDict:
    config = lesion_cnn.get_config("smoke")
    config.data_dir = str(phantom_set)
    config.batch_size = 4
    config.num_steps, config.log_every_steps, config.eval_every_steps = num_steps, 1, 2
    return config


def _artefacts(folder: Path) -> dict[str, bytes]:
    """The bytes of all files of a workdir but those into which libraries put clocks."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {"checkpoints", "tensorboard"} & set(path.parts)
    }


def _saved(folder: Path) -> dict[int, object]:
    """The states of all checkpoints, as NumPy arrays."""
    program = classifier_runs.Program(lesion_cnn.get_config("smoke"))
    like = program.create_state(jax.random.key(0), parallel.make_mesh(4))
    with checkpoints.Checkpoints(folder, read_only=True) as saved:
        return {step: jax.device_get(saved.restore_state(like, step)) for step in saved.steps()}


def _check_equal(folder: Path, expected: Path) -> None:
    assert _artefacts(folder) == _artefacts(expected)
    assert {METRICS_FILE, workdir.SUMMARY, workdir.CONFIG} < _artefacts(folder).keys()
    ours, theirs = _saved(folder), _saved(expected)
    assert ours.keys() == theirs.keys()
    chex.assert_trees_all_equal(ours, theirs)


def _devices(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    found = jax.devices()[:count]
    monkeypatch.setattr(parallel.jax, "devices", lambda: found)


@pytest.fixture(scope="module")
def alone(phantom_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each seed trained by itself on one device, each in a folder `seed_NNN`."""
    folder = tmp_path_factory.mktemp("alone")
    with pytest.MonkeyPatch.context() as monkeypatch:
        _devices(monkeypatch, 1)
        for seed in SEEDS:
            config = _config(phantom_set)
            config.seed = seed
            classifier_trainer.train(config, workdir.seed_folder(folder, seed))
    return folder


@pytest.fixture(autouse=True)
def two_devices(monkeypatch: pytest.MonkeyPatch, alone: Path) -> None:
    _devices(monkeypatch, NUM_DEVICES)


def _check_all(folder: Path, alone: Path) -> None:
    for seed in SEEDS:
        _check_equal(workdir.seed_folder(folder, seed), workdir.seed_folder(alone, seed))


def test_each_seed_ends_as_alone(phantom_set: Path, alone: Path, tmp_path: Path) -> None:
    found = classifier_trainer.train_seeds(_config(phantom_set), SEEDS, tmp_path / "all")
    _check_all(tmp_path / "all", alone)
    assert found == json.loads((tmp_path / "all" / workdir.SEEDS).read_text())
    summaries = [
        json.loads((workdir.seed_folder(alone, seed) / workdir.SUMMARY).read_text())
        for seed in SEEDS
    ]
    assert len({json.dumps(each["validation"]) for each in summaries}) == len(SEEDS)
    assert found["seeds"] == list(SEEDS)
    for name in ("accuracy", "loss"):
        assert found["test"][name]["values"] == [each["test"][name] for each in summaries]


def test_seeds_share_a_device_by_vmap_to_rounding(
    phantom_set: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on accelerators: three seeds are two on one device and one on another."""
    lanes: list[list[int]] = []
    group = classifier_runs._lanes

    def as_on_accelerators(runs: list) -> list:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(classifier_runs.jax, "default_backend", lambda: "gpu")
            found = group(runs)
        lanes.extend([run.seed for run in lane] for lane in found)
        return found

    monkeypatch.setattr(classifier_runs, "_lanes", as_on_accelerators)
    mapped = parallel.lax.platform_dependent
    monkeypatch.setattr(
        parallel.lax,
        "platform_dependent",
        lambda *args, cpu, default: mapped(
            *args, cpu=default if cpu.__name__ == "in_turn" else cpu, default=default
        ),
    )
    classifier_trainer.train_seeds(_config(phantom_set), SEEDS, tmp_path / "all")
    assert lanes == [[5, 7], [6]]
    for seed in SEEDS:
        folders = [workdir.seed_folder(root, seed) for root in (tmp_path / "all", alone)]
        ours, theirs = (read_metrics(folder / METRICS_FILE) for folder in folders)
        assert [row.keys() for row in ours] == [row.keys() for row in theirs]
        np.testing.assert_allclose(
            [row[name] for row in ours for name in row],
            [row[name] for row in theirs for name in row],
            rtol=1e-4,
        )


def test_seeds_at_different_steps_catch_up(phantom_set: Path, alone: Path, tmp_path: Path) -> None:
    """One is done, one is at its first checkpoint, and one has not begun."""
    folder = tmp_path / "all"
    done, begun, _ = SEEDS
    shutil.copytree(workdir.seed_folder(alone, done), workdir.seed_folder(folder, done))
    config = _config(phantom_set, num_steps=2)
    classifier_trainer.train_seeds(config, [begun], folder)
    driven: list[tuple[list[int], int, int]] = []
    drive = classifier_runs._drive
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(
            classifier_runs,
            "_drive",
            lambda program, runs, *args: (
                driven.append(([run.seed for run in runs], runs[0].step, args[-1])),
                drive(program, runs, *args),
            ),
        )
        classifier_trainer.train_seeds(_config(phantom_set), SEEDS, folder)
    assert driven == [([7], 0, 2), ([6, 7], 2, NUM_STEPS)]
    rows = read_metrics(workdir.seed_folder(folder, begun) / METRICS_FILE)
    assert [row["step"] for row in rows] == [1, 2, 2, 3, 4, 4, 5, 5]


@pytest.mark.parametrize("at", [2, 6, 7])
def test_a_kill_between_two_checkpoints_changes_nothing(
    phantom_set: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The first kill comes at the `at`-th checkpoint written: seeds are then at different steps."""
    saves = 0
    save = checkpoints.Checkpoints.save

    def killed(self: checkpoints.Checkpoints, step: int, **items: object) -> None:
        nonlocal saves
        saves += 1
        if saves == at:
            raise KeyboardInterrupt
        save(self, step, **items)

    monkeypatch.setattr(checkpoints.Checkpoints, "save", killed)
    folder = tmp_path / "all"
    with pytest.raises(KeyboardInterrupt):
        classifier_trainer.train_seeds(_config(phantom_set), SEEDS, folder)
    classifier_trainer.train_seeds(_config(phantom_set), SEEDS, folder)
    _check_all(folder, alone)


def test_a_seed_that_diverges_stops_alone(
    phantom_set: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = classifier_runs.Run.log

    def broken(run: classifier_runs.Run, step: int, metrics: dict, **flags: bool) -> None:
        diverged = run.seed == 6 and step == 3
        log(run, step, {**metrics, "loss": np.nan} if diverged else metrics, **flags)

    monkeypatch.setattr(classifier_runs.Run, "log", broken)
    folder = tmp_path / "all"
    for _ in range(2):  # The second call goes on with that seed alone, and ends the same.
        with pytest.raises(TrainingError, match=r"^seed 6: .* by step 3; .* is step 2; lower"):
            classifier_trainer.train_seeds(_config(phantom_set), SEEDS, folder)
        for seed in (5, 7):
            _check_equal(workdir.seed_folder(folder, seed), workdir.seed_folder(alone, seed))
        rows = read_metrics(workdir.seed_folder(folder, 6) / METRICS_FILE)
        assert [row["step"] for row in rows] == [1, 2, 2, 3]
        assert not (workdir.seed_folder(folder, 6) / workdir.SUMMARY).exists()
        assert not (folder / workdir.SEEDS).exists()


def test_a_score_that_is_not_finite_makes_no_checkpoint(
    phantom_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        classifier_runs.Program,
        "evaluate",
        lambda *_: [{"loss": math.nan, "accuracy": 0.25}],
    )
    with pytest.raises(TrainingError, match=r"validation/loss is .*; there is no checkpoint yet"):
        classifier_trainer.train(_config(phantom_set), tmp_path / "run")


def test_the_progress_line_is_of_all_seeds(
    phantom_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier_trainer.train_seeds(_config(phantom_set, num_steps=2), SEEDS, tmp_path / "all")
    assert "3 classifiers  2/2  100%" in capsys.readouterr().err


def test_a_folder_of_something_else_is_refused(phantom_set: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    classifier_trainer.train(_config(phantom_set, num_steps=1), run)
    before = _artefacts(run)
    with pytest.raises(DermaganError, match=r"run: holds checkpoints, which is no run of several"):
        classifier_trainer.train_seeds(_config(phantom_set), SEEDS, run)
    assert _artefacts(run) == before
    with pytest.raises(DermaganError, match="is no folder"):
        classifier_trainer.train_seeds(_config(phantom_set), SEEDS, run / workdir.CONFIG)


@pytest.mark.slow
def test_the_script_with_seeds_leaves_what_separate_runs_leave(
    phantom_set: Path, tmp_path: Path
) -> None:
    """Without flags for XLA: separate runs have one CPU device, and the seeds have one a core."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, str(ROOT / "train_classifier.py")]
    command += [f"--config={ROOT}/configs/lesion_cnn.py:smoke", f"--config.data_dir={phantom_set}"]
    command += ["--config.num_steps=30"]

    def run(*flags: str) -> str:
        done = subprocess.run(
            [*command, *flags], cwd=ROOT, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout

    shown = run("--seeds=0:3", f"--workdir={tmp_path}/all")
    assert [line.split()[0] for line in shown.splitlines()].count("seed") == 3
    for seed in range(3):
        folder = workdir.seed_folder(tmp_path, seed)
        run(f"--config.seed={seed}", f"--workdir={folder}")
        _check_equal(workdir.seed_folder(tmp_path / "all", seed), folder)
