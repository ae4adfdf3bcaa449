# SPDX-License-Identifier: Apache-2.0
"""Brains made up from formulas, in the folders of the real ones; what is written is judged by the formulas and
SimpleITK.
"""

import csv
import json
import os
import re
from itertools import combinations
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates
from torch import Tensor

from regplugins.data import read_datalist
from regplugins.data.contrast import AIR, BONE, SCALP, STRUCTURE, UNKNOWN
from regplugins.data.records import RECORD_KEYS
from regplugins.datasets import brain_contrasts, brain_pairs, brain_t1_labels, brains, prepare_brains
from regplugins.datasets.brain_pairs import brain_tissues, known_pairs
from regplugins.datasets.brain_t1_labels import STRUCTURES, remap
from regplugins.io import load_image, load_label, read_displacement
from regplugins.spatial import AffineTransform, Grid, SpatialTransform
from tests.itk_truth import array_of, make_grid, rotation, write_image
from tests.registration.heads import motion

HALF_AXES = torch.tensor([30.0, 36.0, 27.0], dtype=torch.float64)
CENTER = torch.tensor([6.0, -9.0, 12.0], dtype=torch.float64)
# Crooked sizes, so that no voxel of a 2 mm grid falls half-way between two of these.
SIZES = (2.9, 3.1, 3.3)
# Intensities of fluid, gray and white matter.
CONTRASTS = {
    "t1": (200, 550, 900),
    "t1c": (250, 600, 950),
    "t2": (1000, 600, 350),
    "flair": (150, 800, 500),
    "pd": (950, 800, 600),
    "ct": (12, 40, 28),
}
FLUID, GRAY, WHITE = 1, 2, 3
FOLLOWUP = {"BraTSReg_002_00", "BraTSReg_002_01"}
STRONG_SECTIONS = ("strong", "slices", "strong_validation", "slices_validation", "slices_t1_t2")


def fractions(points: Tensor) -> Tensor:
    """(..., 3) of fluid, gray and white matter at points of the templates' world; together 1 within the brain."""
    places = (points - CENTER) / HALF_AXES
    random = np.random.default_rng(8)
    radius, texture = places.norm(dim=-1), torch.zeros(points.shape[:-1], dtype=torch.float64)
    for center in random.uniform(-0.8, 0.8, (14, 3)):
        away = (places - torch.from_numpy(center)).norm(dim=-1)
        texture += float(random.choice([-1, 1])) * torch.exp(-((away / random.uniform(0.2, 0.35)) ** 2) / 2)
    inside = torch.sigmoid(40 * (1 - radius))
    ventricle = torch.sigmoid(25 * (0.4 - (places - torch.tensor([0.1, 0.2, 0.0])).norm(dim=-1)))
    fluid = torch.maximum(ventricle, torch.sigmoid(30 * (radius - 0.84)))
    white = torch.sigmoid(25 * (texture + 0.7 - radius)) * (1 - fluid)
    return inside[..., None] * torch.stack([fluid, 1 - fluid - white, white], dim=-1)


def contrast(sequence: str, points: Tensor) -> Tensor:
    return fractions(points) @ torch.tensor(CONTRASTS[sequence], dtype=torch.float64)


def in_brain(points: Tensor) -> Tensor:
    return ((points - CENTER) / HALF_AXES).norm(dim=-1) < 1


def in_tumor(points: Tensor) -> Tensor:
    return (points - CENTER - torch.tensor([-12.0, -10.0, 4.0])).norm(dim=-1) < 7


def in_skull(points: Tensor) -> Tensor:
    return (((points - CENTER) / HALF_AXES).norm(dim=-1) - 1.15).abs() < 0.08


class Patient:
    """The one brain, moved by an affine map; where and how its images lie."""

    def __init__(self, moved: Tensor, directions: np.ndarray, scale: float = 1.0, tumor: bool = False) -> None:
        self.moved, self.back = moved, torch.linalg.inv(moved)
        self.scale, self.tumor = scale, tumor
        center = (moved[:3, :3] @ CENTER + moved[:3, 3]).numpy()
        self.grid = make_grid((27, 29, 25), directions, SIZES, tuple(center + np.array([0.3, -0.2, 0.4])))

    def home(self, points: Tensor) -> Tensor:
        """Map points of the patient's world to that of the templates."""
        return points @ self.back[:3, :3].T + self.back[:3, 3]

    def image(self, sequence: str) -> Tensor:
        points = self.home(self.grid.coordinates())
        values = self.scale * contrast(sequence, points) * in_brain(points)
        if self.tumor:
            values[in_tumor(points)] = 2000 * self.scale
        return values.float()

    def mask(self, kind: str) -> Tensor:
        points = self.home(self.grid.coordinates())
        return in_brain(points).to(torch.uint8) if kind == "brainmask" else 4 * in_tumor(points).to(torch.uint8)

    def images(self, *sequences: str) -> dict[str, MetaTensor]:
        """As ``load_patient`` gives them."""
        found = {name: MetaTensor(self.image(name)[None], affine=self.grid.affine) for name in sequences}
        for kind in ("brainmask", "tumor")[: 1 + self.tumor]:
            found[kind] = MetaTensor(self.mask(kind)[None].to(torch.int32), affine=self.grid.affine)
        return found


