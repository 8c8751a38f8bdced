"""A copy of a workdir in a store: what goes there, what comes back, what a lost machine loses."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from ml_collections import ConfigDict

from configs import dcgan
from dermagan_jax import files, gan_trainer, remote
from dermagan_jax.errors import DermaganError
from dermagan_jax.preemption import Preempted
from dermagan_jax.workdir import claimed
from dermagan_jax.writers import METRICS_FILE

KEPT = {"config.json", "checkpoints/10/state/a", "checkpoints/20/state/a"}
CONFIG = {"config": {"seed": 0, "num_steps": 30}, "data": {}}
PASSING = {".lock", ".config.json.tmp", ".data/x", "checkpoints/30.orbax-checkpoint-tmp/a"}


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    for name in KEPT | PASSING:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(name)
    (run / "config.json").write_text(json.dumps(CONFIG))
    return run


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name != remote.LIST
    }


def test_a_push_brings_the_copy_up_to_date(workdir: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    mirror = remote.Mirror(str(store), workdir)
    mirror.push()
    assert _files(store).keys() == KEPT
    shutil.rmtree(workdir / "checkpoints" / "10")
    (workdir / "config.json").write_text("longer than before, by a few more words than that")
    (store / "checkpoints" / "20" / "state" / "a").write_text("not sent again")
    mirror.push()
    found, config = _files(store), (workdir / "config.json").read_text()
    kept = "checkpoints/20/state/a"
    assert found == {"config.json": config, kept: "not sent again"}
    listed = json.loads((store / remote.LIST).read_text())["files"]
    assert listed == {"config.json": len(config), kept: len(kept)}


def test_a_new_workdir_is_fetched_as_far_as_it_is_listed(workdir: Path, tmp_path: Path) -> None:
    store, new = tmp_path / "store", tmp_path / "new"
    remote.Mirror(str(store), workdir).push()
    (store / "checkpoints" / "40").mkdir()
    (store / "checkpoints" / "40" / "torn").write_text("a push that was cut off")
    with remote.Mirror(str(store), new):
        assert _files(new).keys() == KEPT | {".lock"}


def test_a_fetch_that_was_cut_off_is_done_again(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, new = tmp_path / "store", tmp_path / "new"
    remote.Mirror(str(store), workdir).push()
    before = _files(store)
    read, left = remote._Store.read, ["list", "one file"]

    def killed_later(self: remote._Store, name: str) -> bytes:
        if not left:
            raise KeyboardInterrupt
        left.pop()
        return read(self, name)

    monkeypatch.setattr(remote._Store, "read", killed_later)
    with pytest.raises(KeyboardInterrupt), remote.Mirror(str(store), new):
        pass
    monkeypatch.undo()
    (new / "checkpoints" / "5").mkdir(parents=True)
    (new / "checkpoints" / "5" / "old").write_text("of another time")
    with remote.Mirror(str(store), new):
        pass
    assert _files(new) == before | {".lock": ""}
    assert _files(store) == before


def _assert_refused(mirror: remote.Mirror) -> None:
    with pytest.raises(DermaganError, match="another process is training here"), mirror:
        pass


def test_a_second_process_leaves_alone_what_the_first_has_fetched(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, new = tmp_path / "store", tmp_path / "new"
    remote.Mirror(str(store), workdir).push()
    read, met = remote._Store.read, []

    def meanwhile(self: remote._Store, name: str) -> bytes:
        """The second comes as each file is on its way."""
        before = _files(new)
        met.append(before.keys())
        _assert_refused(remote.Mirror(str(store), new))
        assert _files(new) == before
        return read(self, name)

    monkeypatch.setattr(remote._Store, "read", meanwhile)
    with remote.Mirror(str(store), new):
        assert _files(new).keys() == KEPT | {files.LOCK}
    assert "checkpoints/10/state/a" in met[-1]


@pytest.mark.parametrize("folder", ["", "seed_000"])
def test_a_process_that_is_refused_the_workdir_pushes_nothing(folder: str, tmp_path: Path) -> None:
    """Another trains there without a mirror."""
    store, run = tmp_path / "store", tmp_path / "run"
    with claimed(run / folder, **CONFIG):
        _assert_refused(remote.Mirror(str(store), run))
    assert not store.exists()


def test_the_workdir_is_ones_own_from_the_fetch_to_the_last_push(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, new, push = tmp_path / "store", tmp_path / "new", remote.Mirror.push
    remote.Mirror(str(store), workdir).push()
    pushed = []

    def alone(self: remote.Mirror) -> None:
        with files.locked(new / files.LOCK) as is_free:
            pushed.append(not is_free)
        push(self)

    monkeypatch.setattr(remote.Mirror, "push", alone)
    with remote.Mirror(str(store), new):
        for _ in range(2):
            with (
                claimed(new, **CONFIG),
                pytest.raises(DermaganError, match="another process is"),
                claimed(new, **CONFIG),
            ):
                pass
    assert pushed == [True]
    with files.locked(new / files.LOCK) as is_free:
        assert is_free


def test_nothing_is_pushed_before_a_run_has_claimed_the_workdir(tmp_path: Path) -> None:
    with remote.Mirror(str(tmp_path / "store"), tmp_path / "run"):
        (tmp_path / "run" / "metrics.jsonl").write_text("")
    assert not (tmp_path / "store").exists()


def test_other_peoples_folders_go_to_no_store(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("mine")
    mirror = remote.Mirror(str(tmp_path / "store"), tmp_path / "home")
    with pytest.raises(DermaganError, match="is no run of this program"), mirror:
        pass
    assert [path.name for path in tmp_path.rglob("*")] == ["home", "thesis.tex"]


def test_another_runs_mirror_is_left_alone(workdir: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    remote.Mirror(str(store), workdir).push()
    other = CONFIG | {"config": CONFIG["config"] | {"seed": 1}}
    (workdir / "config.json").write_text(json.dumps(other))
    mirror = remote.Mirror(str(store), workdir)
    with (
        pytest.raises(DermaganError, match=r"differs in config\.seed \(0 there, 1 here\)"),
        mirror,
    ):
        pass


def test_a_run_that_went_back_is_not_behind_its_mirror(workdir: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    remote.Mirror(str(store), workdir).push()
    shutil.rmtree(workdir / "checkpoints" / "20")
    (workdir / "rollbacks.json").write_text(json.dumps({"rollbacks": [{"step": 10}]}))
    with remote.Mirror(str(store), workdir):
        pass
    assert "checkpoints/10/state/a" in _files(store)


@pytest.mark.parametrize("during", ["checkpoints/10/state/a", "config.json"])
def test_a_checkpoint_that_goes_while_files_are_sent_costs_no_checkpoint(
    during: str, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, write = tmp_path / "store", remote._Store.write

    def meanwhile(self: remote._Store, name: str, content: bytes) -> None:
        """The next checkpoint takes the place of the last two while the first or last is sent."""
        write(self, name, content)
        if name == during and (workdir / "checkpoints" / "20").exists():
            (workdir / "checkpoints" / "20").rename(workdir / "checkpoints" / "40")
            shutil.rmtree(workdir / "checkpoints" / "10")

    monkeypatch.setattr(remote._Store, "write", meanwhile)
    remote.Mirror(str(store), workdir).push()
    listed = json.loads((store / remote.LIST).read_text())["files"]
    assert listed.keys() == {"config.json", "checkpoints/40/state/a"}


def test_how_a_run_ended_is_said_though_the_store_is_away(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    mirror = remote.Mirror(str(tmp_path / "store"), workdir)

    def run() -> None:
        with mirror:
            monkeypatch.setattr(mirror, "_address", str(workdir / "config.json"))
            raise Preempted(3, signal.SIGTERM)

    with pytest.raises(Preempted):
        run()
    assert "cannot be reached" in caplog.text


@pytest.mark.parametrize("has_list", [True, False])
def test_a_store_cannot_lead_out_of_the_folder(has_list: bool, tmp_path: Path) -> None:
    system = fsspec.filesystem("memory")
    system.pipe_file("/lesions/set/../../secret", b"x")
    if has_list:
        listed = {"../secret": 1, "/secret": 1}
        system.pipe_file(f"/lesions/set/{remote.LIST}", json.dumps({"files": listed}).encode())
    with pytest.raises(DermaganError, match="lies outside the folder"):
        remote.fetch("memory://lesions/set", tmp_path / "new")
    system.rm("/", recursive=True)
    assert list(tmp_path.iterdir()) == []


def test_a_mirror_that_is_ahead_is_not_written_over(workdir: Path, tmp_path: Path) -> None:
    store, behind = tmp_path / "store", tmp_path / "behind"
    remote.Mirror(str(store), workdir).push()
    shutil.copytree(workdir, behind)
    shutil.rmtree(behind / "checkpoints" / "20")
    mirror = remote.Mirror(str(store), behind)
    with pytest.raises(DermaganError, match=r"a later checkpoint \(step 20\) than"), mirror:
        pass


@pytest.mark.parametrize("address", ["s3://nowhere/run", "heron://nowhere/run"])
def test_a_store_that_cannot_be_reached_is_named(
    address: str, workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://localhost:1")
    mirror = remote.Mirror(address, workdir)
    with (
        pytest.raises(DermaganError, match=f"^{address}: cannot be reached .*credentials"),
        mirror,
    ):
        pass


def test_training_goes_on_while_the_store_is_away(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    mirror = remote.Mirror(str(tmp_path / "store"), workdir)
    monkeypatch.setattr(remote, "PUSH_SECS", 0.01)
    with mirror:
        # No folder can be there.
        monkeypatch.setattr(mirror, "_address", str(workdir / "config.json"))
        while "cannot be reached" not in caplog.text:
            pass
        monkeypatch.setattr(mirror, "_address", str(tmp_path / "store"))
    assert "config.json" in _files(tmp_path / "store")


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An S3 server on this machine; gives the address of a bucket."""
    server = pytest.importorskip("moto.server")
    boto3 = pytest.importorskip("boto3")
    pytest.importorskip("s3fs")
    running = server.ThreadedMotoServer(port=0)
    running.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://localhost:{running.get_host_and_port()[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made-up")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    boto3.client("s3").create_bucket(Bucket="lesions")
    yield "s3://lesions"
    running.stop()


