# SPDX-License-Identifier: Apache-2.0
"""Bundles as users have them: a copy of the folder, a small data set, and the commands.

A module says which bundle it tests by a fixture ``case``.
"""

import logging
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import monai.bundle
import pytest
import torch
from monai.bundle import ConfigWorkflow

from regplugins.checks import first_cause
from tests.bundles.cases import BundleCase, TrainedCase

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def bundle_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[BundleCase], Path]:
    """Copies of bundles, made once, so that what tests write does not land in the repository."""

    @cache
    def copy(case: BundleCase) -> Path:
        folder = tmp_path_factory.mktemp("bundles") / case.name
        left_by_users = shutil.ignore_patterns("output", "eval", "data", "runs")
        return shutil.copytree(ROOT / "bundles" / case.name, folder, ignore=left_by_users)

    return copy


@pytest.fixture(scope="session")
def data_of(
    bundle_of: Callable[[BundleCase], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TrainedCase], Path]:
    """Folders with a datalist, made once."""

    @cache
    def make(case: TrainedCase) -> Path:
        folder = tmp_path_factory.mktemp("data")
        case.write_data(bundle_of(case), folder)
        return folder

    return make


@pytest.fixture(scope="session")
def sample_of(
    bundle_of: Callable[[BundleCase], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[BundleCase], Path]:
    """Output folder of ``inference.json`` on a bundle's sample without arguments, run once."""

    @cache
    def register(case: BundleCase) -> Path:
        folder = tmp_path_factory.mktemp("registered")
        run_bundle(bundle_of(case), "inference", output_dir=str(folder))
        return folder

    return register


@pytest.fixture(scope="module")
def bundle(case: BundleCase, bundle_of: Callable[[BundleCase], Path]) -> Path:
    """The bundle's folder."""
    return bundle_of(case)


@pytest.fixture(scope="module")
def data(case: TrainedCase, data_of: Callable[[TrainedCase], Path]) -> Path:
    """Folder with a datalist."""
    return data_of(case)


@pytest.fixture(scope="module")
def registered(case: BundleCase, sample_of: Callable[[BundleCase], Path]) -> Path:
    """The sample, registered without any argument."""
    return sample_of(case)


@pytest.fixture(scope="module")
def aligned(registered: Path) -> str:
    """A file for ``init`` by which the sample's images lie on each other, for tests that are not about that."""
    return str(registered / "transform_0GenericAffine.mat")


@pytest.fixture(scope="module")
def run(case: BundleCase, bundle: Path) -> Callable[..., None]:
    """``python -m monai.bundle run`` without the price of a new process: names of configs, overrides."""

    def call(*configs: str, **overrides: object) -> None:
        run_bundle(bundle, *configs, **(case.quick | overrides))

    return call


@pytest.fixture(scope="module")
def train(case: TrainedCase, data: Path, run: Callable[..., None]) -> Callable[..., dict[str, Any]]:
    """A few steps of ``train.json``: output folder, names of overlays, overrides. Gives the last checkpoint."""

    def call(output: Path, *overlays: str, **overrides: object) -> dict[str, Any]:
        given = {"dataset_dir": str(data), "output_dir": str(output), **case.few_steps, "amp": False}
        run("train", *overlays, **(given | overrides))
        return torch.load(output / "checkpoints/last.pt", weights_only=True)

    return call


def torchrun_command(bundle: Path, *configs: str, **overrides: object) -> list[str]:
    """``torchrun`` with two processes: names of configs or whole paths, overrides."""
    words = ["--config_file", str(_files(bundle, configs)), "--bundle_root", str(bundle)]
    words += [word for key, value in overrides.items() for word in (f"--{key}", str(value).replace(" ", ""))]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    return [*launcher, "-m", "monai.bundle", "run", *words]


@pytest.fixture(scope="module")
def torchrun(bundle: Path, data: Path) -> Callable[..., None]:
    """Two processes on a bundle's small data set; what they must do is end well."""

    def call(*configs: str, **overrides: object) -> None:
        command = torchrun_command(bundle, *configs, dataset_dir=data, **overrides)
        result = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]

    return call


@pytest.fixture
def warnings_of_ours(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], set[str]]]:
    """Warnings of the package. (A bundle's logging.conf takes pytest's handler from the root.)"""
    logger = logging.getLogger("regplugins")
    logger.addHandler(caplog.handler)

    def messages() -> set[str]:
        ours = (record for record in caplog.records if record.name.startswith("regplugins."))
        return {record.getMessage() for record in ours if record.levelno >= logging.WARNING}

    yield messages
    logger.removeHandler(caplog.handler)


def run_bundle(bundle: Path, *configs: str, **overrides: object) -> None:
    monai.bundle.run(config_file=_files(bundle, configs), bundle_root=str(bundle), **overrides)


def run_monai_bundle(patch: pytest.MonkeyPatch, words: Sequence[str]) -> None:
    """``python -m monai.bundle`` without a new process; what it sets of the interpreter is undone."""
    patch.setattr(sys, "excepthook", sys.excepthook)
    patch.setattr(sys, "argv", ["monai.bundle", *words])
    runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)


def cause_of(call: Callable[..., object], *arguments: object, **options: object) -> str:
    """Message of the first cause of the error in which a run ends."""
    with pytest.raises(RuntimeError) as error:
        call(*arguments, **options)
    return str(first_cause(error.value))


def _files(bundle: Path, configs: Sequence[str]) -> list[str]:
    return [name if name.endswith(".json") else str(bundle / f"configs/{name}.json") for name in configs]


def unset_properties(bundle: Path, kind: str, **overrides: object) -> list[str]:
    """Properties that MONAI asks of a workflow of this kind and a bundle lacks."""
    workflow = ConfigWorkflow(
        config_file=str(bundle / f"configs/{kind}.json"),
        meta_file=str(bundle / "configs/metadata.json"),
        logging_file=str(bundle / "configs/logging.conf"),
        workflow_type=kind,
        bundle_root=str(bundle),
        **overrides,
    )
    workflow.initialize()
    return workflow.check_properties()