LPS, LAS = np.diag([-1.0, -1, 1]), np.diag([-1.0, 1, 1])
PATIENTS = {
    "BraTSReg_002_00": Patient(motion(6, (9, -5, 4)), LPS, 1.3),
    "BraTSReg_002_01": Patient(motion(-4, (2, 6, -3)), rotation(3, 12) @ LPS, 0.8),
    "brats_2013_pat0005_1": Patient(motion(5, (-8, 3, 6), 0.08), LPS, 2.0, tumor=True),
    "brats_2013_pat0004_1": Patient(motion(3, (4, 4, 4)), LPS, tumor=True),
    "brats_2013_pat0001_1": Patient(motion(7, (12, -9, 5), 0.06), LPS, 1.5, tumor=True),
    "TCGA-DU-7294": Patient(motion(-6, (-7, 8, -6), -0.05), np.diag([1.0, 1, 1])[[1, 2, 0]], 0.4),
}
ALL = ("t1", "t1c", "t2", "flair")
HAVE = {name: ("t1c", "flair") for name in PATIENTS} | dict.fromkeys(FOLLOWUP, ALL) | {"TCGA-DU-7294": ("t1", "t2")}
LABELED = {
    "1004": Patient(motion(4, (-5, 2, 3)), LAS),
    "1005": Patient(motion(-5, (6, 4, -2), 0.05), LAS),
    "1010": Patient(motion(3, (1, -7, 2), -0.06), LAS),
}
# Of Neuromorphometrics' protocol: right (x grows to the right) and left.
NUMBERS = {FLUID: (46, 46), GRAY: (104, 207), WHITE: (44, 45)}
GROUPS = {46: 0, 104: 1, 207: 1, 44: 2, 45: 2, 51: 3, 52: 3, 59: 5, 60: 5, 0: 0}
LANDMARKS = {
    "BraTSReg_002_00": [[-3.5, 10.0, 21.0], [4.0, 5.5, -6.0]],
    "BraTSReg_002_01": [[-1.0, 12.0, 20.5], [6.5, 7.0, -7.25]],
}


def neuromorphometrics(patient: Patient) -> Tensor:
    points = patient.home(patient.grid.coordinates())
    tissue, left = fractions(points).argmax(dim=-1) + 1, points[..., 0] < CENTER[0]
    labels = torch.zeros(patient.grid.shape, dtype=torch.int16)
    for number, (right_label, left_label) in NUMBERS.items():
        labels[tissue == number] = right_label
        labels[(tissue == number) & left] = left_label
    for right_label, place in ((51, (3.6, 7.2, 0.0)), (59, (-10.0, 4.0, -8.0))):
        near = (points - CENTER - torch.tensor(place)).norm(dim=-1) < 6
        labels[near] = right_label
        labels[near & left] = right_label + 1
    return labels * in_brain(points)


def write_label_maps(folder: Path) -> None:
    """Write a limb for any use, of fat around bone and another label, one for restricted use, and another anatomy."""
    folder.mkdir()
    labels = torch.zeros((20, 30, 24), dtype=torch.int16)
    labels[4:16, 3:27, 4:20] = 2
    labels[8:12, 6:24, 9:15] = 4
    labels[8:12, 12:18, 16:19] = 3
    write_image(labels, make_grid(labels.shape, LPS, (4.0, 4.0, 4.0), (100.0, 50.0, -30.0)), folder / "limb_1.nii.gz")
    (folder / "maps.csv").write_text("file,use\nlimb_1,free\nlimb_2,restricted\ntrunk_1,free\n")
    names = {1: "air or gas", 2: "fat", 3: "a thing", 4: "bone"}
    rows = "".join(f"limb_1,{value},{name}\n" for value, name in names.items())
    (folder / "labels.csv").write_text(f"file,value,name\n{rows}")


def write_source(folder: Path) -> None:
    """Write the source folder that ``prepare_brains`` reads."""
    for name in ("templates", "brain_t1_labels", *(f"brain_multiseq/{case}" for case in PATIENTS)):
        (folder / name).mkdir(parents=True)
    template = make_grid((27, 29, 25), LAS, SIZES, tuple(CENTER.tolist()))
    points = template.coordinates()
    for name in CONTRASTS:
        image = contrast(name, points) + in_skull(points) * (1000 if name != "ct" else 0)
        file = "ct_stripped" if name == "ct" else name
        write_image(image.float(), template, folder / "templates" / f"{file}.nii.gz")
    head = ((points - CENTER) / HALF_AXES).norm(dim=-1) < 1.3
    write_image((1000.0 * head + 4000 * in_skull(points)).float(), template, folder / "templates" / "ct.nii.gz")
    write_label_maps(folder / "label_maps")
    for k, name in enumerate(("csf", "grey", "white")):
        write_image((1000 * fractions(points)[..., k]).float(), template, folder / "templates" / f"{name}.nii.gz")
    for case, patient in PATIENTS.items():
        own = folder / "brain_multiseq" / case
        for name in HAVE[case]:
            write_image(patient.image(name), patient.grid, own / f"{name}.nii.gz")
        for kind in ("brainmask", "tumour")[: 1 + patient.tumor]:
            write_image(patient.mask(kind), patient.grid, own / f"{kind}.nii.gz")
        if case in LANDMARKS:
            rows = "\n".join(",".join(map(str, point)) for point in LANDMARKS[case])
            (own / "landmarks_lps.csv").write_text(f"x,y,z\n{rows}\n")
    for case, patient in LABELED.items():
        write_image(patient.image("t1"), patient.grid, folder / "brain_t1_labels" / f"{case}_t1.nii.gz")
        write_image(neuromorphometrics(patient), patient.grid, folder / "brain_t1_labels" / f"{case}_labels.nii.gz")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source, and the datalist that was made of it.

    One patient is aligned by mutual information; to save time, the others by the formulas.
    """
    folder = tmp_path_factory.mktemp("brains")
    write_source(folder / "source")
    align, everyone = brain_pairs.affine_between, PATIENTS | LABELED
    known = everyone.keys() - {"TCGA-DU-7294"}

    def name_of(image: MetaTensor) -> str:
        grid = Grid.from_image(image)
        return next(name for name, case in everyone.items() if case.grid.matches(grid))

    def align_some(fixed: MetaTensor, moving: MetaTensor) -> SpatialTransform:
        here, there = name_of(fixed), name_of(moving)
        if {here, there} & known:
            return AffineTransform(everyone[there].moved @ everyone[here].back)
        return align(fixed, moving)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(brain_t1_labels, "TEST_CASES", tuple(LABELED))
        patch.setattr(brain_contrasts, "TRAINING_CASES", ("1005",))
        for module in (brain_pairs, brain_t1_labels):
            patch.setattr(module, "affine_between", align_some)
        return folder / "source", prepare_brains(folder / "source", folder / "new" / "target")


def values_of(path: str | Path) -> np.ndarray:
    return np.asarray(nib.load(path).dataobj)


def grid_of(path: str | Path) -> Grid:
    image = nib.load(path)
    return Grid(image.shape, torch.from_numpy(image.affine))


def correlation(a: Any, b: Any, where: Any) -> float:
    inside = np.asarray(where)
    return float(np.corrcoef(np.asarray(a)[inside], np.asarray(b)[inside])[0, 1])


def records_of(prepared: tuple[Path, Path], section: str) -> list[dict[str, str]]:
    return read_datalist(prepared[1], section)


def known_of_patients(prepared: tuple[Path, Path]) -> list[tuple[dict[str, str], Path, str, str]]:
    """Pairs with a known truth: record, the patient's folder, fixed and moving sequence."""
    found = []
    for record in records_of(prepared, "validation") + records_of(prepared, "test"):
        case, fixed, moving, _ = record["name"].rsplit("_", 3)
        if case in PATIENTS:
            found.append((record, prepared[0] / "brain_multiseq" / case, fixed, moving))
    return found


