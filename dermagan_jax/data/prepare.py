"""From raw sources to a prepared set: read, scan, clean, split, write, report, audit."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import dermagan_jax
from dermagan_jax import files
from dermagan_jax.data import beam, cleaning, dermoscopy, exhibits, prepared, scan, sources, splits
from dermagan_jax.data.recipes import Recipe, find_recipe
from dermagan_jax.data.records import Record
from dermagan_jax.data.splits import SPLITS, SplitPlan
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES, OTHER, label_of_class

PLAN = "plan.json"
SCAN = ".scan"
MIN_IMAGE_SIZE = 8
ISIC_LICENCE = (
    "CC BY-NC 4.0; HAM10000: Tschandl et al., 2018; BCN20000: Hernández-Pérez et al., 2024; "
    "MSK: Codella et al., 2017"
)
LICENCES = {
    "ham10000": ISIC_LICENCE,
    "isic2018": ISIC_LICENCE,
    "isic2019": ISIC_LICENCE,
    "folder": "the licence of the images in the user's folder",
    "phantom": "made by this program",
}

_logger = logging.getLogger("dermagan")


def prepare(
    out: Path,
    *,
    source_texts: Sequence[str],
    recipe_name: str | None = None,
    plan_changes: Mapping[str, Any] | None = None,
    image_size: int = 64,
    seed: int = 0,
    keep: Path | None = None,
    blur_mads: float = cleaning.BLUR_MADS,
    num_workers: int | None = None,
    cluster: beam.Cluster | None = None,
    others: bool = False,
    overwrite: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Prepares a data set, or goes on where an earlier call was stopped.

    Args:
      out: new, empty, or the folder of an earlier call.
      source_texts: as the command line takes them, such as `isic2019=DIR`.
      recipe_name: a key of `recipes.RECIPES`, a JSON file, or None for all of the sources.
      plan_changes: fields of `splits.SplitPlan` to set over the recipe's.
      image_size: side of the images in pixels.
      seed: of the splits, and of the phantoms.
      keep: a file of image ids, one a line, to bring back from quarantine.
      blur_mads: see `cleaning.clean`.
      num_workers: decoding processes, or None for one a core.
      cluster: from `beam.options`, of machines that see the sources and `out`; None: this one.
      others: keep lesions of other diagnoses, and of hospitals that the recipe leaves out, too, as
        a split of its own for the pre-training of a GAN.
      overwrite: replace an earlier set, also one by the same choices.
      progress: whether to draw a progress bar.

    Returns:
      The report, as written to data_report.json.

    Raises:
      DermaganError: bad input; nothing is half-written, and a rerun goes on.
      LeakError: two splits share something, which would be an error of this program.
    """
    _check_numbers(image_size, seed)
    recipe = _changed_recipe(recipe_name, plan_changes or {})
    listing = _read_sources(source_texts, recipe, seed, out)
    ours = _chosen(listing.records, recipe)
    records = ours + (_others(listing, ours) if others else [])
    choices: dict[str, Any] = {"sources": list(source_texts), "recipe": recipe_name, "seed": seed}
    choices |= {"image_size": image_size, "keep": _read_keep(keep), "blur_mads": blur_mads}
    choices |= _described(recipe, records)
    workers: Any = {"num_workers": num_workers, "cluster": cluster, "progress": progress}
    with _claimed(out, choices, overwrite) as is_made:
        if is_made:
            return _made_before(out)
        prints = scan.scan(records, out / SCAN, image_size=image_size, **workers)
        divided = _divide(records, len(ours), prints, recipe.plan, choices)
        return _finish(out, records, prints, *divided, listing, choices, cluster)


def _made_before(out: Path) -> dict[str, Any]:
    _logger.info("%s: is prepared already, by the same choices", out)
    shutil.rmtree(out / SCAN, ignore_errors=True)  # Of a run ended between report and tidying.
    return prepared.load_report(out)


def _check_numbers(image_size: int, seed: int) -> None:
    if image_size < MIN_IMAGE_SIZE or seed < 0:
        raise DermaganError(
            f"image_size is {image_size} and seed is {seed}; give at least {MIN_IMAGE_SIZE} and 0"
        )


def _changed_recipe(name: str | None, plan_changes: Mapping[str, Any]) -> Recipe:
    recipe = find_recipe(name) if name else Recipe()
    return dataclasses.replace(recipe, plan=dataclasses.replace(recipe.plan, **plan_changes))


def _finish(out: Path, *results: Any) -> dict[str, Any]:
    """Writes a set and proves it; takes what `_write` takes."""
    try:
        report = _write(out, *results)
    except OSError as error:
        raise DermaganError(
            f"{out}: cannot be written ({error.strerror}); free some space and run the same "
            "command again"
        ) from error
    # The report marks the set complete, so it comes after the proof.
    prepared.audit(out, report)
    prepared.write_report(out, report)
    shutil.rmtree(out / SCAN, ignore_errors=True)  # The next call may tidy it, too.
    return report


