# SPDX-License-Identifier: Apache-2.0
"""A list of pairs, of which one is saved while the next is registered."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from monai.data import DataLoader, Dataset
from monai.transforms import Compose
from torch import Tensor, nn

from regplugins.engines import PairEvaluator, PairFolders, collate_single_pair, prepare_pair
from regplugins.inferers import WholeVolumeInferer
from regplugins.io import read_json
from regplugins.networks import IdentityNetwork
from regplugins.transforms import ApplyDDFPaird, EvaluatePaird, LoadPaird, ResamplePaird, SavePaird
from tests.full_disk import full_disk

SMALL, LARGE = (12, 14, 10), (64, 64, 64)


@pytest.fixture
def evaluator(tmp_path: Path) -> Callable[..., PairEvaluator]:
    """Evaluator of pairs of random images of the given sizes, saved in folders "0", "1", ... of ``o``."""

    def make(*shapes: tuple[int, ...], writer: SavePaird | None = None, **options: Any) -> PairEvaluator:
        records = []
        for number, shape in enumerate(shapes):
            record = {key: str(tmp_path / f"{key}_{number}.nii.gz") for key in ("fixed", "moving")}
            for seed, path in enumerate(record.values()):
                voxels = np.random.default_rng(seed).random(shape, np.float32)
                nib.save(nib.Nifti1Image(voxels, np.eye(4)), path)
            records.append(record | ({"name": str(number)} if len(shapes) > 1 else {}))
        writer = writer or SavePaird(tmp_path / "o")
        return PairEvaluator(
            Compose([LoadPaird(), ResamplePaird(spacing=1.0)]),
            PairFolders(records, writer),
            device="cpu",
            val_data_loader=DataLoader(Dataset(records), batch_size=1, collate_fn=collate_single_pair),
            prepare_batch=prepare_pair,
            network=IdentityNetwork(),
            postprocessing=Compose([ApplyDDFPaird(), EvaluatePaird(), writer]),
            decollate=False,
            **({"inferer": WholeVolumeInferer()} | options),
        )

    return make


def done(folder: Path) -> list[str]:
    return sorted(report.parent.name for report in folder.glob("*/report.json"))


class Inferer(WholeVolumeInferer):
    """Calls a function with the number of each pair before it is registered."""

    def __init__(self, before: Callable[[int], None]) -> None:
        super().__init__()
        self.before, self.count = before, 0

    def __call__(self, inputs: Tensor, network: nn.Module, *args: Any, **kwargs: Any) -> Any:
        self.count += 1
        self.before(self.count - 1)
        return super().__call__(inputs, network, *args, **kwargs)


class WaitingWriter(SavePaird):
    """Saves each pair but the last only after the next one's registration has begun."""

    def __init__(self, output_dir: Path, begun: list[threading.Event]) -> None:
        super().__init__(output_dir)
        self.begun = begun

    def _save(self, pair: dict[str, Any], folder: Path) -> None:
        for begun in self.begun[int(pair["name"]) + 1 :][:1]:
            assert begun.wait(60), "the next pair waits until this one is saved"
        super()._save(pair, folder)


def test_a_pair_is_saved_while_the_next_is_registered_and_before_the_one_after(evaluator, tmp_path):
    begun = [threading.Event() for _ in range(4)]
    saved = []

    def before(number: int) -> None:
        saved.append(done(tmp_path / "o"))
        begun[number].set()

    writer = WaitingWriter(tmp_path / "o", begun)
    evaluator(*[SMALL] * 4, writer=writer, inferer=Inferer(before)).run()
    assert done(tmp_path / "o") == ["0", "1", "2", "3"]
    for number, reports in enumerate(saved[1:], start=1):
        assert str(number - 1) not in reports
        assert number < 2 or str(number - 2) in reports


def test_files_are_those_of_pairs_that_are_saved_at_once(evaluator, tmp_path):
    evaluator(SMALL, SMALL).run()
    alone = evaluator(SMALL, writer=SavePaird(tmp_path / "alone"))
    alone.run()
    names = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert names == sorted([*(path.name for path in (tmp_path / "o/0").iterdir()), "summary.csv"])
    for path in (tmp_path / "alone").glob("*.nii.gz"):
        assert path.read_bytes() == (tmp_path / "o/0" / path.name).read_bytes()
    reports = [read_json(folder / "report.json") for folder in (tmp_path / "alone", tmp_path / "o/0")]
    assert reports[0].keys() == reports[1].keys()
    assert reports[0]["seconds"].keys() == reports[1]["seconds"].keys()


def test_a_pair_that_cannot_be_saved_fails_alone(evaluator, tmp_path):
    pairs = evaluator(SMALL, LARGE, SMALL)
    with pytest.raises(RuntimeError, match=r"^1 of 3 pairs failed.* 1: .*warped\.nii\.gz"), full_disk(600_000):
        pairs.run()
    assert done(tmp_path / "o") == ["0", "2"]
    failure = read_json(tmp_path / "o/1/failed.json")
    assert "1/warped.nii.gz" in failure["error"] and failure["inputs"]["name"] == "1"
    assert not (tmp_path / "o/1/report.json").exists()
    assert not list((tmp_path / "o").rglob(".*"))  # locks and temporary files


def test_a_pair_that_cannot_be_saved_ends_the_run_if_told_so(evaluator, tmp_path):
    pairs = evaluator(LARGE, SMALL, SMALL, failed_pairs="stop")
    with pytest.raises(OSError, match=r"warped\.nii\.gz"), full_disk(600_000):
        pairs.run()
    assert done(tmp_path / "o") == []
    assert "warped.nii.gz" in read_json(tmp_path / "o/0/failed.json")["error"]
    assert not (tmp_path / "o/1/failed.json").exists()


def test_a_single_pair_that_cannot_be_saved_ends_the_run(evaluator, tmp_path):
    pair = evaluator(LARGE)
    with pytest.raises(OSError, match=r"warped\.nii\.gz"), full_disk(600_000):
        pair.run()
    assert not (tmp_path / "o/report.json").exists()


def test_an_interrupt_ends_the_run_once_the_pair_before_is_saved(evaluator, tmp_path):
    begun = [threading.Event() for _ in range(3)]

    def interrupt(number: int) -> None:
        begun[number].set()
        if number == 1:
            raise KeyboardInterrupt

    writer = WaitingWriter(tmp_path / "o", begun)
    with pytest.raises(KeyboardInterrupt):
        evaluator(SMALL, SMALL, SMALL, writer=writer, inferer=Inferer(interrupt)).run()
    assert done(tmp_path / "o") == ["0"]
    assert not list((tmp_path / "o").rglob(".*"))
    assert not list((tmp_path / "o").rglob("failed.json"))