class TestSections:
    def test_every_section_names_files_that_are_there(self, prepared):
        sections = json.loads(prepared[1].read_text())
        keys = ("name", "subject", "sequence", "family")
        pairs = {"validation", "test", "between", "followup", "remapped", "labeled", *STRONG_SECTIONS}
        assert set(sections) == {"training", "validation_images", "contrasts"} | pairs
        for section in sections:
            records = records_of(prepared, section)
            for record in records:
                files = [Path(value) for key, value in record.items() if key not in keys]
                assert len(files) >= 1 and all(file.is_file() for file in files)
                home = prepared[0] if section == "labeled" else prepared[1].parent
                assert all(file.is_relative_to(home) for file in files)
                assert section not in pairs or set(record) <= set(RECORD_KEYS)
            if section in pairs:
                assert len({record["name"] for record in records}) == len(records)

    def test_keys_are_what_a_registration_is_judged_by(self, prepared):
        images = {"name", "fixed", "moving"}
        kinds = {
            "training": {"image", "subject", "sequence"},
            "validation_images": {"image", "subject", "sequence"},
            "validation": images | {"truth", "fixed_mask"},
            "test": images | {"truth", "fixed_mask"},
            "between": images | {"fixed_label", "moving_label"},
            "followup": images | {"fixed_landmarks", "moving_landmarks"},
            "remapped": images | {"fixed_label", "moving_label"},
            "labeled": images | {"fixed_label", "moving_label"},
        }
        strong = images | {"truth", "fixed_mask", "fixed_label", "moving_label"}
        kinds |= dict.fromkeys(STRONG_SECTIONS, strong)
        for section, keys in kinds.items():
            assert all(set(record) == keys for record in records_of(prepared, section))

    def test_test_cases_never_train_nor_choose(self, prepared):
        training, validation = records_of(prepared, "training"), records_of(prepared, "validation")
        found = {(record["subject"], record["sequence"]) for record in training}
        assert found == {
            *(("template", name) for name in CONTRASTS if name != "t1c"),
            *(("brats_2013_pat0001_1", name) for name in ("t1c", "flair")),
            *(("TCGA-DU-7294", name) for name in ("t1", "t2")),
        }
        assert all(record["subject"] in Path(record["image"]).name for record in training)
        choosing = records_of(prepared, "validation_images")
        assert {record["subject"] for record in choosing} == {"brats_2013_pat0004_1"}
        assert len(choosing) == 2
        for case in ("BraTSReg_002_00", "BraTSReg_002_01", "brats_2013_pat0005_1"):
            assert not any(case in json.dumps(record) for record in training + validation + choosing)
        for section in ("test", "between", "followup", "remapped", "labeled", *STRONG_SECTIONS[:2], "slices_t1_t2"):
            for case in ("brats_2013_pat0004_1", "brats_2013_pat0001_1", "TCGA-DU-7294"):
                assert not any(case in json.dumps(record) for record in records_of(prepared, section))

    def test_pairs_are_of_different_sequences_that_the_subject_has(self, prepared):
        have = HAVE | {"template_validation": ("t1", "ct"), "template_test": ("t1", "ct")}
        for section, subjects in (
            ("validation", {"brats_2013_pat0004_1", "template_validation"}),
            ("test", {*FOLLOWUP, "brats_2013_pat0005_1", "template_test"}),
        ):
            names = [record["name"].rsplit("_", 3) for record in records_of(prepared, section)]
            assert {name for name, *_ in names} == subjects
            for subject in subjects:
                own = [name for name in names if name[0] == subject]
                assert len(own) == 6
                assert all(fixed != moving and {fixed, moving} <= set(have[subject]) for _, fixed, moving, _ in own)

    def test_between_are_two_patients_never_one(self, prepared):
        names = [record["name"] for record in records_of(prepared, "between")]
        # Of each of the two scans of BraTSReg_002 with the one other patient, who has but T1c and FLAIR, both ways.
        expected = set()
        for scan in FOLLOWUP:
            for a, b in (("t2", "t1c"), ("t1c", "flair"), ("flair", "t1c"), ("t1", "flair")):
                expected |= {f"{scan}_{a}_brats_2013_pat0005_1_{b}", f"brats_2013_pat0005_1_{b}_{scan}_{a}"}
        assert set(names) == expected
        assert len(names) == len(expected) == 16


