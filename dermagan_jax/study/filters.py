"""The filters of a study: what their names mean, and which images of a GAN pass one."""

from __future__ import annotations

import dataclasses

import numpy as np

from dermagan_jax import synthesis
from dermagan_jax.errors import DermaganError
from dermagan_jax.generated_images import Generated
from dermagan_jax.lesions import CLASSES

REALISTIC, AGREED, NO_COPIES = "realistic", "agreed", "no_copies"
FORMS = ("realistic=SHARE", "agreed", "agreed=NETWORK", "no_copies")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """A filter as a configuration names it.

    Attributes:
      name: `REALISTIC`, `AGREED` or `NO_COPIES`.
      share: of the images, that `REALISTIC` keeps.
      network: whose classifier `AGREED` asks; "" for the reference's.
    """

    name: str
    share: float = 0.0
    network: str = ""


def read(text: str) -> Wanted:
    """Reads one of `FORMS`.

    Raises:
      DermaganError: it is none of them.
    """
    name, separator, value = text.partition("=")
    if name in (AGREED, NO_COPIES) and not separator:
        return Wanted(name)
    if name == AGREED and value:
        return Wanted(name, network=value)
    try:
        share = float(value)
    except ValueError:
        share = 0.0
    if name == REALISTIC and 0 < share < 1:
        return Wanted(name, share=share)
    raise DermaganError(
        f"config.filters: {text!r}; give some of {', '.join(FORMS)}, SHARE between 0 and 1"
    )


def passed(images: Generated, chosen: synthesis.Filter, *, text: str) -> Generated:
    """Returns the images that a filter accepts.

    Args:
      images: the candidates.
      chosen: the filter; it judges each class by itself, a batch at a time.
      text: what the configuration calls it.

    Raises:
      DermaganError: none passes.
    """
    accepted = np.zeros(len(images.label), bool)
    for label in range(len(CLASSES)):
        members = np.flatnonzero(images.label == label)
        for start in range(0, len(members), synthesis.BATCH_SIZE):
            part = members[start : start + synthesis.BATCH_SIZE]
            accepted[part] = chosen.accepts(images.image[part], label)
    if not accepted.any():
        raise DermaganError(
            f"config.filters: {text!r} lets none of {len(accepted):,} images pass; "
            "loosen it, or leave it out"
        )
    provenance = {**images.provenance, "filters": [dict(chosen.settings)]}
    return dataclasses.replace(images.take(np.flatnonzero(accepted)), provenance=provenance)
