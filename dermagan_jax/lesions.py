"""The four lesion classes, and the codes by which HAM10000, ISIC 2018 and ISIC 2019 name them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

CLASSES = ("actinic_keratosis", "basal_cell_carcinoma", "benign_keratosis", "melanoma")
"""Class names in label order (alphabetical): label 0 is actinic keratosis."""

NUM_CLASSES = len(CLASSES)

SHORT_NAMES = ("AK", "BCC", "BKL", "MEL")
"""Abbreviations in label order, for figures and tables."""

OTHER = -1
"""The label of lesions of other diagnoses, which only a GAN's pre-training looks at."""

OTHER_NAME = "other"

_AK, _BCC, _BKL, _MEL = range(NUM_CLASSES)

# None marks a diagnosis that the archive knows and this project does not train on.
HAM10000_CODES: Mapping[str, int | None] = MappingProxyType(
    {"akiec": _AK, "bcc": _BCC, "bkl": _BKL, "mel": _MEL, "nv": None, "df": None, "vasc": None}
)
ISIC2018_COLUMNS: Mapping[str, int | None] = MappingProxyType(
    {"MEL": _MEL, "NV": None, "BCC": _BCC, "AKIEC": _AK, "BKL": _BKL, "DF": None, "VASC": None}
)
ISIC2019_COLUMNS: Mapping[str, int | None] = MappingProxyType(
    {
        "MEL": _MEL,
        "NV": None,
        "BCC": _BCC,
        "AK": _AK,
        "BKL": _BKL,
        "DF": None,
        "VASC": None,
        "SCC": None,
        "UNK": None,
    }
)


def class_name(label: int) -> str:
    """Returns the name of a class, or `OTHER_NAME` for the label `OTHER`."""
    return OTHER_NAME if label == OTHER else CLASSES[label]


def label_of_class(name: str) -> int:
    """Returns the label of a class's name, or `OTHER` for any other name."""
    return CLASSES.index(name) if name in CLASSES else OTHER


def label_of_folder(name: str) -> int | None:
    """Returns the label that a class folder's name stands for, or None when it names no class.

    Args:
      name: a class name or abbreviation in any case, words joined by `_`, `-` or a space
        (`Basal Cell Carcinoma`, `bcc`, `AKIEC`).

    Returns:
      The label in [0, 4), or None.
    """
    word = name.strip().lower().replace("-", "_").replace(" ", "_")
    aliases = {
        **{full: label for label, full in enumerate(CLASSES)},
        **{short.lower(): label for label, short in enumerate(SHORT_NAMES)},
        "akiec": _AK,
    }
    return aliases.get(word)
