# SPDX-License-Identifier: Apache-2.0
"""Options and errors of ``python -m monai.bundle run``."""

import json
import sys
from pathlib import Path

import monai.bundle
import pytest

from regplugins.engines.begin import guard_bundle_run
from tests.bundles.conftest import run_monai_bundle


@pytest.mark.slow
def test_a_run_with_a_misspelled_option_ends_with_one_line(tmp_path, monkeypatch, capsys):
    bundle = Path(__file__).resolve().parents[2] / "bundles/hippocampus_mr_multires_fcn"
    words = ["run", "--config_file", str(bundle / "configs/inference.json"), "--bundle_root", str(bundle)]
    with pytest.raises(Exception) as error:
        run_monai_bundle(monkeypatch, [*words, "--output_dir", str(tmp_path / "output"), "--fixd", "a.nii.gz"])
    sys.excepthook(error.type, error.value, error.tb)
    assert capsys.readouterr().err.splitlines()[-1] == "error: unknown option --fixd; did you mean --fixed?"
    assert not (tmp_path / "output").exists()


class TestGuardBundleRun:
    PROGRAM = str(Path(monai.bundle.__file__).with_name("__main__.py"))

    @pytest.fixture(autouse=True)
    def hook(self, monkeypatch):
        monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)

    @pytest.fixture
    def configs(self, tmp_path):
        for name, content in (
            ("inference", {"fixed": None, "network_def": {"channels": 2}}),
            ("refine", {"levels": 1}),
        ):
            (tmp_path / f"{name}.json").write_text(json.dumps(content))
        return [str(tmp_path / f"{name}.json") for name in ("inference", "refine")]

    def run(self, configs, *words: str) -> None:
        guard_bundle_run([self.PROGRAM, "run", "--config_file", str(configs), *words])

    def test_what_configs_and_monai_know_passes(self, configs):
        self.run(configs[0], "--fixed", "a.nii", "--network_def#channels", "3", "--run_id=run", "--meta_file", "m.json")
        self.run(configs, "--fixed=a.nii", "--levels", "[[8, 1]]", "--nolevels", "--network_def::channels", "-3")

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["--fixd", "a.nii"], "unknown option --fixd; did you mean --fixed"),
            (["--fixd=a.nii"], "unknown option --fixd; did you mean --fixed"),
            (["--fixed", "a.nii", "--levels", "3"], "unknown option --levels$"),  # of a config that is not laid over
            (["--network_de#channels", "3"], "unknown option --network_de#channels; did you mean --network_def"),
            (["--xyz"], "unknown option --xyz$"),
            (["-xyz=1"], "unknown option --xyz$"),
            (["-fixed", "a.nii", "-fixd", "b.nii"], "unknown option --fixd"),
            (["--fixed#name", "a.nii"], "--fixed#name: fixed is null in this configuration and has no parts to set"),
        ],
    )
    def test_what_none_knows_is_refused(self, configs, words, message):
        with pytest.raises(ValueError, match=message):
            self.run(configs[0], *words)

    def test_options_from_a_file(self, configs, tmp_path):
        (tmp_path / "args.json").write_text(
            json.dumps({"config_file": configs[0], "fixed": "a.nii", "moving": "b.nii"})
        )
        with pytest.raises(ValueError, match="unknown option --moving"):
            guard_bundle_run([self.PROGRAM, "run", "--args_file", str(tmp_path / "args.json")])

    def test_other_programs_are_left_alone(self, configs):
        guard_bundle_run(["pytest", "run", "--config_file", configs[0], "--fixd", "a"])
        guard_bundle_run([self.PROGRAM, "verify_metadata", "--config_file", configs[0], "--fixd", "a"])
        assert sys.excepthook is sys.__excepthook__

    def test_a_failure_ends_with_its_cause(self, configs, capsys):
        self.run(configs[0])
        wrapped = RuntimeError("applying transform")
        wrapped.__cause__ = ValueError("a.nii.gz: 4-D")
        sys.excepthook(RuntimeError, wrapped, None)
        assert capsys.readouterr().err.splitlines()[-1] == "error: a.nii.gz: 4-D"
