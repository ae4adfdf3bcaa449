# SPDX-License-Identifier: Apache-2.0
"""Bundles in MONAI Label's app for bundles, step by step as its ``BundleInferTask`` runs them."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from regplugins.__main__ import main
from regplugins.data import RandomWarp
from regplugins.io import load_image, load_label, write_image
from regplugins.label import lay_out
from regplugins.metrics import label_overlap, mean_overlap
from regplugins.spatial import Grid, resample, resample_labels
from tests.bundles.cases import ANY_MODALITY, DUAL_SUPERVISION, FIRE, HEADS, HIPPOCAMPUS, BundleCase

ROOT = Path(__file__).resolve().parents[2]
BUNDLE = ROOT / "bundles" / HIPPOCAMPUS.name


def infer(bundle: Path, image: Path, **request: Any) -> dict[str, Any]:
    """Mimic the app: it reads ``inference.json`` and metadata, and hands over one tensor."""
    config = ConfigParser()
    config.read_config(bundle / "configs/inference.json")
    config.config.update({"bundle_root": str(bundle), "device": "cpu"})
    network = config.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models/model.pt", weights_only=True), strict=False)
    data: dict[str, Any] = {"image": str(image), "image_path": str(image), "device": "cpu", **request}
    for transform in config.get_parsed_content("preprocessing").transforms:
        data = transform(data)
    with torch.no_grad():
        data["pred"] = config.get_parsed_content("inferer")(data["image"][None], network)[0]
    for transform in config.get_parsed_content("postprocessing").transforms:
        data = transform(data)
    return data


@pytest.fixture(scope="module")
def labeled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The hippocampus bundle laid out with its own sample as the atlas."""
    sample = BUNDLE / "sample"
    names = {"anterior": 1, "posterior": 2}
    folder = tmp_path_factory.mktemp("model")
    return lay_out(BUNDLE, folder, sample / "moving.nii.gz", sample / "moving_label.nii.gz", names)


@pytest.mark.slow
# The others are configured as one of these.
@pytest.mark.parametrize("case", [HIPPOCAMPUS, DUAL_SUPERVISION, FIRE, HEADS, ANY_MODALITY], ids=lambda case: case.name)
def test_a_bundle_gives_a_label_of_the_opened_image(case: BundleCase, tmp_path):
    bundle = ROOT / "bundles" / case.name
    sample = bundle / "sample"
    label = sample / "moving_label.nii.gz"
    copy = lay_out(bundle, tmp_path / "model", sample / "moving.nii.gz", label)
    if case.quick:
        config = json.loads((copy / "configs/inference.json").read_text())
        (copy / "configs/inference.json").write_text(json.dumps(config | dict(case.quick)))
    found = infer(copy, sample / "fixed.nii.gz")["pred"]
    fixed = load_image(sample / "fixed.nii.gz")
    assert isinstance(found, MetaTensor) and found.shape == fixed.shape and found.dtype == torch.uint8
    torch.testing.assert_close(found.affine, fixed.affine)
    assert set(found.unique().tolist()) == set(load_label(label).unique().tolist())


def test_the_label_is_nearer_the_true_one_than_before(labeled, tmp_path):
    sample = BUNDLE / "sample"
    image, label = load_image(sample / "moving.nii.gz"), load_label(sample / "moving_label.nii.gz")
    grid = Grid.from_image(image)
    warp = RandomWarp(6.0, (16.0, 24.0)).set_random_state(seed=1)(grid)
    write_image(resample(image.as_tensor(), grid, grid, warp), grid, tmp_path / "opened.nii.gz")
    truth = resample_labels(label.as_tensor(), grid, grid, warp)
    result = infer(labeled, tmp_path / "opened.nii.gz")
    dice = [
        mean_overlap(label_overlap(label, truth, [1.0, 1.0, 1.0]))["dice"]
        for label in (result["before_label"], result["pred"].as_tensor().int())
    ]
    assert dice[1] > dice[0] + 0.1


def test_what_a_request_calls_moving_is_not_read(labeled):
    fixed = BUNDLE / "sample/fixed.nii.gz"
    asked = infer(labeled, fixed, moving="/etc/passwd", moving_label="/etc/passwd")["pred"]
    assert torch.equal(asked, infer(labeled, fixed)["pred"])


