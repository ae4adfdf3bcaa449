# SPDX-License-Identifier: Apache-2.0
"""Required content of every bundle's folder, checked without running it."""

import ast
import configparser
import copy
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from jsonschema import Draft202012Validator
from monai.bundle import ConfigParser, verify_metadata

from regplugins.data import PATH_KEYS
from regplugins.sharing.skeleton import configurations
from tests.bundles.cases import CASES, HIPPOCAMPUS, REFINED, TRAINED, BundleCase

ROOT = Path(__file__).resolve().parents[1]
SCHEMA = Path(__file__).with_name("metadata_schema.json")
BUNDLES = sorted(path.parents[1] for path in ROOT.glob("bundles/*/configs/metadata.json"))
REQUIRED = [
    "LICENSE",
    "configs/inference.json",
    "configs/logging.conf",
    "configs/metadata.json",
    "docs/README.md",
    "docs/data_license.txt",
    "sample/TERMS.txt",
]
OF_PAIRS = ["configs/multi_gpu_inference.json"]
OF_NETWORKS = ["configs/evaluate.json", "configs/paper.json", "configs/train.json", "models/model.pt"]
OF_PAIR_NETWORKS = ["configs/inference_trt.json", "configs/multi_gpu_train.json"]
OF_FIELDS = ["configs/refine.json"]
EVERYTHING = REQUIRED + OF_PAIRS + OF_NETWORKS + OF_PAIR_NETWORKS + OF_FIELDS
# What a bundle has none of, by its name: no weights; angles and shifts, polished; one image and no transform.
LACKING = {
    "any_modality_optimization": OF_NETWORKS + OF_PAIR_NETWORKS + OF_FIELDS,
    "head_ct_mr_rigid": OF_FIELDS,
    "head_ct_mr_modality": OF_PAIRS + OF_PAIR_NETWORKS + OF_FIELDS,
}
LARGEST_FILE = 25 * 2**20
LARGEST_SAMPLE = 10**6

each_bundle = pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)


def metadata_of(bundle: Path) -> dict[str, Any]:
    return json.loads((bundle / "configs/metadata.json").read_text(encoding="utf-8"))


def tensors_of(metadata: dict[str, Any]) -> list[dict[str, Any]]:
    formats = metadata["network_data_format"]
    return [*formats["inputs"].values(), *formats["outputs"].values()]


def test_every_bundle_that_registers_is_run_from_end_to_end() -> None:
    registering = {bundle.name for bundle in BUNDLES if not set(OF_PAIRS) & set(LACKING.get(bundle.name, []))}
    assert registering == {case.name for case in CASES}


def test_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_every_folder_is_a_bundle() -> None:
    assert BUNDLES
    assert [path for path in sorted((ROOT / "bundles").iterdir()) if path.is_dir()] == BUNDLES


@each_bundle
def test_metadata_passes_monai_with_our_schema(bundle: Path, tmp_path: Path) -> None:
    # A schema that lies at `filepath` already is not downloaded.
    schema = Path(shutil.copy(SCHEMA, tmp_path / "schema.json"))
    verify_metadata(meta_file=str(bundle / "configs/metadata.json"), filepath=str(schema))


@each_bundle
def test_metadata_is_consistent(bundle: Path) -> None:
    metadata = metadata_of(bundle)
    assert metadata["version"] in metadata["changelog"]
    for tensor in tensors_of(metadata):
        assert sorted(tensor["channel_def"]) == [str(k) for k in range(tensor["num_channels"])]


@each_bundle
def test_name_follows_the_model_zoo(bundle: Path) -> None:
    assert len(bundle.name.split("_")) >= 3, "expected <anatomy>_<modality>_<task>"
    assert bundle.name == bundle.name.lower()


@each_bundle
@pytest.mark.parametrize("name", EVERYTHING)
def test_has(bundle: Path, name: str) -> None:
    if name in LACKING.get(bundle.name, []):
        assert not (bundle / name).exists()
    else:
        assert (bundle / name).stat().st_size > 0


@each_bundle
def test_configurations_are_those_of_the_skeleton(bundle: Path) -> None:
    for name, text in configurations(bundle).items():
        assert (bundle / name).read_text(encoding="utf-8") == text, f"{bundle.name}/{name} differs; run make bundles"


