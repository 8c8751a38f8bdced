"""The benchmarks' own parts: what is run, what photographs are made, what the document says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import __main__ as command
from benchmarks import cases, data, gans, growth, photographs, precision, scaling, tables
from dermagan_jax import images
from dermagan_jax.data import prepared
from dermagan_jax.lesions import CLASSES


def test_data_is_made_only_for_the_cases_that_read_it(monkeypatch):
    made = []

    def make(num_images: int) -> Path:
        made.append(num_images)
        return Path("photographs")

    monkeypatch.setattr(cases, "photographs", make)
    assert [case.name for case in command._cases("gan_step_1", with_long=True)] == [
        "gan_step_16",
        "gan_step_128",
    ]
    assert made == []
    assert [case.name for case in command._cases("prepare", with_long=False)] == [
        "prepare_1k",
        "prepare_10k",
    ]
    (case,) = command._cases("prepare_100k", with_long=True)
    assert (case.name, case.images, case.most_turns) == ("prepare_100k", 100_000, 1)
    assert made == [1_000, 10_000, 100_000]


def test_cases_go_by_the_names_that_they_are_made_under(monkeypatch, phantom_set):
    monkeypatch.setattr(cases, "photographs", lambda num_images: Path("photographs"))
    monkeypatch.setattr(data, "phantom_set", lambda: phantom_set)
    for name, make in {**cases.FROM_DISK, **cases.LONG}.items():
        assert make().name == name


def test_an_epoch_is_of_the_training_split(monkeypatch, phantom_set):
    monkeypatch.setattr(data, "phantom_set", lambda: phantom_set)
    num_images = len(prepared.load_split(phantom_set, "train").label)
    case = cases.epoch()
    assert case.images == num_images // 64 * 64
    assert f"{num_images} images" in case.unit
    folders = Path(case.peers[0].parameters["class_folders"])
    assert sum(1 for _ in folders.glob("*/*.png")) == num_images


def test_photographs_are_all_different_and_complete(tmp_path, monkeypatch):
    monkeypatch.setattr(photographs, "FOLDER", tmp_path)
    monkeypatch.delenv(photographs.REAL_IMAGES, raising=False)
    folder = tmp_path / "raw"
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
    rng = np.random.default_rng(3)
    shape = (len(CLASSES) * photographs._BASES_PER_CLASS, 32, 32, 3)
    bases = rng.integers(0, 256, shape, dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    np.save(folder / photographs._BASES, bases)
    photographs._write(folder, 10, 0)
    files = sorted(folder.glob("*/*.jpg"))
    assert [len(list((folder / name).iterdir())) for name in CLASSES] == [3, 3, 2, 2]
    small = [images.resize_crop(images.read(path), 16).astype(int) for path in files]
    with Image.open(files[0]) as first:
        assert first.size == photographs.SIZE
    apart = [np.abs(a - b).mean() for i, a in enumerate(small) for b in small[:i]]
    assert min(apart) > 10


def points(values: tuple[int, ...]) -> list[dict]:
    return [
        {"value": v, "ms": 10.0 * v, "range_ms": [9.0 * v, 11.0 * v], "peak_mib": 1000 + v}
        | {"gflop": 2.0 * v, "gbytes": 0.5 * v}
        for v in values
    ]


def test_a_sweep_is_drawn_and_told(tmp_path, monkeypatch):
    monkeypatch.setattr(growth, "FIGURES", tmp_path / "figures")
    sweep = dataclasses.replace(growth.SWEEPS[0], why="")
    path = growth.draw(sweep, {"GAN": points((16, 32)), "CNN": points((16, 64))})
    height, width, _ = images.read(path).shape
    assert width > 2 * height  # Two panels.
    lines = growth.table(sweep, {"GAN": points((16, 512))})
    assert (
        "| GAN | 512 | 5,120.0 (4,608.0 to 5,632.0) | 1,024.0 | 200.0 | 256.0 | 50.0 | 1,512 |"
    ) in lines
    told = dataclasses.replace(sweep, why="Because.")
    assert growth.table(told, {"GAN": points((16, 512))}) == [*lines, "", "Because."]


def test_precision_tells_the_mean_distance_of_the_curves(monkeypatch, tmp_path):
    losses = {"float32": [1.0, 0.5], "bfloat16": [1.1, 0.4]}

    def train(script, config, num_steps, fields):
        curve = losses["bfloat16"] if fields["precision"] == "bfloat16" else losses["float32"]
        shift = float(fields["seed"])
        rows = [{"step": s, "loss": v + shift} for s, v in zip((5, 10), curve, strict=True)]
        return [*rows, {"step": 10, "validation/loss": 3.0}]

    monkeypatch.setattr(precision, "_train", train)
    monkeypatch.setattr(precision, "FIGURES", tmp_path / "figures")
    found = {"CNN": precision._compare("script.py", "recipe.py:smoke", 10, "loss")}
    assert found["CNN"]["gap"] == {"bfloat16": 0.1, "float32, another seed": 1.0}
    precision.draw(found)
    assert (tmp_path / "figures" / "precision_cnn.png").is_file()
    assert "| `recipe.py:smoke`, bfloat16 | loss | 10 | 0.1000 |" in precision.table(found)


def test_the_document_holds_the_figures_of_the_results():
    root = Path(tables.DOCUMENT).parents[1]
    results = json.loads((root / "benchmarks" / "results.json").read_text())
    text = tables.DOCUMENT.read_text()
    assert tables._render(results) in text
    for line in text.splitlines():
        if line.startswith("!["):
            target = line.partition("](")[2].rstrip(")")
            assert (tables.DOCUMENT.parent / target).is_file()


def test_what_a_program_sends_is_added_up():
    program = """
  %x = f32[3,4]{1,0} all-reduce(%a), channel_id=1
  %y = (f32[10]{0}, /*index=1*/s32[]) all-reduce-start(%b, %c), channel_id=2
  %z = bf16[2,8]{1,0} all-gather(%d), dimensions={0}
  %w = f32[100]{0} add(%e, %f)
