# SPDX-License-Identifier: Apache-2.0
"""Requests of clients to the app; they cannot name files."""

from __future__ import annotations

import base64
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from regplugins.checks import boolean, choice, whole
from regplugins.io import read_chain, write_chain
from regplugins.label.propagation import LABEL_FUSIONS, Case, Datastore, annotated_cases, most_similar, propagate
from regplugins.registration import INIT_CHOICES

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
# Tag of labels that a person has approved; other tags hold proposals of models.
FINAL = "final"
_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")

# Keys of a request and their defaults.
DEFAULTS: dict[str, Any] = {
    "moving": "nearest",
    "count": 1,
    "fusion": "weighted",
    "init": "default",
    "return_transform": False,
    "return_warped": False,
}
CONFIG: dict[str, Any] = DEFAULTS | {"fusion": list(LABEL_FUSIONS), "init": ["default", *INIT_CHOICES]}


def answer(
    bundle: Path,
    datastore: Datastore,
    image: str,
    request: Mapping[str, Any],
    own: str | None = None,
    models_dir: Path | None = None,
) -> tuple[str, dict[str, Any]]:
    """Propagate labels of a datastore's annotated images by a bundle, as a client requests.

    Args:
        bundle: folder of the bundle.
        datastore: of the server.
        image: file of the open image, given by the server.
        request: may have ``moving`` ("nearest", "all", or ids of annotated images, as a list or separated by commas),
            ``count`` of the nearest, ``fusion`` ("weighted", "majority"), ``init`` ("auto", "none", "fov", "center",
            "rigid" or "affine", no file), ``return_transform``, ``return_warped``, and ``device``. Other keys are
            ignored.
        own: id of ``image``, whose own label is not propagated to it.
        models_dir: folder of weights that were trained on the datastore; default: the bundle's weights.

    Returns:
        File of the label, on the image's grid, and ``cases`` with their ``name`` and ``correlation``, optionally with
        ``transform`` (ITK composite transform file, fixed to moving points) and ``warped`` (NIfTI), base64.

    Raises:
        ValueError: if an id is unknown, there is no annotated image, or an option has an invalid value.
    """
    given = {**DEFAULTS, **{key: value for key, value in request.items() if key in DEFAULTS}}
    for key in ("fusion", "init"):
        if given[key] == CONFIG[key]:  # a client may send back the list of choices
            given[key] = DEFAULTS[key]
    choice("fusion", given["fusion"], LABEL_FUSIONS)
    options: dict[str, Any] = {"device": device(request.get("device", "cuda"))}
    if given["init"] != "default":
        options["init"] = choice("init", given["init"], {name: name for name in INIT_CHOICES})
    if models_dir is not None:
        options["models_dir"] = str(models_dir)
    wanted = {key: boolean(f"return_{key}", given[f"return_{key}"]) for key in ("transform", "warped")}
    cases = _chosen(image, [case for case in annotated_cases(datastore) if case.name != own], given)
    with tempfile.TemporaryDirectory(prefix="regplugins-") as folder:
        result = propagate(bundle, image, cases, folder, given["fusion"], **options)
        for case in result["cases"]:
            results = Path(case.pop("folder"))
            if wanted["transform"]:
                steps = [results / name for name in ("transform_1Warp.nii.gz", "transform_0GenericAffine.mat")]
                write_chain(read_chain(steps), results / "transform.h5")
                case["transform"] = _encoded(results / "transform.h5")
            if wanted["warped"]:
                case["warped"] = _encoded(results / "warped.nii.gz")
        with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:  # the server deletes it
            file.write(Path(result["label"]).read_bytes())
    return file.name, {"cases": result["cases"]}


def requested_image_id(request: Mapping[str, Any], datastore: Datastore, sessions: str | Path | None) -> str | None:
    """Id of the ``image`` that a client wants to label; None if it is a file in the server's folder of sessions.

    The server adds ``session`` to requests for images of sessions.

    Raises:
        ValueError: if ``image`` is neither an id of the datastore nor the file of a session.
    """
    image = request.get("image")
    if isinstance(image, str) and image in datastore.list_images():
        return image
    if (
        isinstance(image, str)
        and "session" in request
        and sessions is not None
        and Path(image).resolve().is_relative_to(Path(sessions).resolve())
    ):
        return None
    raise ValueError(f"{image!r}: not an id of the datastore; upload an image to it, or open a session")


def _chosen(image: str, cases: Sequence[Case], given: Mapping[str, Any]) -> list[Case]:
    if not cases:
        raise ValueError("the datastore has no other annotated image to take a label from")
    moving, count = given["moving"], given["count"]
    if moving == "all":
        return list(cases)
    if moving == "nearest":
        return most_similar(image, cases, whole("count", count))  # Slicer sends a string
    known, names = {case.name: case for case in cases}, moving
    if isinstance(moving, str):
        names = [moving] if moving in known else moving.split(",")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"moving must be 'nearest', 'all', an id or ids, got {moving!r}")
    for name in names:
        if name not in known:
            raise ValueError(
                f"no annotated image of the datastore has the id {name!r}, expected one of {sorted(known)}"
            )
    return [known[name] for name in dict.fromkeys(names)]


def device(asked: Any) -> str:
    """The requested device, or the CPU if there is no GPU, since MONAI Label's clients request "cuda" by default."""
    if not isinstance(asked, str) or not _DEVICE.fullmatch(asked):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<number>', got {asked!r}")
    return asked if torch.cuda.is_available() else "cpu"


def check_tag(request: Mapping[str, Any]) -> None:
    """Refuse a request's ``label_tag``, which becomes a folder, if it is no plain name or that of final labels."""
    tag = request.get("label_tag", "original")
    if not isinstance(tag, str) or not _TAG.fullmatch(tag) or tag == FINAL:
        raise ValueError(f"label_tag must be of letters, digits, '_' and '-', and not {FINAL!r}, got {tag!r}")


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