class TestTraining:
    def test_all_images_lie_on_one_grid_about_the_templates(self, prepared):
        affines = []
        for record in records_of(prepared, "training"):
            image = nib.load(record["image"])
            assert image.shape == (80, 96, 80)
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
            np.testing.assert_allclose(image.header.get_zooms(), 2.0)
            affines.append(image.affine)
        assert all(np.array_equal(affine, affines[0]) for affine in affines)
        middle = affines[0] @ [39.5, 47.5, 39.5, 1]
        np.testing.assert_allclose(middle[:3], CENTER, atol=1e-3)

    def test_images_show_the_templates_anatomy_without_a_skull(self, prepared):
        records = records_of(prepared, "training")
        points = grid_of(records[0]["image"]).coordinates()[::2, ::2, ::2]
        tissues, usual = fractions(points), in_brain(points) & ~in_tumor(points)
        outside = ~in_brain(CENTER + (points - CENTER) / 1.2).numpy()
        for record in records:
            values = values_of(record["image"])[::2, ::2, ::2]
            expected = tissues @ torch.tensor(CONTRASTS[record["sequence"]], dtype=torch.float64)
            # Patients were moved by up to 15 mm, 7 degrees and 8 %, and brought back by what an alignment found.
            assert correlation(values, expected, usual) > 0.85, record
            assert values[outside].max() < 0.02 * values.max()
            assert values[usual.numpy()].mean() > 0.1 * values.max()

    def test_sequences_of_a_patient_lie_on_each_other(self, prepared):
        paths = {
            (record["subject"], record["sequence"]): record["image"] for record in records_of(prepared, "training")
        }
        for subject, one, other in (("TCGA-DU-7294", "t1", "t2"), ("brats_2013_pat0001_1", "t1c", "flair")):
            a, b = (values_of(paths[subject, sequence]) > 0 for sequence in (one, other))
            assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.99


class TestKnownTruth:
    def test_truth_takes_fixed_points_to_the_moving_image(self, prepared):
        """By SimpleITK: the patient's own file, resampled through the truth, is the fixed image."""
        known = known_of_patients(prepared)
        assert len(known) == 4 * 6
        for record, folder, sequence, other in known:
            fixed, moving = (sitk.ReadImage(record[key]) for key in ("fixed", "moving"))
            field = sitk.ReadImage(record["truth"], sitk.sitkVectorFloat64)
            truth, still = sitk.DisplacementFieldTransform(field), sitk.Transform(3, sitk.sitkIdentity)
            for image, name, transform in ((fixed, sequence, truth), (moving, other, still)):
                source = sitk.ReadImage(folder / f"{name}.nii.gz")
                expected = array_of(sitk.Resample(source, image, transform, sitk.sitkLinear, 0.0))
                found = array_of(image)
                assert np.abs(found - expected).max() < 1e-3 * expected.max(), record["name"]
            mask = sitk.ReadImage(folder / "brainmask.nii.gz")
            expected = array_of(sitk.Resample(mask, fixed, truth, sitk.sitkNearestNeighbor, 0))
            found = values_of(record["fixed_mask"])
            assert found.dtype == np.uint8
            assert (found != expected).mean() < 1e-3

    def test_template_pairs_follow_the_formulas(self, prepared):
        known = [
            record
            for section in ("validation", "test")
            for record in records_of(prepared, section)
            if record["name"].startswith("template")
        ]
        assert len(known) == 12
        for record in known:
            _, fixed, moving, _ = record["name"].rsplit("_", 3)
            points = grid_of(record["fixed"]).coordinates()
            vectors = values_of(record["truth"])[..., 0, :] * [-1, -1, 1]
            places = points + torch.from_numpy(vectors)
            mask = values_of(record["fixed_mask"]) > 0
            assert (mask != in_brain(places).numpy()).mean() < 0.03
            right, still = (correlation(values_of(record["fixed"]), contrast(fixed, p), mask) for p in (places, points))
            assert right > 0.9
            assert right > still + 0.04
            assert correlation(values_of(record["moving"]), contrast(moving, points), in_brain(points)) > 0.9

    def test_maps_are_those_stated_and_no_two_alike(self, prepared):
        """As RandomWarp's defaults: up to 6 degrees, 4 mm, 5 % and 8 mm, about the image's center; none folds."""
        found = []
        for record in records_of(prepared, "validation") + records_of(prepared, "test"):
            vectors = values_of(record["truth"])[..., 0, :]
            grid = grid_of(record["fixed"])
            np.testing.assert_allclose(nib.load(record["truth"]).affine, grid.affine, atol=1e-4)
            away = (grid.coordinates() - grid.center).norm(dim=-1).numpy()
            # A turn by an angle moves a point by 2 sin(angle / 2) of its distance.
            limit = 8 + 4 * 3**0.5 + (2 * np.sin(np.deg2rad(3)) + 0.05) * (away + 8)
            length = np.linalg.norm(vectors, axis=-1)
            assert (length <= limit).all()
            assert length.max() > 2
            slopes = np.stack([np.stack(np.gradient(vectors[..., k], 2.0), axis=-1) for k in range(3)], axis=-2)
            axes = np.diag([-1, -1, 1]) @ grid.affine[:3, :3].numpy() / 2.0  # LPS, as the vectors are
            assert np.linalg.det(slopes @ np.linalg.inv(axes) + np.eye(3)).min() > 0
            found.append(vectors)
        for a, b in combinations(found, 2):
            assert a.shape != b.shape or np.linalg.norm(a - b, axis=-1).max() > 1

    def test_made_again_they_are_the_same(self, prepared, tmp_path):
        case = "brats_2013_pat0005_1"
        again = known_pairs(case, PATIENTS[case].images("t1c", "flair"), tmp_path)
        first = [record for record in records_of(prepared, "test") if record["name"].startswith(case)]
        assert [record["name"] for record in again] == [record["name"] for record in first]
        for own, other in zip(again, first, strict=True):
            np.testing.assert_allclose(values_of(tmp_path / own["truth"]), values_of(other["truth"]), atol=1e-3)
            assert not Path(own["fixed"]).is_absolute()


