"""From folders in real layouts to an audited set; stopped, resumed, tampered with, misused."""

from __future__ import annotations

import csv
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from raw_set import rows_of, run, write_image, write_isic2019

from dermagan_jax import files, images
from dermagan_jax.data import prepare as prepare_module
from dermagan_jax.data import prepared, scan
from dermagan_jax.data.prepare import prepare
from dermagan_jax.data.training import open_for_training
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("raw")
    write_isic2019(folder)
    return f"isic2019={folder}"


@pytest.fixture(scope="module")
def made(tmp_path_factory, source) -> Path:
    out = tmp_path_factory.mktemp("set") / "out"
    run(out, source)
    return out


@pytest.fixture
def copied(made, tmp_path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "copy"))


def digests(folder: Path) -> dict[str, str]:
    names = ("splits.csv", "quarantine.csv", "data_report.json", "quarantine.png")
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in names}


def test_report_and_manifest_agree(made):
    report = prepared.load_report(made)
    counted = Counter((row["split"], row["class"]) for row in rows_of(made))
    assert report["counts"]["test"] == dict.fromkeys(CLASSES, 6)
    for split, counts in report["counts"].items():
        assert counts == {name: counted[split, name] for name in CLASSES}
    assert sum(counted.values()) == 4 * 28 - 1
    assert report["removed"] == {"exact_duplicate": 1}
    assert (report["kind"], report["leaky"], report["recipe"]) == ("real", False, None)
    assert report["class_by_site"]["melanoma"] == {"BCN": 27}
    assert not (made / ".scan").exists()
    assert not list(made.rglob("*.tmp"))


def test_duplicate_is_listed_beside_the_image_that_it_repeats(made):
    (row,) = rows_of(made, "quarantine.csv")
    assert (row["image_id"], row["reason"], row["repeats"]) == (
        "ISIC_0000111",
        "exact_duplicate",
        "ISIC_0000084",
    )
    assert Path(row["path"]).is_file()


def test_lesions_and_links_stay_in_one_split(made):
    of_lesion = defaultdict(set)
    for row in rows_of(made):
        of_lesion[row["lesion_id"]].add(row["split"])
    assert all(len(splits) == 1 for splits in of_lesion.values())
    # The two lesions that the repeated photograph ties together.
    assert of_lesion["BCN_0000042"] == of_lesion["BCN_0000055"]


def test_stored_images_are_the_resized_ones(made, source):
    split = prepared.load_split(made, "validation")
    assert split.image.shape == (len(split.label), 32, 32, 3)
    assert split.image.dtype == np.uint8
    assert split.label.dtype == np.int32
    assert list(split.image_id) == sorted(split.image_id)
    pictures = Path(source.partition("=")[2]) / "ISIC_2019_Training_Input"
    for image, name in zip(split.image, split.image_id, strict=True):
        np.testing.assert_array_equal(
            image, images.resize_crop(images.read(pictures / f"{name}.png"), 32)
        )


def test_tfds_reads_it(made):
    import tensorflow_datasets as tfds

    builder = tfds.builder_from_directory(str(made / "dermoscopy" / "1.0.0"))
    assert tuple(builder.info.features["label"].names) == CLASSES
    assert builder.info.splits["test"].num_examples == 24
    assert set(builder.info.features) == {
        "image",
        "label",
        "image_id",
        "lesion_id",
        "source",
        "site",
    }


def test_same_result_whatever_the_number_of_workers_and_chunks(made, source, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "CHUNK_SIZE", 50)
    run(tmp_path / "out", source, num_workers=2)
    assert digests(tmp_path / "out") == digests(made)


def test_same_result_whatever_the_order_of_the_table(made, source, tmp_path, monkeypatch):
    read = prepare_module.sources.merge_sources

    def backwards(listings):
        listing = read(listings)
        listing.records.reverse()
        return listing

    monkeypatch.setattr(prepare_module.sources, "merge_sources", backwards)
    run(tmp_path / "out", source)
    assert digests(tmp_path / "out") == digests(made)


def test_second_call_does_no_work(made, source, monkeypatch):
    before = digests(made)
    monkeypatch.setattr(prepare_module.scan, "scan", None)
    assert run(made, source) == prepared.load_report(made)
    assert digests(made) == before


@pytest.mark.parametrize("step", ["clean", "write", "audit"])
def test_stopped_at_any_step_it_goes_on_to_the_same_result(
    step, made, source, tmp_path, monkeypatch
):
    class StopError(Exception):
        pass

    def stop(*_args, **_kwargs):
        raise StopError

    module = {"clean": "cleaning", "write": "dermoscopy", "audit": "prepared"}[step]
    with monkeypatch.context() as patch:
        patch.setattr(getattr(prepare_module, module), step, stop)
        with pytest.raises(StopError):
            run(tmp_path / "out", source)
    assert not (tmp_path / "out" / "data_report.json").exists()
    with pytest.raises(DermaganError, match="was not finished"):
        prepared.load_report(tmp_path / "out")
    run(tmp_path / "out", source)
    assert digests(tmp_path / "out") == digests(made)


