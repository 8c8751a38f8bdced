"""The public ISIC challenge files, fetched on request, checked, and unpacked for `sources`.

In the folder: the tables, the image folder, `download.json` with the SHA-256 of each file fetched,
and for each zip a `.sha256` list of what was in it, in the format of `sha256sum -c`. Zip files are
removed once they are unpacked. What a kill leaves in `.download` is taken up by the next run.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tqdm

from dermagan_jax import files
from dermagan_jax.data import sources, transfer, unpacking
from dermagan_jax.errors import DermaganError

BASE_URL = "https://isic-challenge-data.s3.amazonaws.com"
"""Where the challenge organisers serve the files, in a folder for each year."""

RECORD_NAME = "download.json"

_WORK_NAME = ".download"
_SPARE_BYTES = 256 << 20  # left free on the disk for everybody else

_TSCHANDL = "Tschandl, Rosendahl, Kittler: The HAM10000 dataset. Scientific Data 5:180161 (2018)"
_CODELLA = {
    2018: "Codella et al.: Skin lesion analysis toward melanoma detection 2018. arXiv:1902.03368",
    2017: "Codella et al.: Skin lesion analysis toward melanoma detection. arXiv:1710.05006",
}
_HERNANDEZ = "Hernández-Pérez et al.: BCN20000. Scientific Data 11:641 (2024)"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """A set of the challenge: its year, its files and what to cite for it."""

    year: int
    files: tuple[str, ...]
    citations: tuple[str, ...]
    room: str


DATASETS = {
    "isic2018": Dataset(
        year=2018,
        files=(
            "ISIC2018_Task3_Training_LesionGroupings.csv",
            "ISIC2018_Task3_Training_GroundTruth.zip",
            "ISIC2018_Task3_Training_Input.zip",
        ),
        citations=(_TSCHANDL, _CODELLA[2018]),
        room="about 3 GB, twice that while unpacking",
    ),
    "isic2019": Dataset(
        year=2019,
        files=(
            "ISIC_2019_Training_GroundTruth.csv",
            "ISIC_2019_Training_Metadata.csv",
            "ISIC_2019_Training_Input.zip",
        ),
        citations=(_TSCHANDL, _CODELLA[2017], _HERNANDEZ),
        room="about 10 GB, twice that while unpacking",
    ),
}
"""The sets that can be fetched, by the kind of source they become; the tables come first."""


def licence_text(dataset: str) -> str:
    """Returns what a user must know before the download: licence, citations and size."""
    chosen = DATASETS[dataset]
    return "\n".join(
        [
            f"{dataset}: ISIC {chosen.year} challenge images ({chosen.room}).",
            "Licence: CC BY-NC 4.0, https://creativecommons.org/licenses/by-nc/4.0/",
            "You may use the images for non-commercial purposes only, and must name the source:",
            *(f"  {citation}" for citation in chosen.citations),
        ]
    )


def show_licence(text: str) -> bool:
    """Prints the licence and goes on: running the command is the consent."""
    print(text, flush=True)
    return True


def download(
    dataset: str,
    out: Path,
    *,
    base_url: str | None = None,
    accept_licence: Callable[[str], bool] = show_licence,
    progress: bool = True,
    attempts: int = 6,
    backoff_secs: float = 1.0,
) -> dict[str, Any]:
    """Fetches a challenge set into a folder that `--source isic2019=OUT` then reads.

    Run again, it goes on where it stopped. A file that is in place is compared with its recorded
    SHA-256: one that differs stops the command, for it may be a user's own change; one that is
    missing is fetched again and must be the recorded one.

    Args:
      dataset: `isic2018` or `isic2019`.
      out: a new or empty folder, or one that this function began.
      base_url: a mirror, which holds BASE_URL/2018/FILE or BASE_URL/2019/FILE.
      accept_licence: called with the licence before anything is sent for; False ends it there.
      progress: whether to draw progress bars.
      attempts: as in `transfer.fetch`, for each file.
      backoff_secs: likewise.

    Returns:
      What `download.json` holds: dataset, licence, citations, and url, bytes and sha256 by file.

    Raises:
      DermaganError: for another set, a folder of something else, no room, a server that refuses or
        breaks off too often, a file that is cut off, changed or unsafe.
    """
    if dataset not in DATASETS:
        raise DermaganError(f"unknown set {dataset!r}; write one of {', '.join(DATASETS)}")
    base_url = (base_url or BASE_URL).rstrip("/")
    if not base_url.startswith(("http://", "https://")):
        raise DermaganError(f"--base-url {base_url}: must begin with http:// or https://")
    if not accept_licence(licence_text(dataset)):
        raise DermaganError(f"{dataset}: licence not accepted; nothing was downloaded")
    try:
        work = _Work(dataset, Path(out), progress)
        missing = (name for name in DATASETS[dataset].files if not work.is_in_place(name))
        for name in missing:
            work.folder.mkdir(parents=True, exist_ok=True)
            transfer.fetch(
                f"{base_url}/{DATASETS[dataset].year}/{name}",
                work.part(name),
                check_room=functools.partial(work.check_room, name),
                attempts=attempts,
                backoff_secs=backoff_secs,
                progress=progress,
            )
            work.put_in_place(name, base_url)
        work.finish()
        return work.record
    except OSError as error:
        raise DermaganError(
            f"{error.filename or out}: cannot be read or written ({error.strerror}); choose a "
            "writable --out with enough space"
        ) from error


class _Work:
    """A download folder: its record, the files in place and the parts of those still coming."""

    def __init__(self, dataset: str, out: Path, progress: bool) -> None:
        self.dataset = dataset
        self.out = out
        self.progress = progress
        self.folder = out / _WORK_NAME
        self.record = self._open()

    def _open(self) -> dict[str, Any]:
        path = self.out / RECORD_NAME
        if self.out.exists() and not self.out.is_dir():
            raise DermaganError(f"{self.out}: is a file; choose a folder for --out")
        if path.exists():
            record = _read_record(path)
            if record["dataset"] != self.dataset:
                raise DermaganError(
                    f"{self.out}: holds {record['dataset']}; choose another --out for "
                    f"{self.dataset}"
                )
            return record
        begun = self.folder.is_dir()
        if not begun and self.out.exists() and any(self.out.iterdir()):
            raise DermaganError(
                f"{self.out}: holds files and no {RECORD_NAME}; choose a new or empty --out"
            )
        return {
            "dataset": self.dataset,
            "licence": "CC BY-NC 4.0",
            "citations": list(DATASETS[self.dataset].citations),
            "files": {},
        }

    def part(self, name: str) -> Path:
        """Returns where a file gathers until it is whole."""
        return self.folder / name

    def _target(self, name: str) -> Path:
        return self.out / name.removesuffix(".zip")

    def check_room(self, name: str, coming: int) -> None:
        """Raises when the rest of a file, and for a zip what is in it, do not fit on the disk."""
        # Photographs hardly pack: unpacked they take what the whole zip takes.
        needed = coming
        if name.endswith(".zip"):
            part = self.part(name)
            needed += coming + (part.stat().st_size if part.exists() else 0)
        self._check_free(needed)

    def _check_free(self, needed: int) -> None:
        free = shutil.disk_usage(self.folder).free
        if free < needed + _SPARE_BYTES:
            raise DermaganError(
                f"{self.out}: {(needed + _SPARE_BYTES) / 1e9:.1f} GB are needed and "
                f"{free / 1e9:.1f} GB are free; make room, or choose an --out on another disk"
            )

    def is_in_place(self, name: str) -> bool:
        """Compares a file that is there with its record; False when it is not there.

        Raises:
          DermaganError: when it is not the recorded one, or was not fetched by this command.
        """
        target = self._target(name)
        if not target.exists():
            return False
        entry = self.record["files"].get(name)
        if entry is None:
            raise DermaganError(
                f"{target}: was not fetched by this command; move it away, or choose another --out"
            )
        if name.endswith(".zip"):
            self._verify_folder(name, entry)
        else:
            _verify(target, entry["sha256"], target)
        return True

    def _verify_folder(self, name: str, entry: dict[str, Any]) -> None:
        sums_path = self.out / f"{self._target(name).name}.sha256"
        _verify(sums_path, entry["list_sha256"], self._target(name))
        lines = sums_path.read_text(encoding="utf-8").splitlines()
        for line in tqdm.tqdm(
            lines, desc=f"verify {self._target(name).name}", disable=not self.progress
        ):
            expected, _, member = line.partition("  ")
            _verify(self.out / member, expected, self._target(name))

    def put_in_place(self, name: str, base_url: str) -> None:
        """Checks a file that has come whole and moves or unpacks it to where it belongs.

        The record is written first and the result moved last, in one rename: a kill in between
        leaves the part, from which the next run does the same again.
        """
        part = self.part(name)
        entry: dict[str, Any] = {
            "url": f"{base_url}/{DATASETS[self.dataset].year}/{name}",
            "bytes": part.stat().st_size,
            "sha256": _sha256(part),
        }
        recorded = self.record["files"].get(name)
        if recorded is not None and recorded["sha256"] != entry["sha256"]:
            raise DermaganError(
                f"{part}: is not the file of the first download (SHA-256 {entry['sha256'][:12]}…, "
                f"recorded {recorded['sha256'][:12]}…); remove it to fetch it again, or remove "
                f"{self.out} to take the new set"
            )
        finished = self._unpack(name, entry) if name.endswith(".zip") else part
        self.record["files"][name] = entry
        files.write_json(self.out / RECORD_NAME, self.record)
        finished.replace(self._target(name))

    def _unpack(self, name: str, entry: dict[str, Any]) -> Path:
        """Unpacks a zip beside its part, lists its members' hashes, and returns the folder."""
        part = self.part(name)
        unpacked = self.folder / f"{name}.unpacked"
        if unpacked.exists():
            shutil.rmtree(unpacked)
        try:
            sums = unpacking.unpack(
                part, unpacked, check_room=self._check_free, progress=self.progress
            )
        except unpacking.ArchiveError:
            # A whole transfer of a bad file: resuming it would bring the same again.
            part.unlink()
            raise
        target = self._target(name).name
        text = "".join(f"{digest}  {target}/{member}\n" for member, digest in sums.items())
        with files.replacing(self.out / f"{target}.sha256") as partial:
            partial.write_text(text, encoding="utf-8")
        entry["members"] = len(sums)
        entry["list_sha256"] = hashlib.sha256(text.encode()).hexdigest()
        return unpacked

    def finish(self) -> None:
        """Reads the set as a source, so that a bad table shows now, and clears the parts away."""
        sources.read_source(self.dataset, str(self.out))
        if self.folder.exists():
            shutil.rmtree(self.folder)


def _verify(path: Path, expected: str, remove: Path) -> None:
    if not path.exists():
        raise DermaganError(f"{path}: is missing; remove {remove} to fetch it again")
    if _sha256(path) != expected:
        raise DermaganError(
            f"{path}: has changed since it was fetched; remove {remove} to fetch it again"
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        complete = {"dataset", "files"} <= record.keys() and isinstance(record["files"], dict)
    except (ValueError, AttributeError):
        complete = False
    if not complete:
        raise DermaganError(f"{path}: is damaged; remove {path.parent} to start again")
    return record
