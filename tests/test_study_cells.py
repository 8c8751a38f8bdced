"""The parts of a study: what they are called, and who has one."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from configs import study as study_config
from dermagan_jax.errors import DermaganError
from dermagan_jax.study import arms, cells, checks
from dermagan_jax.study.runner import Cell, Runner, _start

_HOLDER = """
import sys, time
from pathlib import Path
from dermagan_jax.study import cells
with cells.claimed(Path(sys.argv[1]), "part") as ours:
    print(ours, flush=True)
    time.sleep(60)
"""


def test_a_part_is_one_processs_until_it_dies(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "True\n"
        with cells.claimed(tmp_path, "part") as ours:
            assert not ours
        with cells.claimed(tmp_path, "another part") as ours:
            assert ours
        other.kill()
    with cells.claimed(tmp_path, "part") as ours:
        assert ours


def test_who_comes_second_waits_and_then_writes_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cells, "WAIT_SECONDS", 0.01)
    entered = threading.Event()

    def second() -> None:
        with cells.awaited(tmp_path, "results"):
            entered.set()

    thread = threading.Thread(target=second)
    with cells.claimed(tmp_path, "results") as ours:
        assert ours
        thread.start()
        assert not entered.wait(0.1)
    thread.join(timeout=10)
    assert entered.is_set()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("filters", (0.5,), r"config\.filters is \(0\.5,\); give names"),
        ("networks", (1,), r"config\.networks is \(1,\); give names"),
        ("ratios", (float("inf"),), r"config\.ratios is \(inf,\); give numbers"),
        ("classifier_seeds", (True,), r"config\.classifier_seeds is \(True,\); give numbers from"),
        ("gan_seeds", (10**19,), r"config\.gan_seeds is \(10000000000000000000,\); give numbers"),
        ("gan.precision", "float64", r"the GANs: config\.gan\.precision is 'float64'"),
        ("gan.batch_size", 18, r"the GANs: config\.gan\.batch_size is 18; give a multiple of"),
        ("classifier.precision", "float64", r"config\.classifier\.precision is 'float64'"),
    ],
)
def test_what_no_study_could_use_is_named(field: str, value: object, said: str) -> None:
    config = study_config.get_config()
    with config.unlocked():
        config.update_from_flattened_dict({field: value})
    with pytest.raises(DermaganError, match=said):
        checks.check(config)


def test_a_cells_name_is_what_it_depends_on() -> None:
    classifier = study_config.get_config().classifier
    name = cells.key(classifier, splits={"train": "a"})
    for field, value in (
        *(("data_dir", "elsewhere"), ("seed", 3), ("synthetic.dir", "there"), ("mesh", "data:2")),
        *(("log_every_steps", 1), ("variant", "mine")),
    ):
        assert cells.key(_changed(classifier, field, value), splits={"train": "a"}) == name
    others = {
        cells.key(_changed(classifier, "optimizer.learning_rate", 1e-5), splits={"train": "a"}),
        # The best checkpoint is chosen among those of this cadence.
        cells.key(_changed(classifier, "eval_every_steps", 7), splits={"train": "a"}),
        cells.key(classifier, splits={"train": "b"}),
    }
    assert len(others | {name}) == 4


def _changed(config: ConfigDict, field: str, value: object) -> ConfigDict:
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict({field: value})
    return changed


def test_how_often_a_gan_is_saved_counts_where_the_best_is_taken() -> None:
    watched = study_config.get_config().gan
    assert watched.watch.features
    blind = _changed(watched, "watch.features", "")
    for gan, counts in ((watched, True), (blind, False)):
        more_often = _changed(gan, "checkpoint_every_steps", 7)
        assert (cells.key(more_often) != cells.key(gan)) == counts
    # A GAN that ends without going back is the same whether it might have.
    assert cells.key(_changed(blind, "rollbacks", 3)) == cells.key(blind)


def test_one_is_one_however_it_is_written() -> None:
    assert cells.key(ConfigDict(), ratio=1, counts=[2]) == cells.key(
        ConfigDict(), ratio=1.0, counts=(2.0,)
    )
    assert cells.key(ConfigDict(), ratio=1.0) != cells.key(ConfigDict(), ratio=1.5)


def _config(data: Path, **changes: object) -> ConfigDict:
    config = study_config.get_config("smoke")
    with config.unlocked():
        config.update_from_flattened_dict({"data_dir": str(data), **changes})
    return config


def test_weights_count_by_their_contents(phantom_set: Path, tmp_path: Path) -> None:
    found = []
    for folder, contents in (("one", b"1"), ("other", b"2"), ("copy", b"1")):
        path = tmp_path / folder / "weights.h5"
        path.parent.mkdir()
        path.write_bytes(contents)
        config = _config(
            phantom_set,
            arms=("A1", "A4", "A11"),
            filters=(),
            networks=("vgg16",),
            network_weights=str(path),
        )
        runner = Runner(config, tmp_path)
        found.append(runner._made_folder(Cell(arms.judge("vgg16", config), None)).name)
    assert found[0] == found[2] != found[1]


def test_a_start_from_another_gan_counts_by_what_it_is(tiny_gan: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(tiny_gan, tmp_path / "moved")
    ours = _start(tiny_gan)
    assert _start(moved) == ours
    assert ours["step"] == 2
    shutil.rmtree(max((moved / "checkpoints").iterdir(), key=lambda path: path.name))
    assert _start(moved) != ours


def test_another_judge_makes_a_filters_images_others(phantom_set: Path, tmp_path: Path) -> None:
    judges: dict[str, set[str | None]] = {"agreed": set(), "realistic=0.5": set()}
    for rate in (1e-3, 2e-3):
        config = _config(phantom_set)
        config.classifier.optimizer.learning_rate = rate
        runner = Runner(config, tmp_path)
        for name, found in judges.items():
            found.add(runner.judge_of(name))
    assert [len(found) for found in judges.values()] == [2, 1]


def test_the_seed_of_the_judge_counts(phantom_set: Path, tmp_path: Path) -> None:
    found = [
        Runner(_config(phantom_set, classifier_seeds=seeds), tmp_path).judge_of("agreed")
        for seeds in ((0, 1), (1, 0))
    ]
    assert len(set(found)) == 2