def definitions_of(bundle: Path, name: str, keys: list[str]) -> dict[str, Any]:
    """Definitions of a configuration, apart from what tells networks apart."""
    config = ConfigParser()
    config.read_config(bundle / f"configs/{name}.json")
    own = {"spatial_dims", "prepare_batch", "network", "num_workers"}
    return {
        key: {part: value[part] for part in value.keys() - own} if isinstance(value := config[key], dict) else value
        for key in keys
    }


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_pairs_are_loaded_and_registered_as_by_every_bundle(case: BundleCase) -> None:
    """Else what tests/bundles/test_engine.py finds of one bundle would not hold for all."""
    keys = ["pair", "load", "records", "dataset", "dataloader", "folders", "handlers", "evaluator", "initialize", "run"]
    keys += ["models_dir", "weights_file", "loaded_network"] if case in TRAINED else []
    found, expected = (definitions_of(ROOT / "bundles" / one.name, "inference", keys) for one in (case, HIPPOCAMPUS))
    assert found == expected


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_training_runs_as_of_every_bundle(case: BundleCase) -> None:
    of_train = ["trainer", "dataloader", "sampler", "validation", "progress", "curves"]
    keys = ["initialize", "run", "training_network", *(f"train#{key}" for key in of_train)]
    found, expected = (definitions_of(ROOT / "bundles" / one.name, "train", keys) for one in (case, HIPPOCAMPUS))
    assert found == expected


@pytest.mark.parametrize("case", REFINED, ids=lambda case: case.name)
def test_refinement_runs_as_of_every_bundle(case: BundleCase) -> None:
    keys = ["refine", "inferer", "+settings"]
    found, expected = (
        {key: json.loads((ROOT / "bundles" / one.name / "configs/refine.json").read_text()).get(key) for key in keys}
        for one in (case, HIPPOCAMPUS)
    )
    assert found == expected


@pytest.mark.parametrize("case", TRAINED, ids=lambda case: case.name)
def test_several_processes_train_as_of_every_bundle(case: BundleCase) -> None:
    """But for curves of its own, of which one process writes each."""
    configs = ROOT / "bundles" / case.name / "configs"
    train, several = (json.loads((configs / f"{name}.json").read_text()) for name in ("train", "multi_gpu_train"))
    curves = {
        f"{part}#{key}#_disabled_"
        for part in ("train", "validate")
        for key, value in train[part].items()
        if isinstance(value, dict) and value.get("_target_") == "TensorBoardStatsHandler"
    }
    common = json.loads((ROOT / "bundles" / HIPPOCAMPUS.name / "configs/multi_gpu_train.json").read_text())
    assert several == common | dict.fromkeys(curves, "@quiet")


def texts_of(value: Any) -> Iterator[str]:
    """Every text and every key in a configuration."""
    if isinstance(value, dict | list):
        yield from value if isinstance(value, dict) else ()
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_of(part)
    elif isinstance(value, str):
        yield value


@each_bundle
def test_expressions_nest_no_calls(bundle: Path) -> None:
    for path in sorted(bundle.glob("configs/*.json")):
        for text in texts_of(json.loads(path.read_text(encoding="utf-8"))):
            if text.startswith("$") and not text.startswith("$import "):
                tree = ast.parse(re.sub(r"@[\w#:]+", "reference", text[1:]), mode="eval")
                calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
                nested = [part for call in calls for part in ast.walk(call) if isinstance(part, ast.Call)]
                assert len(nested) == len(calls), f"{path}: {text}"


@each_bundle
def test_configurations_can_be_read(bundle: Path) -> None:
    """Lines that fit a screen, and no element of a list by its position."""
    for path in sorted(bundle.glob("configs/*.json")):
        if path.name != "metadata.json":
            content = path.read_text(encoding="utf-8")
            assert max(map(len, content.splitlines())) <= 120, path
            assert not [text for text in texts_of(json.loads(content)) if re.search(r"[#:]\d", text)], path


@each_bundle
def test_holds_no_code_and_no_large_file(bundle: Path) -> None:
    assert list(bundle.rglob("*.py")) == []
    assert [path for path in bundle.rglob("*") if path.is_file() and path.stat().st_size > LARGEST_FILE] == []


