# SPDX-License-Identifier: Apache-2.0
"""Second step of Islam et al. 2021: a small network fitted to the features of a trained one, and its baselines."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.utils import optional_import
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from regplugins.baselines import train_mlp
from regplugins.checks import choice, whole
from regplugins.io import atomic, output_folder
from regplugins.networks import MLP, RigidCNN

PARAMETERS = ("angle_x", "angle_y", "angle_z", "shift_x", "shift_y", "shift_z")
MLP_METHODS = ("bayesian", "levenberg_marquardt", "scaled_conjugate_gradient")
_SCIKIT = ("svr", "gaussian_process")
# Maps features ``(examples, n)`` to predictions ``(examples, 6)``.
Regressor = Callable[[Tensor], Tensor]


def fit_regressor(
    network: RigidCNN,
    dataset: Dataset,
    output_dir: str | Path,
    pairs: int,
    held_out: int,
    method: str = "bayesian",
    baselines: Sequence[str] = (),
    hidden: int = 10,
    iterations: int = 60,
    seed: int = 0,
) -> None:
    """Fit the network's ``mlp`` to the features of its fixed trunk, and compare it with baselines.

    Writes ``model.pt``, the network with the regressor, and ``regression.csv`` with a row for the network's own head,
    the method and each baseline. A row has R² of every parameter and of all (weighted by variance), root mean square
    errors of angles and translations, and the seconds of fitting.

    Args:
        network: trained.
        dataset: items with ``moving`` and ``fixed`` ``(1, *spatial)`` and ``motion`` ``(6,)``.
        output_dir: folder.
        pairs: number of items to fit, from the first on.
        held_out: number of items after these to evaluate.
        method: one of ``MLP_METHODS``.
        baselines: other methods, including "svr" and "gaussian_process" of scikit-learn.
        hidden: neurons of the small network.
        iterations: largest number of training steps; conjugate gradients, with cheap steps, take twenty times as many.
        seed: of its weights.

    Raises:
        ImportError: if a baseline needs scikit-learn and it is not installed.
        ValueError: if a method or baseline is unknown, or there are too few items.
    """
    choice("method", method, dict.fromkeys(MLP_METHODS))
    for name in baselines:
        choice("baselines", name, dict.fromkeys([*MLP_METHODS, *_SCIKIT]))
    scikit = sorted(set(baselines) & set(_SCIKIT))
    if scikit and not optional_import("sklearn")[1]:  # before the fit, which takes minutes
        raise ImportError(f"{scikit} need scikit-learn; install it")
    pairs, held_out = whole("pairs", pairs, minimum=2), whole("held_out", held_out, minimum=2)
    folder = output_folder(output_dir)
    features, targets = pair_features(network, dataset, range(pairs))
    new_features, new_targets = pair_features(network, dataset, range(pairs, pairs + held_out))
    steps = dict.fromkeys(MLP_METHODS, iterations) | {"scaled_conjugate_gradient": 20 * iterations}
    methods: dict[str, Callable[[], Regressor]] = {
        name: partial(train_mlp, features, targets, name, hidden, steps[name], seed) for name in MLP_METHODS
    }
    methods |= {name: partial(_scikit, name, features, targets) for name in _SCIKIT}
    rows = [_row("head", network.cpu().linear, 0.0, new_features, new_targets)]
    for name in tqdm(dict.fromkeys([method, *baselines]), desc="fitting"):
        start = time.perf_counter()
        regressor = methods[name]()
        rows.append(_row(name, regressor, time.perf_counter() - start, new_features, new_targets))
        if name == method and isinstance(regressor, MLP):
            network.mlp.load_state_dict(regressor.state_dict())
            folder.mkdir(parents=True, exist_ok=True)
            with atomic(folder / "model.pt") as temporary:
                torch.save({key: value.cpu() for key, value in network.state_dict().items()}, temporary)
    with atomic(folder / "regression.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


@torch.no_grad()
def pair_features(network: RigidCNN, dataset: Dataset, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
    """Features ``(examples, n)`` of pairs and their motions ``(examples, 6)``."""
    device = next(network.parameters()).device
    network.eval()
    features, motions = [], []
    for index in tqdm(indices, desc="features"):
        item: Mapping[str, Tensor] = dataset[index]
        pair = torch.cat([item["moving"], item["fixed"]])[None].to(device)
        features.append(network.features(pair)[0].float().cpu())
        motions.append(item["motion"])
    return torch.stack(features), torch.stack(motions)


def r_squared(predicted: Tensor, targets: Tensor) -> Tensor:
    """Coefficient of determination of each column, ``(columns,)``."""
    residual = (predicted - targets).square().sum(dim=0)
    return 1 - residual / (targets - targets.mean(dim=0)).square().sum(dim=0)


@torch.no_grad()
def _row(name: str, regressor: Regressor, seconds: float, features: Tensor, targets: Tensor) -> dict[str, Any]:
    predicted = regressor(features)
    variance = (targets - targets.mean(dim=0)).square().sum(dim=0)
    each = r_squared(predicted, targets)
    error = (predicted - targets).square().mean(dim=0)
    row: dict[str, Any] = {"regressor": name, "pairs": len(targets)}
    row |= {f"r2_{parameter}": f"{value:.4f}" for parameter, value in zip(PARAMETERS, each.tolist(), strict=True)}
    row["r2"] = f"{float((each * variance).sum() / variance.sum()):.4f}"
    row["rms_degrees"] = f"{float(error[:3].mean().sqrt()):.3f}"
    row["rms_mm"] = f"{float(error[3:].mean().sqrt()):.3f}"
    return row | {"seconds": f"{seconds:.1f}"}


def _scikit(name: str, features: Tensor, targets: Tensor) -> Regressor:
    """Fit a regressor of scikit-learn to standardized features and targets."""
    # Imported here, since it takes seconds and no registration needs it.
    from sklearn import compose, gaussian_process, multioutput, pipeline, preprocessing, svm

    if name == "svr":
        inner = multioutput.MultiOutputRegressor(svm.SVR(C=100.0, epsilon=0.01))
    else:
        kernel = gaussian_process.kernels.RBF(features.shape[1] ** 0.5) + gaussian_process.kernels.WhiteKernel(1e-2)
        inner = gaussian_process.GaussianProcessRegressor(kernel)
    model = compose.TransformedTargetRegressor(
        pipeline.make_pipeline(preprocessing.StandardScaler(), inner), transformer=preprocessing.StandardScaler()
    )
    model.fit(features.double().numpy(), targets.double().numpy())
    return lambda given: torch.from_numpy(model.predict(given.double().numpy())).float()
