"""Preparing a set by Apache Beam, in several processes, gives the set that one process gives."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from raw_set import run, write_isic2019

from dermagan_jax.data import beam, dermoscopy, prepared, scan
from dermagan_jax.data.splits import SPLITS
from dermagan_jax.errors import DermaganError

MADE = ("splits.csv", "quarantine.csv", "data_report.json", "quarantine.png")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("raw")
    write_isic2019(folder)
    return f"isic2019={folder}"


def _digests(folder: Path) -> dict[str, str]:
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in MADE}


def test_a_set_is_the_same_by_beam(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("apache_beam")
    # Several chunks, so that there is something to deal out to the two processes.
    monkeypatch.setattr(scan, "CHUNK_SIZE", 20)
    plain, by_beam = tmp_path / "plain", tmp_path / "beam"
    run(plain, source)
    run(by_beam, source, cluster=beam.options("direct", num_workers=2))
    assert _digests(by_beam) == _digests(plain)
    for split in SPLITS:
        ours, theirs = dermoscopy.read(by_beam, split), dermoscopy.read(plain, split)
        for name, column in theirs.items():
            np.testing.assert_array_equal(ours[name], column)
    prepared.audit(by_beam)


def test_an_unknown_runner_is_refused() -> None:
    pytest.importorskip("apache_beam")
    with pytest.raises(DermaganError, match="--runner heron: unknown; give one of direct, dataflo"):
        beam.options("heron", num_workers=1)


def test_without_beam_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(DermaganError, match=r"not installed: pip install 'dermagan-jax\[beam\]'"):
        beam.options("direct", num_workers=1)


def test_what_a_worker_elsewhere_meets_is_said(
    source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("OSError: [Errno 28] No space left on device [while running 'work']")

    monkeypatch.setattr(beam, "run_all", fails)
    said = r"\.scan: Apache Beam ended with an error \(OSError: .* No space left .*run the same"
    with pytest.raises(DermaganError, match=said):
        run(tmp_path / "out", source, cluster=object())


def test_beam_is_imported_by_nobody_who_does_not_ask() -> None:
    program = "import sys, dermagan_jax.data.prepare; print('apache_beam' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    assert done.stdout == b"False\n"
