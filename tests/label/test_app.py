# SPDX-License-Identifier: Apache-2.0
"""Our app's class without a server: what it hands on to MONAI Label, for which a few classes stand in here, and what it
refuses. ``test_server.py`` has the real one.
"""

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from tests.label.studies import BUNDLE, NEW, ROOT, Folder, write_studies

_APP = ROOT / "regplugins/label/app/main.py"


class RefusedError(Exception):
    """FastAPI's HTTPException."""

    def __init__(self, status_code: int, detail: str) -> None:
        super().__init__(detail)
        self.status_code = status_code


class LabelError(Exception):
    """MONAILabelException."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)


class Task:
    """InferTask and TrainTask."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments


class Base:
    """MONAILabelApp: keeps what reaches it."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str], **texts: str) -> None:
        self.app_dir = app_dir
        self.store = Folder(Path(studies))
        self.infers, self.trainers = self.init_infers(), self.init_trainers()
        self.reached: list[dict[str, Any]] = []

    def datastore(self) -> Folder:
        return self.store

    def sessions(self) -> types.SimpleNamespace:
        return types.SimpleNamespace(store_path=None)

    def infer(self, request: dict[str, Any], datastore: Any = None) -> dict[str, Any]:
        self.reached.append(request)
        return {}

    batch_infer = infer


@pytest.fixture(scope="module")
def module():
    """``main.py``, with the stand-ins for what it imports of MONAI Label and FastAPI."""
    kinds = types.SimpleNamespace(SEGMENTATION="segmentation")
    content: dict[str, dict[str, Any]] = {
        "fastapi": {"HTTPException": RefusedError},
        "monailabel": {},
        "monailabel.interfaces": {},
        "monailabel.interfaces.app": {"MONAILabelApp": Base},
        "monailabel.interfaces.datastore": {"Datastore": object},
        "monailabel.interfaces.exception": {
            "MONAILabelError": types.SimpleNamespace(APP_INIT_ERROR="init"),
            "MONAILabelException": LabelError,
        },
        "monailabel.interfaces.tasks": {},
        "monailabel.interfaces.tasks.infer_v2": {"InferTask": Task, "InferType": kinds},
        "monailabel.interfaces.tasks.train": {"TrainTask": Task},
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, attributes in content.items():
            stand_in = types.ModuleType(name)
            vars(stand_in).update(attributes)
            patch.setitem(sys.modules, name, stand_in)
        specification = importlib.util.spec_from_file_location("regplugins_label_app", _APP)
        loaded = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(loaded)
        yield loaded


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("label")
    write_studies(folder / "studies", folder / "truth.nii.gz")
    return str(folder / "studies")


@pytest.fixture
def app(module, studies, tmp_path):
    return module.MyApp(str(tmp_path / "app"), studies, {"bundles": str(ROOT / "bundles")})


def test_every_bundle_that_registers_is_a_model(app):
    bundles = {path.parents[1].name for path in (ROOT / "bundles").glob("*/configs/metadata.json")}
    assert set(app.infers) == bundles - {"head_ct_mr_modality"}  # says what one image is
    assert BUNDLE.name in app.trainers
    assert "any_modality_optimization" not in app.trainers


def test_no_such_bundle(module, tmp_path):
    conf = {"bundles": str(ROOT / "bundles"), "models": "knee_mr_any"}
    with pytest.raises(LabelError, match="no bundle knee_mr_any; give --conf bundles"):
        module.MyApp(str(tmp_path), str(tmp_path), conf)


def test_an_id_goes_on(app):
    app.infer({"model": BUNDLE.name, "image": NEW, "label_tag": "round_2"})
    (request,) = app.reached
    assert request["image"] == request["regplugins_image_id"] == NEW


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"image": "/etc/passwd"}, "not an id of the datastore"),
        ({"image": f"../{NEW}"}, "not an id of the datastore"),
        ({"image": "/etc/passwd", "regplugins_image_id": NEW}, "not an id of the datastore"),
        ({"image": NEW, "label_tag": "final"}, "label_tag must be"),
        ({"image": NEW, "label_tag": "../../escaped"}, "label_tag must be"),
    ],
)
def test_what_is_refused_does_not_reach_monai_label(app, request_, message):
    with pytest.raises(RefusedError, match=message) as error:
        app.infer({"model": BUNDLE.name, **request_})
    assert error.value.status_code == 400
    assert not app.reached


def test_slides_are_refused(app, tmp_path):
    with pytest.raises(RefusedError, match="slides are not registered"):
        app.infer_wsi({"model": BUNDLE.name, "image": str(tmp_path / "slide.tif")})


def test_a_batch_without_gpus_asks_for_none(app, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    app.batch_infer({"model": BUNDLE.name, "multi_gpu": True})
    assert app.reached[0]["multi_gpu"] is False


def test_a_model_answers_with_a_label(app):
    """The task itself, as MONAI Label calls it."""
    label, known = app.infers[BUNDLE.name](
        {"image": app.store.get_image_uri(NEW), "regplugins_image_id": NEW, "moving": "case_a"}
    )
    assert Path(label).stat().st_size > 0
    Path(label).unlink()
    assert [case["name"] for case in known["cases"]] == ["case_a"]
