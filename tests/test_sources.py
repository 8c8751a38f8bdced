"""The archives' layouts on tiny made-up folders, bad tables, merging, and the real counts."""

from __future__ import annotations

import csv
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dermagan_jax import images, lesions
from dermagan_jax.data import phantom, sources
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError

AK, BCC, BKL, MEL = range(4)

HAM = {
    "ISIC_0000005": ("akiec", "HAM_0000001"),
    "ISIC_0000002": ("akiec", "HAM_0000001"),
    "ISIC_0000003": ("bcc", "HAM_0000002"),
    "ISIC_0000004": ("bkl", "HAM_0000003"),
    "ISIC_0000001": ("mel", "HAM_0000004"),
    "ISIC_0000006": ("nv", "HAM_0000005"),
    "ISIC_0000007": ("nv", "HAM_0000006"),
    "ISIC_0000008": ("df", "HAM_0000007"),
}


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 2), (9, 99, 199)).save(path)


def one_hot(codes: Sequence[str], code: str, style: str = "{:.1f}") -> list[str]:
    return [style.format(float(code == other)) for other in codes]


def make_ham(root: Path, folders: Sequence[str] = ("HAM10000_images_part_1",)) -> Path:
    write_table(
        root / "HAM10000_metadata.csv",
        ["lesion_id", "image_id", "dx", "dx_type"],
        [[lesion, image, dx, "histo"] for image, (dx, lesion) in HAM.items()],
    )
    for number, image_id in enumerate(HAM):
        write_image(root / folders[number % len(folders)] / f"{image_id}.jpg")
    return root


def make_isic2018(root: Path, truth_folder: str = "") -> Path:
    stem, codes = "ISIC2018_Task3_Training", tuple(lesions.ISIC2018_COLUMNS)
    write_table(
        root / truth_folder / f"{stem}_GroundTruth.csv",
        ["image", *codes],
        [[image, *one_hot(codes, dx.upper())] for image, (dx, _) in HAM.items()],
    )
    write_table(
        root / f"{stem}_LesionGroupings.csv",
        ["image", "lesion_id", "diagnosis_confirm_type"],
        [[image, lesion, "histopathology"] for image, (_, lesion) in HAM.items()],
    )
    for image_id in HAM:
        write_image(root / f"{stem}_Input" / f"{image_id}.jpg")
    return root


ISIC2019 = {
    "ISIC_0000009": ("MEL", "BCN_0000001"),
    "ISIC_0000010": ("BKL", "MSK4_0011170"),
    "ISIC_0000011": ("BCC", ""),
    "ISIC_0000012": ("AK", "BCN_0000002"),
    "ISIC_0000013": ("SCC", "BCN_0000003"),
}


def make_isic2019(
    root: Path, listed: Mapping[str, tuple[str, str]] = ISIC2019, absent: Sequence[str] = ()
) -> Path:
    stem, codes = "ISIC_2019_Training", tuple(lesions.ISIC2019_COLUMNS)
    write_table(
        root / f"{stem}_GroundTruth.csv",
        ["image", *codes],
        [[image, *one_hot(codes, code, "{:.0f}")] for image, (code, _) in listed.items()],
    )
    write_table(
        root / f"{stem}_Metadata.csv",
        ["image", "age_approx", "anatom_site_general", "lesion_id", "sex"],
        [[image, "", "", lesion, ""] for image, (_, lesion) in listed.items()],
    )
    for image_id in listed:
        if image_id not in absent:
            write_image(root / f"{stem}_Input" / f"{image_id}.jpg")
    return root


@pytest.mark.parametrize(
    "folders",
    [
        ["HAM10000_images_part_1", "HAM10000_images_part_2"],
        ["ham10000_images_part_1", "HAM10000_images_part_2/HAM10000_images_part_2"],
        ["HAM10000_images"],
        ["."],
    ],
)
def test_ham10000_wherever_it_is_unpacked(tmp_path: Path, folders: Sequence[str]) -> None:
    listing = sources.read_source("ham10000", str(make_ham(tmp_path, folders)))
    assert [(r.image_id[-1], r.label, r.lesion_id) for r in listing.records] == [
        ("1", MEL, "HAM_0000004"),
        ("2", AK, "HAM_0000001"),
        ("3", BCC, "HAM_0000002"),
        ("4", BKL, "HAM_0000003"),
        ("5", AK, "HAM_0000001"),
    ]
    assert {(r.source, r.site) for r in listing.records} == {("ham10000", "HAM")}
    assert all(Path(r.path).is_file() and r.image_id in r.path for r in listing.records)
    assert (listing.absent, listing.skipped) == ([], {"DF": 1, "NV": 2})
    assert len(listing.warnings) == 1
    assert listing.warnings[0].startswith("2 images are kept as actinic keratosis")
    assert "Bowen" in listing.warnings[0]


