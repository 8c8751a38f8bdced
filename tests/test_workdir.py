"""A workdir belongs to one configuration."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dermagan_jax import files, workdir
from dermagan_jax.errors import DermaganError

CONFIG = {"seed": 0, "num_steps": 10, "model": {"width": 8}, "data_dir": "here"}
PLACES = {
    "init_from": "here",
    "model": {"weights": "here"},
    "real": {"extra_dir": "here"},
    "synthetic": {"dir": "here"},
}
DATA = {"train_split_sha256": "abc"}


def _claim(folder: Path, **documents: dict) -> None:
    with workdir.claimed(folder, **documents):
        pass


def test_the_same_configuration_may_come_again_longer_and_from_elsewhere(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    _claim(folder, config=CONFIG, data=DATA)
    _claim(folder, config=CONFIG | {"num_steps": 20, "data_dir": "there"}, data=DATA)
    assert json.loads((folder / workdir.CONFIG).read_text())["config"]["num_steps"] == 20
    # What lies there is among the data.
    elsewhere = json.loads(json.dumps(PLACES).replace("here", "there"))
    _claim(tmp_path / "other", config=CONFIG | PLACES, data=DATA)
    _claim(tmp_path / "other", config=CONFIG | elsewhere, data=DATA)


@pytest.mark.parametrize(
    ("config", "data", "named"),
    [
        (CONFIG | {"seed": 1}, DATA, r"config.seed \(0 there, 1 here\)"),
        (CONFIG | {"model": {"width": 9}}, DATA, "config.model.width"),
        (CONFIG | {"new": 1}, DATA, "config.new"),
        (CONFIG, {"train_split_sha256": "abd"}, "data.train_split_sha256"),
    ],
)
def test_another_configuration_is_refused_by_field(
    tmp_path: Path, config: dict, data: dict, named: str
) -> None:
    _claim(tmp_path / "run", config=CONFIG, data=DATA)
    before = (tmp_path / "run" / workdir.CONFIG).read_bytes()
    with pytest.raises(DermaganError, match=named):
        _claim(tmp_path / "run", config=config, data=data)
    assert (tmp_path / "run" / workdir.CONFIG).read_bytes() == before


def test_other_peoples_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(DermaganError, match="is no run of this program"):
        _claim(tmp_path, config=CONFIG, data=DATA)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thesis.tex"]
    with pytest.raises(DermaganError, match="is no run"):
        _claim(tmp_path / "thesis.tex", config=CONFIG, data=DATA)


def test_a_damaged_config_is_named(tmp_path: Path) -> None:
    (tmp_path / workdir.CONFIG).write_text('{"config": ')
    with pytest.raises(DermaganError, match=r"config\.json: is damaged"):
        _claim(tmp_path, config=CONFIG, data=DATA)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DermaganError, match="cannot be written"):
        _claim(tmp_path / "file" / "run", config=CONFIG, data=DATA)


def test_what_a_kill_leaves_half_written_is_nobodys(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / f".{workdir.CONFIG}.tmp").write_text('{"conf')
    _claim(tmp_path / "run", config=CONFIG, data=DATA)
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names == {workdir.CONFIG, files.LOCK}
    (tmp_path / f".{workdir.SEEDS}.tmp").write_text("{")
    (tmp_path / "run").rename(workdir.seed_folder(tmp_path, 0))
    workdir.claim_seeds(tmp_path)


def test_a_second_process_changes_nothing(tmp_path: Path) -> None:
    with workdir.claimed(tmp_path / "run", config=CONFIG, data=DATA):
        before = (tmp_path / "run" / workdir.CONFIG).read_bytes()
        with pytest.raises(DermaganError, match="another process is training here"):
            _claim(tmp_path / "run", config=CONFIG | {"num_steps": 20}, data=DATA)
        assert (tmp_path / "run" / workdir.CONFIG).read_bytes() == before