def _config(data_dir: Path, num_steps: int) -> ConfigDict:
    config = dcgan.get_config("smoke")
    config.data_dir = str(data_dir)
    config.model.width, config.model.latent_size, config.batch_size = 4, 8, 4
    config.num_steps, config.log_every_steps, config.checkpoint_every_steps = num_steps, 1, 2
    return config


def _lose_the_machine(store: str, phantom_set: Path, folder: Path) -> tuple[bytes, bytes]:
    """Trains half of a run here and half of it elsewhere; returns its metrics and a whole one's."""
    whole, first, second = folder / "whole", folder / "first", folder / "second"
    gan_trainer.train(_config(phantom_set, 4), whole)
    with remote.Mirror(store, first):
        gan_trainer.train(_config(phantom_set, 2), first)
    shutil.rmtree(first)
    with remote.Mirror(store, second):
        gan_trainer.train(_config(phantom_set, 4), second)
    return (second / METRICS_FILE).read_bytes(), (whole / METRICS_FILE).read_bytes()


def test_a_lost_workdir_comes_back_from_a_folder(phantom_set: Path, tmp_path: Path) -> None:
    ours, expected = _lose_the_machine(str(tmp_path / "store"), phantom_set, tmp_path)
    assert ours == expected


def test_a_lost_workdir_comes_back_from_s3(s3: str, phantom_set: Path, tmp_path: Path) -> None:
    ours, expected = _lose_the_machine(f"{s3}/run", phantom_set, tmp_path)
    assert ours == expected


def test_a_prepared_set_is_fetched_from_s3(s3: str, phantom_set: Path, tmp_path: Path) -> None:
    system, root = fsspec.url_to_fs(f"{s3}/set")
    system.put(f"{phantom_set}/", root, recursive=True)
    remote.fetch(f"{s3}/set", tmp_path / "set")
    ours, theirs = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "set", phantom_set)
    )
    assert ours == theirs
