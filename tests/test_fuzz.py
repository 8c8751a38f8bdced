"""Broken inputs end in our error or in success: a short form for every run, and a long one (slow).

The long one tries more than 100,000 inputs: `make test PYTEST_ARGS='-m slow tests/test_fuzz.py'`.
"""

from __future__ import annotations

import dataclasses
import io
import json
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import chex
import h5py
import jax.numpy as jnp
import numpy as np
import pytest
from fuzzing import Target, fuzz
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from raw_set import write_isic2019
from test_sources import make_ham, make_isic2018
from test_torch_file import tensor, write

from configs import dcgan
from dermagan_jax import generated_images, images, parallel, profiling, rollbacks, seeds, workdir
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.data import prepare, prepared, recipes, scan, sources, unpacking
from dermagan_jax.data.records import Record
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES
from dermagan_jax.nets import pretrained
from dermagan_jax.nets.torch_file import read_state_dict
from dermagan_jax.trained_classifier import _temperature
from dermagan_jax.writers import read_metrics

Read = Callable[[bytes], object]

# What is said of a good document of something else, by the name of its folder.
_FOREIGN = re.compile("holds a run that differs in|with other choices|is no prepared set")


def _picture(kind: str, mode: str = "RGB", **options: object) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, kind, **options)
    return data.getvalue()


def _images(folder: Path) -> Target:
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = (
        _picture("JPEG", exif=exif),
        _picture("JPEG", "CMYK", progressive=True),
        _picture("PNG", "P"),
        _picture("PNG", "RGBA"),
        _picture("WEBP"),
        _picture("BMP"),
        _picture("TIFF", compression="tiff_lzw"),
    )
    return Target("image files", seeds, _through(folder / "picture", images.read))


def _through(path: Path, read: Callable[[Path], object]) -> Read:
    """Reads an input from a file."""

    def write_and_read(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return write_and_read


def _named(target: Target) -> Target:
    """Insists that an error names the file, which the target is named after."""

    def read(data: bytes) -> object:
        try:
            return target.read(data)
        except DermaganError as error:
            if target.name not in str(error) and not _FOREIGN.search(str(error)):
                raise AssertionError(f"does not name {target.name}: {error}") from error
            raise

    return dataclasses.replace(target, read=read)


def _archive_tables(folder: Path) -> list[Target]:
    write_isic2019(folder / "isic2019", lesions=2, views=1)
    make_ham(folder / "ham10000")
    make_isic2018(folder / "isic2018")
    tables = {
        "isic2019": ("ISIC_2019_Training_GroundTruth.csv", "ISIC_2019_Training_Metadata.csv"),
        "ham10000": ("HAM10000_metadata.csv",),
        "isic2018": (
            "ISIC2018_Task3_Training_GroundTruth.csv",
            "ISIC2018_Task3_Training_LesionGroupings.csv",
        ),
    }

    def read(kind: str) -> Callable[[Path], object]:
        return lambda path: sources.read_source(kind, str(path.parent))

    return [
        _in_place(folder / kind / name, read(kind))
        for kind, names in tables.items()
        for name in names
    ]


def _in_place(path: Path, read: Callable[[Path], object], name: str = "") -> Target:
    """Breaks a file where it lies, and puts it back after each reading."""
    whole = path.read_bytes()

    def broken(data: bytes) -> object:
        path.write_bytes(data)
        try:
            return read(path)
        finally:
            path.write_bytes(whole)

    return Target(name or path.name, (whole,), broken)


def _class_folders(folder: Path) -> Target:
    for name in CLASSES:
        (folder / "classes" / name).mkdir(parents=True)
        (folder / "classes" / name / "1.png").write_bytes(_picture("PNG"))
    rows = "".join(f"{name}/1.png,lesion {name}\n" for name in CLASSES)
    seed = f"file,lesion_id\n{rows}".encode()
    path = folder / "classes" / "lesions.csv"
    read = _through(path, lambda path: sources.read_source("folder", str(path.parent)))
    return Target("lesions.csv", (seed,), read)


def _prepared(folder: Path, phantom_set: Path) -> list[Target]:
    """The report, the manifest and the plan of a set whose images stay whole."""
    copied = folder / "set"
    shutil.copytree(phantom_set, copied)

    def read(_: Path) -> None:
        prepared.load_report(copied)
        prepared.read_manifest(copied)

    def claim(_: Path) -> None:
        plan = json.loads((phantom_set / prepare.PLAN).read_text())
        prepare._is_made(copied, plan, overwrite=False)

    readers = {prepared.REPORT: read, prepared.MANIFEST: read, prepare.PLAN: claim}
    return [_named(_in_place(copied / name, reader)) for name, reader in readers.items()]


def _chunk(folder: Path) -> Target:
    """What a scan has decoded so far."""
    (folder / "photographs").mkdir()
    path = folder / "photographs" / "a.png"
    path.write_bytes(_picture("PNG"))
    record = Record("a", None, 0, "folder", "", str(path))

    def read(path: Path) -> None:
        scan.scan([record], path.parent, image_size=32, num_workers=1, progress=False)
        scan.chunk_pngs(path.parent, 0)

    scan.scan([record], folder / "scan", image_size=32, num_workers=1, progress=False)
    return _in_place(folder / "scan" / "000000.npz", read, "a scan's chunk")


def _generated(folder: Path) -> list[Target]:
    whole = generated_images.Generated(
        np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8),
        np.arange(4, dtype=np.int32).repeat(2),
        np.arange(8),
        {"kind": "phantom", "seed": 0, "checkpoint_step": 1, "train_split_sha256": "a"},
    )
    out = folder / "generated"
    generated_images.write_folder(whole, out)
    paths = (out / "manifest.csv", out / "generation.json", next(out.glob("melanoma/*.png")))
    return [
        _in_place(path, lambda _: generated_images.load_folder(out), f"generated, {path.name}")
        for path in paths
    ]


