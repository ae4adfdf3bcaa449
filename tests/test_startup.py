# SPDX-License-Identifier: Apache-2.0
"""Start of a registration."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUNDLE = ROOT / "bundles/hippocampus_mr_multires_fcn"
# Each takes 10 ms to a second. MONAI imports some of them; those are not counted.
HEAVY = ("itk", "SimpleITK", "matplotlib.pyplot", "sklearn", "pandas", "onnx", "onnxruntime", "tensorboard", "tensorrt")
HEAVY += ("huggingface_hub", "torch._dynamo", "torch._inductor", "torch.onnx", "torch.utils.tensorboard")
HEAVY += ("regplugins.label", "regplugins.datasets")


def imported(statement: str, *words: str) -> set[str]:
    """Modules that a statement imports in an interpreter of its own, with these words on its command line."""
    code = f"import sys\n{statement}\nprint('modules:', *sys.modules)"
    command = [sys.executable, "-c", code, *words]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert output.returncode == 0, output.stderr
    return set(output.stdout.partition("modules: ")[2].split())


@pytest.mark.slow
def test_a_registration_imports_nothing_heavy_beyond_monai(tmp_path):
    images = [str(BUNDLE / f"sample/{name}.nii.gz") for name in ("fixed", "moving")]
    words = ["register", *images, "-o", str(tmp_path), "--bundle", str(BUNDLE)]
    modules = imported("from regplugins.__main__ import main; main(sys.argv[1:])", *words) - imported("import monai")
    assert (tmp_path / "report.json").exists()
    assert "regplugins.transforms.save" in modules
    assert [name for name in sorted(modules) if name.startswith(tuple(f"{heavy}." for heavy in HEAVY))] == []
    assert modules.isdisjoint(HEAVY)
