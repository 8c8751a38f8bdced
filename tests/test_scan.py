"""The scan of raw images: what a large JPEG file is decoded at, and what the chunks hold."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from raw_set import rows_of, run, write_isic2019
from scipy import ndimage

from dermagan_jax import images
from dermagan_jax.data import scan
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    """A JPEG file of 530 x 400 pixels, with a PNG of the same pixels beside it."""
    rng = np.random.default_rng(6)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = coarse.resize((530, 400), Image.Resampling.BICUBIC)
    smooth.save(tmp_path / "a.png")
    smooth.save(tmp_path / "a.jpg", quality=95)
    return tmp_path / "a.jpg"


def scanned(path: Path, folder: Path, image_size: int) -> tuple[scan.Fingerprints, np.ndarray]:
    record = Record(path.stem, None, 0, "folder", "", str(path))
    prints = scan.scan([record], folder, image_size=image_size, num_workers=1, progress=False)
    ((png,),) = scan.resized_pngs(folder, 1)
    return prints, images.decode_png(png)


@pytest.mark.parametrize(("min_side", "side"), [(None, 400), (201, 400), (200, 200), (50, 50)])
def test_a_jpeg_is_decoded_no_smaller_than_asked(photograph, min_side, side):
    image = np.array(images.open_rgb(photograph, min_side=min_side))
    assert image.shape[0] == side
    resized = images.resize_crop(image, 32).astype(int)
    whole = images.resize_crop(
        np.array(images.open_rgb(photograph.with_suffix(".png"), min_side=min_side)), 32
    )
    assert np.abs(resized - whole).mean() < 2.5


@pytest.mark.parametrize(("image_size", "side"), [(32, 200), (64, 200), (128, 400)])
def test_a_scan_holds_the_image_and_its_hashes(photograph, tmp_path, image_size, side):
    prints, resized = scanned(photograph, tmp_path / "scan", image_size)
    decoded = np.array(images.open_rgb(photograph, min_side=side))
    assert decoded.shape[0] == side
    np.testing.assert_array_equal(resized, images.resize_crop(decoded, image_size))
    assert prints.content.tolist() == [scan.content_sha256(decoded)]
    assert prints.pixels.tolist() == [scan.content_sha256(resized)]


def test_sharpness_is_the_variance_of_scipys_laplacian():
    rng = np.random.default_rng(2)
    view = Image.fromarray(rng.integers(0, 256, (150, 170), dtype=np.uint8))
    level = np.asarray(view.resize((128, 128)), np.float32)
    assert scan._sharpness(view) == ndimage.laplace(level).var()


def test_a_damaged_chunk_is_named(photograph, tmp_path):
    scanned(photograph, tmp_path / "scan", 32)
    (chunk,) = (tmp_path / "scan").glob("*.npz")
    whole = chunk.read_bytes()
    for damaged in (b"", whole[:200], whole[: len(whole) // 2], b"PK" + whole[2:90] + bytes(50)):
        chunk.write_bytes(damaged)
        with pytest.raises(DermaganError, match=r"000000\.npz: is damaged .*; delete it"):
            scanned(photograph, tmp_path / "scan", 32)
    (tmp_path / "scan" / "key").write_bytes(b"\xff")  # Says no more what the chunks were made of.
    scanned(photograph, tmp_path / "scan", 32)
    assert chunk.read_bytes() == whole


def test_images_that_cannot_be_decoded_are_set_aside_and_listed(tmp_path):
    raw = tmp_path / "raw"
    write_isic2019(raw)
    pictures = raw / "ISIC_2019_Training_Input"
    cut = pictures / "ISIC_0000003.png"
    cut.write_bytes(cut.read_bytes()[:200])
    rubbish = (pictures / "ISIC_0000004.png").rename(pictures / "ISIC_0000004.jpg")
    rubbish.write_bytes(bytes(range(256)))
    report = run(tmp_path / "out", f"isic2019={raw}")
    assert report["removed"] == {"exact_duplicate": 1, "undecodable": 2}
    listed = [
        row for row in rows_of(tmp_path / "out", "quarantine.csv") if row["reason"] == "undecodable"
    ]
    assert [(row["image_id"], row["path"]) for row in listed] == [
        ("ISIC_0000003", str(cut)),
        ("ISIC_0000004", str(rubbish)),
    ]
    assert all(row["detail"] for row in listed)
    names = {row["image_id"] for row in rows_of(tmp_path / "out")}
    assert len(names) == 4 * 28 - 3
    assert not names & {"ISIC_0000003", "ISIC_0000004"}


_scan_part = scan._scan_part


def _end_at_the_second(image_size: int, part: scan.Part) -> int:
    if part[1].name == "000001.npz":
        os._exit(9)
    return _scan_part(image_size, part)


def test_a_decoding_process_that_was_ended_is_explained_and_its_chunks_are_kept(
    photograph, tmp_path, monkeypatch
):
    monkeypatch.setattr(scan, "CHUNK_SIZE", 1)
    records = [Record(name, None, 0, "folder", "", str(photograph)) for name in "ab"]
    first, second = (tmp_path / "scan" / f"{index:06d}.npz" for index in range(2))

    def scan_both() -> scan.Fingerprints:
        options = {"image_size": 32, "num_workers": 1, "progress": False}
        return scan.scan(records, tmp_path / "scan", **options)

    with monkeypatch.context() as patch:
        patch.setattr(scan, "_scan_part", _end_at_the_second)
        with pytest.raises(DermaganError, match=r"ended from outside.*fewer --workers"):
            scan_both()
    kept = first.stat()
    assert not second.exists()
    assert scan_both().decoded.all()
    assert (first.stat().st_ino, first.stat().st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    assert second.exists()


_WAITING_WORKERS = """
import concurrent.futures, multiprocessing, sys, time
from dermagan_jax.data import scan
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        2, mp_context=context, initializer=scan._end_with_parent
    ) as pool:
        list(pool.map(time.sleep, [0.5, 0.5]))
        print("waiting", flush=True)
        time.sleep(600)
"""


def test_workers_end_with_a_process_that_is_killed(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(_WAITING_WORKERS)
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, str(program)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.kill()
        # The workers have this pipe too: it is at its end when they are.
        process.communicate(timeout=60)