"""
    assert scaling.collectives(program) == {"all-reduce": 48 + 44, "all-gather": 32}


def test_a_row_of_gans_shows_the_mean_and_the_spread_of_seeds():
    rows = {"ours": [{"KID": 0.1, "copies": 0}, {"KID": 0.3, "copies": 2}]}
    expected = "| | seeds | KID | copies |\n|---|---|---|---|\n"
    expected += "| ours | 2 | 0.20 (0.10 to 0.30) | 0, 2 |"
    assert gans._table(rows) == expected


def test_a_row_of_more_seeds_stays_in_its_place():
    before = "| | seeds | KID |\n|---|---|---|\n| a | 1 | 0.50 |\n| c | 3 | 0.70 |"
    rows = {"a": [{"KID": 0.2}], "b": [{"KID": 0.3}], "c": [{"KID": 0.4}], "d": []}
    expected = "| | seeds | KID |\n|---|---|---|\n| a | 1 | 0.20 |\n| b | 1 | 0.30 |\n"
    assert gans._table(rows, before) == expected + "| c | 3 | 0.70 |"


def test_an_ablation_is_read_where_the_shorter_runs_end(tmp_path):
    rows = [
        {"step": 1536, "samples/diversity/melanoma": 0.4, "samples/diversity/basal": 0.6},
        *(
            {"step": step, **{f"validation/{name}": step / 1000 for name in names}}
            for step in (1536, 2048)
            for names in [("kid", "coverage", "classification_accuracy")]
        ),
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = gans._of_ablation(tmp_path, 32)
    assert found == {"KID": 1.536, "coverage": 1.536, "accuracy": 1.536, "diversity": 0.5}
    assert gans._of_ablation(tmp_path, 64) is None