def _read_sources(
    texts: Sequence[str], recipe: Recipe, seed: int, out: Path
) -> sources.SourceListing:
    if not texts:
        raise DermaganError("no source is given; give --source KIND=DIR, or --source phantom")
    parsed = [sources.parse_source(text) for text in texts]
    kinds = {kind for kind, _ in parsed}
    missing = sorted(set(recipe.sources) - kinds)
    if missing:
        raise DermaganError(f"the recipe needs {missing[0]}; give --source {missing[0]}=DIR")
    for kind, value in parsed:
        if kind == "folder" and out.resolve().is_relative_to(Path(value).expanduser().resolve()):
            raise DermaganError(f"{out}: lies in the source {value}; name an --out outside of it")
    if "phantom" in kinds and len(kinds) > 1:
        raise DermaganError(
            "phantoms and photographs cannot be mixed: no result on the mixture would mean "
            "anything; prepare them apart"
        )
    return sources.merge_sources([sources.read_source(*each, seed=seed) for each in parsed])


def _chosen(records: Sequence[Record], recipe: Recipe) -> list[Record]:
    """Keeps the records of the recipe's sites, sorted by id."""
    kept = []
    for record in records:
        sites = recipe.sites.get(CLASSES[record.label])
        if sites is None or record.site in sites:
            kept.append(record)
    present = {record.label for record in kept}
    for label, name in enumerate(CLASSES):
        if label not in present:
            raise DermaganError(f"class {name}: the sources hold none of the images asked for")
    return sorted(kept, key=lambda record: record.image_id)


def _others(listing: sources.SourceListing, chosen: Sequence[Record]) -> list[Record]:
    """Lists the lesions that are no business of the classes: see `prepare`."""
    known = {record.image_id for record in chosen}
    left = [
        dataclasses.replace(record, label=OTHER)
        for record in (*listing.records, *listing.others)
        if record.image_id not in known
    ]
    if not left:
        raise DermaganError(
            "--others: the sources hold no image of another diagnosis; add one that does, such as "
            "--source ham10000=DIR, or leave --others out"
        )
    return sorted(left, key=lambda record: record.image_id)


def _read_keep(path: Path | None) -> list[str]:
    if path is None:
        return []
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DermaganError(f"--keep {path}: cannot be read ({error})") from error
    return sorted({line.strip() for line in lines if line.strip()})


def _is_made(out: Path, choices: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether `out` holds the finished set of the same choices, which is not to be made anew.

    An unfinished set may go on with other choices: most often the first ones were refused.

    Raises:
      DermaganError: it holds a set of other choices, or something else.
    """
    path = out / PLAN
    if not path.is_file():
        if out.exists() and not (out.is_dir() and files.is_empty(out)):
            raise DermaganError(f"{out}: exists and is no prepared set; name another --out")
        return False
    before = _plan_of(path)
    if overwrite or not (out / prepared.REPORT).is_file():
        return False
    wanted = json.loads(json.dumps(choices))
    if before != wanted:
        fields = ", ".join(key for key in wanted if before.get(key) != wanted[key])
        raise DermaganError(
            f"{out}: holds a set prepared with other choices ({fields}); name another "
            "--out, or give --overwrite"
        )
    return True


@contextlib.contextmanager
def _claimed(out: Path, choices: Mapping[str, Any], overwrite: bool) -> Iterator[bool]:
    """Makes `out` ours and keeps other processes out of it; yields `_is_made`."""
    if _is_made(out, choices, overwrite):
        yield True
        return
    with files.held(out, doing="preparing a set"):
        # Another call may have made it since.
        is_made = _is_made(out, choices, overwrite)
        if not is_made:
            if overwrite and (out / PLAN).is_file():
                _remove_set(out)
            files.write_json(out / PLAN, choices)
        yield is_made


def _plan_of(path: Path) -> dict[str, Any]:
    """Reads the plan of an earlier call; a file of another program's by the same name is none."""
    try:
        plan = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise DermaganError(f"{path}: cannot be read ({error}); name another --out") from error
    if not isinstance(plan, dict) or not {"choices", "version", "num_images"} <= plan.keys():
        raise DermaganError(f"{path.parent}: exists and is no prepared set; name another --out")
    return plan


def _described(recipe: Recipe, records: Sequence[Record]) -> dict[str, Any]:
    """Returns what else makes a set another: the recipe's fields, the records, the program.

    Where the files lie does not count, so that a moved download changes nothing.
    """
    stated = [dataclasses.replace(record, path="") for record in records]
    return {
        "choices": recipe.to_json(),
        "num_images": len(records),
        "records_sha256": hashlib.sha256(repr(stated).encode()).hexdigest(),
        "version": dermagan_jax.__version__,
    }


def _split_hashes(rows: Sequence[Mapping[str, str]]) -> dict[str, str]:
    found = {}
    for name in (*SPLITS, splits.OTHERS):
        members = [row for row in rows if row["split"] == name]
        if members:
            found[name] = prepared.split_sha256(
                (row["image_id"], label_of_class(row["class"]), row["pixels_sha256"])
                for row in members
            )
    return found


def _remove_set(out: Path) -> None:
    """Removes what an earlier call wrote.

    The report goes first, so that the set never looks complete, and the plan last, so that a call
    that is killed half-way leaves a folder that is still ours.
    """
    for name in (prepared.REPORT, prepared.MANIFEST, "quarantine.csv", "quarantine.png"):
        (out / name).unlink(missing_ok=True)
    for name in (SCAN, dermoscopy.NAME, "figures"):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / PLAN).unlink()


