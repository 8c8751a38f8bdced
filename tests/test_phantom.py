"""Phantoms: drawn from their path alone, and different between classes as they should be."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from dermagan_jax import lesions
from dermagan_jax.data import phantom, phantom_scene, phantom_structures
from dermagan_jax.data.phantom_lesions import RECIPES
from dermagan_jax.errors import DermaganError

AK, BCC, BKL, MEL = range(lesions.NUM_CLASSES)
NUM_LESIONS = 40


def digest(image: np.ndarray) -> str:
    return hashlib.sha256(image.tobytes()).hexdigest()


@pytest.fixture(scope="module")
def views() -> list[np.ndarray]:
    """First views of some lesions: one [n, 64, 64, 3] array of floats in [0, 1] a class."""
    return [
        np.stack([phantom.render(f"phantom:5:{label}:{n}:0") for n in range(NUM_LESIONS)]) / 255
        for label in range(lesions.NUM_CLASSES)
    ]


@pytest.fixture(scope="module")
def scenes() -> list[list[phantom_scene.Scene]]:
    """The maps of lesions on bare, unpigmented ground, by class."""
    return [
        [scene_of(recipe, np.random.default_rng((7, label, n))) for n in range(NUM_LESIONS)]
        for label, recipe in enumerate(RECIPES)
    ]


def scene_of(recipe, rng: np.random.Generator) -> phantom_scene.Scene:
    scene = phantom_scene.empty_scene(160)
    recipe(scene, rng)
    return scene


class TestRecords:
    def test_each_class_has_exactly_the_number_asked_for(self):
        listing = phantom.records(7, seed=3)
        assert [record.label for record in listing] == [0] * 7 + [1] * 7 + [2] * 7 + [3] * 7
        assert len({record.image_id for record in listing}) == 28
        assert len({record.path for record in listing}) == 28
        assert {record.source for record in listing} == {"phantom"}

    def test_paths_carry_seed_label_lesion_and_view(self):
        for record in phantom.records(30, seed=9):
            prefix, seed, label, lesion, view = record.path.split(":")
            assert (prefix, seed, label) == ("phantom", "9", str(record.label))
            short_name = lesions.SHORT_NAMES[record.label]
            assert record.lesion_id == f"PHANTOM_9_{short_name}_{int(lesion):05d}"
            assert record.image_id == f"{record.lesion_id}_{view}"

    def test_lesions_have_one_to_three_views_and_all_three_occur(self):
        listing = phantom.records(200, seed=0)
        names = [record.lesion_id for record in listing]
        assert {names.count(name) for name in set(names)} == {1, 2, 3}

    def test_a_longer_listing_starts_with_the_shorter_one(self):
        short, long = phantom.records(10, seed=1), phantom.records(25, seed=1)
        for label in range(lesions.NUM_CLASSES):
            assert short[label * 10 : (label + 1) * 10] == long[label * 25 : label * 25 + 10]

    @pytest.mark.parametrize(("per_class", "seed"), [(0, 0), (-3, 0), (5, -1)])
    def test_numbers_out_of_range_are_refused(self, per_class, seed):
        with pytest.raises(DermaganError, match="at least 1 image a class"):
            phantom.records(per_class, seed=seed)


class TestRender:
    def test_the_same_path_gives_the_same_bytes(self):
        for record in phantom.records(2, seed=4):
            assert digest(phantom.render(record.path)) == digest(phantom.render(record.path))

    def test_every_field_of_the_path_changes_the_image(self):
        paths = ["1:2:3:1", "0:2:3:1", "1:3:3:1", "1:2:4:1", "1:2:3:0", "1:2:3:2"]
        images = {digest(phantom.render(f"phantom:{path}")) for path in paths}
        assert len(images) == len(paths)

    @pytest.mark.parametrize("size", [8, 32, 64, 101])
    def test_size_and_dtype(self, size):
        image = phantom.render("phantom:0:3:1:0", size=size)
        assert image.shape == (size, size, 3)
        assert image.dtype == np.uint8

    def test_another_size_shows_the_same_picture(self):
        for path in ("phantom:0:1:2:0", "phantom:0:2:5:0", "phantom:0:3:4:0"):
            small = phantom.render(path, size=64).reshape(16, 4, 16, 4, 3).mean((1, 3))
            large = phantom.render(path, size=128).reshape(16, 8, 16, 8, 3).mean((1, 3))
            assert np.abs(small - large).mean() < 4  # grey levels
            assert small.std() > 10

    def test_views_of_a_lesion_share_its_colours_more_than_other_lesions_do(self):
        def colour(path: str) -> np.ndarray:
            # The middle, where the lesion lies; the median steps over hair and bubbles.
            return np.median(phantom.render(path)[20:44, 20:44].reshape(-1, 3), axis=0)

        within, between = [], []
        for n in range(20):
            first = colour(f"phantom:2:3:{n}:0")
            within.append(np.abs(first - colour(f"phantom:2:3:{n}:1")).mean())
            between.append(np.abs(first - colour(f"phantom:2:3:{n + 1}:0")).mean())
        assert np.mean(within) < 0.6 * np.mean(between)

    @pytest.mark.parametrize(
        "path",
        [
            "",
            "phantom",
            "phantom:0:0:0",
            "phantom:0:0:0:0:0",
            "phantom:0:4:0:0",
            "phantom:-1:0:0:0",
            "phantom:a:0:0:0",
            " phantom:0:0:0:0",
            "phantom:0:0:0:0\n",
            "phantom:0:0:٣:0",
            "images/ISIC_0024306.jpg",
        ],
    )
    def test_a_malformed_path_is_refused_by_name(self, path):
        with pytest.raises(DermaganError) as refusal:
            phantom.render(path)
        assert repr(path) in str(refusal.value)
        assert "phantom:SEED:LABEL:LESION:VIEW" in str(refusal.value)

    def test_too_small_a_size_is_refused(self):
        with pytest.raises(DermaganError, match="size 4"):
            phantom.render("phantom:0:0:0:0", size=4)


def border_irregularity(mask: np.ndarray) -> float:
    """Perimeter² / (4 π area): 1 for a disc, on a grid a little more."""
    padded = np.pad(mask, 1)
    perimeter = sum(np.abs(np.diff(padded.astype(int), axis=axis)).sum() for axis in (0, 1))
    return float(perimeter**2 / (4 * np.pi * max(mask.sum(), 1)))


def asymmetry(mask: np.ndarray) -> float:
    """Part of a lesion that does not lie on itself when folded along either axis, 0 for an ellipse.

    Lesions are drawn with their axes along the map's; only their middle is to be found.
    """
    rows, columns = np.nonzero(mask)
    shift = [mask.shape[0] // 2 - round(float(np.mean(places))) for places in (rows, columns)]
    centred = np.roll(mask, shift, axis=(0, 1))
    unmatched = [(centred & ~np.flip(centred, axis)).sum() for axis in (0, 1)]
    return float(np.mean(unmatched) / mask.sum())


class TestClasses:
    """The order of class means, each of which can turn out otherwise."""

    def test_recipes_stand_in_label_order(self):
        assert [recipe.__name__ for recipe in RECIPES] == list(lesions.CLASSES)

    def test_melanomas_have_the_most_irregular_border_of_the_pigmented_classes(self, scenes):
        irregularity = {
            label: np.median([border_irregularity(scene.melanin > 0.25) for scene in scenes[label]])
            for label in (BKL, MEL)
        }
        assert irregularity[MEL] > 1.2 * irregularity[BKL]

    def test_melanomas_are_the_less_symmetric_of_the_pigmented_classes(self, scenes):
        # Outlines alone, without the texture inside: as deep as the skin is pigmented at all.
        measured = {
            label: np.median([asymmetry(scene.melanin > 0.05) for scene in scenes[label]])
            for label in (BKL, MEL)
        }
        assert measured[MEL] > 1.4 * measured[BKL]

    def test_pigmented_classes_have_the_melanin_and_pink_ones_the_blood(self, scenes):
        melanin = [np.mean([scene.melanin.sum() for scene in of_class]) for of_class in scenes]
        blood = [np.mean([scene.blood.sum() for scene in of_class]) for of_class in scenes]
        assert min(melanin[MEL], melanin[BKL]) > 2 * max(melanin[AK], melanin[BCC])
        assert min(blood[AK], blood[BCC]) > 1.3 * max(blood[MEL], blood[BKL])

    def test_melanomas_vary_more_in_pigment_than_benign_keratoses(self, scenes):
        spread = {
            label: np.median(
                [
                    scene.melanin[scene.melanin > 0.25].std()
                    for scene in scenes[label]
                    if (scene.melanin > 0.25).any()
                ]
            )
            for label in (BKL, MEL)
        }
        assert spread[MEL] > 1.3 * spread[BKL]

    def test_images_are_redder_where_lesions_are_pink_and_darker_where_they_are_brown(self, views):
        # Redness is red over green; the middle is compared with the image's own rim, because skin
        # tone and light differ more than lesions do.
        def contrast(images: np.ndarray, measure) -> float:
            centre, rim = images[:, 24:40, 24:40], images[:, 8:14, 16:48]
            return float(np.median(measure(centre) - measure(rim)))

        def redness(pixels: np.ndarray) -> np.ndarray:
            means = pixels.mean((1, 2))
            return (means[:, 0] - means[:, 1]) / (means.sum(1) + 0.03)

        def lightness(pixels: np.ndarray) -> np.ndarray:
            return pixels.mean((1, 2, 3))

        light = [contrast(images, lightness) for images in views]
        assert max(light[BKL], light[MEL]) < min(light[AK], light[BCC]) - 0.05
        assert min(contrast(views[label], redness) for label in (AK, BCC)) > 0.01

    def test_skin_and_camera_do_not_tell_the_class(self, views):
        # Corners show skin or the black surround: their class means differ by chance alone.
        corners = [images[:, :6, :6].mean((1, 2, 3)) for images in views]
        means = np.array([values.mean() for values in corners])
        errors = np.array([values.std() for values in corners]) / np.sqrt(NUM_LESIONS)
        assert np.abs(means - means.mean()).max() < 4 * errors.max()

    def test_images_use_the_range_and_are_not_flat(self, views):
        for images in views:
            assert images.min() < 0.1
            assert images.max() > 0.8
            assert images.std((1, 2)).min() > 0.005


class TestScene:
    def test_bare_dermis_and_absorption_by_hand(self):
        scene = phantom_scene.empty_scene(4)
        np.testing.assert_allclose(
            phantom_scene.reflectance(scene)[:, 0, 0], phantom_scene.DERMIS, rtol=1e-6
        )
        scene.melanin += 2
        expected = phantom_scene.DERMIS * np.exp(-2 * phantom_scene.MELANIN_ABSORPTION)
        np.testing.assert_allclose(phantom_scene.reflectance(scene)[:, 1, 2], expected, rtol=1e-5)
        assert expected[0] > expected[1] > expected[2]  # brown

    def test_opaque_keratin_hides_all_and_the_veil_is_bluish(self):
        scene = phantom_scene.empty_scene(4)
        scene.melanin += 1
        scene.veil += 1
        red, green, blue = phantom_scene.reflectance(scene)[:, 0, 0]
        assert red < green < blue
        scene.keratin += 2  # read as 1
        np.testing.assert_allclose(
            phantom_scene.reflectance(scene)[:, 0, 0], phantom_scene.KERATIN, rtol=1e-5
        )

    def test_noise_has_mean_0_and_deviation_about_1(self):
        rng = np.random.default_rng(0)
        fields = np.stack([phantom_scene.noise(rng, 60, 12) for _ in range(50)])
        assert fields.shape == (50, 60, 60)
        assert fields.dtype == np.float32
        assert abs(fields.mean()) < 0.05
        assert 0.85 < fields.std() < 1.15

    def test_noise_does_not_depend_on_the_resolution(self):
        coarse = phantom_scene.noise(np.random.default_rng(1), 40, 8)
        fine = phantom_scene.noise(np.random.default_rng(1), 120, 8)
        # The middle one of three fine pixels lies where the coarse pixel does.
        np.testing.assert_allclose(fine[1::3, 1::3], coarse, atol=1e-4)

    def test_smooth_step_by_hand(self):
        values = np.array([-1, -0.5, 0, 0.25, 0.5, 1], np.float32)
        np.testing.assert_allclose(
            phantom_scene.smooth_step(values, 1.0), [0, 0, 0.5, 0.84375, 1, 1], atol=1e-6
        )
        assert values[0] == -1  # the argument stays as it was

    def test_spots_are_added_where_they_are_placed(self):
        target = np.zeros((130, 130), np.float32)
        phantom_scene.add_spots(target, np.array([[0.3, -0.2]]), np.array([0.05]), np.array([2.0]))
        rows, columns = np.nonzero(target > 1)
        place = np.array([columns.mean(), rows.mean()]) / 100 - phantom_scene.HALF_WIDTH
        np.testing.assert_allclose(place, [0.3, -0.2], atol=0.011)
        np.testing.assert_allclose((target > 1).sum() / 1e4, np.pi * 0.05**2, rtol=0.15)
        assert target.max() == pytest.approx(2.0)

    def test_spots_beyond_the_edge_are_cut_off(self):
        target = np.zeros((50, 50), np.float32)
        centres = np.array([[0.65, 0.0], [5.0, 5.0]])
        phantom_scene.add_spots(target, centres, np.array([0.1, 0.1]), np.array([1.0, 1.0]))
        assert target[25, -1] > 0.9
        assert target[:, :35].max() == 0

    def test_vessels_branch_into_thinner_ones(self):
        lines: list[phantom_scene.Polyline] = []
        rng = np.random.default_rng(0)
        phantom_structures._grow_vessel(rng, lines, np.zeros(2), 0.0, 0.3, 0.012)
        widths = [width for _, width in lines]
        assert len(lines) >= 3
        assert widths[0] == max(widths)
        assert min(widths) < 0.5 * widths[0]

    def test_the_moth_eaten_border_takes_away_only(self):
        scene = phantom_scene.empty_scene(100)
        disc = 0.3 - phantom_scene.distance_from(scene, 0.0, 0.0)
        eaten = phantom_structures.moth_eaten_border(scene, np.random.default_rng(0), disc)
        assert (eaten <= disc).all()
        assert (eaten > 0).sum() < (disc > 0).sum()
        assert border_irregularity(eaten > 0) > border_irregularity(disc > 0)
