"""Reference sets as declared choices: which sources, which parts, how many, split how."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from dermagan_jax.data.sources import SOURCE_KINDS
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
    plan: SplitPlan = dataclasses.field(default_factory=SplitPlan)
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

_PAPER_SITES = {
    "actinic_keratosis": ("BCN",),
    "basal_cell_carcinoma": ("HAM",),
    "benign_keratosis": ("HAM",),
    "melanoma": ("BCN",),
}

RECIPES: Mapping[str, Recipe] = MappingProxyType(
    {
        # The paper's counts from one hospital: no source tells a class from another.
        "bcn500": Recipe(
            sources=("isic2019",),
            sites=dict.fromkeys(CLASSES, ("BCN",)),
            plan=SplitPlan(test_per_class=100, caps=_PAPER_COUNTS),
        ),
        "ham4": Recipe(sources=("ham10000",), plan=SplitPlan(test_per_class=60)),
        # Every source, a small training split and a test split where small differences show.
        "isic4": Recipe(
            sources=("isic2019",), plan=SplitPlan(test_per_class=REST, train_per_class=500)
        ),
        "paper_mix": Recipe(
            sources=("ham10000", "isic2019"),
            sites=_PAPER_SITES,
            plan=SplitPlan(test_per_class=100, caps=_PAPER_COUNTS, split_by="image"),
            note="leaks (split by image) and is confounded (the hospital tells the class): only "
            "for showing what that does",
        ),
        # Between paper_mix and bcn500: what the leak is worth, and what the hospitals are.
        "paper_mix_by_lesion": Recipe(
            sources=("ham10000", "isic2019"),
            sites=_PAPER_SITES,
            plan=SplitPlan(test_per_class=100, caps=_PAPER_COUNTS),
            note="is confounded (the hospital tells the class): only for showing what that does",
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
        document = json.loads(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DermaganError(f"--recipe {name}: cannot be read as JSON ({error})") from error
    try:
        return _recipe(document)
    except DermaganError as error:
        raise DermaganError(f"--recipe {name}: {error}") from error


def _recipe(document: Any) -> Recipe:
    fields = _fields(document, Recipe, "the file")
    plan = SplitPlan(**_fields(fields.pop("plan", {}), SplitPlan, "plan"))
    kinds, sites, note = fields.get("sources", []), fields.get("sites", {}), fields.get("note", "")
    if not _is_list_of(kinds, SOURCE_KINDS):
        raise DermaganError(f"sources is {kinds!r}; give a list of {', '.join(SOURCE_KINDS)}")
    if not isinstance(note, str):
        raise DermaganError(f"note is {note!r}; give a text")
    if not isinstance(sites, dict) or not _is_list_of(list(sites), CLASSES):
        raise DermaganError(f"sites is {sites!r}; give lists of sites for {', '.join(CLASSES)}")
    for name, each in sites.items():
        if not isinstance(each, list) or not all(isinstance(site, str) for site in each):
            raise DermaganError(f'sites: {name} is {each!r}; give a list such as ["BCN"]')
    return Recipe(tuple(kinds), {name: tuple(each) for name, each in sites.items()}, plan, note)


def _fields(document: Any, kind: type, where: str) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(document, dict) or set(document) - set(names):
        extra = sorted(set(document) - set(names)) if isinstance(document, dict) else [document]
        raise DermaganError(f"{where}: {extra[0]!r} is unknown; its fields are {', '.join(names)}")
    return dict(document)


def _is_list_of(values: Any, known: Sequence[str]) -> bool:
    return isinstance(values, list) and all(value in known for value in values)
