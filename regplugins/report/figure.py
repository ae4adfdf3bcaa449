# SPDX-License-Identifier: Apache-2.0
"""Quality-control picture of a registered pair (``report.png``)."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from torch import Tensor

from regplugins.io import atomic
from regplugins.io.nifti import is_nifti
from regplugins.metrics import subsample_volume
from regplugins.registration import INIT_CHOICES
from regplugins.registration.intensity import otsu_threshold
from regplugins.report.layout import KEY_GAP, Layout, Panel, create_layout
from regplugins.report.panels import (
    checkerboard,
    deformation,
    draw_grids,
    draw_volumes,
    folding_heading,
    gray,
    outline,
)
from regplugins.report.planes import display_planes
from regplugins.report.summary import headline_metrics
from regplugins.report.windows import image_windows
from regplugins.spatial import Grid

_FIXED_COLOR, _MOVING_COLOR = "#ffb000", "#19d3f3"
_OUTSIDE_COLOR = "#4a5f8a"
_TILES, _MANY_LABELS = 6, 12
_SAMPLE_VOXELS = 1 << 21
_MIN_LETTERS_SIZE = 0.6  # inches
_POINT = 1 / 72  # inches
# Largest distance of a shown landmark from a plane, relative to the longest edge of the picture's planes.
_NEAR_A_PLANE = 0.02

_Keys = dict[str, Line2D | Patch]


def pair_figure(path: str | os.PathLike[str], pair: Mapping[str, Any], init: str | None = None) -> None:
    """Draw a registered pair: in three planes the images, how they agree before and after, and the deformation.

    Radiological convention, true proportions in millimeters. Planes go through the center of mass of the fixed or the
    warped label, or of the foreground of the fixed image that the warped image covers. Anatomical directions are named
    except for 2-D images of other formats than NIfTI. Only the displayed slices are copied.

    Args:
        path: of the picture; its suffix gives the format. Written completely or not at all.
        pair: after ``EvaluatePaird``.
        init: name of the initial alignment, or its file; None: the identity.
    """
    grid = Grid.from_image(pair["fixed"])
    label = pair.get("fixed_label", pair.get("warped_label"))
    center = _content_center(pair["fixed"].as_tensor(), pair["warped_covered"]) if label is None else _center(label)
    warnings = [_with_file_names(message, pair["paths"]) for message in pair.get("warnings", [])]
    layout = create_layout(
        display_planes(grid, center), pair.get("name", ""), headline_metrics(pair["metrics"]), warnings
    )
    outside = _draw_images(layout, pair)
    keys = _draw_outlines(layout, pair) | _draw_landmarks(layout, pair, grid) | outside
    fields = [deformation(pair["displacement"].vectors, grid, plane) for plane in layout.planes]
    draw_grids(layout, fields)
    draw_volumes(layout, fields)
    start = "before registration" if init is None else f"initial alignment ({init if init in INIT_CHOICES else 'file'})"
    _draw_headings(layout, start, folding_heading(pair["metrics"]["folding_percent"], fields))
    if grid.ndim == 3 or is_nifti(pair["paths"]["fixed"]):
        for row in layout.panels:
            _draw_name(row[0])
            _draw_directions(row[0], layout.scale)
    _draw_scale_bar(layout)
    _draw_legend(layout, keys)
    with atomic(path) as temporary:
        _save(layout, temporary)


def _save(layout: Layout, path: Path) -> None:
    if path.suffix != ".png":
        layout.figure.savefig(path, dpi=layout.figure.dpi)
        return
    layout.canvas.draw()
    picture = PIL.Image.fromarray(np.asarray(layout.canvas.buffer_rgba())).convert("RGB")
    # In half the time of matplotlib's own settings, and without transparency still the smaller file.
    picture.save(path, compress_level=3, dpi=(layout.figure.dpi,) * 2)


def _center(mask: Tensor) -> tuple[int, ...]:
    """Index of the center of mass of what is not zero in a volume ``(1, *spatial)``, else of its middle."""
    sample, stride = subsample_volume(mask, _SAMPLE_VOXELS)
    places = sample[0].nonzero().double() * stride
    if len(places) == 0:
        return tuple(size // 2 for size in mask.shape[1:])
    return tuple(int(k) for k in places.mean(dim=0).round())


def _content_center(fixed: Tensor, covered: Tensor | None) -> tuple[int, ...]:
    """Index of the center of the fixed image's bright part, of what the moving image covers of it if it does."""
    sample, stride = subsample_volume(fixed, _SAMPLE_VOXELS)
    low, high = sample.aminmax()
    if not low < high:  # not for NaN either
        return tuple(size // 2 for size in fixed.shape[1:])
    bright = sample > otsu_threshold(sample)
    shared = bright if covered is None else bright & subsample_volume(covered, _SAMPLE_VOXELS)[0]
    center = _center(shared if shared.any() else bright)
    return tuple(min(k * stride, size - 1) for k, size in zip(center, fixed.shape[1:], strict=True))


def _draw_images(layout: Layout, pair: Mapping[str, Any]) -> _Keys:
    """Draw columns 1 to 5: the three images, and checkerboards of fixed and moving before and after."""
    planes, rows = layout.planes, len(layout.planes)
    fixed = [plane.take(pair["fixed"].as_tensor())[0] for plane in planes]
    moving = [plane.take(pair[key])[0] for key in ("before", "warped") for plane in planes]
    outside = [plane.take(pair[f"{key}_covered"])[0] == 0 for key in ("before", "warped") for plane in planes]
    # Filled voxels do not affect the window, unless there are no others.
    inside = [image[~hidden] for image, hidden in zip(moving, outside, strict=True)]
    values = np.concatenate(inside if any(part.size for part in inside) else [part.ravel() for part in moving[rows:]])
    fixed_window, moving_window = image_windows(np.concatenate([part.ravel() for part in fixed]), values)
    tinted = [_tinted(gray(image, moving_window), hidden) for image, hidden in zip(moving, outside, strict=True)]
    tile = max(max(plane.width, plane.height) for plane in planes) / _TILES
    for row, (panels, plane) in enumerate(zip(layout.panels, planes, strict=True)):
        f, b, w = _tinted(gray(fixed[row], fixed_window)), tinted[row], tinted[rows + row]
        pictures = (f, b, w, checkerboard(f, b, plane, tile), checkerboard(f, w, plane, tile))
        for panel, picture in zip(panels, pictures, strict=False):
            panel.image(picture)
    is_tinted = any(part.any() for part in outside)
    return {"outside the moving image": Patch(color=_OUTSIDE_COLOR)} if is_tinted else {}


def _tinted(shades: np.ndarray, hidden: np.ndarray | None = None) -> np.ndarray:
    """Gray values in [0, 1] as RGBA in bytes, with a tint outside the moving image."""
    colors = np.full((*shades.shape, 4), 255, np.uint8)
    colors[..., :3] = np.rint(255 * shades)[..., None]
    if hidden is not None:
        colors[hidden] = np.rint(255 * np.array(to_rgba(_OUTSIDE_COLOR)))
    return colors


def _draw_outlines(layout: Layout, pair: Mapping[str, Any]) -> _Keys:
    """Outline the fixed label on columns 1 to 3; of few labels, also the moving one on its own image."""
    columns = {"fixed_label": (0, 1, 2), "before_label": (1,), "warped_label": (2,)}
    shown = [key for key in columns if key in pair]
    if not shown:
        return {}
    slices = [plane.take(pair[shown[0]])[0] for plane in layout.planes]
    many = len(np.unique(np.concatenate([part.ravel() for part in slices]))) > _MANY_LABELS
    if many and "fixed_label" in pair:
        shown = ["fixed_label"]
    keys: _Keys = {}
    for key in shown:
        name, color = ("fixed label", _FIXED_COLOR) if key == "fixed_label" else ("moving label", _MOVING_COLOR)
        for panels in layout.panels:
            segments = outline(panels[0].plane.take(pair[key])[0], panels[0].plane)
            for column in columns[key]:
                panels[column].lines(segments, color=color, linewidth=0.4 if many else 1, capstyle="projecting")
        keys[name] = Line2D([], [], color=color, linewidth=2)
    return keys


def _draw_landmarks(layout: Layout, pair: Mapping[str, Any], grid: Grid) -> _Keys:
    """Draw the fixed landmarks near each plane on columns 1 to 3, and the moving ones on the moving image.

    The moving ones are mapped back to the fixed image's world, by the transforms before and after registration.
    """
    if "fixed_landmarks" not in pair:
        return {}
    points = {"fixed": pair["fixed_landmarks"]}
    if "moving_landmarks" in pair:
        points["before"] = pair["start"].inverse()(pair["moving_landmarks"])
        points["warped"] = pair["inverse"](pair["initial"].inverse()(pair["moving_landmarks"]))
    index = {name: grid.world_to_index(part.double()).numpy() for name, part in points.items()}
    near = _NEAR_A_PLANE * max(max(plane.width, plane.height) for plane in layout.planes)
    for panels in layout.panels:
        plane, chosen = panels[0].plane, slice(None)
        if plane.position is not None:
            axis, number = plane.position
            spacing = float(grid.spacing[axis])
            chosen = np.abs(index["fixed"][:, axis] - number) * spacing <= max(near, spacing / 2)
        fixed = plane.project(index["fixed"][chosen])
        for panel, name in zip(panels, ("fixed", "before", "warped"), strict=False):
            if name != "fixed" and name in index:
                moving = plane.project(index[name][chosen])
                panel.lines(np.stack([fixed, moving], axis=1), color="white", linewidth=0.8)
                panel.dots(moving, _MOVING_COLOR)
            panel.dots(fixed, _FIXED_COLOR)
    names = {"fixed landmark": _FIXED_COLOR} | ({"moving landmark": _MOVING_COLOR} if len(index) > 1 else {})
    return {
        name: Line2D([], [], linestyle="", marker="o", color=color, markeredgecolor="black", markersize=5)
        for name, color in names.items()
    }


def _draw_headings(layout: Layout, start: str, jacobian: tuple[str, str, str]) -> None:
    """Write two lines above each column."""
    names = ("Fixed", "Moving", "Warped", "Checkerboard", "Checkerboard", "Deformed grid")
    details = ("", start, "after registration", "before", "after", "x + u(x)")
    headings = [*zip(names, details, ["black"] * 6, strict=True), jacobian]
    for panel, (name, detail, color) in zip(layout.panels[0], headings, strict=True):
        left, bottom, width, height = panel.box
        x, y = left + width / 2, bottom + height
        layout.axes.text(x, y + 17 * _POINT, name, ha="center", fontsize=11)
        layout.axes.text(x, y + 5 * _POINT, detail, ha="center", fontsize=9.5, color=color)


def _draw_scale_bar(layout: Layout) -> None:
    """Draw a bar of a round length, at most 0.8 inches, below column 1."""
    longest = 0.8 / layout.scale
    power = 10.0 ** math.floor(math.log10(longest))
    length = max(digit * power for digit in (1, 2, 5) if digit * power <= longest)
    x, y, *_ = layout.panels[-1][0].box
    y -= KEY_GAP
    layout.axes.plot([x, x + length * layout.scale], [y, y], color="black", linewidth=2)
    layout.axes.text(x, y - 0.05, f"{length:g} mm", va="top", fontsize=9.5)


def _draw_name(panel: Panel) -> None:
    """Write the name of a panel's plane at its left, upwards."""
    left, bottom, _, height = panel.box
    style: dict[str, Any] = {"rotation": "vertical", "rotation_mode": "anchor", "ha": "center", "va": "bottom"}
    panel.axes.text(left - 4 * _POINT, bottom + height / 2, panel.plane.name, fontsize=11, **style)


def _draw_directions(panel: Panel, scale: float) -> None:
    """Name the anatomical directions at the edges of a panel, if two letters fit."""
    left, right, bottom, top = panel.plane.extent
    places = [(0.03, 0.5, "left", "center"), (0.97, 0.5, "right", "center")]
    places += [(0.5, 0.03, "center", "top"), (0.5, 0.97, "center", "bottom")]
    sizes = [panel.plane.width * scale] * 2 + [panel.plane.height * scale] * 2
    style: dict[str, Any] = {"color": "white", "fontsize": 9.5, "fontweight": "bold", "zorder": 4}
    style |= {"path_effects": [withStroke(linewidth=2, foreground="black")], "transform": panel.transform}
    for letter, inches, (across, down, horizontal, vertical) in zip(panel.plane.ends, sizes, places, strict=True):
        if inches >= _MIN_LETTERS_SIZE:
            x, y = left + across * (right - left), top + down * (bottom - top)
            panel.axes.text(x, y, letter, ha=horizontal, va=vertical, **style)


def _draw_legend(layout: Layout, keys: _Keys) -> None:
    """Draw the legend below columns 2 to 5, in two lines at most."""
    if keys:
        spacing = {"borderpad": 0, "borderaxespad": 0, "handlelength": 1.5}
        x, y, *_ = layout.panels[-1][1].box
        place: dict[str, Any] = {"bbox_to_anchor": (x, y - KEY_GAP), "bbox_transform": layout.axes.transData}
        place |= {"loc": "upper left", "ncols": 3, "frameon": False}
        layout.axes.legend(keys.values(), keys, fontsize=9.5, **place, **spacing)


def _with_file_names(message: str, paths: Mapping[str, Any]) -> str:
    """Message with file names in place of paths, to fit the picture."""
    for path in sorted(map(str, paths.values()), key=len, reverse=True):
        message = message.replace(path, Path(path).name)
    return message
