# SPDX-License-Identifier: Apache-2.0
"""What a client may ask of our app: nothing that names a file."""

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
from regplugins.label.cases import Case, Datastore, annotated, named, nearest
from regplugins.label.propagation import FUSIONS, propagate
from regplugins.registration import CHOICES

_DEVICE = re.compile(r"cpu|cuda(:[0-9]{1,3})?")
# The tag of labels that somebody has looked at; others hold what models propose.
FINAL = "final"
_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")

# A request's own keys, and what they are without it.
DEFAULTS: dict[str, Any] = {
    "moving": "nearest",
    "count": 1,
    "fusion": "weighted",
    "init": "default",
    "return_transform": False,
    "return_warped": False,
}
CONFIG: dict[str, Any] = DEFAULTS | {"fusion": list(FUSIONS), "init": ["default", *CHOICES]}


def answer(
    bundle: Path,
    datastore: Datastore,
    image: str,
    request: Mapping[str, Any],
    own: str | None = None,
    models_dir: Path | None = None,
) -> tuple[str, dict[str, Any]]:
    """Propagate labels of a datastore's annotated images, as a client asks.

    Args:
        bundle: the bundle's folder.
        datastore: of the server.
        image: file that the server, not the client, says is open.
        request: may have ``moving`` ("nearest", "all", an id of an annotated image, or several, also with commas
            between), ``count`` of the nearest, ``fusion`` ("weighted", "majority"), ``init`` ("none", "fov", "center",
            "rigid" or "affine", no file), ``return_transform``, ``return_warped``, and ``device``. Anything else is not
            looked at.
        own: the id of ``image``, whose own label is not to be propagated to it.
        models_dir: weights that were trained on the datastore, in place of the bundle's.

    Returns:
        File of the label, on the image's grid, and what is known of it: ``cases`` with their ``name`` and
        ``correlation``, and on demand ``transform`` (a composite file as ITK writes it, fixed to moving points) and
        ``warped`` (NIfTI), base64.

    Raises:
        ValueError: an id that is not the datastore's, no annotated image, or an option with a value it has not.
        TypeError: a flag that is no boolean.
    """
    given = {**DEFAULTS, **{key: value for key, value in request.items() if key in DEFAULTS}}
    for key in ("fusion", "init"):
        if given[key] == CONFIG[key]:  # a client that sends back what it was told there is
            given[key] = DEFAULTS[key]
    choice("fusion", given["fusion"], FUSIONS)
    options: dict[str, Any] = {"device": device(request.get("device", "cuda"))}
    if given["init"] != "default":
        options["init"] = choice("init", given["init"], {name: name for name in CHOICES})
    if models_dir is not None:
        options["models_dir"] = str(models_dir)
    wanted = {key: boolean(f"return_{key}", given[f"return_{key}"]) for key in ("transform", "warped")}
    cases = _chosen(image, [case for case in annotated(datastore) if case.name != own], given)
    with tempfile.TemporaryDirectory(prefix="regplugins-") as folder:
        result = propagate(bundle, image, cases, folder, given["fusion"], **options)
        for case in result["cases"]:
            results = Path(case.pop("folder"))
            if wanted["transform"]:
                case["transform"] = _encoded(_composite(results))
            if wanted["warped"]:
                case["warped"] = _encoded(results / "warped.nii.gz")
        with tempfile.NamedTemporaryFile(suffix=".nii.gz", delete=False) as file:  # the server deletes it
            file.write(Path(result["label"]).read_bytes())
    return file.name, {"cases": result["cases"]}


def opened(request: Mapping[str, Any], datastore: Datastore, sessions: str | Path | None) -> str | None:
    """The id of an image that a client wants to be labeled; None: it is of a session, which the server keeps itself.

    Args:
        request: its ``image``; of a session, whose id the client has given, the server adds ``session``.
        datastore: of the server.
        sessions: folder of the server's sessions.

    Raises:
        ValueError: neither an id of the datastore nor a session's file.
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
        return nearest(image, cases, whole("count", count))  # Slicer's table of options has texts
    names = moving
    if isinstance(moving, str):
        names = [moving] if moving in {case.name for case in cases} else moving.split(",")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"moving must be 'nearest', 'all', an id or ids, got {moving!r}")
    return named(cases, list(dict.fromkeys(names)))


def device(asked: Any) -> str:
    """The device asked for, or the CPU where there is no GPU: MONAI Label's clients ask for "cuda" by themselves.

    Raises:
        ValueError: there is no such device.
    """
    if not isinstance(asked, str) or not _DEVICE.fullmatch(asked):
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:<number>', got {asked!r}")
    return asked if torch.cuda.is_available() else "cpu"


def kept(request: Mapping[str, Any]) -> None:
    """Refuse to keep a label where a client may not: a tag becomes a folder, and final labels are people's.

    Args:
        request: may have ``label_tag``.

    Raises:
        ValueError: no plain name, or the tag of final labels.
    """
    tag = request.get("label_tag", "original")
    if not isinstance(tag, str) or not _TAG.fullmatch(tag) or tag == FINAL:
        raise ValueError(f"label_tag must be of letters, digits, '_' and '-', and not {FINAL!r}, got {tag!r}")


def _composite(folder: Path) -> Path:
    """The transform of a case's folder in one file."""
    files = sorted(folder.glob("transform_*"), reverse=True)
    # as antsApplyTransforms wants them, without the inverse
    steps = [file for file in files if "Inverse" not in file.name]
    write_chain(read_chain(steps), folder / "transform.h5")
    return folder / "transform.h5"


def _encoded(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
