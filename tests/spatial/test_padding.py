# SPDX-License-Identifier: Apache-2.0
"""Padding to a multiple, and cropping."""

import pytest
import torch

from regplugins.spatial import center_crop, crop, pad_to_multiple


@pytest.mark.parametrize("shape", [(5, 8), (4, 7, 9)])
@pytest.mark.parametrize("mode", ["replicate", "constant"])
def test_padded_images_begin_with_the_image(shape, mode):
    image = torch.rand(2, 3, *shape)
    padded = pad_to_multiple(image, 4, mode)
    assert all(size % 4 == 0 and 0 <= size - own < 4 for size, own in zip(padded.shape[2:], shape, strict=True))
    assert torch.equal(crop(padded, list(shape)), image)
    beyond = padded[0, 0, -1, -1] if len(shape) == 2 else padded[0, 0, -1, -1, -1]
    assert float(beyond) == (float(image[0, 0].flatten()[-1]) if mode == "replicate" else 0)


def test_the_middle_leaves_as_much_on_either_side():
    image = torch.arange(9.0 * 6).view(1, 1, 9, 6)
    assert torch.equal(center_crop(image, [3, 4]), image[..., 3:6, 1:5])
    assert torch.equal(center_crop(image, [9, 6]), image)
