"""The bridge: the same images in memory, in a folder, and in the classifier."""

from __future__ import annotations

import csv
import dataclasses
import errno
import json
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

from dermagan_jax import files, gan, generated_images, images, synthesis
from dermagan_jax.checkpoints import Checkpoints
from dermagan_jax.errors import DermaganError, LeakError
from dermagan_jax.lesions import CLASSES


@pytest.fixture(scope="module")
def generated(tiny_gan: Path) -> generated_images.Generated:
    return synthesis.generate(synthesis.load_gan(tiny_gan), per_class=3, seed=7)


def test_images_are_labelled_and_differ(generated: generated_images.Generated) -> None:
    assert generated.image.shape == (12, 64, 64, 3)
    assert generated.image.dtype == np.uint8
    assert generated.label.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert len({image.tobytes() for image in generated.image}) == 12


def test_each_class_comes_from_its_own_network(
    tiny_gan: Path, generated: generated_images.Generated
) -> None:
    trained = synthesis.load_gan(tiny_gan)
    for label in range(len(CLASSES)):
        mine = jax.tree.map(lambda leaf, label=label: leaf[label], trained.variables)
        z = synthesis.draw_latents(7, label, 0, synthesis.BATCH_SIZE, trained.config)
        by_hand = jax.jit(partial(gan.sample, generator=trained.generator))(mine, z)
        np.testing.assert_array_equal(generated.image[generated.label == label], by_hand[:3])


def test_an_image_does_not_depend_on_how_many_are_asked_for(
    tiny_gan: Path, generated: generated_images.Generated
) -> None:
    trained = synthesis.load_gan(tiny_gan)
    counts = dict(zip(CLASSES, (0, 70, 3, 1), strict=True))
    more = synthesis.generate(trained, per_class=counts, seed=7)
    ours = more.first(dict(zip(CLASSES, (0, 3, 3, 1), strict=True)))
    np.testing.assert_array_equal(ours.image, generated.image[[3, 4, 5, 6, 7, 8, 9]])
    other = synthesis.generate(trained, per_class=3, seed=8)
    assert not np.array_equal(other.image, generated.image)


def test_a_folder_holds_the_same_bytes_again_and_again(
    generated: generated_images.Generated, tmp_path: Path
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    generated_images.write_folder(generated, one)
    generated_images.write_folder(generated, other)
    generated_images.write_folder(generated, other)
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(other) for p in other.rglob("*") if p.is_file())
    assert len(files) == 12 + 4  # The images, manifest, provenance, grid, and a lock.
    for file in files:
        assert (one / file).read_bytes() == (other / file).read_bytes()
    loaded = generated_images.load_folder(one)
    np.testing.assert_array_equal(loaded.image, generated.image)
    np.testing.assert_array_equal(loaded.label, generated.label)


def test_the_manifest_says_where_an_image_comes_from(
    generated: generated_images.Generated, tmp_path: Path
) -> None:
    generated_images.write_folder(generated, tmp_path / "out")
    with (tmp_path / "out" / generated_images.MANIFEST).open() as file:
        rows = list(csv.DictReader(file))
    assert rows[4]["file"] == "basal_cell_carcinoma/basal_cell_carcinoma_000001.png"
    assert rows[4]["class"] == "basal_cell_carcinoma"
    assert (rows[4]["seed"], rows[4]["index"]) == ("7", "1")
    assert rows[4]["train_split_sha256"] == generated.provenance["train_split_sha256"]
    np.testing.assert_array_equal(
        images.read(tmp_path / "out" / rows[4]["file"]), generated.image[4]
    )
    provenance = json.loads((tmp_path / "out" / generated_images.PROVENANCE).read_text())
    assert provenance["kind"] == "phantom"


