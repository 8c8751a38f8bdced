"""Several devices or processes that train one model do what one does."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import chex
import jax
import numpy as np
import pytest

from dermagan_jax import hosts, workdir
from dermagan_jax.checkpoints import DAMAGED, FOLDER, Checkpoints
from dermagan_jax.errors import DermaganError, TrainingError
from dermagan_jax.writers import METRICS_FILE, read_metrics

PROGRAM = Path(__file__).parent / "host_program.py"
SMALL_GAN = {"num_steps": 4, "total_kimg": 0.0, "checkpoint_every_steps": 2}
# As many images as the most devices need.
SHARED_GAN = SMALL_GAN | {"batch_size": 8}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
      code: its exit code.
      said: what it wrote on standard error.
      traces: how often each jitted function was traced; empty if it did not come to its end.
    """

    code: int
    said: str
    traces: dict[str, int]


def _train(folder: Path, *, processes: int, devices: int = 4, **told: Any) -> list[Ended]:
    """Trains on so many CPU devices, in one process or several."""
    environment = {name: text for name, text in os.environ.items() if name != "XLA_FLAGS"} | {
        "XLA_FLAGS": "--xla_backend_optimization_level=0",
        "PYTHONPATH": str(PROGRAM.parents[1]),
    }
    told |= {"workdir": str(folder), "processes": processes, "devices": devices // processes}
    told |= {"port": _free_port()}
    commands = [
        [sys.executable, str(PROGRAM), json.dumps(told | {"process": process})]
        for process in range(processes)
    ]
    if told.get("mpi"):
        # One command starts all; as root and on a machine with too few cores only if told to.
        launcher = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-np", str(processes)]
        commands = [[*launcher, *commands[0]]]
    running = [
        subprocess.Popen(
            command,
            env=environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for command in commands
    ]
    said = [process.communicate(timeout=600) for process in running]
    return [
        Ended(process.returncode, errors, _traces(printed))
        for process, (printed, errors) in zip(running, said, strict=True)
    ]


def _traces(printed: str) -> dict[str, int]:
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    return json.loads(lines[-1]) if lines else {}


def _assert_all_well(ended: list[Ended]) -> None:
    assert [each.code for each in ended] == [0] * len(ended), "\n".join(each.said for each in ended)


def _state(folder: Path, step: int) -> Any:
    with Checkpoints(folder, read_only=True) as saved:
        return saved.restore_arrays(step, "state")


def _assert_same_run(ours: Path, theirs: Path, step: int) -> None:
    chex.assert_trees_all_close(_state(ours, step), _state(theirs, step), rtol=1e-6, atol=1e-6)
    mine, other = (read_metrics(folder / METRICS_FILE) for folder in (ours, theirs))
    assert [row.keys() for row in mine] == [row.keys() for row in other]
    for one, two in zip(mine, other, strict=True):
        np.testing.assert_allclose(list(one.values()), list(two.values()), rtol=2e-4, atol=1e-5)
    assert (ours / workdir.SUMMARY).exists()


CLASSIFIER = {"num_steps": 4, "eval_every_steps": 2, "class_balanced": True}


@pytest.mark.parametrize(
    ("kind", "config", "how"),
    [
        ("classifier", CLASSIFIER, {}),
        pytest.param(
            *("classifier", CLASSIFIER, {"mpi": True}),
            marks=pytest.mark.skipif(not shutil.which("mpirun"), reason="needs Open MPI"),
        ),
        # A GAN's two processes are in the next test, too.
        pytest.param("dcgan", SMALL_GAN, {}, marks=pytest.mark.slow),
        pytest.param("resgan", SMALL_GAN, {}, marks=pytest.mark.slow),
    ],
)
def test_two_processes_of_two_devices_equal_one_of_four(
    phantom_set: Path, tmp_path: Path, kind: str, config: dict[str, Any], how: dict[str, Any]
) -> None:
    config = config | {"data_dir": str(phantom_set)}
    one, two = tmp_path / "one", tmp_path / "two"
    _assert_all_well(_train(one, processes=1, kind=kind, config=config))
    ended = _train(two, processes=2, kind=kind, config=config, **how)
    _assert_all_well(ended)
    _assert_same_run(two, one, 4)
    # Only the first process shows how far they are.
    assert sum(each.said.count("100%") for each in ended) == 1


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        ("classifier", CLASSIFIER),
        ("dcgan", SHARED_GAN),
        pytest.param("resgan", SMALL_GAN, marks=pytest.mark.slow),
    ],
)
def test_eight_devices_equal_one_and_the_step_is_traced_once(
    phantom_set: Path, tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    config = config | {"data_dir": str(phantom_set)}
    for devices in (1, 8):
        folder = tmp_path / str(devices)
        ended = _train(folder, processes=1, devices=devices, kind=kind, config=config)
        _assert_all_well(ended)
        assert ended[0].traces["steps"] == 1
    _assert_same_run(tmp_path / "8", tmp_path / "1", 4)


def test_a_signal_to_one_host_ends_all_and_a_run_goes_on_elsewhere(
    phantom_set: Path, tmp_path: Path
) -> None:
    """The classes lie on two hosts before the signal, and on one after it."""
    config = SHARED_GAN | {"data_dir": str(phantom_set)}
    whole, ended = tmp_path / "whole", tmp_path / "ended"
    _assert_all_well(_train(whole, processes=1, kind="dcgan", config=config))
    shared = config | {"mesh": "class:2,data:2"}
    codes = _train(ended, processes=2, kind="dcgan", config=shared, struck=1, by="signal", step=1)
    assert [each.code for each in codes] == [143, 143], codes
    assert "ended by SIGTERM after step" in codes[0].said
    with Checkpoints(ended, read_only=True) as saved:
        assert saved.latest_step() < 4
    _assert_all_well(_train(ended, processes=1, kind="dcgan", config=config))
    _assert_same_run(ended, whole, 4)


@pytest.mark.slow
def test_hosts_go_on_together_from_the_checkpoint_before_a_damaged_one(
    phantom_set: Path, tmp_path: Path
) -> None:
    config = SHARED_GAN | {"data_dir": str(phantom_set)}
    whole, harmed = tmp_path / "whole", tmp_path / "harmed"
    _assert_all_well(_train(whole, processes=2, kind="dcgan", config=config))
    shutil.copytree(whole, harmed)
    for path in (harmed / FOLDER / "4" / "state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    ended = _train(harmed, processes=2, kind="dcgan", config=config)
    _assert_all_well(ended)
    assert all("going on from step 2" in each.said for each in ended)
    assert (harmed / DAMAGED / "4").is_dir()
    _assert_same_run(harmed, whole, 4)


def test_what_the_first_process_meets_all_meet(tmp_path: Path, phantom_set: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "letter.txt").write_text("not ours")
    config = SMALL_GAN | {"data_dir": str(phantom_set)}
    ended = _train(tmp_path / "run", processes=2, kind="dcgan", config=config)
    assert [each.code for each in ended] == [2, 2]
    for _, said, _ in ended:
        assert "run: exists and is no run of this program; name another folder" in said


@pytest.mark.parametrize(
    ("kind", "config"),
    [("classifier", CLASSIFIER), pytest.param("dcgan", SMALL_GAN, marks=pytest.mark.slow)],
)
def test_a_disk_that_only_the_first_process_finds_full_ends_all(
    phantom_set: Path, tmp_path: Path, kind: str, config: dict[str, Any]
) -> None:
    config = config | {"data_dir": str(phantom_set)}
    struck = {"struck": 0, "by": "full disk", "step": 2}
    ended = _train(tmp_path / "run", processes=2, kind=kind, config=config, **struck)
    assert [each.code for each in ended] == [2, 2], "\n".join(each.said for each in ended)
    for _, said, _ in ended:
        assert "tensorboard: cannot be written (No space left on device); choose a" in said


@pytest.mark.slow
def test_a_process_that_meets_an_error_alone_does_not_wait_for_the_others(
    phantom_set: Path, tmp_path: Path
) -> None:
    config = SMALL_GAN | {"data_dir": str(phantom_set)}
    struck = {"struck": 1, "by": "lost data", "step": 2}
    first, second = _train(tmp_path / "run", processes=2, kind="dcgan", config=config, **struck)
    assert second.code == 2, second.said
    assert "images: cannot be read here; mend the disk" in second.said
    # The first has lost the second.
    assert first.code == 1, first.said


def _raise(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "heard"),
    [
        (TrainingError("no longer finite"), "no longer finite"),
        (OSError("quota"), r"process 0 ended by OSError \(quota\); see what it says"),
    ],
)
def test_any_error_of_the_first_process_reaches_the_others(
    monkeypatch: pytest.MonkeyPatch, error: Exception, heard: str
) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "_broadcast", lambda text: sent.append(text) or sent[0])
    with pytest.raises(type(error)):
        hosts.on_primary(lambda: _raise(error))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with pytest.raises(DermaganError, match=heard):
        hosts.on_primary(lambda: _raise(error))


def test_alone_the_work_is_simply_done() -> None:
    assert hosts.is_primary()
    assert hosts.on_primary(lambda: {"kid": float("nan")}).keys() == {"kid"}


def test_half_told_who_is_who_is_refused() -> None:
    with pytest.raises(DermaganError, match="go together; give all three, or none"):
        hosts.meet("localhost:1", 2)
    with pytest.raises(DermaganError, match="--coordinator is 'localhost'; give HOST:PORT"):
        hosts.meet("localhost", 2, 0)
