# SPDX-License-Identifier: Apache-2.0
"""Data sets whose files are used as they are, from a given folder; ``--source`` only.

The published files were changed in ways that are not fully described. The comment of each set says how.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from itertools import permutations
from pathlib import Path

from regplugins.datasets.base import DataSet, checksums
from regplugins.datasets.datalist import Sections, pair, prepare_files
from regplugins.io.files import existing

# What the weights of a training on label maps may be used for; those that ship rest on ``free`` alone.
USES = ("free", "copyleft", "restricted")

_LABEL = {"label": "_label.nii.gz"}
_LANDMARKS = {"landmarks": "_landmarks.csv"}
_HEARTS = [f"s{number:02d}" for number in range(12)]
_LIVER_PHASES = (("s18", "1_10"), ("s18", "3_10"), ("s19", "1_6"), ("s19", "1_9"))


def _images(subjects: Sequence[str], sequences: Sequence[str]) -> list[dict[str, str]]:
    return [
        {"image": f"{subject}_{sequence.lower()}.nii.gz", "subject": subject, "sequence": sequence}
        for subject in subjects
        for sequence in sequences
    ]


def _cycles(hearts: Sequence[str]) -> list[dict[str, str]]:
    """Pairs of end diastole and end systole."""
    return [pair(heart, f"{heart}_ed", f"{heart}_es", **_LABEL) for heart in hearts]


def _people(cases: Sequence[str], prefix: str = "") -> list[dict[str, str]]:
    """All ordered pairs of two people."""
    return [pair(f"{a}_{b}", prefix + a, prefix + b, **_LABEL) for a, b in permutations(cases, 2)]


def _label_maps(source: Path, target: Path) -> Path:
    with existing(source / "maps.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    sections = {
        use: [{"name": row["file"], "label": f"{row['file']}.nii.gz"} for row in rows if row["use"] == use]
        for use in USES
    }
    return prepare_files(sections)(source, target)


def _given(name: str, title: str, license: str, origin: str, files: Sections | Callable[[Path, Path], Path]) -> DataSet:
    prepare = files if callable(files) else prepare_files(files)
    return DataSet(name, title, license, origin, prepare, checksums(name))


GIVEN_FOLDERS = (
    # Structures were renumbered to common numbers.
    _given(
        "abdomen_ct_mr",
        title="an MR slab and a CT of the abdomen of two people, 22 structures labeled",
        license="Apache-2.0",
        origin="github.com/wasserth/TotalSegmentator at 0e65a44, tests/reference_files: example_mr_sm, example_seg_mr, "
        "example_ct, example_seg_fast_force_split",
        files={"report": [pair("mr_ct", "mr", "ct", **_LABEL)]},
    ),
    # The headers of the first were rewritten.
    _given(
        "cardiac_cine",
        title="short-axis cine MR of two people, ventricles and myocardium labeled",
        license="CC BY-NC-SA 4.0 (ACDC; Bernard et al., IEEE TMI 2018), MIT",
        origin="github.com/MATHplus-Young-Academy/P2-Cardiac-Motion at 844995e, NN_segmentation/Datasets/patient005; "
        "github.com/cq615/Joint-Motion-Estimation-and-Segmentation at 1c36d97, test/0001",
        files={"report": _cycles(("acdc005", "joint0001"))},
    ),
    # The crop about the labels and the scale of the intensities are not fully described.
    _given(
        "cardiac_cine_train",
        title="short-axis cine MR of 12 hearts, ventricles and myocardium labeled",
        license="not stated; measure only, ship no weights trained on it",
        origin="github.com/laisong127/Cardiac-segmentation, Different_Vendor (by its file names the M&Ms challenge)",
        files={
            "tune": _cycles(_HEARTS),
            "training": _images(_HEARTS[:8], ("ED", "ES")),
            "validation_images": _images(_HEARTS[8:9], ("ED", "ES")),
            "validation": _cycles(_HEARTS[8:9]),
            "test": _cycles(_HEARTS[9:]),
        },
    ),
    # A pig cadaver. CT resampled to 1 mm, MR binned by 2 x 2 x 1, with an interpolation that is not described.
    _given(
        "head_ct_mr_phantom",
        title="CT and T2 MR of one head from two scanners",
        license="CC BY 4.0 (MRI-DIR; Ger et al. 2018)",
        origin="The Cancer Imaging Archive, collection MRI-DIR",
        files={"test": [pair("phantom", "mr_t2", "ct")]},
    ),
    # Crops, thresholds and merged labels are not fully described. A map overlaps with other data sets where
    # ``maps.csv`` says so; leave it out of a training whose result is reported on these.
    _given(
        "label_maps",
        title="69 label maps of many anatomies with maps.csv and labels.csv",
        license="each its own, column terms of maps.csv",
        origin="column source of maps.csv",
        files=_label_maps,
    ),
    # Images and landmarks were converted from MetaImage and VTK, and a wrong spacing was corrected.
    _given(
        "liver_mr4d",
        title="4-D MR of the liver of two people, exhale and two other phases each, landmarks",
        license="non-commercial (pTVreg; Vishnevskiy et al., IEEE TMI 2017; data: von Siebenthal et al. 2007)",
        origin="github.com/visva89/pTVreg at c359620, examples_ptv/data/ETHLiver",
        files={"tune": [pair(f"{a}_{b}", f"{a}/exhale", f"{a}/cyc_{b}", **_LANDMARKS) for a, b in _LIVER_PHASES]},
    ),
    # The images were cropped about the right lung and the landmarks selected.
    _given(
        "lung_ct",
        title="lung CT of one patient at two times, 51 landmarks and masks",
        license="Apache-2.0",
        origin="github.com/SuperElastix/elastix at 0c0b19f and earlier, Testing/Data/3DCT_lung_*.mha; "
        "github.com/InsightSoftwareConsortium/ITKElastix, examples/data/CT_3D_lung_*_point_set_corrected.txt",
        files={
            "report": [pair("lung", "fixed", "moving", **_LANDMARKS)],
            "report_masks": [pair("lung", "fixed", "moving", **_LANDMARKS, mask="_mask.nii.gz")],
        },
    ),
    # The published files were written anew, so that their SHA-256 is not known.
    _given(
        "lung_mr",
        title="chest MR of three people, five lobes labeled",
        license="not stated; measure only, ship no weights trained on it (Tustison et al., Acad Radiol 2016)",
        origin="github.com/ntustison/LungAndLobeEstimationExample at 7a5dd67, ProtonImages and ProtonLobeMasks",
        files={"tune": _people(("0004", "0006", "0007"))},
    ),
    # Contours were rasterized, smoothed and resampled with settings that are not described.
    _given(
        "thorax_ct",
        title="thorax CT of two patients, lungs, heart, esophagus, cord and tumor labeled",
        license="CC BY-NC 3.0 (NSCLC-Radiomics; Aerts et al. 2014)",
        origin="github.com/AIM-Harvard/pyplastimatch at 97cbe80, sample_data",
        files={"tune": _people(("003", "007"), "LUNG1-")},
    ),
)