def test_an_interrupted_folder_is_finished(
    generated: generated_images.Generated, tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    generated_images.write_folder(generated, whole)
    shutil.copytree(whole, broken)
    # As a kill leaves it: some images, the claim, and nothing that says it is complete.
    (broken / generated_images.PROVENANCE).rename(broken / ".generating.json")
    shutil.rmtree(broken / "melanoma")
    with pytest.raises(DermaganError, match="no complete folder"):
        generated_images.load_folder(broken)
    generated_images.write_folder(generated, broken)
    assert sorted(p.name for p in broken.rglob("*")) == sorted(p.name for p in whole.rglob("*"))


@pytest.mark.parametrize("where", ["melanoma", "manifest.csv"])
def test_a_full_disk_is_named(
    where: str,
    generated: generated_images.Generated,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    if where == "melanoma":
        mkdir = Path.mkdir
        monkeypatch.setattr(
            Path, "mkdir", lambda path, **k: (full if path.name == where else mkdir)(path, **k)
        )
    else:
        monkeypatch.setattr(csv, "writer", full)
    with pytest.raises(DermaganError, match=rf"{where}: cannot be written \(No space left"):
        generated_images.write_folder(generated, tmp_path / "out")


def test_what_a_kill_left_before_the_first_image_is_ours(
    generated: generated_images.Generated, tmp_path: Path
) -> None:
    (tmp_path / ".generating.json.tmp").write_text("{")
    generated_images.write_folder(generated, tmp_path)
    assert (tmp_path / generated_images.PROVENANCE).is_file()


def test_other_folders_are_left_alone(
    generated: generated_images.Generated, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(DermaganError, match="was not made by"):
        generated_images.write_folder(generated, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    generated_images.write_folder(generated, tmp_path / "ours")
    other = dataclasses.replace(generated, provenance={**generated.provenance, "seed": 8})
    with pytest.raises(DermaganError, match="another checkpoint, seed or number"):
        generated_images.write_folder(other, tmp_path / "ours")


def test_two_processes_do_not_write_to_one_folder(
    generated: generated_images.Generated, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    busy = pytest.raises(DermaganError, match="another process is generating images here")
    with files.held(out, doing="generating images"), busy:
        generated_images.write_folder(generated, out)
    assert files.is_empty(out)
    generated_images.write_folder(generated, out)


def test_a_manifest_cannot_lead_out_of_its_folder(
    generated: generated_images.Generated, tmp_path: Path
) -> None:
    generated_images.write_folder(generated, tmp_path / "out")
    path = tmp_path / "out" / generated_images.MANIFEST
    path.write_text(path.read_text().replace("melanoma/melanoma_000000.png", "../secret.png"))
    with pytest.raises(DermaganError, match="outside its folder"):
        generated_images.load_folder(tmp_path / "out")


def test_a_gan_of_other_lesions_is_refused(generated: generated_images.Generated) -> None:
    generated.require_train_split(generated.provenance["train_split_sha256"])
    with pytest.raises(LeakError, match="another training split"):
        generated.require_train_split("0" * 64)


def test_the_checkpoint_alone_is_enough(
    tiny_gan: Path, generated: generated_images.Generated, tmp_path: Path
) -> None:
    shutil.copytree(tiny_gan / "checkpoints", tmp_path / "elsewhere" / "checkpoints")
    trained = synthesis.load_gan(tmp_path / "elsewhere")
    again = synthesis.generate(trained, per_class=3, seed=7)
    np.testing.assert_array_equal(again.image, generated.image)


def test_latents_are_standard_normal_and_each_its_own() -> None:
    config = {"model": {"latent_size": 16}}
    z = np.asarray(synthesis.draw_latents(0, 1, 0, 500, config))
    assert abs(z.mean()) < 0.05
    assert z.std() == pytest.approx(1, abs=0.03)
    np.testing.assert_array_equal(z[10:12], synthesis.draw_latents(0, 1, 10, 2, config))
    assert not np.array_equal(z[:2], synthesis.draw_latents(0, 2, 0, 2, config))


def test_a_classifiers_workdir_is_no_gan(tmp_path: Path) -> None:
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state={"w": np.ones(2)}, config={"config": {}, "data": {}})
    with pytest.raises(DermaganError, match="is not a GAN's workdir"):
        synthesis.load_gan(tmp_path)


def test_what_is_no_gan_is_named(tiny_gan: Path, tmp_path: Path) -> None:
    with pytest.raises(DermaganError, match="holds no checkpoints"):
        synthesis.load_gan(tmp_path)
    with pytest.raises(DermaganError, match="no checkpoint of step 77; it has 1, 2"):
        synthesis.load_gan(tiny_gan, step=77)
    trained = synthesis.load_gan(tiny_gan)
    for number in (0, -1):
        with pytest.raises(DermaganError, match="above 0"):
            synthesis.generate(trained, per_class=number, seed=0)
    assert len(jax.tree.leaves(trained.variables))