@pytest.mark.parametrize("truth_folder", ["", "ISIC2018_Task3_Training_GroundTruth"])
def test_isic2018_is_ham10000_under_other_names(tmp_path: Path, truth_folder: str) -> None:
    ham = sources.read_source("ham10000", str(make_ham(tmp_path / "ham")))
    isic = sources.read_source("isic2018", str(make_isic2018(tmp_path / "isic", truth_folder)))
    assert [dataclasses.replace(r, source="", path="") for r in isic.records] == [
        dataclasses.replace(r, source="", path="") for r in ham.records
    ]
    assert isic.records[0].source == "isic2018"
    assert (isic.skipped, isic.warnings) == (ham.skipped, ham.warnings)


def test_isic2019(tmp_path: Path) -> None:
    listing = sources.read_source("isic2019", str(make_isic2019(tmp_path)))
    assert [(r.image_id[-2:], r.label, r.lesion_id, r.site) for r in listing.records] == [
        ("09", MEL, "BCN_0000001", "BCN"),
        ("10", BKL, "MSK4_0011170", "MSK"),
        ("11", BCC, None, ""),
        ("12", AK, "BCN_0000002", "BCN"),
    ]
    assert (listing.absent, listing.skipped, listing.warnings) == ([], {"SCC": 1}, [])
    assert listing.diagnoses == {image: code for image, (code, _) in ISIC2019.items()}


def test_the_home_folder_and_spreadsheet_tables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_ham(tmp_path / "ham")
    table = root / "HAM10000_metadata.csv"
    # A byte order mark, blanks around names, blank lines and CRLF, as spreadsheets leave them.
    text = table.read_text().replace("lesion_id,image_id", "lesion_id, image_id ", 1)
    table.write_bytes(("\ufeff" + text.replace("\n", "\r\n") + "\r\n\r\n").encode())
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(sources.read_source("ham10000", "~/ham").records) == 5


def test_absent_images_of_our_classes_are_listed(tmp_path: Path) -> None:
    root = make_ham(tmp_path)
    for image_id in ("ISIC_0000005", "ISIC_0000006"):  # akiec, of which one is left; and a nevus
        (root / "HAM10000_images_part_1" / f"{image_id}.jpg").unlink()
    listing = sources.read_source("ham10000", str(root))
    assert listing.absent == ["ISIC_0000005"]
    assert listing.skipped["NV"] == 2
    assert "1 listed images" in listing.warnings[0]
    assert len(listing.records) == 4


def test_a_class_wholly_absent_is_an_error(tmp_path: Path) -> None:
    root = make_ham(tmp_path)
    (root / "HAM10000_images_part_1" / "ISIC_0000003.jpg").unlink()
    with pytest.raises(DermaganError, match="lists 1 images of basal_cell_carcinoma and none"):
        sources.read_source("ham10000", str(root))


HAM_HEADER = ["lesion_id", "image_id", "dx"]


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        (["lesion_id", "dx"], [], "no column image_id"),
        ([], [], "no column image_id, dx .found: none"),
        (HAM_HEADER, [["HAM_1", "a", "bcc"], ["HAM_1", "b", "wart"]], "row 3: unknown dx 'wart'"),
        (HAM_HEADER, [["HAM_1", "a", "bcc"], ["HAM_1", "b"]], "row 3: unknown dx ''"),
        (HAM_HEADER, [["HAM_1", "", "bcc"]], "row 2: names no image"),
        (HAM_HEADER, [["HAM_1", "a", "bcc"], ["HAM_1", "a", "bcc"]], "row 3: a is listed twice"),
        (HAM_HEADER, [["HAM_1", "a", "nv"]], "no image of the four classes"),
        (HAM_HEADER, [], "no image of the four classes"),
    ],
)
def test_bad_ham10000_tables(tmp_path: Path, header, rows, message: str) -> None:
    write_table(tmp_path / "HAM10000_metadata.csv", header, rows)
    with pytest.raises(DermaganError, match=message) as caught:
        sources.read_source("ham10000", str(tmp_path))
    assert "HAM10000_metadata.csv" in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (["a", 0, 0, 0, 0, 0, 0, 0, 0, 0], "row 2: a is marked as nothing"),
        (["a", 1, 0, 1, 0, 0, 0, 0, 0, 0], "row 2: a is marked as MEL and BCC"),
        (["a", 0.5, 0.5, 0, 0, 0, 0, 0, 0, 0], "row 2: found '0.5'"),
        (["a", 1], "row 2: found ''"),
    ],
)
def test_bad_one_hot_rows(tmp_path: Path, row: list, message: str) -> None:
    root = make_isic2019(tmp_path)
    table = root / "ISIC_2019_Training_GroundTruth.csv"
    write_table(table, ["image", *lesions.ISIC2019_COLUMNS], [row])
    with pytest.raises(DermaganError, match=message):
        sources.read_source("isic2019", str(root))