class TestStrong:
    """Affine parts that only a method with one of its own can find."""

    def cases(self, prepared, kind: str) -> list[tuple[dict[str, str], Patient, Grid]]:
        validation = f"{kind}_validation"
        records = records_of(prepared, kind) + (
            records_of(prepared, validation) if validation in STRONG_SECTIONS else []
        )
        return [
            (record, PATIENTS[case], Grid.from_image(load_image(record["fixed"])))
            for record in records
            for case in PATIENTS
            if record["name"].startswith(case)
        ]

    def test_volumes_follow_the_formulas(self, prepared):
        cases = self.cases(prepared, "strong")
        assert len(cases) == 4 * 6
        for record, patient, grid in cases:
            every_second = (slice(None, None, 2),) * 3
            points, truth = grid.coordinates()[every_second], read_displacement(record["truth"])
            self.judge(record, patient, points, truth(points), seen=every_second)
            assert (truth(points) - points).norm(dim=-1).max() > 8

    @pytest.mark.parametrize(
        ("kind", "patients", "order"), [("slices", 4, ("flair", "t1c")), ("slices_t1_t2", 2, ("t2", "t1"))]
    )
    def test_slices_follow_the_formulas(self, prepared, kind, patients, order):
        cases = self.cases(prepared, kind)
        assert len(cases) == patients * 12
        for record, patient, grid in cases:
            case, k = record["name"].rsplit("_slice_", 1)
            case = case.removesuffix("_t2_t1")
            volume = load_image(str(Path(record["moving"]).parents[1] / f"{case}_strong_0/moving.nii.gz"))
            whole = Grid.from_image(volume)

            def raised(points: Tensor, whole: Grid = whole, k: str = k) -> Tensor:
                """From mm in the plane, whose origin is its first voxel."""
                height = torch.full_like(points[..., :1], float(k))
                return whole.index_to_world(torch.cat([points / 2, height], dim=-1))

            points, truth = grid.coordinates(), read_displacement(record["truth"])
            self.judge(record, patient, raised(points), raised(truth(points)), order)

    def judge(
        self,
        record: dict[str, str],
        patient: Patient,
        points: Tensor,
        places: Tensor,
        order: tuple[str, str] = ("flair", "t1c"),
        seen: tuple[slice, ...] = (),
    ) -> None:
        """The fixed image is the patient at the places where the truth takes its points, the moving one at its own."""
        for key, sequence, where in zip(("fixed", "moving"), order, map(patient.home, (places, points)), strict=True):
            usual, tissues = in_brain(where) & ~in_tumor(where), fractions(where)
            values = load_image(record[key])[0].numpy()[seen]
            assert correlation(values, tissues @ torch.tensor(CONTRASTS[sequence]).double(), usual) > 0.85
            label = load_label(record[f"{key}_label"])[0].numpy()[seen]
            sure = usual.numpy() & (label > 0)
            assert sure.sum() > 50
            assert (label == (tissues.argmax(dim=-1) + 1).numpy())[sure].mean() > 0.7
        mask = load_label(record["fixed_mask"])[0].numpy()[seen] > 0
        assert (mask != in_brain(patient.home(places)).numpy()).mean() < 0.03

    def test_no_brain_leaves_the_picture(self, prepared):
        for record, patient, _ in self.cases(prepared, "strong"):
            whole = int(patient.mask("brainmask").sum()) * np.prod(SIZES)
            seen = int((values_of(record["fixed_mask"]) > 0).sum()) * 8
            determinant = (0.88**3, 1.12**3)  # and the smooth part besides
            assert 0.8 / determinant[1] < seen / whole < 1.25 / determinant[0]
            assert values_of(record["fixed_mask"])[[0, -1]].max() == 0


