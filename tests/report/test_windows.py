# SPDX-License-Identifier: Apache-2.0
"""Gray-value windows of images with known tissues."""

import numpy as np
import pytest

from regplugins.report.panels import gray
from regplugins.report.windows import image_windows


def mixture(**tissues: tuple[float, float, int]) -> np.ndarray:
    """Normally distributed values: mean, standard deviation and number of each tissue."""
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(mean, sd, number) for mean, sd, number in tissues.values()])


AIR = (-1000, 15, 20_000)
THORAX = mixture(air=AIR, lung=(-820, 60, 9000), soft=(40, 40, 14_000), fat=(-100, 20, 6000), bone=(500, 200, 1500))
ABDOMEN = mixture(air=AIR, soft=(50, 40, 20_000), fat=(-100, 20, 8000), bone=(500, 200, 1500))
HEAD = mixture(air=AIR, brain=(35, 10, 12_000), fat=(-100, 20, 2000), skull=(1000, 300, 4000))
T1 = mixture(noise=(5, 3, 20_000), csf=(60, 10, 3000), gray=(180, 15, 8000), white=(260, 15, 8000)).clip(0)


@pytest.mark.parametrize(
    ("ct", "darkest", "brightest"),
    [(THORAX, (-1150, -1000), (100, 400)), (ABDOMEN, (-200, -100), (150, 350)), (HEAD, (-600, -300), (900, 1600))],
)
def test_ct_is_shown_as_radiologists_do(ct: np.ndarray, darkest: tuple, brightest: tuple) -> None:
    own, other = image_windows(ct, ct[::2])
    assert own == other
    assert darkest[0] <= own[0] <= darkest[1] and brightest[0] <= own[1] <= brightest[1]


def test_two_cts_share_a_window_whatever_surrounds_the_patient() -> None:
    """A tissue is one shade in both tiles of a checkerboard, though one scan is mostly padding and has an implant."""
    padded = np.r_[THORAX, np.full(60_000, -3024.0), np.full(2000, 3000.0)]
    fixed, moving = image_windows(THORAX, padded)
    assert fixed == moving
    lung, muscle = (gray(np.array([value]), fixed)[0] for value in (-850.0, 50.0))
    assert 0.1 < lung < 0.4 and 0.7 < muscle < 1


def test_two_mr_of_one_scale_share_a_window_and_of_others_do_not() -> None:
    fixed, moving = image_windows(T1, 1.1 * T1)
    assert fixed == moving
    fixed, moving = image_windows(T1, 20 * T1)
    assert moving == pytest.approx((20 * fixed[0], 20 * fixed[1]))


def test_ct_and_mr_have_their_own() -> None:
    ct, mr = image_windows(HEAD, T1)
    assert ct == image_windows(HEAD, HEAD)[0]
    assert mr == image_windows(T1, T1)[0]
    assert image_windows(T1, HEAD) == (mr, ct)


def test_a_large_background_does_not_bleach_the_tissue() -> None:
    """Brain of one part in fifty of the picture: nearly all of its values lie inside the window."""
    small = np.r_[np.zeros(50 * 8000), mixture(white=(260, 15, 8000))]
    _, high = image_windows(small, small)[0]
    assert (small > high).sum() < 0.02 * 8000


def test_one_bright_voxel_does_not_darken_the_rest() -> None:
    _, high = image_windows(np.r_[T1, 1e6], T1)[0]
    assert high < 400


@pytest.mark.parametrize(
    "values", [np.zeros(9), np.full(4, -1024.0), np.full(4, np.nan), np.zeros(0), np.eye(40)[:1], np.r_[1e9, np.inf]]
)
def test_there_is_always_a_window(values: np.ndarray) -> None:
    for low, high in image_windows(values, values):
        assert low < high
        shades = gray(values, (low, high))
        assert np.isfinite(shades).all() and (shades >= 0).all() and (shades <= 1).all()


def test_few_bright_voxels_are_seen() -> None:
    image = np.zeros(1600)
    image[3] = 7
    assert gray(image, image_windows(image, image)[0]).nonzero()[0].tolist() == [3]
