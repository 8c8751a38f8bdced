"""Makes copying.npz: `python make_copying_golden.py`, in the project's own environment.

Each measure is computed by other means than the package's: loops, scikit-learn's neighbours and
ROC curve, SciPy's k-d tree and rank-sum test, and Newton's method for the linear classifier.
README.md in this folder describes each array.
"""

from __future__ import annotations

import math
import pathlib
import statistics

import numpy as np
from formula import formula
from scipy import spatial, special, stats
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

FOLDER = pathlib.Path(__file__).parent
# Of the squared weights, as the package's: 1 / 0.01, for a sum over the images.
PENALTY = 100.0


def feature_sets() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """60 training, 40 held-out and 50 generated features of 6 dimensions.

    The generated ones lie on the way to a training image, from 0 to 49 fiftieths of it.
    """
    training, heldout = (
        formula((n, 6), seed=s).astype(np.float64) for n, s in ((60, 51), (40, 52))
    )
    way = np.arange(50)[:, None] / 50
    generated = (1 - way) * formula((50, 6), seed=53).astype(np.float64) + way * training[:50]
    return training, heldout, generated


def labels(features: np.ndarray) -> np.ndarray:
    """Four classes, by the signs of two sums of features."""
    return (features[:, 0] + features[:, 1] > 0) + 2 * (features[:, 2] - features[:, 3] > 0)


def nearest_by_loops(one: np.ndarray, others: np.ndarray) -> float:
    """The distance to the nearest of some features, pair by pair."""
    return min(math.dist(one, other) for other in others)


def neighbour_ratio(training: np.ndarray, heldout: np.ndarray, generated: np.ndarray) -> dict:
    """Median of t / (t + h), and how often t is smaller."""
    pairs = [[nearest_by_loops(one, each) for each in (training, heldout)] for one in generated]
    return {
        "ratio_median": statistics.median(t / (t + h) for t, h in pairs),
        "ratio_share": statistics.mean(float(t < h) for t, h in pairs),
    }


def c_t(training: np.ndarray, heldout: np.ndarray, generated: np.ndarray) -> float:
    """The rank-sum test's z-score of the distances to training features."""
    tree = spatial.cKDTree(training)
    return stats.ranksums(*(tree.query(each)[0] for each in (generated, heldout))).statistic


def authenticity(training: np.ndarray, generated: np.ndarray) -> float:
    """Share of those further from their nearest training feature than another training one is."""
    found = NearestNeighbors(n_neighbors=2, algorithm="ball_tree").fit(training)
    # The nearest training feature to one of them is itself.
    to_sibling = found.kneighbors(training)[0][:, 1]
    distance, index = found.kneighbors(generated, n_neighbors=1)
    return float(np.mean(distance[:, 0] > to_sibling[index[:, 0]]))


def membership_auc(training: np.ndarray, heldout: np.ndarray, generated: np.ndarray) -> float:
    """Area under the ROC curve of "near to a generated one" for "is a training one"."""
    near = [-nearest_by_loops(one, generated) for one in (*training, *heldout)]
    return float(roc_auc_score([1] * len(training) + [0] * len(heldout), near))


def classification_accuracy(candidate: np.ndarray, reference: np.ndarray) -> float:
    """Accuracy on the reference of softmax regression on standardised candidates, by Newton."""
    mean, deviation = candidate.mean(axis=0), candidate.std(axis=0)
    one, other = (
        np.column_stack([(each - mean) / deviation, np.ones(len(each))])
        for each in (candidate, reference)
    )
    wanted = np.eye(4)[labels(candidate)]
    weight = np.zeros((7, 4))
    penalty = np.diag(np.repeat([PENALTY] * 6 + [0.0], 4))
    for _ in range(50):
        chance = special.softmax(one @ weight, axis=1)
        gradient = (one.T @ (chance - wanted)).ravel() + penalty @ weight.ravel()
        curvature = (
            np.einsum("nk,kl->nkl", chance, np.eye(4)) - chance[:, :, None] * chance[:, None]
        )
        hessian = np.einsum("na,nkl,nb->akbl", one, curvature, one).reshape(28, 28) + penalty
        # Intercepts that all grow alike change nothing: the hessian has no inverse.
        weight -= (np.linalg.pinv(hessian) @ gradient).reshape(7, 4)
    np.testing.assert_allclose(gradient, 0, atol=1e-9)
    return float(np.mean((other @ weight).argmax(axis=1) == labels(reference)))


def main() -> None:
    training, heldout, generated = feature_sets()
    arrays = {
        **neighbour_ratio(training, heldout, generated),
        "c_t": c_t(training, heldout, generated),
        "authenticity": authenticity(training, generated),
        "membership_auc": membership_auc(training, heldout, generated),
        "classification_accuracy": classification_accuracy(generated, heldout),
    }
    path = FOLDER / "copying.npz"
    np.savez_compressed(path, **{key: np.float32(value) for key, value in arrays.items()})
    print(path.name, {key: float(value) for key, value in arrays.items()})


if __name__ == "__main__":
    main()
