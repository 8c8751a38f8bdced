"""A `Record` names one source image; every stage of preparation passes records along."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One image of a source, before it is decoded.

    Attributes:
      image_id: unique name, the archive's own (`ISIC_0024306`) where it has one.
      lesion_id: the archive's lesion id, or None where it gives none.
      label: class label in [0, 4), in the order of `lesions.CLASSES`; or `lesions.OTHER`.
      source: the source's kind (`ham10000`, `isic2018`, `isic2019`, `folder`, `phantom`).
      site: the hospital as the lesion id's prefix tells it (`BCN`, `HAM`, `MSK`), or "".
      path: the image file; for phantoms `phantom:SEED:LABEL:LESION:VIEW`.
    """

    image_id: str
    lesion_id: str | None
    label: int
    source: str
    site: str
    path: str