def test_one_image_in_two_lesions(tmp_path: Path) -> None:
    root = make_isic2019(tmp_path)
    rows = [["ISIC_0000009", "BCN_0000001"], ["ISIC_0000009", "BCN_0000002"]]
    write_table(root / "ISIC_2019_Training_Metadata.csv", ["image", "lesion_id"], rows)
    with pytest.raises(DermaganError, match="row 3: image 'ISIC_0000009'"):
        sources.read_source("isic2019", str(root))


@pytest.mark.parametrize("data", [b"\xff\xfe\0\0", b'lesion_id,image_id,dx\n"' + b"x" * 200_000])
def test_tables_that_are_no_csv(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "HAM10000_metadata.csv").write_bytes(data)
    with pytest.raises(DermaganError, match="not a CSV text file"):
        sources.read_source("ham10000", str(tmp_path))


@pytest.mark.parametrize("kind", ["ham10000", "isic2018", "isic2019", "folder"])
def test_missing_folders_and_tables(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DermaganError, match="no such folder"):
        sources.read_source(kind, str(tmp_path / "none"))
    with pytest.raises(DermaganError, match=r"no such file|holds no images"):
        sources.read_source(kind, str(tmp_path))


@pytest.mark.parametrize(
    "name", ["ISIC2018_Task3_Training_LesionGroupings.csv", "ISIC_2019_Training_Metadata.csv"]
)
def test_the_second_table_is_needed(tmp_path: Path, name: str) -> None:
    kind = "isic2018" if "2018" in name else "isic2019"
    (make_isic2018 if kind == "isic2018" else make_isic2019)(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DermaganError, match=name):
        sources.read_source(kind, str(tmp_path))


def test_phantoms() -> None:
    listing = sources.read_source("phantom", "3", seed=5)
    assert Counter(r.label for r in listing.records) == dict.fromkeys(range(4), 3)
    assert listing.records == sorted(phantom.records(3, seed=5), key=lambda r: r.image_id)
    assert listing.records != sources.read_source("phantom", "3", seed=6).records
    record = listing.records[0]
    np.testing.assert_array_equal(sources.load_image(record), phantom.render(record.path))


def test_parse_source() -> None:
    assert sources.parse_source("ham10000=a/b=c") == ("ham10000", "a/b=c")
    assert sources.parse_source("phantom") == ("phantom", "600")
    assert sources.parse_source("phantom=12") == ("phantom", "12")


@pytest.mark.parametrize("kind", ["ham10000", "ham10000=", "HAM=x", "/data/ham", "", "=x"])
@pytest.mark.parametrize("count", ["", "0", "-3", "1e3", "²"])
def test_parse_source_refuses(kind: str, count: str) -> None:
    with pytest.raises(DermaganError, match="--source"):
        sources.parse_source(kind)
    with pytest.raises(DermaganError, match="number of images a class"):
        sources.parse_source(f"phantom={count}")


def test_read_source_of_unknown_kind() -> None:
    with pytest.raises(DermaganError, match="unknown source 'tfds'"):
        sources.read_source("tfds", "x")


SHARED = {
    **ISIC2019,
    "ISIC_0000001": ("MEL", "HAM_0000004"),
    "ISIC_0000002": ("AK", "HAM_0000001"),
    "ISIC_0000003": ("BKL", "HAM_0000002"),
    "ISIC_0000004": ("BKL", ""),
    "ISIC_0000005": ("SCC", "HAM_0000001"),
    "ISIC_0000006": ("NV", "HAM_0000005"),
}


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("kind", ["ham10000", "isic2018"])
def test_isic2019_overrules(tmp_path: Path, swap: bool, kind: str) -> None:
    make_ham(tmp_path / "ham10000")
    make_isic2018(tmp_path / "isic2018")
    other = sources.read_source(kind, str(tmp_path / kind))
    make_isic2019(tmp_path / "2019", SHARED, absent=["ISIC_0000002", "ISIC_0000003"])
    isic = sources.read_source("isic2019", str(tmp_path / "2019"))
    merged = sources.merge_sources([isic, other] if swap else [other, isic])
    found = {r.image_id[-2:]: (r.source, r.label, r.lesion_id) for r in merged.records}
    assert found == {
        "01": ("isic2019", MEL, "HAM_0000004"),
        "02": (kind, AK, "HAM_0000001"),  # the only file there is, and ISIC 2019 agrees
        "03": (kind, BKL, "HAM_0000002"),  # likewise, and it does not
        "04": ("isic2019", BKL, "HAM_0000003"),  # the label of one, the lesion of the other
        "09": ("isic2019", MEL, "BCN_0000001"),
        "10": ("isic2019", BKL, "MSK4_0011170"),
        "11": ("isic2019", BCC, None),
        "12": ("isic2019", AK, "BCN_0000002"),
    }
    assert [r.image_id for r in merged.records] == sorted(r.image_id for r in merged.records)
    assert merged.absent == []
    # Two squamous cell carcinomas, one of them HAM's akiec; the nevus of both counts once.
    assert merged.skipped == {"DF": 1, "NV": 2, "SCC": 2}
    text = "\n".join(merged.warnings)
    assert f"{kind}: 1 images dropped, because ISIC 2019 calls them SCC." in text
    assert f"{kind}: 1 images have ISIC 2019's label BKL" in text
    assert f"{kind}: 2 images dropped that isic2019 holds too." in text
    assert "akiec" not in text