def test_the_app_finds_what_it_asks_for(labeled):
    """Names of the first input and output, those of the labels, and the weights."""
    formats = json.loads((labeled / "configs/metadata.json").read_text())["network_data_format"]
    assert next(iter(formats["inputs"])) == "image" and next(iter(formats["outputs"])) == "pred"
    names = {"0": "background", "1": "anterior", "2": "posterior"}
    assert formats["outputs"]["pred"]["channel_def"] == names
    assert (labeled / "models/model.pt").is_file()
    assert not {"detection", "classification", "deepedit", "deepgrow"} & set(labeled.name.split("_"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"head": 1}}, r"moving_label.nii.gz: has the values \[1, 2\], names were given for \[1\]"),
        ({"moving_label": "empty.nii.gz"}, "empty.nii.gz: only background, nothing to propagate"),
        ({"moving_label": "other.nii.gz"}, "other.nii.gz: is not on the grid of"),
        ({"bundle": "nowhere"}, "nowhere: no bundle"),
        ({"moving": "nowhere.nii.gz"}, "nowhere.nii.gz"),
    ],
)
def test_what_cannot_be_laid_out(tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    sample = BUNDLE / "sample"
    label = load_label(sample / "moving_label.nii.gz")
    grid = Grid.from_image(label)
    write_image(torch.zeros_like(label.as_tensor()), grid, "empty.nii.gz", np.uint8)
    elsewhere = Grid(grid.shape, torch.diag(torch.tensor([2.0, 2.0, 2.0, 1.0], dtype=torch.float64)))
    write_image(resample_labels(label.as_tensor(), grid, grid), elsewhere, "other.nii.gz", np.uint8)
    given = {"bundle": BUNDLE, "moving": sample / "moving.nii.gz", "moving_label": sample / "moving_label.nii.gz"}
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        lay_out(**{**given, "output_dir": "model", **change})
    assert not Path("model", BUNDLE.name).exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("metadata.json", "{ garbage", "not JSON"),
        ("inference.json", "[1]", "expected a JSON object, got a list"),
        ("metadata.json", '{"version": "0.1.0", "weights": {}}', "names no output 'pred'"),
    ],
)
def test_a_bundle_whose_files_are_damaged(tmp_path, name, content, message):
    bundle, sample = tmp_path / "bundles" / BUNDLE.name, BUNDLE / "sample"
    shutil.copytree(BUNDLE, bundle)
    (bundle / "configs" / name).write_text(content)
    with pytest.raises(ValueError, match=f"{BUNDLE.name}/configs/{name}: {message}"):
        lay_out(bundle, tmp_path / "model", sample / "moving.nii.gz", sample / "moving_label.nii.gz")
    assert not (tmp_path / "model" / BUNDLE.name).exists()


def test_by_its_command(tmp_path, capsys):
    sample = BUNDLE / "sample"
    words = [
        "label",
        str(BUNDLE),
        str(tmp_path),
        str(sample / "moving.nii.gz"),
        str(sample / "moving_label.nii.gz"),
    ]
    with pytest.raises(SystemExit, match=r"names must be like .*, got 'anterior'"):
        main([*words, "--names", "anterior"])
    main([*words, "--names", "{'anterior': 1, 'posterior': 2}"])
    formats = json.loads((tmp_path / BUNDLE.name / "configs/metadata.json").read_text())["network_data_format"]
    assert list(formats["outputs"]["pred"]["channel_def"].values()) == ["background", "anterior", "posterior"]


def test_a_folder_that_is_there_is_left_alone(labeled):
    sample = BUNDLE / "sample"
    with pytest.raises(FileExistsError, match="exists; remove it"):
        lay_out(BUNDLE, labeled.parent, sample / "moving.nii.gz", sample / "moving_label.nii.gz")


def test_weights_that_metadata_do_not_name_stay_at_home(tmp_path):
    bundle = shutil.copytree(BUNDLE, tmp_path / BUNDLE.name)
    torch.save({}, bundle / "models/mine.pt")
    sample = bundle / "sample"
    copy = lay_out(bundle, tmp_path / "model", sample / "moving.nii.gz", sample / "moving_label.nii.gz")
    assert not (copy / "models/mine.pt").exists()
