"""The audit finds planted leaks and damage, and names the images."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from raw_set import rows_of, run, write_isic2019

from dermagan_jax.data import prepared
from dermagan_jax.errors import DermaganError, LeakError


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw")
    write_isic2019(folder)
    run(folder / "out", f"isic2019={folder}")
    return folder / "out"


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def test_audit_accepts_the_set(made):
    assert prepared.audit(made) is None


def edit(folder: Path, change) -> None:
    rows = rows_of(folder)
    change(rows)
    with (folder / "splits.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, prepared.MANIFEST_COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


@pytest.mark.parametrize("column", ["lesion_id", "group", "content_sha256", "pixels_sha256"])
def test_audit_finds_a_planted_leak(column, copied):
    named = {}

    def plant(rows):
        train, test = (next(r for r in rows if r["split"] == name) for name in ("train", "test"))
        test[column] = train[column]
        named.update(train=train["image_id"], test=test["image_id"])

    edit(copied, plant)
    with pytest.raises(LeakError, match=column) as caught:
        prepared.audit(copied)
    assert f"{named['train']} (train)" in str(caught.value)
    assert f"{named['test']} (test)" in str(caught.value)


def test_audit_finds_a_moved_image_and_a_changed_report(copied):
    report = json.loads((copied / "data_report.json").read_text())
    report["split_hashes"]["test"] = "0" * 64
    (copied / "data_report.json").write_text(json.dumps(report))
    with pytest.raises(LeakError, match="test split"):
        prepared.audit(copied)

    def move(rows):
        next(row for row in rows if row["split"] == "test")["split"] = "unused"

    edit(copied, move)
    with pytest.raises(LeakError, match=r"1 images of test .* ISIC_"):
        prepared.audit(copied)


def test_audit_names_what_cannot_be_read(copied):
    (record_file,) = (copied / "dermoscopy").rglob("*-train.tfrecord*")
    content = bytearray(record_file.read_bytes())
    content[len(content) // 2] ^= 255
    record_file.write_bytes(bytes(content))
    with pytest.raises(DermaganError, match="train cannot be read"):
        prepared.audit(copied)
    (copied / "splits.csv").unlink()
    with pytest.raises(DermaganError, match=r"splits\.csv"):
        prepared.audit(copied)
    with pytest.raises(DermaganError, match="no split 'trian'"):
        prepared.load_split(copied, "trian")
    with pytest.raises(DermaganError, match="is no prepared set"):
        prepared.load_report(copied.parent)


@pytest.mark.parametrize("field", ["counts", "removed", "warnings"])
def test_a_report_without_what_is_shown_of_it_is_damaged(copied, field):
    report = json.loads((copied / "data_report.json").read_text())
    report[field] = {} if field == "counts" else None
    (copied / "data_report.json").write_text(json.dumps(report))
    with pytest.raises(DermaganError, match=rf"is damaged \({field}.*; prepare the set again"):
        prepared.load_report(copied)