class TestBetween:
    def test_labels_are_the_tissues_of_their_images(self, prepared):
        for record in records_of(prepared, "between"):
            fixed = next(case for case in PATIENTS if record["name"].startswith(case))
            patient = PATIENTS[fixed]
            places = patient.home(grid_of(record["fixed"]).coordinates())
            brain, sure = in_brain(places), fractions(places) > 0.95
            if patient.tumor:
                sure &= ~in_tumor(places)[..., None]
            for key in ("fixed_label", "moving_label"):
                label = values_of(record[key])
                assert label.dtype == np.uint8
                assert set(np.unique(label)) == {0, FLUID, GRAY, WHITE}
                # The moving ones came by an alignment, and lack what they have for a tumor.
                for tissue in (GRAY, WHITE):
                    voxels = sure[..., tissue - 1] & brain
                    right = (label[voxels.numpy()] == tissue).mean()
                    assert right > (0.9 if key == "fixed_label" else 0.75), (record["name"], key, tissue)

    def test_moving_image_lies_on_the_fixed_one(self, prepared):
        for record in records_of(prepared, "between"):
            fixed, moving = record["name"].rsplit("_", 1)[0], record["name"].rsplit("_", 1)[1]
            patient = PATIENTS[next(case for case in PATIENTS if fixed.startswith(case))]
            assert grid_of(record["moving"]).matches(grid_of(record["fixed"]))
            places = patient.home(grid_of(record["fixed"]).coordinates())
            values = values_of(record["moving"])
            usual = in_brain(places) & ~in_tumor(places)
            assert correlation(values, contrast(moving, places), usual) > 0.85, record["name"]


class TestBrainTissues:
    def test_fluid_gray_and_white_by_rising_intensity(self):
        patient = Patient(motion(5, (2, 3, 4)), LPS)
        images = patient.images("t1c", "flair")
        classes = brain_tissues(images)
        assert classes.shape == images["t1c"].shape
        np.testing.assert_array_equal(classes.affine, images["t1c"].affine)
        brain = images["brainmask"][0] > 0
        assert not classes[0][~brain].any()
        assert set(classes[0][brain].unique().tolist()) == {FLUID, GRAY, WHITE}
        means = [float(images["t1c"][0][classes[0] == tissue].mean()) for tissue in (FLUID, GRAY, WHITE)]
        assert means == sorted(means)
        tissue = fractions(patient.home(patient.grid.coordinates()))
        for k, name in enumerate(("fluid", "gray", "white")):
            sure = (tissue[..., k] > 0.9) & brain
            assert sure.sum() > 50
            assert (classes[0][sure] == k + 1).float().mean() > 0.9, name

    def test_a_tumor_is_no_tissue(self):
        patient = Patient(motion(0, (0, 0, 0)), LPS, tumor=True)
        images = patient.images("t1c")
        classes = brain_tissues(images)
        assert not classes[images["tumor"] > 0].any()
        # Nor do its intensities, twice those of white matter, make a class of their own.
        healthy = Patient(motion(0, (0, 0, 0)), LPS)
        outside = (images["brainmask"] > 0) & (images["tumor"] == 0)
        assert (classes == brain_tissues(healthy.images("t1c")))[outside].float().mean() > 0.9


class TestFollowup:
    def test_pairs_and_images(self, prepared):
        records = records_of(prepared, "followup")
        for record, (fixed, moving) in zip(
            records, (("t1", "t2"), ("t2", "t1"), ("t1c", "flair"), ("flair", "t1c")), strict=True
        ):
            assert record["name"] == f"BraTSReg_002_00_{fixed}_BraTSReg_002_01_{moving}"
            for key, case, sequence in (("fixed", "BraTSReg_002_00", fixed), ("moving", "BraTSReg_002_01", moving)):
                found = sitk.ReadImage(record[key])
                np.testing.assert_allclose(found.GetSpacing(), 2.0, rtol=1e-5)
                source = sitk.ReadImage(prepared[0] / "brain_multiseq" / case / f"{sequence}.nii.gz")
                still = sitk.Transform(3, sitk.sitkIdentity)
                expected = array_of(sitk.Resample(source, found, still, sitk.sitkLinear, 0.0))
                assert np.abs(array_of(found) - expected).max() < 1e-3 * expected.max()

    def test_landmarks_change_their_world_only(self, prepared):
        for record in records_of(prepared, "followup"):
            for key, case in (("fixed_landmarks", "BraTSReg_002_00"), ("moving_landmarks", "BraTSReg_002_01")):
                with open(record[key], newline="") as file:
                    points = [[float(row[axis]) for axis in "xyz"] for row in csv.DictReader(file)]
                assert points == [[-x, -y, z] for x, y, z in LANDMARKS[case]]


