"""Unpacking a zip file from the network: nothing outside the folder, no bombs, no damage unseen."""

from __future__ import annotations

import errno
import hashlib
import re
import stat
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import tqdm

from dermagan_jax.errors import DermaganError

MAX_MEMBERS = 200_000
"""Files in a zip; the largest set here has about 25,000."""

MAX_TOTAL_BYTES = 64 << 30
"""Unpacked size of a zip; the largest set here has about 9 GiB."""

MAX_RATIO = 100
"""Unpacked size by packed size, of the zip and of each member; a one-hot table reaches about 20."""

_RATIO_FREE_BYTES = 1 << 20  # small files may be packed better than that: they do no harm
_CHUNK_BYTES = 1 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_NOISE = re.compile(r"(^|/)(__MACOSX/|\.DS_Store$)")


class ArchiveError(DermaganError):
    """A zip file that is damaged or not safe to unpack."""


def unpack(
    archive: Path,
    folder: Path,
    *,
    check_room: Callable[[int], None],
    progress: bool = True,
) -> dict[str, str]:
    """Unpacks a zip file into a new folder, after looking at every name and size in it.

    A leading folder of the archive's own name is taken off, so that the result is the same whether
    the archive has one or not.

    Args:
      archive: the zip file, named as the set's folder (`ISIC_2019_Training_Input.zip`).
      folder: the folder to make; it must not exist.
      check_room: called with the unpacked size in bytes before anything is written; raises when it
        does not fit.
      progress: whether to draw a progress bar.

    Returns:
      {path within `folder`: SHA-256 in hex}, sorted.

    Raises:
      ArchiveError: when the zip is cut off or damaged, or holds an absolute path, a path with `..`,
        a link, a device, an encrypted member, two members of one name, a member of another size
        than it says, or more than the limits of this module.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = _inspect(packed, archive)
            total = sum(member.file_size for member in members.values())
            check_room(total)
            folder.mkdir()
            sums = {}
            with tqdm.tqdm(
                desc=f"unpack {archive.name}",
                total=total,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                disable=not progress,
            ) as bar:
                for name, member in sorted(members.items()):
                    sums[name] = _write_member(packed, member, folder / name, bar)
            return sums
    except OSError as error:
        # zipfile seeks to wherever a damaged directory points; all else is the disk's trouble.
        if error.errno != errno.EINVAL:
            raise
        raise _damaged(archive, error) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise _damaged(archive, error) from error


def _inspect(packed: zipfile.ZipFile, archive: Path) -> dict[str, zipfile.ZipInfo]:
    """Returns {path to write: member} of all files, or raises when any of them is not safe."""
    infos = [info for info in packed.infolist() if not _NOISE.search(info.filename)]
    if len(infos) > MAX_MEMBERS:
        raise _unsafe(archive, f"{len(infos):,} members, at most {MAX_MEMBERS:,}")
    prefix = f"{archive.stem}/"
    members: dict[str, zipfile.ZipInfo] = {}
    seen: set[str] = set()
    for info in infos:
        _check_member(info, archive)
        if info.is_dir():
            continue
        name = info.filename.removeprefix(prefix)
        # casefold: on macOS and Windows the second would overwrite the first.
        if name.casefold() in seen:
            raise _unsafe(archive, f"two members named {name!r}")
        seen.add(name.casefold())
        members[name] = info
    for name in members:
        if any(str(parent).casefold() in seen for parent in PurePosixPath(name).parents):
            raise _unsafe(archive, f"{name!r} inside what is a file too")
    unpacked = sum(info.file_size for info in members.values())
    on_disk = archive.stat().st_size
    if unpacked > MAX_TOTAL_BYTES or unpacked > MAX_RATIO * on_disk + _RATIO_FREE_BYTES:
        raise _unsafe(archive, f"{unpacked:,} bytes unpacked out of {on_disk:,}")
    # Members that share their packed bytes are how a small zip holds petabytes.
    if sum(info.compress_size for info in members.values()) > on_disk:
        raise _unsafe(archive, "overlapping members")
    return members


def _check_member(info: zipfile.ZipInfo, archive: Path) -> None:
    name = info.filename
    parts = name.removesuffix("/").split("/")
    if re.match("[A-Za-z]:", name) or "\\" in name:
        raise _unsafe(archive, f"the Windows path {name!r}")
    if any(part in ("", ".", "..") for part in parts):  # "": an absolute path, or no name
        raise _unsafe(archive, f"the path {name!r}")
    if not name.isprintable() or info.orig_filename != name:
        raise _unsafe(archive, f"the unprintable name {info.orig_filename!r}")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        raise _unsafe(archive, f"{name!r}, which is a link or a special file")
    if info.flag_bits & 0x1 or info.compress_type not in _METHODS:
        raise _unsafe(archive, f"{name!r}, which is encrypted or packed in a rare way")
    if info.file_size > MAX_RATIO * info.compress_size + _RATIO_FREE_BYTES:
        raise _unsafe(archive, f"{name!r}: {info.file_size:,} bytes out of {info.compress_size:,}")


def _damaged(archive: Path, error: Exception) -> ArchiveError:
    return ArchiveError(
        f"{archive.name}: is damaged or cut off ({error}); run the command again to fetch it"
    )


def _unsafe(archive: Path, found: str) -> ArchiveError:
    return ArchiveError(
        f"{archive.name}: is not safe to unpack (holds {found}); nothing was unpacked, use another "
        "--base-url"
    )


def _write_member(
    packed: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, bar: tqdm.tqdm
) -> str:
    """Writes one member and returns its SHA-256; zipfile checks its CRC at the end."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    # "x": whatever the checks of names let through, nothing that exists is overwritten.
    with packed.open(info) as source, target.open("xb") as file:
        while chunk := source.read(_CHUNK_BYTES):
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
            bar.update(len(chunk))
    if size != info.file_size:
        raise zipfile.BadZipFile(f"{info.filename}: {size:,} bytes for {info.file_size:,}")
    return digest.hexdigest()
