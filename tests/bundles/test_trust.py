# SPDX-License-Identifier: Apache-2.0
"""Nothing wrong passes for right: damaged weights, names that look like programs, images of another size."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from regplugins.__main__ import main
from regplugins.checks import first_cause
from regplugins.io import sha256
from regplugins.networks import listed_sha256
from regplugins.sharing import pack, unpack
from tests.bundles.cases import CASES, HEADS, HIPPOCAMPUS, BundleCase
from tests.bundles.conftest import ROOT, run_bundle

pytestmark = pytest.mark.slow


@pytest.fixture
def own_bundle(bundle_of: Callable[[BundleCase], Path], tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return shutil.copytree(bundle_of(HIPPOCAMPUS), tmp_path / "bundle")


def refusal(bundle: Path, output: Path, **options: object) -> str:
    """Error message of a run, which must leave no file."""
    with pytest.raises(Exception) as error:
        run_bundle(bundle, "inference", output_dir=str(output), **options)
    assert not output.exists()
    return str(first_cause(error.value))


@pytest.mark.parametrize("case", [HIPPOCAMPUS, HEADS], ids=lambda case: case.name)
def test_weights_that_give_no_numbers(bundle_of, case, tmp_path):
    """As a training leaves that diverged."""
    bundle = bundle_of(case)
    state = torch.load(bundle / "models/model.pt", weights_only=True)
    name = next(name for name, value in state.items() if value.is_floating_point() and value.dim() > 1)
    state[name].fill_(float("nan"))
    torch.save(state, tmp_path / "diverged.pt")
    message = refusal(bundle, tmp_path / "o", weights=str(tmp_path / "diverged.pt"))
    assert message.startswith(str(tmp_path / "diverged.pt"))
    assert f"(weights of the bundle {bundle.name})" in message
    assert "not finite" in message


class TestSha256:
    def test_shipped_weights_are_the_ones_that_are_listed(self, registered_weights):
        assert registered_weights["matches_metadata"] is True

    @pytest.fixture
    def registered_weights(self, sample_of):
        return json.loads((sample_of(HIPPOCAMPUS) / "report.json").read_text())["weights"]

    def test_digits_may_be_in_upper_case(self, own_bundle, tmp_path):
        metadata = own_bundle / "configs/metadata.json"
        content = json.loads(metadata.read_text())
        for entry in content["weights"].values():
            entry["sha256"] = entry["sha256"].upper()
        metadata.write_text(json.dumps(content))
        assert listed_sha256(own_bundle / "models/model.pt") == sha256(own_bundle / "models/model.pt")
        unpack(str(pack(own_bundle, tmp_path / "packed")), tmp_path / "unpacked")

    def test_replaced_weights_are_refused(self, own_bundle, tmp_path):
        shutil.copy(own_bundle / "models/model_weak.pt", own_bundle / "models/model.pt")
        message = refusal(own_bundle, tmp_path / "o")
        assert message.startswith(str(own_bundle / "models/model.pt"))
        assert "give their path" in message

    def test_weights_that_are_a_link(self, own_bundle, tmp_path):
        """As caches of downloads keep them."""
        weights = own_bundle / "models/model.pt"
        blob = tmp_path / "blob"
        blob.write_bytes((own_bundle / "models/model_weak.pt").read_bytes())
        weights.unlink()
        weights.symlink_to(blob)
        assert str(weights) in refusal(own_bundle, tmp_path / "o")

    def test_own_weights_register_from_where_training_leaves_them(self, own_bundle, tmp_path):
        weights = tmp_path / "training/checkpoints/model.pt"
        weights.parent.mkdir(parents=True)
        shutil.copy(own_bundle / "models/model_weak.pt", weights)
        run_bundle(own_bundle, "inference", output_dir=str(tmp_path / "o"), weights=str(weights))
        entry = json.loads((tmp_path / "o/report.json").read_text())["weights"]
        assert entry["path"] == str(weights)
        assert entry["matches_metadata"] is None


class TestCommandLineIsData:
    @pytest.mark.parametrize(
        "names", [("$open('planted','w')", "F#1", "%F", "@out"), ("a,b", "[1]", "{'a': 1}", "1e5")]
    )
    def test_file_names(self, bundle_of, names, tmp_path, monkeypatch):
        bundle = bundle_of(HIPPOCAMPUS)
        monkeypatch.chdir(tmp_path)
        output, *inputs = names
        given = {key: f"{name}.nii.gz" for key, name in zip(("fixed", "moving", "moving_label"), inputs, strict=True)}
        for key, path in given.items():
            shutil.copy(bundle / f"sample/{key}.nii.gz", path)
        words = [word for key, path in given.items() for word in (f"--{key}", path)]
        main(["register", "--bundle", str(bundle), *words, "--output_dir", output])
        report = json.loads((tmp_path / output / "report.json").read_text())
        assert {key: entry["path"] for key, entry in report["inputs"].items()} == given
        assert not (tmp_path / "planted").exists()

    def test_numbers_lists_and_nested_keys_are_set(self, bundle_of, tmp_path):
        words = ["register", "--bundle", str(bundle_of(next(c for c in CASES if c.name.startswith("any_"))))]
        words += ["--init", "fov", "--levels", "[[8.0, 3]]", "--spacing", "4.0", "--smoothing", "1.25"]
        words += ["--save#field_spacing", "8.0"]
        main([*words, "--output_dir", str(tmp_path / "o")])
        report = json.loads((tmp_path / "o/report.json").read_text())
        settings = report["settings"]
        assert report["field_spacing_error_voxels"]["forward"] > 0
        assert settings["levels"] == [[8.0, 3]]
        assert settings["spacing"] == 4.0
        assert "smoothing=1.25" in settings["chosen"]["parametrization"]

    @pytest.mark.parametrize(
        "words",
        [
            ["--spacing", "{'_target_':'os.mkdir','path':'planted'}"],
            ["--spacing", "[{'_target_':'os.mkdir','path':'planted'}]"],
            ["--dataset", "{'_target_':'regplugins.io.FolderLock','folder':'planted'}"],
            ["--network_def#_target_", "os.mkdir", "--network_def#path", "planted"],
            ["--dataset::_target_", "os.mkdir", "--dataset::path", "planted"],
            ["--run", "[]"],
            ["--initialize", "['x']"],
        ],
    )
    def test_definitions_are_refused(self, bundle_of, words, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        bundle = bundle_of(next(case for case in CASES if case.name == "any_modality_optimization"))
        refusal = rf"--{words[0][2:]}: a definition .* python -m monai\.bundle run"
        with pytest.raises(SystemExit, match=refusal):
            main(["register", "--bundle", str(bundle), "--output_dir", "o", *words])
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "words", "refusal"),
        [
            ("hippocampus_mr_multires_fcn", ["--preset", "ct_mr"], "--preset ct_mr: {} has no presets"),
            ("any_modality_optimization", ["--refine", "field"], "--refine field: {} has no network to refine"),
            ("head_ct_mr_modality", ["--fixed", "a.nii"], "{}: registers no pair of images"),
        ],
    )
    def test_what_a_bundle_does_not_do(self, name, words, refusal, tmp_path):
        bundle = ROOT / "bundles" / name
        with pytest.raises(SystemExit, match=refusal.format(bundle)):
            main(["register", "--bundle", str(bundle), "--output_dir", str(tmp_path / "o"), *words])


class TestTerminal:
    """Terminal output of a command: the task, the figures, and their place."""

    def test_more_on_request(self, bundle_of, tmp_path, capsys):
        words = ["register", "--bundle", str(bundle_of(HIPPOCAMPUS)), "--output_dir", str(tmp_path / "o")]
        main([*words, "--verbose", "True", "--init", "rigid"])
        assert any(line.startswith("aligning: ") for line in capsys.readouterr().err.splitlines())
