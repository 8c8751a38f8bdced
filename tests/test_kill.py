"""Commands that are killed at any moment and run again end in the same files.

SIGKILL comes twice to a GAN's training in every run of the tests; in the slow ones, which take half
an hour, 25 times to each of the four commands that take long: prepare, the two trainers, and study.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DERMAGAN = [sys.executable, "-m", "dermagan_jax"]
# Written by libraries that put clocks or unordered maps into their bytes. What they hold is
# compared all the same: by the split hashes of data_report.json, by a run's samples and metrics.
IGNORED_FOLDERS = {"dermoscopy", "tensorboard", "checkpoints"}
IGNORED_SUFFIXES = {".tmp"}


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix not in IGNORED_SUFFIXES
        and not IGNORED_FOLDERS & set(path.relative_to(folder).parts)
    }


def _run(
    command: Sequence[str],
    cwd: Path,
    end_after_secs: float | None = None,
    how: signal.Signals = signal.SIGKILL,
) -> bool:
    """Runs a command, and ends it after a while; returns whether it came to its end before."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    try:
        _, error = process.communicate(timeout=end_after_secs)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
        _, error = process.communicate()
        if process.returncode in (-how, 128 + how):
            return False
    # A signal in its last step, after which it ends anyway, ends in 0.
    assert process.returncode == 0, error.decode()[-2000:]
    return True


def _check_kills(
    command: Sequence[str],
    out: str,
    folder: Path,
    *,
    kills: int,
    how: signal.Signals = signal.SIGKILL,
) -> None:
    """Runs a command whole in one place, and `kills` times ended in others.

    A run that comes to its end is compared with the whole one, and the next begins.
    """
    whole = folder / "whole"
    whole.mkdir(parents=True)
    start = time.monotonic()
    assert _run(command, whole)
    duration = time.monotonic() - start
    expected = _contents(whole / out)
    moments = random.Random(0)
    for number in itertools.count():
        broken = folder / f"broken_{number}"
        broken.mkdir()
        start = time.monotonic()
        is_done = _run(command, broken, moments.uniform(0.05, 1.0) * duration, how)
        if is_done:  # Undisturbed: what else this machine does may have ended.
            duration = min(duration, time.monotonic() - start)
        while not is_done:
            kills -= 1
            is_done = not kills or _run(command, broken, moments.uniform(0.05, 1.0) * duration, how)
        _run(command, broken)
        assert _contents(broken / out) == expected
        print(f"run {number}: {kills} kills to come", flush=True)
        if not kills:
            return


@pytest.mark.slow
def test_prepare(tmp_path: Path) -> None:
    command = [*DERMAGAN, "prepare", "--source", "phantom=150", "--out", "set", "--workers", "2"]
    _check_kills([*command, "--test-per-class", "20"], "set", tmp_path, kills=25)


@pytest.mark.slow
def test_generate(tiny_gan: Path, tmp_path: Path) -> None:
    command = [*DERMAGAN, "generate", "--gan", str(tiny_gan), "--per-class", "300", "--out", "made"]
    _check_kills(command, "made", tmp_path, kills=4)


@pytest.mark.parametrize(
    ("script", "how", "kills"),
    [
        ("train_gan", signal.SIGKILL, 2),
        *(
            pytest.param(script, how, kills, marks=pytest.mark.slow)
            for script in ("train_gan", "train_classifier")
            for how, kills in ((signal.SIGKILL, 25), (signal.SIGTERM, 4))
        ),
    ],
)
def test_training(
    script: str, how: signal.Signals, kills: int, phantom_set: Path, tmp_path: Path
) -> None:
    recipe = "dcgan" if script == "train_gan" else "lesion_cnn"
    command = [sys.executable, str(ROOT / f"{script}.py"), "--workdir=run"]
    command += [f"--config={ROOT}/configs/{recipe}.py:smoke", f"--config.data_dir={phantom_set}"]
    command += ["--config.batch_size=4", "--config.num_steps=60"]
    every = "checkpoint_every_steps" if script == "train_gan" else "eval_every_steps"
    command += [f"--config.{every}=10"]
    _check_kills(command, "run", tmp_path, kills=kills, how=how)


@pytest.mark.slow
def test_study(phantom_set: Path, tmp_path: Path) -> None:
    command = [*DERMAGAN, "study", f"--config={ROOT}/configs/study.py:smoke", "--out=study"]
    command += [f"--data={phantom_set}", "--config.gan.num_steps=8", "--config.gan_seeds=(0,)"]
    command += ["--config.arms=('A1', 'A4', 'A5', 'A8')", "--config.gan.batch_size=8"]
    command += ["--config.classifier.num_steps=20", "--config.classifier.batch_size=4"]
    command += ["--config.classifier.eval_every_steps=5", "--config.gan.checkpoint_every_steps=2"]
    _check_kills(command, "study", tmp_path, kills=25)