def _documents(folder: Path) -> list[Target]:
    rows = [{"step": 1, "train/d_loss": 0.5}, {"step": 2, "train/d_loss": None}]
    metrics = "".join(json.dumps(row) + "\n" for row in rows).encode()
    config = dcgan.get_config("smoke").to_dict()
    document = json.dumps({"config": config, "data": {"kind": "phantom"}}).encode()
    back = json.dumps({"rollbacks": [{"step": 1, "learning_rate": 1e-4, "reason": "x"}]}).encode()
    recipe = recipes.find_recipe("bcn500").to_json()
    run = folder / "run"
    run.mkdir()

    def claim(path: Path) -> None:
        with workdir.claimed(path.parent, config=config, data={"kind": "phantom"}):
            pass

    def go_back(path: Path) -> None:
        rollbacks.Rollbacks(dcgan.get_config("smoke"), path.parent).config()

    targets = [
        Target("metrics.jsonl", (metrics,), _through(folder / "metrics.jsonl", read_metrics)),
        Target("config.json", (document,), _through(run / workdir.CONFIG, claim)),
        Target(
            "summary.json",
            (b'{"temperature": 1.5, "best_step": 2, "test": {"n": 4}}',),
            _through(run / workdir.SUMMARY, lambda path: _temperature(path.parent, 2)),
        ),
        Target("rollbacks.json", (back,), _through(run / workdir.ROLLBACKS, go_back)),
        Target(
            "recipe",
            (json.dumps(recipe).encode(), b'{"sources": ["folder"], "plan": {"caps": {}}}'),
            _through(folder / "recipe.json", lambda path: recipes.find_recipe(str(path))),
        ),
    ]
    return [_named(target) for target in targets]


def _weights(folder: Path) -> list[Target]:
    numbers = np.arange(6, dtype="<f4")
    items = {"rows": tensor(), "columns": tensor((3, 2), (1, 3))}
    torch = write(folder / "seed.pth", items, {"k": numbers}).read_bytes()
    with h5py.File(folder / "seed.h5", "w") as file:
        file.create_dataset("dense/dense/kernel:0", data=np.zeros((3, 2), np.float32))
    keras = (folder / "seed.h5").read_bytes()
    shapes = {"params": {"dense": {"kernel": np.zeros((3, 2))}}}

    return [
        Target("weights, PyTorch", (torch,), _through(folder / "w.pth", read_state_dict)),
        Target(
            "weights, Keras",
            (keras,),
            _through(folder / "w.h5", lambda path: pretrained.keras_variables(path, shapes)),
        ),
    ]


def _checkpoints(folder: Path) -> list[Target]:
    """The files of a checkpoint, each damaged by itself; what is read must be what was saved."""
    kernel = jnp.asarray(np.random.default_rng(0).normal(size=(32, 16)), jnp.float32)
    state = {"kernel": kernel, "step": jnp.asarray(3)}
    run = folder / "trained"
    with Checkpoints(run, best_metric="kid") as saved:
        saved.save(3, state=state, config={"seed": 1}, generator=state, metrics={"kid": 0.1})

    def read(_: Path) -> None:
        with Checkpoints(run, read_only=True, best_metric="kid") as saved:
            step = saved.best_step() or 3
            found = saved.restore_state(state, step), saved.restore_generator(step)
            saved.restore_config(step)
        chex.assert_trees_all_equal(*found, state)

    return [
        _in_place(path, read, f"checkpoint, {path.relative_to(run)}")
        for path in sorted(run.rglob("*"))
        if path.is_file()
    ]


