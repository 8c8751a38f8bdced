"""The archives' CSV tables and image folders, read with errors that name the row."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from dermagan_jax import images
from dermagan_jax.errors import DermaganError


def read_rows(
    path: Path, columns: Sequence[str], *, remedy: str = "use the table as the archive ships it"
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields the rows of a CSV file, of the named columns only.

    Args:
      path: the file; UTF-8, with a header row.
      columns: the columns it must have.
      remedy: for a file that is no such table.

    Yields:
      The row's number as a spreadsheet shows it (the header is row 1), and {column: text without
      surrounding blanks}; a missing cell is "".

    Raises:
      DermaganError: when the file cannot be read, is not CSV, or lacks a column.
    """
    try:
        # utf-8-sig: spreadsheets put a byte order mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            names = [name.strip() for name in reader.fieldnames or []]
            missing = [column for column in columns if column not in names]
            if missing:
                raise DermaganError(
                    f"{path}: has no column {', '.join(missing)} (found: "
                    f"{', '.join(names)[:200] or 'none'}); {remedy}"
                )
            reader.fieldnames = names
            for row in reader:
                yield (
                    reader.line_num,
                    {name: (row[name] or "").strip() for name in columns},
                )
    except OSError as error:
        raise DermaganError(
            f"{path}: cannot be read ({error.strerror}); check the path and its permissions"
        ) from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise DermaganError(f"{path}: is not a CSV text file ({error}); {remedy}") from error


def read_column(path: Path, key: str, column: str) -> dict[str, str]:
    """Reads two columns of a CSV file as a mapping, leaving out empty cells.

    Args:
      path: the file.
      key: the column that names the image.
      column: the column to look up.

    Returns:
      {key cell: column cell}.

    Raises:
      DermaganError: as `read_rows`, and when one image is given two different values.
    """
    found: dict[str, str] = {}
    for number, row in read_rows(path, (key, column)):
        value = row[column]
        if value and found.setdefault(row[key], value) != value:
            raise DermaganError(
                f"{path}: row {number}: {key} {row[key]!r} has {column} {value!r} here and "
                f"{found[row[key]]!r} above; keep one of the two rows"
            )
    return found


def read_codes(path: Path, key: str, column: str, accepted: Sequence[str]) -> dict[str, str]:
    """Reads each image's diagnosis from one column of codes.

    Args:
      path: the file.
      key: the column that names the image.
      column: the column that holds the code.
      accepted: the codes there are.

    Returns:
      {image id: code}, in the table's order.

    Raises:
      DermaganError: as `read_rows`; for an unknown code, or an image that is empty or listed twice.
    """
    found: dict[str, str] = {}
    for number, row in read_rows(path, (key, column)):
        if row[column] not in accepted:
            raise DermaganError(
                f"{path}: row {number}: unknown {column} {row[column]!r}; "
                f"accepted: {', '.join(accepted)}"
            )
        _add(found, path, number, row[key], row[column])
    return found


def read_one_hot(path: Path, key: str, codes: Sequence[str]) -> dict[str, str]:
    """Reads each image's diagnosis from columns of 0 and 1, one a code.

    Args:
      path: the file.
      key: the column that names the image.
      codes: the columns.

    Returns:
      {image id: code}, in the table's order.

    Raises:
      DermaganError: as `read_rows`; for a row without exactly one 1, or another value than 0 and 1.
    """
    found: dict[str, str] = {}
    values = {"0": False, "0.0": False, "1": True, "1.0": True}
    for number, row in read_rows(path, (key, *codes)):
        try:
            marked = [code for code in codes if values[row[code]]]
        except KeyError as error:
            raise DermaganError(
                f"{path}: row {number}: found {error.args[0]!r} where only 0 or 1 can stand; "
                "use the table as the archive ships it"
            ) from error
        if len(marked) != 1:
            raise DermaganError(
                f"{path}: row {number}: {row[key]} is marked as {' and '.join(marked) or 'nothing'}"
                "; exactly one diagnosis must be 1"
            )
        _add(found, path, number, row[key], marked[0])
    return found


def _add(found: dict[str, str], path: Path, number: int, image_id: str, code: str) -> None:
    if not image_id:
        raise DermaganError(
            f"{path}: row {number}: names no image; fill the cell or remove the row"
        )
    if image_id in found:
        raise DermaganError(f"{path}: row {number}: {image_id} is listed twice; remove one row")
    found[image_id] = code


def find_table(root: Path, candidates: Sequence[str]) -> Path:
    """Finds the first of several places a table may lie in.

    Args:
      root: the source's folder.
      candidates: paths within it, the archive's own layout first.

    Returns:
      The table's path.

    Raises:
      DermaganError: when the folder or the table does not exist.
    """
    if not root.is_dir():
        raise DermaganError(f"{root}: no such folder; give the folder that holds {candidates[0]}")
    for candidate in candidates:
        if (root / candidate).is_file():
            return root / candidate
    raise DermaganError(
        f"{root / candidates[0]}: no such file; put it there, or give the folder that holds it"
    )


def index_images(root: Path, folder_prefix: str) -> Mapping[str, str]:
    """Lists the image files of a download, wherever its archives were unpacked to.

    Looks in `root`, in its folders whose name begins with `folder_prefix` (in any case), and in
    folders of that name within those, as unpacking into a folder of the archive's name leaves them.
    One listing a folder and no look at the single file, so that 25,000 images take no time.

    Args:
      root: the source's folder.
      folder_prefix: such as `HAM10000_images`.

    Returns:
      {file name without suffix: path}; of two files of one name, the first in the order above.
    """
    found: dict[str, str] = {}
    folders = [root]
    while folders:
        folder = folders.pop(0)
        with os.scandir(folder) as entries:
            inside = sorted(entries, key=lambda entry: entry.name)
        for entry in inside:
            stem, suffix = os.path.splitext(entry.name)  # noqa: PTH122 (a Path a file is slow)
            if suffix.lower() in images.IMAGE_SUFFIXES and not stem.startswith("."):
                found.setdefault(stem, entry.path)
            elif entry.name.lower().startswith(folder_prefix.lower()) and entry.is_dir():
                folders.append(Path(entry.path))
    return found
