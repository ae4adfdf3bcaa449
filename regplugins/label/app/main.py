# SPDX-License-Identifier: Apache-2.0
"""App for MONAI Label: ``monailabel start_server --app regplugins/label/app --studies S --conf bundles bundles``.

Every registration bundle in the folder ``bundles`` is a model; ``models`` selects some of them. ``labels`` names the
labels' values, as JSON: ``--conf labels '{"anterior": 1}'``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType
from monailabel.interfaces.tasks.train import TrainTask

import regplugins
from regplugins.checks import error_line
from regplugins.io import read_json
from regplugins.label import propagation, requests, training

logger = logging.getLogger(__name__)


class Propagation(InferTask):
    """Label propagation from annotated images of the datastore by one bundle."""

    def __init__(self, app: MyApp, bundle: Path, labels: dict[str, int]) -> None:
        task = read_json(bundle / "configs/metadata.json")["task"]
        super().__init__(InferType.SEGMENTATION, labels, 3, task, dict(requests.CONFIG))
        self.app = app
        self.bundle = bundle

    def is_valid(self) -> bool:
        return True

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        own, datastore, work = request.get(_OWN), self.app.datastore(), self.app.work(self.bundle)
        models = work if (work / "model.pt").is_file() else None
        # MONAI Label takes an id for a path if such a file exists.
        image = request["image"] if own is None else datastore.get_image_uri(own)
        return requests.answer(self.bundle, datastore, image, request, own, models)


class Training(TrainTask):
    """Training of one bundle on the datastore's images."""

    def __init__(self, app: MyApp, bundle: Path) -> None:
        super().__init__("on the images of the datastore, annotated or not; some of the annotated ones validate")
        self.app = app
        self.bundle = bundle

    def config(self) -> dict[str, Any]:
        return {"max_epochs": 20, "pairs_per_epoch": 100, "val_interval": 5}

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, Any]:
        return training.train(self.bundle, datastore, self.config() | request, self.app.work(self.bundle))


# Key of a request, always set by the app: the id of the open image.
_OWN = "regplugins_image_id"


class MyApp(MONAILabelApp):
    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        folder = Path(conf.get("bundles", "bundles")).resolve()
        names = [name for name in conf.get("models", "").split(",") if name]
        found = {bundle.name: bundle for bundle in propagation.registration_bundles(folder)}
        missing = sorted(set(names) - set(found))
        if missing or not found:
            what = f"no bundle {missing[0]}" if missing else "no bundle"
            raise MONAILabelException(MONAILabelError.APP_INIT_ERROR, f"{folder}: {what}; give --conf bundles FOLDER")
        self.bundles = {name: found[name] for name in names or found}
        self.names = {str(name): int(value) for name, value in json.loads(conf.get("labels", "{}")).items()}
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"RegPlugins {regplugins.__version__}",
            description="Labels of annotated images, by registration",
            version=regplugins.__version__,
        )

    def work(self, bundle: Path) -> Path:
        """Folder of a bundle's training and of the resulting weights."""
        return Path(self.app_dir) / "model" / bundle.name

    def init_infers(self) -> dict[str, InferTask]:
        return {name: Propagation(self, bundle, self.names) for name, bundle in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {name: Training(self, bundle) for name, bundle in self.bundles.items() if training.trainable(bundle)}

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Infer as MONAI Label does, but only for ids of the datastore and images of sessions."""
        try:
            requests.check_tag(request)
            own = requests.requested_image_id(request, datastore or self.datastore(), self.sessions().store_path)
            result: dict[str, Any] = super().infer({**request, _OWN: own}, datastore)
            return result
        except Exception as error:
            logger.exception("infer")
            # MONAI Label does not pass messages of its own exceptions to clients.
            raise HTTPException(status_code=400, detail=error_line(error)) from error

    def infer_wsi(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Refuse slides, for which MONAI Label would open any file that a request names."""
        raise HTTPException(status_code=400, detail="slides are not registered; ask for /infer")

    def batch_infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """Infer in batches as MONAI Label does, also without a GPU."""
        request = request if torch.cuda.is_available() else {**request, "multi_gpu": False}
        result: dict[str, Any] = super().batch_infer(request, datastore)
        return result
