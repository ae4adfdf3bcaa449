# SPDX-License-Identifier: Apache-2.0
"""Keys of a pair: the dictionary that the transforms of ``inference.json`` read and extend."""

from __future__ import annotations

from typing import Any, TypedDict

from monai.data import MetaTensor
from torch import Tensor

from regplugins.spatial import AffineTransform, DisplacementField, Grid, SpatialTransform


class Pair(TypedDict, total=False):
    """A fixed and a moving image and the results of their registration.

    Images and label maps are ``(1, *spatial)``, ``spatial`` 2-D or 3-D. World coordinates are RAS+ mm. Transforms map
    points of the fixed to points of the moving world.
    """

    # A record of a datalist, or of the command line.
    name: str  # of the pair, and of its output folder

    # LoadPaird
    paths: dict[str, str]  # file of each input, by its key
    fixed: MetaTensor  # float32, on its own grid
    moving: MetaTensor  # float32, on its own grid
    moving_channels: Tensor  # (C, *spatial) uint8 or uint16 of a photograph, of which `moving` is the luminance
    fixed_label: MetaTensor  # int32, on the fixed image's grid
    moving_label: MetaTensor  # int32, on the moving image's grid
    fixed_mask: MetaTensor  # int32, on the fixed image's grid; not zero where the image counts
    moving_mask: MetaTensor  # int32, on the moving image's grid
    fixed_landmarks: Tensor  # (number, n), world of the fixed image, mm
    moving_landmarks: Tensor  # (number, n), world of the moving image, mm
    landmark_space: str  # "RAS" or "LPS", of the landmark files
    truth: SpatialTransform  # true transform, if known
    seconds: dict[str, float]  # wall-clock time by stage; every step adds its own
    warnings: list[str]  # one sentence each, for report.json; every step adds its own

    # OrderModalitiesd
    swapped: bool  # fixed and moving were given in the other order

    # ResamplePaird
    grid: Grid  # network grid, in the fixed image's world
    initial: AffineTransform  # initial transform; ApplyRigidPaird replaces it by the result
    pair: Tensor  # (2, *grid.shape), moving and fixed; ScalePercentilesd maps it to [0, 1]
    masks: dict[str, Tensor]  # fixed_mask and moving_mask on the grid, (1, 1, *grid.shape) in [0, 1]

    # ResamplePaird (init), ChoosePresetd (preset, its settings and why)
    chosen: dict[str, Any]  # for report.json

    # prepare_pair
    started: float  # `time.perf_counter` at the start of the network

    # the inferer
    pred: Tensor | AffineTransform  # (1, n, *grid.shape) DDF in voxels of the grid (2 n of a bidirectional network)
    network_transform: AffineTransform  # RigidInferer: the network's transform before the refinement

    # ApplyDDFPaird, ApplyRigidPaird, ApplyTransformPaird
    start: AffineTransform  # transform before registration
    field: DisplacementField  # on the network grid, mm; applied before `initial`
    inverse: DisplacementField  # of `field`, mm
    displacement: DisplacementField  # `field` on the fixed image's grid, mm
    before: Tensor  # moving image through `start`, on the fixed image's grid
    before_label: Tensor  # moving label through `start`, on the fixed image's grid
    warped: Tensor  # moving image through the result, on the fixed image's grid
    warped_channels: Tensor  # (C, *spatial) float32, channels of the moving photograph likewise
    warped_label: Tensor  # moving label through the result, on the fixed image's grid
    warped_landmarks: Tensor  # (number, n), the fixed landmarks in the world of the moving image, mm

    # SwapPaird
    backward: dict[str, Any]  # the pair with fixed and moving swapped, through the network's other field
    cycle_error: Tensor  # (number,), distance of points from their image under both fields, mm

    # SynthesizePaird
    synthesized: dict[str, Tensor]  # "moving" and "fixed" in the other's modality, (1, *grid.shape) in [0, 1]

    # EvaluatePaird
    metrics: dict[str, Any]  # of report.json
    before_covered: Tensor  # (1, *spatial) bool: voxels of the fixed grid that the moving image covers, through `start`
    warped_covered: Tensor  # the same through the result

    # SavePaird
    field_spacing_error_voxels: dict[str, float]  # largest difference of the stored fields from the full ones
