"""The download whole, against a local server that breaks off, lies, forgets ranges and changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from challenge_server import IMAGES, ISIC2019, TRUTH, Server, challenge_files, png, zipped

from dermagan_jax.data import download, sources
from dermagan_jax.errors import DermaganError


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        running.files = challenge_files()
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(server: Server) -> Callable[..., dict]:
    def call(out: Path, dataset: str = "isic2019", **options: object) -> dict:
        defaults = {"base_url": server.url, "progress": False, "attempts": 3, "backoff_secs": 0.0}
        return download.download(dataset, out, **(defaults | options))

    return call


def tree(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.fixture
def expected(server: Server, fetch, tmp_path: Path) -> dict[str, bytes]:
    """What an undisturbed download leaves."""
    fetch(tmp_path / "undisturbed")
    server.requests.clear()
    return tree(tmp_path / "undisturbed")


@pytest.mark.parametrize("dataset", ["isic2018", "isic2019"])
def test_a_download_is_a_source(server: Server, fetch, tmp_path: Path, dataset: str) -> None:
    record = fetch(tmp_path / "out", dataset)
    listing = sources.read_source(dataset, str(tmp_path / "out"))
    assert len(listing.records) == 4
    assert (listing.absent, listing.skipped) == ([], {"NV": 1})
    for item in listing.records:
        original = png(int(item.image_id[-1]))
        assert Path(item.path).read_bytes() == original
    assert record == json.loads((tmp_path / "out" / "download.json").read_text())
    assert record["licence"] == "CC BY-NC 4.0"
    served = {path.split("/")[-1]: data for path, data in server.files.items()}
    for name, entry in record["files"].items():
        assert entry["sha256"] == hashlib.sha256(served[name]).hexdigest()
        assert entry["bytes"] == len(served[name])
    assert set(record["files"]) == set(download.DATASETS[dataset].files)
    assert not list(tmp_path.rglob("*.zip")), "zip files go once they are unpacked"
    assert not (tmp_path / "out" / ".download").exists()


def test_the_list_is_one_that_sha256sum_reads(fetch, tmp_path: Path) -> None:
    fetch(tmp_path / "out")
    lines = (tmp_path / "out" / f"{ISIC2019}_Input.sha256").read_text().splitlines()
    assert len(lines) == 6
    for line in lines:
        digest, path = line.split("  ")
        assert hashlib.sha256((tmp_path / "out" / path).read_bytes()).hexdigest() == digest


def test_a_second_run_only_verifies(server: Server, fetch, tmp_path: Path) -> None:
    record = fetch(tmp_path / "out")
    before = tree(tmp_path / "out")
    server.requests.clear()
    assert fetch(tmp_path / "out") == record
    assert server.requests == []
    assert tree(tmp_path / "out") == before


def test_the_licence_comes_first(server: Server, fetch, tmp_path: Path, capsys) -> None:
    shown = []

    def refuse(text: str) -> bool:
        shown.append((text, list(server.requests)))
        return False

    with pytest.raises(DermaganError, match="not accepted"):
        fetch(tmp_path / "out", accept_licence=refuse)
    ((text, requests),) = shown
    assert "CC BY-NC 4.0" in text
    assert "BCN20000" in text
    assert requests == server.requests == []
    assert not (tmp_path / "out").exists()
    fetch(tmp_path / "out")
    assert text in capsys.readouterr().out


def whole_chunks(size: int) -> int:
    return size // (1 << 14) * (1 << 14)


def test_a_broken_transfer_goes_on(server: Server, fetch, tmp_path: Path, expected) -> None:
    server.faults[IMAGES] = ["cut", "cut"]
    fetch(tmp_path / "out")
    assert tree(tmp_path / "out") == expected
    size = len(server.files[IMAGES])
    first = whole_chunks(size // 2)
    second = first + whole_chunks((size - first) // 2)
    asked = [asked for path, asked in server.requests if path == IMAGES]
    assert asked == [None, f"bytes={first}-", f"bytes={second}-"]


def test_a_later_run_goes_on(server: Server, fetch, tmp_path: Path, expected) -> None:
    server.faults[IMAGES] = ["cut", "503", "503"]
    with pytest.raises(DermaganError, match=r"broke off 3 times .*bytes are kept, run the same"):
        fetch(tmp_path / "out")
    server.requests.clear()
    fetch(tmp_path / "out")
    kept = whole_chunks(len(server.files[IMAGES]) // 2)
    assert server.requests == [(IMAGES, f"bytes={kept}-")]
    assert tree(tmp_path / "out") == expected


@pytest.mark.parametrize(
    ("ranges", "marks", "faults"),
    [
        (False, True, ["cut"]),
        (True, False, ["cut"]),
        (True, True, ["cut", "wrong range"]),
        (True, True, ["too long"]),
        (True, True, ["500", "429"]),
        (True, True, ["no length"]),
    ],
    ids=["no ranges", "no marks", "wrong range", "too long", "busy", "no length"],
)
def test_difficult_servers(
    server: Server, fetch, tmp_path: Path, expected, ranges: bool, marks: bool, faults: list[str]
) -> None:
    server.ranges, server.marks, server.faults[IMAGES] = ranges, marks, faults
    fetch(tmp_path / "out", attempts=4)
    assert tree(tmp_path / "out") == expected
    if not marks:
        assert not any(asked for _, asked in server.requests), "nothing tells it is the same file"


def test_a_file_that_changes_half_way_starts_again(server: Server, fetch, tmp_path: Path) -> None:
    # Turned about half-way: the first half of one and the rest of the other is neither.
    truth = server.files[TRUTH]
    server.files[TRUTH] = bytes(reversed(truth))
    server.faults[TRUTH] = ["cut", "changed"]
    fetch(tmp_path / "out")
    assert (tmp_path / "out" / TRUTH.split("/")[-1]).read_bytes() == truth


@pytest.mark.parametrize("fault", ["too short", "gzip", "403"])
def test_transfers_that_cannot_be_right(server: Server, fetch, tmp_path: Path, fault: str) -> None:
    server.faults[IMAGES] = [fault]
    message = {"too short": "damaged or cut off", "gzip": "compresses", "403": "HTTP 403"}[fault]
    with pytest.raises(DermaganError, match=message):
        fetch(tmp_path / "out")
    assert not (tmp_path / "out" / f"{ISIC2019}_Input").exists()
    fetch(tmp_path / "out")
    assert len(sources.read_source("isic2019", str(tmp_path / "out")).records) == 4


def test_failures_are_bounded(server: Server, fetch, tmp_path: Path) -> None:
    server.ranges = False  # every attempt starts again, and gets no further
    server.faults[IMAGES] = ["cut"] * 50
    with pytest.raises(DermaganError, match="broke off 3 times"):
        fetch(tmp_path / "out")
    assert len([path for path, _ in server.requests if path == IMAGES]) == 3


def test_no_server(fetch, tmp_path: Path) -> None:
    with pytest.raises(DermaganError, match="broke off 3 times"):
        fetch(tmp_path / "out", base_url="http://127.0.0.1:9")
    with pytest.raises(DermaganError, match="must begin with http"):
        fetch(tmp_path / "out", base_url="ftp://example.org")


def test_a_table_that_was_cut_on_the_server(server: Server, fetch, tmp_path: Path) -> None:
    server.files[TRUTH] = b"<html>Sign in first</html>"
    with pytest.raises(DermaganError, match="no column image"):
        fetch(tmp_path / "out")


def test_disk_space_is_checked_first(
    server: Server, fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    size, spare = len(server.files[IMAGES]), 256 << 20
    free = spare + 2 * size - 1
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(0, 0, free))
    with pytest.raises(DermaganError, match=r"GB are needed and .* GB are free"):
        fetch(tmp_path / "out")
    assert not (tmp_path / "out" / ".download" / f"{ISIC2019}_Input.zip").exists()
    free += 1
    fetch(tmp_path / "out")


@pytest.mark.parametrize("inside", [False, True])
def test_a_changed_file_stops_the_command(fetch, tmp_path: Path, inside: bool) -> None:
    out = tmp_path / "out"
    fetch(out)
    folder = out / f"{ISIC2019}_Input"
    target = folder / "ISIC_0000002.jpg" if inside else out / f"{ISIC2019}_Metadata.csv"
    original = target.read_bytes()
    target.write_bytes(original[:-1] + b"x")
    with pytest.raises(DermaganError, match=f"{target.name}: has changed since"):
        fetch(out)
    target.write_bytes(original)
    fetch(out)
    target.unlink()
    if inside:
        with pytest.raises(DermaganError, match=f"is missing; remove {folder} to fetch"):
            fetch(out)
    else:
        fetch(out)
        assert target.read_bytes() == original


def test_a_file_fetched_again_must_be_the_recorded_one(
    server: Server, fetch, tmp_path: Path
) -> None:
    fetch(tmp_path / "out")
    (tmp_path / "out" / TRUTH.split("/")[-1]).unlink()
    server.files[TRUTH] += b"ISIC_0000009,1,0,0,0,0,0,0,0,0\r\n"
    with pytest.raises(DermaganError, match="is not the file of the first download"):
        fetch(tmp_path / "out")
    assert not (tmp_path / "out" / TRUTH.split("/")[-1]).exists()


def test_folders_that_are_not_ours(server: Server, fetch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DermaganError, match="is a file"):
        fetch(tmp_path / "file")
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "thesis.tex").write_text("x")
    with pytest.raises(DermaganError, match=r"holds files and no download\.json"):
        fetch(tmp_path / "own")
    assert tree(tmp_path / "own") == {"thesis.tex": b"x"}
    (tmp_path / "empty").mkdir()
    fetch(tmp_path / "empty")
    with pytest.raises(DermaganError, match="holds isic2019; choose another"):
        fetch(tmp_path / "empty", "isic2018")
    (tmp_path / "empty" / "download.json").write_text("[]")
    with pytest.raises(DermaganError, match="is damaged; remove"):
        fetch(tmp_path / "empty")
    with pytest.raises(DermaganError, match="unknown set 'isic2020'"):
        fetch(tmp_path / "other", "isic2020")


def test_a_file_of_the_users_own_is_not_overwritten(server: Server, fetch, tmp_path: Path) -> None:
    server.faults[IMAGES] = ["404"]
    with pytest.raises(DermaganError, match="HTTP 404"):
        fetch(tmp_path / "out")
    (tmp_path / "out" / f"{ISIC2019}_Input").mkdir()
    with pytest.raises(DermaganError, match="was not fetched by this command"):
        fetch(tmp_path / "out")


def test_a_place_that_cannot_be_written(fetch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(DermaganError, match="cannot be read or written"):
        fetch(tmp_path / "file" / "out")


def test_an_unsafe_zip_writes_nothing_outside(server: Server, fetch, tmp_path: Path) -> None:
    server.files[IMAGES] = zipped({f"{ISIC2019}_Input/../../../escaped": b"x"})
    with pytest.raises(DermaganError, match="not safe to unpack"):
        fetch(tmp_path / "a" / "out")
    assert not list(tmp_path.rglob("escaped"))
    assert not (tmp_path / "a" / "out" / f"{ISIC2019}_Input").exists()


KILLED = """
import sys
from pathlib import Path
from dermagan_jax.data import download
print("ready", flush=True)
download.download("isic2019", Path(sys.argv[1]), base_url=sys.argv[2], progress=False)
"""


def test_kill_at_any_moment_and_run_again(server: Server, fetch, tmp_path: Path, expected) -> None:
    server.delay_secs = 0.02
    command = [sys.executable, "-c", KILLED, str(tmp_path / "out"), server.url]
    for wait_secs in (0.02, 0.1, 0.2):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, env=dict(os.environ))
        assert process.stdout is not None
        while b"ready" not in process.stdout.readline():
            pass
        time.sleep(wait_secs)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    server.delay_secs = 0.0
    fetch(tmp_path / "out")
    assert tree(tmp_path / "out") == expected


class Death(BaseException):
    """The process ends here."""


def test_a_whole_part_is_not_fetched_again(
    server: Server, fetch, tmp_path: Path, expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object, **options: object) -> None:
        raise Death

    with monkeypatch.context() as patch, contextlib.suppress(Death):
        patch.setattr(download.unpacking, "unpack", die)
        fetch(tmp_path / "out")
    server.requests.clear()
    fetch(tmp_path / "out")
    assert server.requests == []
    assert tree(tmp_path / "out") == expected


def test_death_before_any_change_to_the_disk(
    fetch, tmp_path: Path, expected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dies before the first, second, ... write, rename or removal; the next run must finish."""
    countdown = [0]

    def deadly(real: Callable) -> Callable:
        def call(*arguments: object, **options: object) -> object:
            if countdown[0] == 0:
                raise Death
            countdown[0] -= 1
            return real(*arguments, **options)

        return call

    for changes in range(200):
        out, countdown[0] = tmp_path / str(changes), changes
        with monkeypatch.context() as patch, contextlib.suppress(Death):
            for name in ("replace", "unlink", "mkdir", "write_text"):
                patch.setattr(Path, name, deadly(getattr(Path, name)))
            patch.setattr(download.shutil, "rmtree", deadly(download.shutil.rmtree))
            fetch(out)
            break
        fetch(out)
        assert tree(out) == expected, f"after {changes} changes"
    assert changes >= 20
