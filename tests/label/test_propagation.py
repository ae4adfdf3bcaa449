# SPDX-License-Identifier: Apache-2.0
"""App for MONAI Label without its server: cases, fusion, requests and training."""

import base64
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from regplugins.io import load_image, load_label, write_image
from regplugins.label.propagation import (
    annotated_cases,
    local_similarity,
    most_similar,
    propagate,
    registration_bundles,
    vote,
)
from regplugins.label.requests import CONFIG, answer, check_tag, requested_image_id
from regplugins.label.training import OPTIONS, train, trainable
from regplugins.losses import LocalNCCLoss
from regplugins.spatial import Grid
from tests.itk_truth import translation
from tests.label.studies import ANNOTATED, BUNDLE, NEW, ROOT, Folder, dice, write_studies


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Four annotated images, and one that has a proposed label alone."""
    folder = tmp_path_factory.mktemp("label")
    write_studies(folder / "studies", folder / "truth.nii.gz")
    (folder / "studies/labels/original").mkdir()
    shutil.copyfile(folder / "truth.nii.gz", folder / f"studies/labels/original/{NEW}.nii.gz")
    return Folder(folder / "studies")


@pytest.fixture(scope="module")
def truth(store: Folder) -> Path:
    return store.folder.parent / "truth.nii.gz"


class TestCases:
    def test_only_final_labels_count(self, store):
        cases = annotated_cases(store)
        assert [case.name for case in cases] == list(ANNOTATED)
        assert all(Path(case.label).parent.name == "final" for case in cases)

    def test_ids_may_have_dots_and_begin_alike(self, store, tmp_path):
        """As series of DICOM do, whose files the datastore alone knows."""
        ids = ("1.2", "1.2.3")
        files = [{"image": str(tmp_path / f"{name}.nii.gz"), "label": str(tmp_path / f"l{name}")} for name in ids]

        class Series(Folder):
            def list_images(self) -> list[str]:
                return list(ids)

            def datalist(self) -> list[dict[str, str]]:
                return files

        assert [case.name for case in annotated_cases(Series(store.folder))] == list(ids)

    @pytest.mark.parametrize("contrast", [1.0, -3.0])
    def test_the_nearest_is_the_image_itself_elsewhere_in_another_contrast(self, store, tmp_path, contrast):
        image = load_image(store.get_image_uri("case_c"))
        grid = Grid.from_image(image)
        moved = Grid(grid.shape, translation(70.0, -20.0, 9.0).matrix @ grid.affine)
        write_image(contrast * image.as_tensor(), moved, tmp_path / "image.nii.gz")
        found = most_similar(str(tmp_path / "image.nii.gz"), annotated_cases(store), 2)
        assert found[0].name == "case_c" and len(found) == 2

    def test_an_image_that_was_replaced_is_looked_at_again(self, store, tmp_path):
        """Images read for an earlier request are cached."""
        cases = []
        for case in annotated_cases(store)[:3]:
            path = tmp_path / Path(case.image).name
            shutil.copyfile(case.image, path)
            cases.append(replace(case, image=str(path)))
        wanted = shutil.copyfile(cases[1].image, tmp_path / "wanted.nii.gz")
        assert most_similar(str(wanted), cases, 1) == [cases[1]]
        shutil.copyfile(cases[1].image, cases[2].image)
        shutil.copyfile(cases[0].image, cases[1].image)
        assert most_similar(str(wanted), cases, 1) == [cases[2]]


class TestFusion:
    def test_the_majority_as_itk_has_it(self):
        labels = torch.from_numpy(np.random.default_rng(0).integers(0, 4, size=(5, 1, 6, 7, 8)))
        theirs = sitk.GetArrayFromImage(
            sitk.LabelVoting([sitk.GetImageFromArray(label[0].numpy().astype(np.uint8)) for label in labels], 255)
        )
        ours = vote(list(labels))[0].numpy()
        decided = theirs != 255
        np.testing.assert_array_equal(ours[decided], theirs[decided])
        counts = (labels[:, 0, ..., None] == torch.arange(4)).sum(0)
        tied = (counts == counts.max(-1, keepdim=True).values).float().argmax(-1).numpy()
        np.testing.assert_array_equal(ours[~decided], tied[~decided])  # the smallest of the first

    def test_a_heavy_vote_counts_where_it_is_heavy(self):
        labels = [torch.full((1, 4, 4), value) for value in (1, 2, 2)]
        heavy = torch.ones(1, 4, 4)
        heavy[:, :2] = 2.5
        found = vote(labels, [heavy, torch.ones(1, 4, 4), torch.ones(1, 4, 4)])
        assert found[0, :2].unique().tolist() == [1] and found[0, 2:].unique().tolist() == [2]

    def test_likeness_is_the_local_correlation_squared(self):
        """Windows within the image agree with the loss."""
        generator = torch.Generator().manual_seed(0)
        fixed = torch.rand(1, 20, 18, 16, generator=generator)
        warped = 5 - 3 * fixed + torch.rand(1, 20, 18, 16, generator=generator)
        inner = torch.zeros(1, 1, 20, 18, 16)
        inner[..., 3:-3, 3:-3, 3:-3] = 1
        loss = LocalNCCLoss(7)(warped[None], fixed[None], inner)
        found = (local_similarity(fixed, warped)[None] * inner).sum() / inner.sum() - 1e-3
        torch.testing.assert_close(found, -loss, atol=1e-4, rtol=1e-4)

    def test_where_nothing_is_shown_all_are_alike(self):
        found = local_similarity(torch.full((1, 9, 9, 9), 7.0), torch.rand(1, 9, 9, 9))
        torch.testing.assert_close(found, torch.full_like(found, 1e-3))


class TestPropagation:
    def test_labels_come_nearer_the_true_one(self, store, truth, tmp_path, caplog):
        """And what the server logs after it is not lost."""
        cases = annotated_cases(store)[:3]
        before = [dice(case.label, truth) for case in cases]
        with caplog.at_level("INFO"):
            found = propagate(BUNDLE, store.get_image_uri(NEW), cases, tmp_path, device="cpu")
            assert logging.getLogger("server").isEnabledFor(logging.INFO)
        each = [dice(Path(case["folder"]) / "warped_label.nii.gz", truth) for case in found["cases"]]
        assert [case["name"] for case in found["cases"]] == ["case_a", "case_b", "case_c"]
        assert all(after > value + 0.05 for after, value in zip(each, before, strict=True))
        assert dice(found["label"], truth) > np.mean(each)
        label, image = nib.load(found["label"]), nib.load(store.get_image_uri(NEW))
        assert label.get_data_dtype() == np.uint8 and label.shape == image.shape
        np.testing.assert_allclose(label.affine, image.affine, atol=1e-4)

    def test_nothing_to_propagate(self, store, tmp_path):
        with pytest.raises(ValueError, match="no annotated image"):
            propagate(BUNDLE, store.get_image_uri(NEW), [], tmp_path / "out")
        with pytest.raises(ValueError, match="fusion must be one of"):
            propagate(BUNDLE, store.get_image_uri(NEW), annotated_cases(store), tmp_path / "out", fusion="staple")
        assert not (tmp_path / "out").exists()


class TestRequests:
    def test_warped_image_and_transform_come_along(self, store, tmp_path):
        """The transform in SimpleITK: it makes the warped image."""
        asked = {"moving": "case_b", "return_transform": True, "return_warped": True, "init": "center"}
        label, known = answer(BUNDLE, store, store.get_image_uri(NEW), asked)
        Path(label).unlink()
        (case,) = known["cases"]
        for name, file in (("transform", "t.h5"), ("warped", "w.nii.gz")):
            (tmp_path / file).write_bytes(base64.b64decode(case[name]))
        fixed, moving = (sitk.ReadImage(store.get_image_uri(name), sitk.sitkFloat32) for name in (NEW, "case_b"))
        transform = sitk.ReadTransform(str(tmp_path / "t.h5"))
        theirs = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear))
        ours = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "w.nii.gz")))
        inner = (slice(4, -4),) * 3
        assert np.abs(ours - theirs)[inner].mean() < 1e-3 * ours.std()

    def test_an_images_own_label_is_not_propagated_to_it(self, store):
        label, known = answer(BUNDLE, store, store.get_image_uri("case_a"), {"count": "1"}, own="case_a")
        Path(label).unlink()
        assert known["cases"][0]["name"] != "case_a"

    def test_several_as_text_beside_what_a_client_was_told_there_is(self, store):
        asked = dict(CONFIG) | {"moving": "case_d,case_b"}
        label, known = answer(BUNDLE, store, store.get_image_uri(NEW), asked)
        Path(label).unlink()
        assert [case["name"] for case in known["cases"]] == ["case_d", "case_b"]

    @pytest.mark.parametrize(
        ("asked", "message"),
        [
            ({"moving": "/etc/passwd"}, "no annotated image of the datastore has the id '/etc/passwd'"),
            ({"moving": ["case_a", NEW]}, "no annotated image of the datastore has the id 'new'"),
            ({"moving": 3}, "moving must be 'nearest', 'all', an id or ids, got 3"),
            ({"moving": []}, "moving must be"),
            ({"count": 0}, "count must be a whole number of at least 1, got 0"),
            ({"count": "two"}, "count must be a whole number"),
            ({"count": True}, "count must be a whole number"),
            ({"moving": "case_a,new"}, "no annotated image of the datastore has the id 'new'"),
            ({"fusion": "staple"}, "fusion must be one of"),
            ({"init": "/tmp/transform.mat"}, "init must be one of"),
            ({"fusion": {"a": 1}}, "fusion must be one of"),
            ({"device": "$exit()"}, "device must be 'cpu', 'cuda'"),
            ({"device": {"_target_": "os.getcwd"}}, "device must be 'cpu', 'cuda'"),
        ],
    )
    def test_what_is_refused(self, store, asked, message):
        with pytest.raises(ValueError, match=message):
            answer(BUNDLE, store, store.get_image_uri(NEW), asked)

    @pytest.mark.parametrize("tag", ["final", "../x", "/x", "a b", "", 3, None, "x" * 65])
    def test_tags_that_are_refused(self, tag):
        with pytest.raises(ValueError, match="label_tag must be of letters"):
            check_tag({"label_tag": tag})

    def test_tags_that_are_taken(self):
        for request in ({}, {"label_tag": "original"}, {"label_tag": "round_2"}):
            check_tag(request)

    def test_a_flag_that_is_none(self, store):
        with pytest.raises(TypeError, match="return_warped must be True or False"):
            answer(BUNDLE, store, store.get_image_uri(NEW), {"return_warped": "yes"})

    def test_images_are_ids_or_of_a_session(self, store, tmp_path):
        sessions = tmp_path / "sessions"
        sessions.mkdir()
        (sessions / "image.nii.gz").touch()
        (tmp_path / "secret.nii.gz").touch()
        assert requested_image_id({"image": "case_a"}, store, sessions) == "case_a"
        kept_image, session = str(sessions / "image.nii.gz"), {"session": "{}"}
        assert requested_image_id({"image": kept_image, **session}, store, sessions) is None
        with pytest.raises(ValueError, match="not an id of the datastore"):
            requested_image_id({"image": kept_image}, store, sessions)
        for image in (str(tmp_path / "secret.nii.gz"), f"{sessions}/../secret.nii.gz", "case_e", 3, None):
            with pytest.raises(ValueError, match="not an id of the datastore"):
                requested_image_id({"image": image, **session}, store, sessions)


@pytest.mark.slow
class TestTraining:
    def test_on_the_datastores_images(self, store, tmp_path):
        """All images train, annotated or not, but those held out; what was trained is then used."""
        few = {"max_epochs": 1, "pairs_per_epoch": 2, "val_interval": 1, "output_dir": "/nowhere", "network": "$exit()"}
        result = train(BUNDLE, store, few, tmp_path / "work")
        assert len(result["validation"]) == 2 and NEW in result["training"]
        assert not set(result["validation"]) & set(result["training"])
        records = json.loads((tmp_path / "work/datalist.json").read_text())["training"]
        assert len(records) == 3 and all("label" not in record for record in records)
        asked = {"moving": "case_a"}
        places = [None, tmp_path / "work"]
        found = [answer(BUNDLE, store, store.get_image_uri(NEW), asked, None, place)[0] for place in places]
        shipped, own = (load_label(path).as_tensor() for path in found)
        assert (shipped != own).any()
        for path in found:
            Path(path).unlink()

    @pytest.mark.parametrize("key", sorted(OPTIONS))
    @pytest.mark.parametrize("value", ["$open('made', 'w')", {"_target_": "os.mkdir", "path": "made"}, [1], None, -1])
    def test_options_are_plain_values(self, store, tmp_path, monkeypatch, key, value):
        """A configuration would run them."""
        monkeypatch.chdir(tmp_path)
        with pytest.raises(ValueError, match=f"{key} must be"):
            train(BUNDLE, store, {key: value}, tmp_path / "work")
        assert not list(tmp_path.iterdir())

    def test_too_few_images(self, store, tmp_path):
        class Two(Folder):
            def list_images(self) -> list[str]:
                return ["case_a", "case_b"]

        with pytest.raises(ValueError, match="has 2 images, 2 of them annotated"):
            train(BUNDLE, Two(store.folder), {}, tmp_path / "work")
        assert not (tmp_path / "work").exists()


def test_who_can_learn_from_images_alone():
    assert trainable(ROOT / "bundles/hippocampus_mr_multires_fcn")
    assert not trainable(ROOT / "bundles/brain_mr_gated_gradient")  # wants two sequences of a patient
    assert not trainable(ROOT / "bundles/any_modality_optimization")


def test_a_damaged_bundle_is_named_when_the_server_starts(tmp_path):
    configs = tmp_path / "bundle/configs"
    configs.mkdir(parents=True)
    for name in ("metadata.json", "inference.json"):
        (configs / name).write_text("{ garbage")
    with pytest.raises(ValueError, match=f"^{configs}/inference.json: not JSON"):
        registration_bundles(tmp_path)
    with pytest.raises(ValueError, match=f"^{configs}/metadata.json: not JSON"):
        trainable(tmp_path / "bundle")