class TestRemapped:
    def test_every_case_is_fixed_with_the_two_that_follow(self, prepared):
        assert [record["name"] for record in records_of(prepared, "remapped")] == [
            f"{fixed}_t1_{moving}_remapped"
            for fixed, moving in (
                ("1004", "1005"),
                ("1004", "1010"),
                ("1005", "1010"),
                ("1005", "1004"),
                ("1010", "1004"),
                ("1010", "1005"),
            )
        ]

    def test_the_scans_themselves_are_paired_alike(self, prepared):
        remapped, labeled = (records_of(prepared, section) for section in ("remapped", "labeled"))
        assert len(remapped) == len(labeled)
        for own, files in zip(remapped, labeled, strict=True):
            fixed, moving = own["name"].split("_t1_")
            moving = moving.removesuffix("_remapped")
            assert [Path(files[key]).name for key in ("fixed", "fixed_label", "moving", "moving_label")] == [
                *(f"{fixed}_t1.nii.gz", f"{fixed}_labels.nii.gz"),
                *(f"{moving}_t1.nii.gz", f"{moving}_labels.nii.gz"),
            ]

    def test_labels_are_grouped_and_nothing_else_about_them_changes(self, prepared):
        for record in records_of(prepared, "remapped"):
            patient = LABELED[record["name"][:4]]
            grouped = np.vectorize(GROUPS.get)(neuromorphometrics(patient).numpy())
            grid = grid_of(record["fixed_label"])
            index = patient.grid.world_to_index(grid.coordinates()).movedim(-1, 0).numpy()
            expected = map_coordinates(grouped, index, order=0, mode="nearest")
            label = values_of(record["fixed_label"])
            assert label.dtype == np.uint8
            assert (label != expected).mean() < 1e-3
            assert set(np.unique(label)) == {0, 1, 2, 3, 5}
            moving = values_of(record["moving_label"])
            for structure in (1, 2, 3, 5):  # the one brain, brought there
                a, b = label == structure, moving == structure
                assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.7, (record["name"], structure)

    def test_groups_share_no_structure(self):
        numbers = [number for structures in STRUCTURES.values() for number in structures]
        assert len(numbers) == len(set(numbers))
        assert list(STRUCTURES)[:3] == ["cerebral cortex", "cerebral white matter", "lateral ventricles"]

    def test_moving_image_is_bright_where_a_t1_is_dark(self, prepared):
        for record in records_of(prepared, "remapped"):
            places = LABELED[record["name"][:4]].home(grid_of(record["fixed"]).coordinates())
            tissue = fractions(places)
            for key, falls in (("fixed", False), ("moving", True)):
                values = values_of(record[key])
                means = [values[(tissue[..., k] > 0.9).numpy()].mean() for k in range(3)]
                assert means == sorted(means, reverse=falls)
            outside = ~in_brain(CENTER + (places - CENTER) / 1.25)
            assert values_of(record["moving"])[outside.numpy()].max() < 0.05

    def test_remapping_rises_through_partial_fluid_and_falls_from_there(self):
        image = torch.linspace(0, 1000, 4001).view(1, 1, -1)
        found = remap(image)[0, 0]
        assert found.dtype == torch.float32
        assert found[0] == 0  # the background stays
        top = 1000 * 0.999
        brightest = float(image.flatten()[found.argmax()])
        assert brightest == pytest.approx(0.15 * top, abs=1)
        rises, falls = found[image.flatten() < 0.149 * top], found[image.flatten() > 0.151 * top]
        assert (rises.diff() > 0).all()
        assert (falls.diff() <= 0).all()
        assert (falls[:-10].diff() < 0).all()
        assert found.min() >= 0 and found.max() <= 1
        torch.testing.assert_close(remap(7.5 * image)[0, 0], found)

    def test_without_labeled_brains_there_is_no_such_section(self, prepared, tmp_path, monkeypatch):
        for name in ("known_pairs", "strong_volumes", "strong_slices", "pairs_between", "training_images"):
            monkeypatch.setattr(brains, name, lambda *arguments: [])
        source = tmp_path / "source"
        source.mkdir()
        for name in ("templates", "brain_multiseq"):
            (source / name).symlink_to(prepared[0] / name)
        sections = json.loads(prepare_brains(source, tmp_path / "target").read_text())
        rest = {"training", "validation_images", "validation", "test", "between", "followup", "contrasts"}
        assert set(sections) == rest | set(STRONG_SECTIONS)


class TestContrasts:
    """Images and label maps to render, all on the training images' grid."""

    @pytest.fixture
    def maps(self, prepared) -> dict[str, np.ndarray]:
        """The label maps by subject."""
        records = [record for record in records_of(prepared, "contrasts") if "label_map" in record]
        return {record["subject"]: values_of(record["label_map"]) for record in records}

    def test_the_training_images_and_more_on_their_grid(self, prepared):
        training, contrasts = (records_of(prepared, section) for section in ("training", "contrasts"))
        assert [record | {"family": "human brain"} for record in training] == contrasts[: len(training)]
        more = {(record["subject"], record["sequence"], record["family"]) for record in contrasts[len(training) :]}
        assert more == {
            ("template", "tissues", "human brain"),
            ("head_template", "labels", "head_template"),
            ("1005", "t1", "human brain"),
            ("1005", "structures", "human brain"),
            ("limb_1", "labels", "limb_1"),
        }
        grid = grid_of(training[0]["image"])
        for record in contrasts:
            assert grid_of(record.get("image", record.get("label_map"))).matches(grid)

    def test_template_has_the_tissues_of_the_formulas(self, prepared, maps):
        points = grid_of(records_of(prepared, "training")[0]["image"]).coordinates()
        tissue, sure = fractions(points).argmax(dim=-1).numpy(), fractions(points).amax(dim=-1).numpy() > 0.9
        inside = in_brain(CENTER + (points - CENTER) * 1.05).numpy() & sure
        right = np.array([brain_contrasts.FLUID, brain_contrasts.GRAY, brain_contrasts.WHITE])[tissue]
        assert (maps["template"] == right)[inside].mean() > 0.95
        assert not maps["template"][~in_brain(CENTER + (points - CENTER) / 1.15).numpy()].any()

    def test_head_has_bone_outside_the_brain(self, maps):
        found = set(np.unique(maps["head_template"]))
        assert {AIR, SCALP, BONE} <= found and max(found) < STRUCTURE

    def test_people_lie_on_the_template_and_their_structures_have_tissues(self, prepared, maps):
        structures = maps["1005"]
        tissue, template = structures % STRUCTURE, maps["template"]
        solid = [brain_contrasts.GRAY, brain_contrasts.WHITE]
        both = np.isin(tissue, solid) & np.isin(template, solid)
        assert both.sum() > 0.4 * (template > 0).sum()
        assert (tissue == template)[both].mean() > 0.7
        # White matter of a side, cortex of a side, and the thalamus.
        expected = {STRUCTURE * n + brain_contrasts.WHITE for n in (44, 45)}
        expected |= {STRUCTURE * n + brain_contrasts.GRAY for n in (104, 207, 60)}
        assert expected <= set(np.unique(structures))

    def test_shapes_keep_their_proportions_and_fill_the_grid(self, maps):
        limb = maps["limb_1"]
        assert set(np.unique(limb)) == {AIR, SCALP, BONE, STRUCTURE * 3 + UNKNOWN}
        voxels = np.argwhere(limb > 0)
        sizes = np.ptp(voxels, axis=0) + 1
        # 12 x 24 x 16 voxels of 20 x 30 x 24; the tightest axis is the second, 30 voxels in 85 % of 96.
        np.testing.assert_allclose(sizes, np.array([12, 24, 16]) * 0.85 * 96 / 30, atol=1.5)
        np.testing.assert_allclose(voxels.mean(axis=0), (np.array(limb.shape) - 1) / 2, atol=2)