def test_akiec_that_isic2019_does_not_know_keeps_its_warning(tmp_path: Path) -> None:
    ham = sources.read_source("ham10000", str(make_ham(tmp_path / "ham")))
    isic = sources.read_source("isic2019", str(make_isic2019(tmp_path / "isic")))
    merged = sources.merge_sources([ham, isic])
    assert [w for w in merged.warnings if "akiec" in w] == ham.warnings
    assert len(merged.records) == 9


def test_an_absent_image_that_isic2019_excludes_is_not_missed(tmp_path: Path) -> None:
    root = make_ham(tmp_path / "ham")
    (root / "HAM10000_images_part_1" / "ISIC_0000005.jpg").unlink()
    ham = sources.read_source("ham10000", str(root))
    isic = sources.read_source("isic2019", str(make_isic2019(tmp_path / "isic", SHARED)))
    assert ham.absent == ["ISIC_0000005"]
    assert sources.merge_sources([ham, isic]).absent == []


def test_ham10000_twice_under_two_names(tmp_path: Path) -> None:
    ham = sources.read_source("ham10000", str(make_ham(tmp_path / "a")))
    isic = sources.read_source("isic2018", str(make_isic2018(tmp_path / "b")))
    merged = sources.merge_sources([ham, isic])
    assert merged.records == ham.records
    assert merged.skipped == ham.skipped
    assert "isic2018: 5 images dropped that ham10000 holds too." in merged.warnings
    assert merged.warnings.count(ham.warnings[0]) == 1


def test_merging_one_or_none() -> None:
    listing = sources.SourceListing([Record("a", None, 0, "folder", "", "a")], [], {}, ["w"])
    assert sources.merge_sources([listing]) == listing
    with pytest.raises(DermaganError, match="no source"):
        sources.merge_sources([])


def test_real_counts(real_data: Path) -> None:
    ham = sources.read_source("ham10000", str(real_data / "HAM10000"))
    isic = sources.read_source("isic2019", str(real_data / "ISIC_2019"))
    assert Counter(r.label for r in ham.records) == {AK: 285, BCC: 438, BKL: 948, MEL: 965}
    assert Counter(r.label for r in isic.records) == {AK: 671, BCC: 2826, BKL: 2257, MEL: 3858}
    assert (len(ham.absent), len(isic.absent)) == (0, 25)
    assert sum(r.lesion_id is None for r in isic.records) == 535
    assert ham.warnings[0].startswith("285 images")
    assert {r.site for r in isic.records} == {"BCN", "HAM", "MSK", ""}
    assert images.read(isic.records[0].path).shape == (84, 84, 3)


def test_real_merge(real_data: Path) -> None:
    listings = [
        sources.read_source("ham10000", str(real_data / "HAM10000")),
        sources.read_source("isic2019", str(real_data / "ISIC_2019")),
    ]
    merged = sources.merge_sources(listings)
    # By hand from the two tables: all of HAM10000 is in ISIC 2019, 174 of its 285 akiec as SCC.
    assert merged.records == listings[1].records
    assert merged.skipped == listings[1].skipped
    assert "ham10000: 174 images dropped, because ISIC 2019 calls them SCC." in merged.warnings
    assert f"ham10000: {2636 - 174} images dropped that isic2019 holds too." in merged.warnings
    assert not any("akiec" in warning for warning in merged.warnings)


def test_lesions_of_other_diagnoses_are_listed_apart(tmp_path):
    listing = sources.read_source("ham10000", str(make_ham(tmp_path)))
    others = [(f"ISIC_000000{number}", lesions.OTHER) for number in (6, 7, 8)]
    assert [(each.image_id, each.label) for each in listing.others] == others
    # ISIC 2019 knows the first as a melanoma.
    ruling = sources.SourceListing([], [], {}, [], "isic2019", {"ISIC_0000006": "MEL"})
    merged = sources.merge_sources([listing, listing, ruling])
    assert merged.others == listing.others[1:]
