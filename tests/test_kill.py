"""Commands that are killed at any moment go on from what they had done, and end in the same files.

SIGKILL comes twice to a GAN's training in every run of the tests; in the slow ones, which take half
an hour, 25 times to each of the four commands that take long: prepare, the two trainers, and study.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from dermagan_jax.checkpoints import FOLDER, Checkpoints
from dermagan_jax.data import prepare, prepared, scan

ROOT = Path(__file__).parents[1]
DERMAGAN = [sys.executable, "-m", "dermagan_jax"]
# Written by libraries that put clocks or unordered maps into their bytes. What they hold is
# compared all the same: by the split hashes of data_report.json, by a run's samples and metrics.
IGNORED_FOLDERS = {"dermoscopy", "tensorboard", "checkpoints"}
IGNORED_SUFFIXES = {".tmp"}

# What a trainer says of a checkpoint, and what prepare's bar shows before it moves.
GOES_ON = re.compile(r"going on from step (\d+)|\A[^|]*decode and resize[^|]*\|[^|]*\| (\d+)/")
# What is on the console once they are at work.
IS_AT_WORK = re.compile(r"^(gan|classifier|\d+ classifiers)  \d+/|decode and resize", re.MULTILINE)
# The files that end a part of a study.
ENDS_OF_PARTS = ("gans/*/summary.json", "images/*/generation.json", "cells/*/seeds.json")


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and path.suffix not in IGNORED_SUFFIXES
        and not IGNORED_FOLDERS & set(path.relative_to(folder).parts)
    }


def _finished(out: Path) -> dict[Path, tuple[int, int]]:
    """Stamps the parts of a study: one that is made again has other stamps."""
    ends = [path for pattern in ENDS_OF_PARTS for path in out.glob(pattern)]
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in ends}


def _done(out: Path) -> Counter[int]:
    """Counts what a call must go on from: the last step of each run, or the images decoded."""
    if (out / prepared.REPORT).is_file():
        return Counter()
    chunks = (out / prepare.SCAN).glob("*.npz")
    numbers = [sum(len(scan.chunk_pngs(path.parent, int(path.stem))) for path in chunks)]
    parts = {path.parent for path in _finished(out)}
    for run in [path.parent for path in out.rglob(FOLDER)]:
        if not parts & {run, run.parent}:
            with Checkpoints(run, read_only=True) as saved:
                numbers.append(saved.latest_step() or 0)
    return Counter(filter(None, numbers))


def _run(
    command: Sequence[str],
    out: Path,
    end_after_secs: float | None = None,
    how: signal.Signals = signal.SIGKILL,
) -> bool:
    """Runs a command, and ends it after a while; returns whether it came to its end before.

    It must go on from what was done in `out`, and leave alone what is finished.
    """
    done, finished = _done(out), _finished(out)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command, cwd=out.parent, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    was_ended = False
    try:
        _, error = process.communicate(timeout=end_after_secs)
    except subprocess.TimeoutExpired:
        process.send_signal(how)
        _, error = process.communicate()
        was_ended = process.returncode in (-how, 128 + how)
    said = error.decode()
    # A signal in its last step, after which it ends anyway, ends in 0.
    assert was_ended or process.returncode == 0, said[-2000:]
    named = Counter(int(step or image) for step, image in GOES_ON.findall(said))
    del named[0]
    # One that was ended early may not have come to say it.
    was_early = was_ended and not IS_AT_WORK.search(said)
    assert named == done or (was_early and named <= done), said[-2000:]
    assert finished.items() <= _finished(out).items()
    return not was_ended


def _check_kills(
    command: Sequence[str],
    out: str,
    folder: Path,
    *,
    kills: int,
    how: signal.Signals = signal.SIGKILL,
    keeps: bool = True,
) -> None:
    """Runs a command whole in one place, and `kills` times ended in others.

    A run that comes to its end is compared with the whole one, and the next begins. There are more
    kills where those have left nothing to go on from, if the command `keeps` what it has done.
    """
    whole = folder / "whole"
    whole.mkdir(parents=True)
    start = time.monotonic()
    assert _run(command, whole / out)
    duration = time.monotonic() - start
    expected = _contents(whole / out)
    moments = random.Random(0)
    went_on = not keeps
    for number in itertools.count():
        broken = folder / f"broken_{number}"
        broken.mkdir()
        start = time.monotonic()
        is_done = _run(command, broken / out, moments.uniform(0.05, 1.0) * duration, how)
        if is_done:  # Undisturbed: what else this machine does may have ended.
            duration = min(duration, time.monotonic() - start)
        while not is_done:
            kills -= 1
            went_on = went_on or bool(_done(broken / out))
            is_over = kills <= 0 and went_on
            secs = moments.uniform(0.05, 1.0) * duration
            is_done = is_over or _run(command, broken / out, secs, how)
        _run(command, broken / out)
        assert _contents(broken / out) == expected
        print(f"run {number}: {kills} kills to come", flush=True)
        if kills <= 0 and went_on:
            return


@pytest.mark.slow
def test_prepare(tmp_path: Path) -> None:
    command = [*DERMAGAN, "prepare", "--source", "phantom=150", "--out", "set", "--workers", "2"]
    _check_kills([*command, "--test-per-class", "20"], "set", tmp_path, kills=25)


@pytest.mark.slow
def test_generate(tiny_gan: Path, tmp_path: Path) -> None:
    command = [*DERMAGAN, "generate", "--gan", str(tiny_gan), "--per-class", "300", "--out", "made"]
    _check_kills(command, "made", tmp_path, kills=4, keeps=False)


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