def test_killed_while_scanning_it_goes_on_to_the_same_result(made, source, tmp_path):
    out = tmp_path / "out"
    script = tmp_path / "slow.py"
    script.write_text(
        "import sys, time\n"
        "from pathlib import Path\n"
        "from dermagan_jax.data import scan, sources\n"
        "load = sources.load_image\n"
        "def slow(record, **choices):\n"
        "    time.sleep(0.02)\n"
        "    return load(record, **choices)\n"
        "sources.load_image = slow\n"
        "scan.CHUNK_SIZE = 20\n"
        "if __name__ == '__main__':\n"
        "    from dermagan_jax.data.prepare import prepare\n"
        "    prepare(Path(sys.argv[1]), source_texts=[sys.argv[2]], blur_mads=0, image_size=32,\n"
        "        plan_changes={'test_per_class': 6}, num_workers=1, progress=False)\n"
    )
    command = [sys.executable, str(script), str(out), source]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(command, start_new_session=True, env=environment)
    deadline = time.monotonic() + 60
    while len(list((out / ".scan").glob("*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= len(list((out / ".scan").glob("*.npz"))) < 6
    assert not (out / "data_report.json").exists()
    subprocess.run(command, check=True, env=environment)
    assert digests(out) == digests(made)


def test_chunks_of_other_files_are_not_used(tmp_path, monkeypatch):
    raw = tmp_path / "raw"
    write_isic2019(raw)
    with monkeypatch.context() as patch:
        patch.setattr(prepare_module.cleaning, "clean", None)
        with pytest.raises(TypeError):
            run(tmp_path / "out", f"isic2019={raw}")
    changed = raw / "ISIC_2019_Training_Input" / "ISIC_0000000.png"
    write_image(changed, seed=4000)
    run(tmp_path / "out", f"isic2019={raw}")
    (row,) = [row for row in rows_of(tmp_path / "out") if row["image_id"] == "ISIC_0000000"]
    assert row["content_sha256"] == scan.content_sha256(images.read(changed))


def test_keep_brings_the_duplicate_back_into_its_twins_split(source, tmp_path):
    keep = tmp_path / "keep.txt"
    keep.write_text("ISIC_0000111\n\n")
    report = run(tmp_path / "out", source, keep=keep)
    assert report["removed"] == {}
    assert report["kept_back"] == ["ISIC_0000111"]
    split = {row["image_id"]: row["split"] for row in rows_of(tmp_path / "out")}
    assert split["ISIC_0000111"] == split["ISIC_0000084"]
    assert not (tmp_path / "out" / "quarantine.png").exists()


def test_other_choices_are_named_and_overwrite_replaces(copied, source):
    with pytest.raises(DermaganError, match=r"other choices \(seed\)"):
        run(copied, source, seed=1)
    before = prepared.load_report(copied)["split_hashes"]
    assert run(copied, source, seed=1, overwrite=True)["split_hashes"] != before


def test_an_overwriting_call_that_is_killed_leaves_the_folder_ours(copied, source, monkeypatch):
    removed = []

    def killed(path, **_):
        removed.append(path)
        raise KeyboardInterrupt

    before = prepared.load_report(copied)["split_hashes"]
    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        run(copied, source, overwrite=True)
    monkeypatch.undo()
    (copied / ".plan.json.tmp").write_text("{")
    assert run(copied, source)["split_hashes"] == before
    assert removed


def test_what_a_kill_left_half_written_does_not_matter(tmp_path, source):
    (tmp_path / ".plan.json.tmp").write_text("{")
    assert run(tmp_path, source) == prepared.load_report(tmp_path)
    assert not (tmp_path / ".plan.json.tmp").exists()


def test_a_second_process_is_kept_out_until_the_first_is_done(copied, source, tmp_path):
    for folder in (copied, tmp_path / "new"):
        with files.locked(folder / files.LOCK) as is_free:
            assert is_free
            before = sorted(folder.rglob("*"))
            with pytest.raises(DermaganError, match="another process is preparing a set here"):
                run(folder, source, overwrite=True)
            assert sorted(folder.rglob("*")) == before
        run(folder, source, overwrite=True)


def test_overwrite_mends_a_damaged_set_of_the_same_choices(copied, source, made):
    (copied / "data_report.json").write_text("{")
    with pytest.raises(DermaganError, match="is damaged"):
        run(copied, source)
    run(copied, source, overwrite=True)
    assert digests(copied) == digests(made)


@pytest.mark.parametrize("plan", ['{"mine": 1}', "{tr", "[]"])
def test_a_folder_that_is_not_ours_is_left_alone(plan, source, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "thesis.png").write_text("x")
    (tmp_path / "plan.json").write_text(plan)
    for overwrite in (False, True):
        with pytest.raises(DermaganError, match="name another --out"):
            run(tmp_path, source, overwrite=overwrite)
    assert (tmp_path / "figures" / "thesis.png").read_text() == "x"
    (tmp_path / "plan.json").unlink()
    with pytest.raises(DermaganError, match="is no prepared set"):
        run(tmp_path, source)


def test_bad_choices_are_named_before_anything_is_written(source, tmp_path):
    out = tmp_path / "out"
    for choices, message in (
        ({"image_size": 0}, "image_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"recipe_name": "paper_mix"}, "needs ham10000"),
        ({"recipe_name": "nope"}, "unknown"),
        ({"keep": tmp_path / "absent.txt"}, "--keep"),
    ):
        with pytest.raises(DermaganError, match=message):
            run(out, source, **choices)
    with pytest.raises(DermaganError, match="cannot be mixed"):
        prepare(out, source_texts=[source, "phantom=9"])
    with pytest.raises(DermaganError, match=r"lies in the source .*; name an --out outside of it"):
        prepare(out, source_texts=[f"folder={tmp_path}"])
    with pytest.raises(DermaganError, match="no source"):
        prepare(out, source_texts=[])
    assert not out.exists()
    (tmp_path / "file").write_text("")
    for blocked in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DermaganError, match=r"name another --out|choose a writable"):
            run(blocked, source)


def test_split_by_image_is_declared_and_passes_the_audit(source, tmp_path):
    plan = {"test_per_class": 6, "split_by": "image"}
    report = run(tmp_path / "out", source, plan_changes=plan)
    assert report["leaky"]
    of_lesion = defaultdict(set)
    for row in rows_of(tmp_path / "out"):
        of_lesion[row["lesion_id"]].add(row["split"])
    assert any(len(splits) > 1 for splits in of_lesion.values())
    prepared.audit(tmp_path / "out")


def test_phantoms_are_marked(tmp_path):
    report = prepare(
        tmp_path / "out",
        source_texts=["phantom=30"],
        plan_changes={"test_per_class": 4},
        image_size=32,
        num_workers=1,
        progress=False,
    )
    assert report["kind"] == "phantom"
    assert report["licences"] == ["made by this program"]


def test_full_disk_is_an_error_and_not_a_traceback(source, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        # What TFDS raises when TensorFlow meets a full disk.
        raise RuntimeError("ResourceExhaustedError: No space left on device")

    monkeypatch.setattr(
        prepare_module.dermoscopy.Dermoscopy, "download_and_prepare", full, raising=True
    )
    with pytest.raises(DermaganError, match="No space left on device"):
        run(tmp_path / "out", source)
    assert not (tmp_path / "out" / "data_report.json").exists()


def test_ham4_on_the_real_images(real_data, tmp_path):
    report = prepare(
        tmp_path / "out",
        source_texts=[f"ham10000={real_data / 'HAM10000'}"],
        recipe_name="ham4",
        progress=False,
    )
    with (real_data / "HAM10000" / "HAM10000_metadata.csv").open(newline="") as file:
        listed = Counter(row["dx"] for row in csv.DictReader(file))
    removed = sum(report["removed"].values())
    total = sum(sum(counts.values()) for counts in report["counts"].values())
    assert total + removed == sum(listed[code] for code in ("akiec", "bcc", "bkl", "mel"))
    assert report["counts"]["test"] == dict.fromkeys(CLASSES, 60)


def test_other_lesions_come_along_and_change_nothing_for_ours(made, tmp_path):
    raw = tmp_path / "raw"
    write_isic2019(raw, nevi=5)
    shutil.copy(
        raw / "ISIC_2019_Training_Input" / "ISIC_0000003.png",
        raw / "ISIC_2019_Training_Input" / "ISIC_9000001.png",
    )
    report = run(tmp_path / "set", f"isic2019={raw}", others=True)
    rows = rows_of(tmp_path / "set")
    assert [row for row in rows if row["class"] != "other"] == rows_of(made)
    others = {row["image_id"]: row["split"] for row in rows if row["class"] == "other"}
    # The second is a copy of one of ours, and the last shows a lesion of ours.
    assert others == {
        **dict.fromkeys(("ISIC_9000000", "ISIC_9000002", "ISIC_9000003"), "others"),
        "ISIC_9000004": "unused",
    }
    assert report["others"] == 3
    assert report["counts"] == prepared.load_report(made)["counts"]
    opened = open_for_training(str(tmp_path / "set"), image_size=32)
    assert opened.others().label.tolist() == [-1] * 3
    assert (tmp_path / "set" / "figures" / "samples_other.png").is_file()
    with pytest.raises(DermaganError, match="holds no other lesions; prepare it with --others"):
        open_for_training(str(made), image_size=32).others()


def test_sources_without_other_lesions_are_named(source, tmp_path):
    with pytest.raises(DermaganError, match="--others: the sources hold no image of another"):
        run(tmp_path / "out", source, others=True)
    assert not (tmp_path / "out").exists()