def _divide(
    records: Sequence[Record],
    num_ours: int,
    prints: scan.Fingerprints,
    plan: SplitPlan,
    choices: Mapping[str, Any],
) -> tuple[cleaning.Cleaning, np.ndarray, np.ndarray]:
    """Says what is set aside, and the split ("removed" for that) and group of each image.

    The other lesions come last and change nothing for ours. Those that belong to a lesion of ours
    or look like one, in whichever split it is, are left out.
    """
    ours, blur_mads = records[:num_ours], choices["blur_mads"]
    found = cleaning.clean(ours, prints.first(num_ours), keep=choices["keep"], blur_mads=blur_mads)
    split, group = _assign(ours, found, plan, choices["seed"])
    if num_ours == len(records):
        return found, split, group
    among_all = cleaning.clean(records, prints, blur_mads=blur_mads)
    groups = splits.group_images([record.lesion_id for record in records], among_all.links)
    is_related = np.isin(groups, groups[:num_ours])
    placed = np.where(is_related, splits.UNUSED, splits.OTHERS).astype(split.dtype)
    removals = [removal for removal in among_all.removals if removal.index >= num_ours]
    placed[[removal.index for removal in removals]] = "removed"
    return (
        dataclasses.replace(found, removals=[*found.removals, *removals]),
        np.concatenate([split, placed[num_ours:]]),
        np.concatenate([group, groups[num_ours:]]),
    )


def _assign(
    records: Sequence[Record], found: cleaning.Cleaning, plan: SplitPlan, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the split of each image ("removed" for those set aside) and its group."""
    group = splits.group_images([record.lesion_id for record in records], found.links)
    label = np.asarray([record.label for record in records])
    is_kept = np.ones(len(records), bool)
    is_kept[[removal.index for removal in found.removals]] = False
    split = np.full(len(records), "removed", "U10")
    split[is_kept] = splits.assign_splits(label[is_kept], group[is_kept], plan=plan, seed=seed)
    return split, group


def _write(
    out: Path,
    records: Sequence[Record],
    prints: scan.Fingerprints,
    found: cleaning.Cleaning,
    split: np.ndarray,
    group: np.ndarray,
    listing: sources.SourceListing,
    choices: Mapping[str, Any],
    cluster: beam.Cluster | None,
) -> dict[str, Any]:
    """Writes everything but the report, and returns the report."""
    shutil.rmtree(out / dermoscopy.NAME, ignore_errors=True)
    dermoscopy.write(
        out,
        records,
        split,
        scan_folder=out / SCAN,
        image_size=choices["image_size"],
        cluster=cluster,
    )
    rows = exhibits.manifest_rows(records, prints, split, group)
    exhibits.write_csv(out / prepared.MANIFEST, prepared.MANIFEST_COLUMNS, rows)
    exhibits.write_quarantine(out, out / SCAN, records, found)
    counts = {
        name: {
            each: sum(row["split"] == name and row["class"] == each for row in rows)
            for each in CLASSES
        }
        for name in SPLITS
    }
    kind = "phantom" if records[0].source == "phantom" else "real"
    report = {
        **choices,
        "kind": kind,
        "classes": list(CLASSES),
        "counts": counts,
        "split_hashes": _split_hashes(rows),
        "others": int((split == splits.OTHERS).sum()),
        "unused": sum(row["split"] == splits.UNUSED for row in rows),
        "removed": dict(Counter(removal.reason for removal in found.removals)),
        "kept_back": found.kept_back,
        "look_alike_pairs": len(found.links),
        "thresholds": {
            "link_bits": cleaning.LINK_BITS,
            "duplicate_bits": cleaning.DUPLICATE_BITS,
            "duplicate_grey_levels": cleaning.DUPLICATE_GREY_LEVELS,
        },
        "class_by_site": exhibits.class_by_site(rows),
        "skipped_diagnoses": listing.skipped,
        "absent": listing.absent,
        "warnings": [
            *listing.warnings,
            *([choices["choices"]["note"]] * bool(choices["choices"]["note"])),
        ],
        "licences": sorted({LICENCES[record.source] for record in records}),
        "leaky": choices["choices"]["plan"]["split_by"] == "image",
    }
    exhibits.draw(out, out / SCAN, records, split, counts, kind)
    return report
