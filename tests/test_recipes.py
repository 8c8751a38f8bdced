"""The named recipes say what the documents say; a file of one's own is checked by field."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dermagan_jax.data.recipes import RECIPES, find_recipe
from dermagan_jax.data.splits import REST
from dermagan_jax.errors import DermaganError


def test_names():
    names = ["bcn500", "ham4", "isic4", "paper_mix", "paper_mix_by_lesion"]
    assert list(RECIPES) == names


def test_bcn500_is_one_hospital_with_the_papers_counts():
    recipe = find_recipe("bcn500")
    assert recipe.sources == ("isic2019",)
    assert set(recipe.sites.values()) == {("BCN",)}
    assert len(recipe.sites) == 4
    assert sorted(recipe.plan.caps.values()) == [456, 498, 509, 513]
    assert sum(recipe.plan.caps.values()) == 1976
    assert (recipe.plan.test_per_class, recipe.plan.split_by) == (100, "lesion")


def test_ham4_and_isic4():
    assert find_recipe("ham4").plan.test_per_class == 60
    assert find_recipe("isic4").plan.test_per_class == REST
    assert find_recipe("isic4").plan.train_per_class == 500


def test_only_paper_mix_leaks_and_it_says_so():
    leaky = [name for name, recipe in RECIPES.items() if recipe.plan.split_by == "image"]
    assert leaky == ["paper_mix"]
    assert "leaks" in RECIPES["paper_mix"].note
    assert RECIPES["paper_mix"].sites["melanoma"] == ("BCN",)
    assert RECIPES["paper_mix"].sites["benign_keratosis"] == ("HAM",)


def test_paper_mix_by_lesion_differs_from_paper_mix_by_its_split_alone():
    leaky, clean = RECIPES["paper_mix"], RECIPES["paper_mix_by_lesion"]
    assert (leaky.sources, leaky.sites) == (clean.sources, clean.sites)
    assert dataclasses.replace(leaky.plan, split_by="lesion") == clean.plan
    assert "confounded" in clean.note
    assert "leaks" not in clean.note


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_being_written_as_a_file(name, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(RECIPES[name].to_json()))
    assert find_recipe(str(path)).to_json() == RECIPES[name].to_json()


def test_a_file_may_leave_out_what_it_does_not_change(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text('{"sources": ["folder"], "plan": {"test_per_class": 50}}')
    recipe = find_recipe(str(path))
    assert recipe.sources == ("folder",)
    assert (recipe.plan.test_per_class, recipe.plan.validation_fraction) == (50, 0.15)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read as JSON"),
        ("[]", r"the file: \[\] is unknown"),
        ('{"source": []}', "'source' is unknown"),
        ('{"sources": "folder"}', "sources is 'folder'"),
        ('{"sources": ["bogus"]}', "sources is"),
        ('{"sites": {"melanoma": "BCN"}}', "melanoma is 'BCN'"),
        ('{"sites": {"nevus": ["BCN"]}}', "sites is"),
        ('{"note": 5}', "note is 5"),
        ('{"plan": 3}', "plan: 3"),
        ('{"plan": {"seed": 5}}', "plan: 'seed'"),
        ('{"plan": {"caps": {"melanoma": "many"}}}', "caps"),
        ('{"plan": {"validation_fraction": "a"}}', "validation_fraction"),
    ],
)
def test_mistakes_in_a_file_are_named(text, message, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(DermaganError, match=message) as caught:
        find_recipe(str(path))
    assert str(path) in str(caught.value)


def test_unknown_name_lists_the_known_ones(tmp_path):
    with pytest.raises(DermaganError, match="bcn500, ham4, isic4, paper_mix, paper_mix_by_lesion"):
        find_recipe("bcn5000")
    with pytest.raises(DermaganError, match="cannot be read"):
        find_recipe(str(tmp_path / "absent.json"))