@each_bundle
def test_license_is_the_projects(bundle: Path) -> None:
    assert (bundle / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@each_bundle
def test_weights_are_those_of_the_metadata(bundle: Path) -> None:
    declared = {name: entry["sha256"] for name, entry in metadata_of(bundle)["weights"].items()}
    found = {
        f"models/{path.name}": hashlib.sha256(path.read_bytes()).hexdigest() for path in bundle.glob("models/*.pt")
    }
    assert found == declared


@each_bundle
def test_weights_are_a_plain_state_dict(bundle: Path) -> None:
    for name in metadata_of(bundle)["weights"]:
        state = torch.load(bundle / name, map_location="cpu", weights_only=True)
        assert state
        for key, value in state.items():
            assert isinstance(value, torch.Tensor), f"{name}: {key} is a {type(value).__name__}"
            assert torch.isfinite(value).all(), f"{name}: {key} is not finite"


@each_bundle
def test_logging_uses_the_standard_library_alone(bundle: Path) -> None:
    parser = configparser.RawConfigParser()
    parser.read(bundle / "configs/logging.conf")
    handlers = [f"handler_{name}" for name in parser["handlers"]["keys"].split(",")]
    formatters = [f"formatter_{name}" for name in parser["formatters"]["keys"].split(",")]
    assert {parser[section]["class"] for section in handlers} <= {"StreamHandler", "FileHandler"}
    for section in formatters:
        assert "class" not in parser[section]
        logging.Formatter(parser[section]["format"], validate=True)


@each_bundle
def test_sample_is_small_and_has_terms(bundle: Path) -> None:
    images = sorted(bundle.glob("sample/*.nii.gz"))
    assert {"fixed.nii.gz", "moving.nii.gz"} <= {path.name for path in images}
    terms = (bundle / "sample/TERMS.txt").read_text(encoding="utf-8")
    for path in images:
        assert path.stat().st_size <= LARGEST_SAMPLE
        assert f"\n{path.name}\n" in terms
        values = np.asarray(nib.load(path).dataobj)
        assert np.isfinite(values).all()
        assert values.min() < values.max()


@each_bundle
def test_sample_labels_lie_on_their_images(bundle: Path) -> None:
    for path in bundle.glob("sample/*_label.nii.gz"):
        image, label = nib.load(path.with_name(path.name.replace("_label", ""))), nib.load(path)
        assert label.shape == image.shape
        np.testing.assert_array_equal(label.affine, image.affine)
        assert label.get_data_dtype().kind in "iu"


def without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def change(metadata: dict[str, Any]) -> None:
        for key in keys[:-1]:
            metadata = metadata[key]
        del metadata[keys[-1]]

    return change


def with_value(value: Any, *keys: str) -> Callable[[dict[str, Any]], None]:
    def change(metadata: dict[str, Any]) -> None:
        for key in keys[:-1]:
            metadata = metadata[key]
        metadata[keys[-1]] = value

    return change


IMAGE = ("network_data_format", "inputs", "image")
PRED = ("network_data_format", "outputs", "pred")


@pytest.mark.parametrize(
    "change",
    [
        without("schema"),
        without("copyright"),
        without("weights"),
        without(*IMAGE),
        without(*PRED, "channel_def"),
        with_value("first", "version"),
        with_value({}, "changelog"),
        with_value("", "name"),
        with_value("anything", "unknown_key"),
        with_value("good", "eval_metrics"),
        with_value("0" * 63, "weights", "models/model.pt", "sha256"),
        with_value("not trained yet", "weights", "models/model.pt", "sha256"),
        with_value("2", *IMAGE, "num_channels"),
        with_value(["4*m", 8, 8], *IMAGE, "spatial_shape"),
        with_value([0], *IMAGE, "value_range"),
        with_value("false", *IMAGE, "is_patch_data"),
        with_value({"x": "moving"}, *IMAGE, "channel_def"),
        with_value("vectors", *PRED, "format"),
    ],
)
def test_schema_rejects(change: Callable[[dict[str, Any]], None]) -> None:
    validator = Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8")))
    good = next(metadata for metadata in map(metadata_of, BUNDLES) if metadata["weights"])
    for entry in good["weights"].values():
        entry["sha256"] = hashlib.sha256(b"").hexdigest()
    validator.validate(good)
    bad = copy.deepcopy(good)
    change(bad)
    assert not validator.is_valid(bad)


# Keys that say where files are, what is told, and where and how fast it is computed; the inputs' and the weights' own
# sha256 are compared besides.
_NO_SETTINGS = {*PATH_KEYS, "bundle_root", "dataset_dir", "datalist", "output_dir", "weights", "models_dir"} | {
    *("device", "compile", "failed_pairs", "resume", "verbose")
}


@pytest.mark.parametrize("overlays", [[], ["refine"]], ids=["inference", "refine"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_whatever_changes_a_result_is_in_its_settings(case: BundleCase, overlays: list[str]) -> None:
    """Else --resume would keep what was made with another value."""
    files = [ROOT / "bundles" / case.name / f"configs/{name}.json" for name in ("inference", *overlays)]
    if not all(file.exists() for file in files):
        pytest.skip("the bundle has no such configuration")
    config = ConfigParser.load_config_files([str(file) for file in files])
    values = {key for key, value in config.items() if not isinstance(value, dict)}
    values -= {key for key, value in config.items() if isinstance(value, str) and "@" in value}  # made of other keys
    values -= {"imports", "initialize", "run", "finalize", "handlers"}
    assert values - _NO_SETTINGS <= config["settings"].keys()
