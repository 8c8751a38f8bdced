"""A user's own images: class folders of any depth, odd names, and lesion ids beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from test_sources import AK, BCC, MEL, write_image, write_table

from dermagan_jax import lesions
from dermagan_jax.data import sources
from dermagan_jax.errors import DermaganError


def make_class_folders(root: Path) -> Path:
    for name in ("BCC/b.png", "BCC/deep/er/c.TIF", "melanoma/a.jpg", "Actinic Keratosis/x.webp"):
        write_image(root / name)
    return root


def test_class_folders(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path)
    for name in (".git/a.jpg", "BCC/.hidden.jpg", "BCC/.thumbs/t.jpg", "__MACOSX/BCC/b.png"):
        write_image(root / name)
    listing = sources.read_source("folder", str(root))
    assert [(r.image_id, r.label, r.lesion_id) for r in listing.records] == [
        ("Actinic Keratosis/x", AK, None),
        ("BCC/b", BCC, None),
        ("BCC/deep/er/c", BCC, None),
        ("melanoma/a", MEL, None),
    ]
    assert {(r.source, r.site) for r in listing.records} == {("folder", "")}
    assert listing.warnings == []
    assert sources.load_image(listing.records[1]).tolist() == [[[9, 99, 199]] * 3] * 2


def test_class_folders_with_lesions(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path)
    rows = [["BCC/b.png", "L1"], ["BCC/deep/er/c.TIF", "L1"], ["BCC/gone.png", "L2"]]
    write_table(root / "lesions.csv", ["file", "lesion_id"], [*rows, ["melanoma/a.jpg", ""]])
    listing = sources.read_source("folder", str(root))
    assert [r.lesion_id for r in listing.records] == [None, "L1", "L1", None]
    gone, omitted = listing.warnings
    assert "1 files it names are not there, such as BCC/gone.png" in gone
    assert "gives no lesion to 2 images, such as Actinic Keratosis/x.webp" in omitted


def test_a_table_of_lesions_that_names_no_image_is_refused(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path)
    # As Windows writes paths, and bare names.
    for name in ("BCC\\b.png", "b.png"):
        write_table(root / "lesions.csv", ["file", "lesion_id"], [[name, "L1"]])
        with pytest.raises(
            DermaganError, match=r"lesions\.csv: gives none of the images a lesion, such as"
        ):
            sources.read_source("folder", str(root))


def test_a_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path)
    Path(os.fsdecode(bytes(root / "BCC") + b"/\xff.png")).write_bytes(b"")
    with pytest.raises(DermaganError, match=r"holds 'BCC/\\udcff\.png', a name that is no UTF-8"):
        sources.read_source("folder", str(root))


def test_class_folders_keep_every_image_apart(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path)
    write_image(root / "BCC" / "b.jpg")
    ids = {r.image_id for r in sources.read_source("folder", str(root)).records}
    assert ids >= {"BCC/b.png", "BCC/b.jpg", "BCC/deep/er/c"}


def test_files_that_are_no_images_are_counted(tmp_path: Path) -> None:
    root = make_class_folders(tmp_path)
    (root / "BCC" / "notes.txt").write_text("x")
    write_image(root / "grid.png")
    (warning,) = sources.read_source("folder", str(root)).warnings
    assert "passed over 2 files" in warning


def test_an_unknown_class_folder(tmp_path: Path) -> None:
    write_image(make_class_folders(tmp_path) / "nevus" / "n.jpg")
    with pytest.raises(DermaganError, match="nevus: unknown class folder") as caught:
        sources.read_source("folder", str(tmp_path))
    assert all(name in str(caught.value) for name in lesions.CLASSES)


def test_two_class_folders_may_share_names(tmp_path: Path) -> None:
    folders = [make_class_folders(tmp_path / name) for name in "abc"]
    listings = [sources.read_source("folder", str(folder)) for folder in folders]
    merged = sources.merge_sources([*listings, listings[0]])
    assert len(merged.records) == len({r.image_id for r in merged.records}) == 12
    assert {r.path for r in merged.records} == {r.path for one in listings for r in one.records}
    assert {"BCC/b", "BCC/b~2", "BCC/b~3"} <= {r.image_id for r in merged.records}
