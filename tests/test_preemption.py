"""A signal ends a run with its state saved, and the next call ends as if it had not come."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import chex
import pytest
from ml_collections import ConfigDict

from configs import dcgan, lesion_cnn
from dermagan_jax import (
    classifier_trainer,
    console,
    files,
    gan_trainer,
    preemption,
    stepping,
    workdir,
)
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.writers import METRICS_FILE

Train = Callable[[ConfigDict, Path], object]


def _gan_config(data: Path) -> ConfigDict:
    config = dcgan.get_config("smoke")
    config.data_dir = str(data)
    config.model.width, config.model.latent_size, config.batch_size = 4, 8, 4
    config.num_steps, config.log_every_steps, config.checkpoint_every_steps = 6, 2, 4
    return config


def _classifier_config(data: Path) -> ConfigDict:
    config = lesion_cnn.get_config("smoke")
    config.data_dir = str(data)
    config.batch_size = 4
    config.num_steps, config.log_every_steps, config.eval_every_steps = 10, 2, 8
    return config


def _signal_before(monkeypatch: pytest.MonkeyPatch, step: int, asked: signal.Signals) -> None:
    """Sends this process a signal once, when so many steps are done."""
    calls, sent = stepping._calls, []

    def calls_with_signal(*arguments: object) -> Iterator[tuple]:
        for each in calls(*arguments):
            if each[0] + each[2] == step and not sent:
                sent.append(step)
                signal.raise_signal(asked)
            yield each

    monkeypatch.setattr(stepping, "_calls", calls_with_signal)


@pytest.mark.parametrize(
    ("train", "make_config", "ends_at", "item"),
    [
        (gan_trainer.train, _gan_config, 3, "generator"),
        # Its rows are means over two steps.
        (classifier_trainer.train, _classifier_config, 4, "state"),
    ],
)
def test_a_run_goes_on_where_a_signal_ended_it(
    phantom_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    train: Train,
    make_config: Callable[[Path], ConfigDict],
    ends_at: int,
    item: str,
) -> None:
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    config = make_config(phantom_set)
    train(config, whole)
    _signal_before(monkeypatch, 2, signal.SIGTERM)
    with pytest.raises(preemption.Preempted) as told:
        train(config, ended)
    assert (told.value.step, told.value.signal) == (ends_at, signal.SIGTERM)
    with Checkpoints(ended, read_only=True) as saved:
        assert saved.latest_step() == ends_at
    with caplog.at_level(logging.INFO, logger="dermagan"):
        train(config, ended)
    assert f"going on from step {ends_at}" in caplog.text
    for name in (METRICS_FILE, workdir.SUMMARY):
        assert (ended / name).read_bytes() == (whole / name).read_bytes()
    found = []
    for folder in (whole, ended):
        with Checkpoints(folder, read_only=True) as saved:
            found.append((saved.steps(), saved.restore_arrays(config.num_steps, item)))
    assert found[0][0] == found[1][0]
    chex.assert_trees_all_equal(found[0][1], found[1][1])


@pytest.mark.parametrize("asked", [signal.SIGTERM, signal.SIGINT])
def test_the_exit_code_is_what_schedulers_know(
    asked: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise preemption.Preempted(7, asked)

    level = logging.getLogger("dermagan").level
    with pytest.raises(SystemExit) as ended:
        console.reports_errors(command)()
    logging.getLogger("dermagan").setLevel(level)
    assert ended.value.code == 128 + asked
    said = capsys.readouterr().err
    assert said.startswith(f"ended by {asked.name} after step 7, which is saved; run the same")


def test_a_signal_in_the_last_step_ends_what_would_follow() -> None:
    with preemption.Preemption() as listening:
        assert listening.asked(7) is None
        signal.raise_signal(signal.SIGTERM)
    with pytest.raises(preemption.Preempted) as told:
        preemption.heed()
    assert (told.value.step, told.value.signal) == (7, signal.SIGTERM)
    preemption.heed()  # Once is enough.


def test_a_signal_that_came_with_trouble_ends_what_would_follow() -> None:
    def run() -> None:
        with preemption.Preemption() as listening:
            assert listening.asked(7) is None
            signal.raise_signal(signal.SIGTERM)
            raise TrainingError("no longer finite")

    with pytest.raises(TrainingError):
        run()
    with pytest.raises(preemption.Preempted) as told:
        preemption.heed(4)  # The step gone back to is the one that is saved.
    assert (told.value.step, told.value.signal) == (4, signal.SIGTERM)


def test_a_signal_that_ended_a_run_is_heeded() -> None:
    def run() -> None:
        with preemption.Preemption() as listening:
            signal.raise_signal(signal.SIGTERM)
            raise preemption.Preempted(1, listening.asked(1))

    with pytest.raises(preemption.Preempted):
        run()
    preemption.heed()


def test_a_second_signal_is_not_held_back() -> None:
    # A shell starts what runs in its background deaf to SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with preemption.Preemption() as listening:
            signal.raise_signal(signal.SIGINT)
            assert listening.asked(1) == signal.SIGINT
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        with pytest.raises(preemption.Preempted):
            preemption.heed()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_does_not_listen() -> None:
    found = []

    def listen() -> None:
        with preemption.Preemption() as listening:
            found.append(listening.asked(1))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert found == [None]


@pytest.mark.parametrize(
    ("train", "make_config"),
    [(gan_trainer.train, _gan_config), (classifier_trainer.train, _classifier_config)],
)
def test_a_second_run_on_a_workdir_is_refused(
    phantom_set: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train: Train,
    make_config: Callable[[Path], ConfigDict],
) -> None:
    folder, config = tmp_path / "run", make_config(phantom_set)
    locked = files.locked

    def meanwhile(path: Path) -> contextlib.AbstractContextManager[bool]:
        """Lets another run begin before this one."""
        stack.enter_context(locked(path))
        return locked(path)

    monkeypatch.setattr(files, "locked", meanwhile)
    with contextlib.ExitStack() as stack, pytest.raises(DermaganError, match="another process is"):
        train(config, folder)
    assert [path.name for path in folder.iterdir()] == [files.LOCK]