class TestTemplates:
    def test_skulls_are_gone_and_the_brain_is_kept(self, prepared):
        templates = brains.load_templates(prepared[0] / "templates")
        assert set(templates) == {"t1", "t2", "pd", "flair", "ct", "brainmask"}
        for name, image in templates.items():
            points = Grid.from_image(image).coordinates()
            brain = in_brain(points)
            if name == "brainmask":
                assert (image[0].as_tensor().bool() != brain).float().mean() < 0.01
                continue
            assert image.min() == 0
            assert not image[0].as_tensor()[~in_brain(CENTER + (points - CENTER) / 1.05)].any()
            assert correlation(image[0].as_tensor(), contrast(name, points), brain) > 0.98


class TestMissing:
    @pytest.fixture
    def source(self, prepared, tmp_path) -> Path:
        """A copy, of links, from which something can be taken away."""
        for path in prepared[0].rglob("*"):
            own = tmp_path / "source" / path.relative_to(prepared[0])
            if path.is_file():
                own.parent.mkdir(parents=True, exist_ok=True)
                os.link(path, own)
        return tmp_path / "source"

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            *((name, f"source/{name}: no such folder") for name in ("brain_multiseq", "templates")),
            *((f"templates/{name}.nii.gz", rf"templates/{name}\.nii\.gz") for name in ("grey", "pd", "ct_stripped")),
            *((f"brain_multiseq/{case}", f"multiseq/{case}") for case in ("BraTSReg_002_01", "brats_2013_pat0005_1")),
        ],
    )
    def test_what_the_data_set_needs(self, name, message, source, tmp_path):
        (source / name).rename(tmp_path / "elsewhere")
        with pytest.raises(FileNotFoundError, match=message):
            prepare_brains(source, tmp_path / "target")
        assert not (tmp_path / "target/datalist.json").exists()

    @pytest.mark.parametrize(
        ("name", "message"),
        [("brainmask", r"TCGA-DU-7294/brainmask\.nii\.gz"), ("t2", r"TCGA-DU-7294: two of .*found \['t1'\]")],
    )
    def test_what_a_patient_needs(self, name, message, source):
        folder = source / "brain_multiseq" / "TCGA-DU-7294"
        (folder / f"{name}.nii.gz").unlink()
        with pytest.raises(FileNotFoundError, match=message):
            brains.load_patient(folder)

    def test_landmarks_and_labels(self, source, tmp_path):
        (source / "brain_multiseq" / "BraTSReg_002_01" / "landmarks_lps.csv").unlink()
        patients = {case: PATIENTS[case].images(*ALL) for case in FOLLOWUP}
        with pytest.raises(FileNotFoundError, match=r"BraTSReg_002_01/landmarks_lps\.csv"):
            brain_pairs.pairs_with_landmarks(source / "brain_multiseq", patients, tmp_path / "target")
        with pytest.raises(FileNotFoundError, match=r"1013_labels\.nii\.gz"):
            brain_t1_labels.remapped_pairs(source / "brain_t1_labels", tmp_path / "target")

    def test_patients_are_read_with_what_they_have(self, source):
        patient = brains.load_patient(source / "brain_multiseq" / "brats_2013_pat0005_1")
        assert set(patient) == {"t1c", "flair", "brainmask", "tumor"}
        assert patient["tumor"].unique().tolist() == [0, 4]
        assert set(brains.load_patient(source / "brain_multiseq" / "BraTSReg_002_00")) == {*ALL, "brainmask"}


class TestRealData:
    @pytest.fixture
    def real(self) -> Path:
        folder = os.environ.get("REGPLUGINS_BRAINS_SOURCE")
        if not folder:
            pytest.skip("REGPLUGINS_BRAINS_SOURCE does not name the folder of the real brains")
        return Path(folder)

    def test_structures_have_the_names_that_their_numbers_have(self, real):
        with (real / "brain_t1_labels" / "labels.csv").open(newline="") as file:
            names = {int(row["Label Number"]): row["Label Name"].lower() for row in csv.DictReader(file)}
        words = {
            "cerebral white matter": "cerebral white matter",
            "lateral ventricles": "lat",
            "third and fourth ventricle": r"(3rd|4th) ventricle",
            "brain stem and ventral diencephalon": r"brain stem|ventral ?dc",
            "cerebellar cortex": r"cerebell(um exterior|ar vermal)",
            "cerebellar white matter": "cerebellum white matter",
        }
        for group, numbers in STRUCTURES.items():
            if group != "cerebral cortex":
                pattern = words.get(group, group)
                assert all(re.search(pattern, names[number]) for number in numbers), group

    def test_test_cases_are_there(self, real):
        for case in (*brains.TEST_CASES, *brains.VALIDATION_CASES):
            folder = real / "brain_multiseq" / case
            grids = {path.name: load_image(path).affine for path in folder.glob("*.nii.gz")}
            assert {"t1c.nii.gz", "flair.nii.gz", "brainmask.nii.gz"} <= set(grids)
            assert all(torch.equal(affine, grids["t1c.nii.gz"]) for affine in grids.values())
