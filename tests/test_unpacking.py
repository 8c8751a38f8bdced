"""Zip files that mean harm or are damaged, and what a good one becomes."""

from __future__ import annotations

import hashlib
import os
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from dermagan_jax.data import unpacking
from dermagan_jax.data.unpacking import ArchiveError
from dermagan_jax.errors import DermaganError


def pack(
    folder: Path,
    members: list[tuple[str, bytes]],
    *,
    mode: int = 0,
    method: int = zipfile.ZIP_DEFLATED,
) -> Path:
    path = folder / "Set.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, data in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = name  # the constructor would tidy the name
            info.external_attr = mode << 16
            packed.writestr(info, data, method)
    return path


def unpack(archive: Path, room: int = 1 << 40) -> dict[str, str]:
    def check_room(needed: int) -> None:
        if needed > room:
            raise DermaganError("no room")

    return unpacking.unpack(
        archive, archive.with_name("folder"), check_room=check_room, progress=False
    )


@pytest.mark.parametrize("prefix", ["", "Set/"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_good_zip(tmp_path: Path, prefix: str, method: int) -> None:
    members = [(f"{prefix}b/two.txt", b"2" * 3000), (f"{prefix}one.txt", b"1"), (f"{prefix}e", b"")]
    noise = [("__MACOSX/._one.txt", b"x"), (f"{prefix}.DS_Store", b"x"), ("Set/", b"")]
    sums = unpack(pack(tmp_path, members + noise, method=method))
    assert list(sums) == ["b/two.txt", "e", "one.txt"]
    assert sums["b/two.txt"] == hashlib.sha256(b"2" * 3000).hexdigest()
    folder = tmp_path / "folder"
    assert {path.name for path in folder.rglob("*")} == {"b", "two.txt", "e", "one.txt"}
    assert (folder / "b" / "two.txt").read_bytes() == b"2" * 3000


@pytest.mark.parametrize(
    "name",
    [
        "../up.txt",
        "Set/../../up.txt",
        "a/../b.txt",
        "/etc/up.txt",
        "//host/up.txt",
        "C:/up.txt",
        "c:up.txt",
        "..\\up.txt",
        "a//b.txt",
        "./a.txt",
        "a\nb.txt",
        "a\x1b[2J.txt",
        "a\u202etxt.exe",
    ],
)
def test_paths_that_lead_elsewhere(tmp_path: Path, name: str) -> None:
    archive = pack(tmp_path, [("good.txt", b"1"), (name, b"2")])
    with pytest.raises(ArchiveError, match="not safe to unpack"):
        unpack(archive)
    assert [path.name for path in tmp_path.iterdir()] == ["Set.zip"], "nothing is written"


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_links_and_devices(tmp_path: Path, kind: int) -> None:
    with pytest.raises(ArchiveError, match="link or a special file"):
        unpack(pack(tmp_path, [("a.txt", b"/etc/passwd")], mode=kind | 0o777))


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("pair", [("a.txt", "a.txt"), ("a.txt", "A.TXT"), ("Set/a.txt", "a.txt")])
def test_two_members_of_one_name(tmp_path: Path, pair: tuple[str, str]) -> None:
    archive = pack(tmp_path, [(name, b"1") for name in pair])
    with pytest.raises(ArchiveError, match="two members"):
        unpack(archive)


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "A")])
def test_a_file_that_is_a_folder_too(tmp_path: Path, names: tuple[str, str]) -> None:
    with pytest.raises(ArchiveError, match="file too"):
        unpack(pack(tmp_path, [(name, b"1") for name in names]))


def test_bombs(tmp_path: Path) -> None:
    zeros = bytes(4 << 20)  # deflate packs zeros about 1000 to 1
    with pytest.raises(ArchiveError, match=r"4,194,304 bytes out of"):
        unpack(pack(tmp_path, [("a", zeros)]))
    with pytest.raises(ArchiveError, match=r"9,000,000 bytes unpacked out of"):
        unpack(pack(tmp_path, [(str(n), bytes(900_000)) for n in range(10)]))


@pytest.mark.parametrize(
    ("limit", "value", "found"),
    [("MAX_MEMBERS", 4, "5 members, at most 4"), ("MAX_TOTAL_BYTES", 24, "25 bytes unpacked")],
)
def test_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, found: str
) -> None:
    archive = pack(tmp_path, [(str(n), b"12345") for n in range(5)])
    monkeypatch.setattr(unpacking, limit, value)
    with pytest.raises(ArchiveError, match=found):
        unpack(archive)
    monkeypatch.setattr(unpacking, limit, value + 1)
    assert len(unpack(archive)) == 5


def test_members_that_share_their_bytes(tmp_path: Path) -> None:
    archive = pack(tmp_path, [("a", os.urandom(5000)), ("b", b"")])
    data = archive.read_bytes()
    directory = data.index(b"PK\1\2")
    entry_length = 46 + 1
    first = data[directory : directory + entry_length]
    second = first[:46] + b"b"  # another name for the bytes of the first
    archive.write_bytes(data[:directory] + first + second + data[directory + 2 * entry_length :])
    with pytest.raises(ArchiveError, match=r"overlap|damaged"):
        unpack(archive)


def patched(archive: Path, offset: int, value: bytes) -> Path:
    """Overwrites bytes of the first entry of the central directory."""
    data = bytearray(archive.read_bytes())
    place = data.index(b"PK\1\2") + offset
    data[place : place + len(value)] = value
    archive.write_bytes(data)
    return archive


@pytest.mark.parametrize("size", [999, 1001])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_of_another_size_than_they_say(tmp_path: Path, size: int, method: int) -> None:
    archive = pack(tmp_path, [("a", os.urandom(1000)), ("b", b"x" * 5)], method=method)
    with pytest.raises(ArchiveError, match="damaged or cut off"):
        unpack(patched(archive, 24, struct.pack("<I", size)))


def test_encrypted_and_rarely_packed(tmp_path: Path) -> None:
    archive = pack(tmp_path, [("a", b"1" * 100)])
    with pytest.raises(ArchiveError, match="encrypted"):
        unpack(patched(archive, 8, b"\1\0"))
    with pytest.raises(ArchiveError, match="rare way"):
        unpack(pack(tmp_path, [("a", b"1")], method=zipfile.ZIP_LZMA))


def test_damage(tmp_path: Path) -> None:
    archive = pack(tmp_path, [("a", os.urandom(3000))], method=zipfile.ZIP_STORED)
    whole = archive.read_bytes()
    for data in (b"", b"<html>", whole[:-30], whole[:1500]):
        archive.write_bytes(data)
        with pytest.raises(ArchiveError, match="damaged or cut off"):
            unpack(archive)
    flipped = bytearray(whole)
    flipped[1000] ^= 1
    archive.write_bytes(flipped)
    with pytest.raises(ArchiveError, match="CRC"):
        unpack(archive)


def test_no_room_is_not_the_archives_fault(tmp_path: Path) -> None:
    archive = pack(tmp_path, [("a", b"12345"), ("b", b"67890")])
    with pytest.raises(DermaganError, match="no room") as caught:
        unpack(archive, room=9)
    assert not isinstance(caught.value, ArchiveError)
    assert not (tmp_path / "folder").exists()
    assert len(unpack(archive, room=10)) == 2