def _zips(folder: Path) -> Target:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("Set/a.csv", "image,MEL\nISIC_1,1\n" * 20)
        packed.writestr("Set/b/1.png", _picture("PNG"))
    outside = folder / "outside"
    out = outside / "folder" / "unpacked"
    out.parent.mkdir(parents=True)

    def read(path: Path) -> None:
        shutil.rmtree(out, ignore_errors=True)
        try:
            unpacking.unpack(path, out, check_room=lambda _: None, progress=False)
        except DermaganError as error:
            # Of a damaged one there may be a part, which the next download removes.
            if out.exists() and "is damaged or cut off" not in str(error):
                raise AssertionError(f"unpacked in part: {error}") from error
            raise
        finally:
            around = {each for each in outside.rglob("*") if out not in (each, *each.parents)}
            assert around == {path, out.parent}

    return Target("zip files", (data.getvalue(),), _through(outside / "Set.zip", read))


def _targets(folder: Path, phantom_set: Path) -> list[Target]:
    """Readers that answer within a millisecond or so."""
    return [
        _images(folder),
        *_archive_tables(folder),
        _class_folders(folder),
        *_prepared(folder, phantom_set),
        _chunk(folder),
        *_generated(folder),
        *_documents(folder),
        *_weights(folder),
        _zips(folder),
    ]


def _check(targets: list[Target], *, count: int) -> int:
    tallies = {target.name: fuzz(target, count=count, seed=0) for target in targets}
    faults = {name: list(tally.faults) for name, tally in tallies.items() if tally.faults}
    assert faults == {}
    for name, tally in tallies.items():
        print(f"{name}: {tally.count:,} tried, {tally.taken:,} read")
        assert tally.refused, name
    return sum(tally.count for tally in tallies.values())


def test_broken_inputs_end_well(tmp_path: Path, phantom_set: Path) -> None:
    _check(_targets(tmp_path, phantom_set), count=150)


@pytest.mark.slow
def test_a_hundred_thousand_broken_inputs_end_well(tmp_path: Path, phantom_set: Path) -> None:
    assert _check(_targets(tmp_path, phantom_set), count=6_500) >= 100_000


def _check_checkpoints(folder: Path, *, count: int) -> None:
    tallies = {target.name: fuzz(target, count=count, seed=0) for target in _checkpoints(folder)}
    assert {name: list(tally.faults) for name, tally in tallies.items() if tally.faults} == {}
    # Many files of a checkpoint are never read again.
    refused = sum(tally.refused for tally in tallies.values())
    tried = sum(tally.count for tally in tallies.values())
    print(f"checkpoints: {tried:,} tried, {refused:,} refused")
    assert refused > count


def test_a_broken_checkpoint_is_refused_or_whole(tmp_path: Path) -> None:
    _check_checkpoints(tmp_path, count=8)


@pytest.mark.slow
def test_thousands_of_broken_checkpoints_are_refused_or_whole(tmp_path: Path) -> None:
    _check_checkpoints(tmp_path, count=400)


def test_whole_inputs_are_read(tmp_path: Path, phantom_set: Path) -> None:
    """Each reader takes its own seeds, so that what it refuses is refused for the damage."""
    refused = {}
    for target in _targets(tmp_path, phantom_set):
        for seed in target.seeds:
            try:
                target.read(seed)
            except DermaganError as error:
                refused[target.name] = str(error)
    assert refused == {}


def test_a_document_without_a_field_names_it(tmp_path: Path, phantom_set: Path) -> None:
    targets = {each.name: each for each in _documents(tmp_path) + _prepared(tmp_path, phantom_set)}
    fields = {workdir.CONFIG: "data", workdir.SUMMARY: "temperature", prepared.REPORT: "image_size"}
    for name, field in fields.items():
        document = json.loads(targets[name].seeds[0])
        del document[field]
        with pytest.raises(DermaganError, match=rf"{name}: is damaged \({field} is missing\)"):
            targets[name].read(json.dumps(document).encode())


def test_a_fault_is_found() -> None:
    def read(data: bytes) -> None:
        if b"," not in data:
            raise KeyError("image")

    tally = fuzz(Target("planted", (b"image,MEL\nISIC_1,1\n",), read), count=300, seed=0)
    assert [fault.startswith("KeyError in test_fuzz.py:") for fault in tally.faults] == [True]


@given(st.text() | st.from_regex(r"[a-z]{1,6}:-?\d{1,4}(,[a-z]{1,6}:\d{1,30})?", fullmatch=True))
@example("data:²")
@example(f"data:{'9' * 5000}")
def test_a_mesh_is_read_or_refused(text: str) -> None:
    try:
        sizes = parallel.read_mesh(text, "class")
    except DermaganError:
        return
    assert all(size >= 1 for size in sizes.values())


@given(st.text() | st.from_regex(r"-?\d{0,30}:-?\d{0,30}", fullmatch=True))
@example("0:²")
@example("0:1000000000000")
@example(f"1:{'9' * 5000}")
def test_seeds_and_windows_are_read_or_refused(text: str) -> None:
    for parse in (seeds.parse, profiling.parse):
        try:
            read = parse(text)
        except DermaganError:
            continue
        # An end of the right kind has two numbers, and nothing is read out of nothing.
        assert bool(read) == (re.fullmatch("[0-9]+:[0-9]+", text) is not None)
