"""A folder of class folders as records: ROOT/CLASS/**/IMAGE, with ROOT/lesions.csv or without."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable
from pathlib import Path

from dermagan_jax import images, lesions
from dermagan_jax.data import tables
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError

_LESION_TABLE = "lesions.csv"


def read_records(root: Path) -> tuple[list[Record], list[str]]:
    """Lists the images of a folder of class folders; hidden files and folders do not count.

    Args:
      root: holds folders named after the classes (see `lesions.label_of_folder`), with images at
        any depth; may hold `lesions.csv` with the columns `file` (path within `root`, with suffix)
        and `lesion_id`.

    Returns:
      The records, whose image id is the path within `root` without suffix (with it, where two files
      would get one id), and warnings about files that are passed over.

    Raises:
      DermaganError: when there is no such folder, no image, or a folder of another name.
    """
    labels, others = _class_labels(root)
    files: dict[str, int] = {}
    for name, label in labels.items():
        for file in _files_below(root, name):
            if Path(file).suffix.lower() in images.IMAGE_SUFFIXES:
                files[file] = label
            else:
                others.append(file)
    if not files:
        raise DermaganError(
            f"{root}: holds no images in class folders; put them into {root}/{lesions.CLASSES[0]} "
            "and so on"
        )
    lesion_ids, warnings = _read_lesion_ids(root, files)
    if others:
        warnings.append(
            f"{root}: passed over {len(others)} files that are no image in a class folder, "
            f"such as {others[0]}."
        )
    records = [
        Record(image_id, lesion_ids.get(file), files[file], "folder", "", str(root / file))
        for file, image_id in _unique_ids(files).items()
    ]
    return records, warnings


def _class_labels(root: Path) -> tuple[dict[str, int], list[str]]:
    """Returns {class folder: label} and the names of files beside the class folders."""
    if not root.is_dir():
        raise DermaganError(f"{root}: no such folder; give the folder that holds the class folders")
    labels, others = {}, []
    for entry in sorted(root.iterdir()):
        if _is_hidden(entry.name) or entry.name == _LESION_TABLE:
            continue
        if not entry.is_dir():
            others.append(entry.name)
            continue
        label = lesions.label_of_folder(entry.name)
        if label is None:
            raise DermaganError(
                f"{entry}: unknown class folder; rename it to one of {', '.join(lesions.CLASSES)} "
                f"(or {', '.join(lesions.SHORT_NAMES)}), or move it away"
            )
        labels[entry.name] = label
    return labels, others


def _is_hidden(name: str) -> bool:
    # macOS adds a folder of this name to the zips it packs.
    return name.startswith(".") or name == "__MACOSX"


def _files_below(root: Path, name: str) -> list[str]:
    """Returns the paths within `root` of the visible files at any depth of one of its folders."""
    found = []
    for base, folders, files in os.walk(root / name, onerror=_raise):
        folders[:] = sorted(folder for folder in folders if not _is_hidden(folder))
        relative = Path(base).relative_to(root).as_posix()
        found += [f"{relative}/{file}" for file in sorted(files) if not _is_hidden(file)]
    for path in found:
        try:
            path.encode()
        except UnicodeEncodeError as error:
            # Python writes the bytes that are no UTF-8 as surrogates, which nothing can store.
            raise DermaganError(
                f"{root}: holds {path!r}, a name that is no UTF-8; rename that file or folder"
            ) from error
    return found


def _raise(error: OSError) -> None:
    # os.walk would pass over a folder that it may not list.
    raise error


def _read_lesion_ids(root: Path, files: Collection[str]) -> tuple[dict[str, str], list[str]]:
    table = root / _LESION_TABLE
    if not table.is_file():
        return {}, []
    lesion_ids = tables.read_column(table, "file", "lesion_id")
    unknown = [file for file in lesion_ids if file not in files]
    omitted = [file for file in files if file not in lesion_ids]
    if len(omitted) == len(files):
        raise DermaganError(
            f"{table}: gives none of the images a lesion, such as {omitted[0]}; give paths from "
            f"{root} with forward slashes, class folder and suffix included"
        )
    warnings = []
    if unknown:
        warnings.append(
            f"{table}: {len(unknown)} files it names are not there, such as {unknown[0]}."
        )
    if omitted:
        warnings.append(
            f"{table}: gives no lesion to {len(omitted)} images, such as {omitted[0]}; each counts "
            "as a lesion of its own, so that its lesion may be in two splits."
        )
    return lesion_ids, warnings


def _unique_ids(files: Iterable[str]) -> dict[str, str]:
    """Maps each file to its path without suffix, or with it where two would be the same."""
    stems = {file: file.removesuffix(Path(file).suffix) for file in files}
    counts = Counter(stems.values())
    return {file: stem if counts[stem] == 1 else file for file, stem in stems.items()}
