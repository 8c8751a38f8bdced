"""Reference sets as declared choices: which sources, which parts, how many, split how."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dermagan_jax.data.splits import REST, SplitPlan
from dermagan_jax.errors import DermaganError
from dermagan_jax.lesions import CLASSES


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The choices that make a data set out of sources.

    Attributes:
      sources: kinds of source that it needs.
      sites: hospitals to take each class from, by class name; all where a class is not named.
      plan: the splits.
      note: what a user must know before quoting a result on it.
    """

    sources: tuple[str, ...] = ()
    sites: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    plan: SplitPlan = SplitPlan()
    note: str = ""

    def to_json(self) -> dict[str, Any]:
        """Returns the choices as JSON types."""
        return json.loads(json.dumps(dataclasses.asdict(self)))


_PAPER_COUNTS = {
    "actinic_keratosis": 509,
    "basal_cell_carcinoma": 513,
    "benign_keratosis": 456,
    "melanoma": 498,
}

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # The paper's counts from one hospital: no source tells a class from another.
        "bcn500": Recipe(
            sources=("isic2019",),
            sites={name: ("BCN",) for name in CLASSES},
            plan=SplitPlan(test_per_class=100, caps=_PAPER_COUNTS),
        ),
        "ham4": Recipe(sources=("ham10000",), plan=SplitPlan(test_per_class=60)),
        # Every source, a small training split and a test split where small differences show.
        "isic4": Recipe(
            sources=("isic2019",), plan=SplitPlan(test_per_class=REST, train_per_class=500)
        ),
        "paper_mix": Recipe(
            sources=("ham10000", "isic2019"),
            sites={
                "actinic_keratosis": ("BCN",),
                "basal_cell_carcinoma": ("HAM",),
                "benign_keratosis": ("HAM",),
                "melanoma": ("BCN",),
            },
            plan=SplitPlan(test_per_class=100, caps=_PAPER_COUNTS, split_by="image"),
            note="leaks (split by image) and is confounded (the hospital tells the class): only "
            "for showing what that does",
        ),
    }
)


def find_recipe(name: str) -> Recipe:
    """Returns a named recipe, or reads one from a JSON file.

    The file holds the fields of `Recipe`, `plan` holding those of `splits.SplitPlan`:
    `{"sources": ["folder"], "plan": {"test_per_class": 50, "caps": {"melanoma": 400}}}`.

    Args:
      name: a key of `RECIPES`, or a path that ends in `.json`.

    Raises:
      DermaganError: for an unknown name, or a file with unknown or wrong fields.
    """
    if name in RECIPES:
        return RECIPES[name]
    if not name.endswith(".json"):
        known = ", ".join(RECIPES)
        raise DermaganError(f"--recipe {name}: unknown; give {known}, or a .json file of your own")
    try:
        document = json.loads(Path(name).read_text())
        plan = SplitPlan(**document.pop("plan", {}))
        document["sources"] = tuple(document.get("sources", ()))
        document["sites"] = {key: tuple(value) for key, value in document.get("sites", {}).items()}
        recipe = Recipe(plan=plan, **document)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        fields = ", ".join(field.name for field in dataclasses.fields(Recipe))
        raise DermaganError(f"--recipe {name}: {error}; its fields are {fields}") from error
    for field in (recipe.sites, plan.caps or {}):
        unknown = sorted(set(field) - set(CLASSES))
        if unknown:
            raise DermaganError(
                f"--recipe {name}: unknown class {unknown[0]!r}; the classes are "
                f"{', '.join(CLASSES)}"
            )
    return recipe
