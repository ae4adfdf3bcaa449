# SPDX-License-Identifier: Apache-2.0
"""Warping against SciPy's interpolation, autograd, TorchScript and ONNX."""

import numpy as np
import onnxruntime
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import nn

from regplugins.spatial import warp, warp_center


def random_pair(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.rand(2, 3, *shape, generator=generator, dtype=torch.float64)
    ddf = 6 * torch.rand(2, len(shape), *shape, generator=generator, dtype=torch.float64) - 3
    return image, ddf


@pytest.mark.parametrize("shape", [(7, 9), (6, 5, 8), (5, 1, 4)])
@pytest.mark.parametrize(("padding", "scipy_mode"), [("border", "nearest"), ("zeros", "grid-constant")])
def test_equals_scipy(shape, padding, scipy_mode):
    image, ddf = random_pair(*shape)
    if 1 in shape and padding == "zeros":
        ddf[:, shape.index(1)] = 0  # outside an axis of one voxel "zeros" has no gradual border
    warped = warp(image, ddf, padding=padding)
    for b, c in np.ndindex(2, 3):
        position = np.indices(shape) + ddf[b].numpy()
        expected = map_coordinates(image[b, c].numpy(), position, order=1, mode=scipy_mode)
        np.testing.assert_allclose(warped[b, c].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("shape", "inner"), [((12, 9), (4, 9)), ((10, 11, 12), (6, 1, 10))])
def test_a_field_of_the_middle(shape, inner):
    """SciPy samples the center's voxels in the whole image."""
    image, _ = random_pair(*shape)
    _, ddf = random_pair(*inner)
    begin = np.reshape([(size - own) // 2 for size, own in zip(shape, inner, strict=True)], (-1, *[1] * len(shape)))
    warped = warp_center(image, ddf)
    for b, c in np.ndindex(2, 3):
        position = np.indices(inner) + begin + ddf[b].numpy()
        expected = map_coordinates(image[b, c].numpy(), position, order=1, mode="nearest")
        np.testing.assert_allclose(warped[b, c].numpy(), expected, atol=1e-12)


def test_nearest_takes_values_of_the_image():
    image, ddf = random_pair(8, 9, 7)
    expected = map_coordinates(
        image[0, 0].numpy(),
        np.clip(np.rint(np.indices((8, 9, 7)) + ddf[0].numpy()), 0, [[[[7]]], [[[8]]], [[[6]]]]),
        order=0,
    )
    np.testing.assert_array_equal(warp(image, ddf, mode="nearest")[0, 0].numpy(), expected)


def test_gradients():
    image, ddf = random_pair(4, 5, 3)
    # Away from the kinks at voxel centers, where linear interpolation has no derivative.
    ddf = ddf.round() / 2 + 0.25
    assert torch.autograd.gradcheck(warp, (image[:1, :1].requires_grad_(), ddf[:1].requires_grad_()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_under_autocast_and_for_half_precision_fields(dtype):
    size = 200
    ramp = torch.arange(float(size)).view(1, 1, 1, size).expand(1, 1, 2, size).contiguous()
    ddf = torch.full((1, 2, 2, size), 0.25)
    ddf[:, 0] = 0
    with torch.autocast("cpu", torch.bfloat16):
        warped = warp(ramp, ddf.to(dtype))
    assert warped.dtype == torch.float32
    torch.testing.assert_close(warped[..., :-1], ramp[..., :-1] + 0.25, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"mode": "linaer"}, "linaer"), ({"padding": "reflect"}, "reflect")],
)
def test_unknown_options_are_refused(arguments, message):
    image, ddf = random_pair(4, 4)
    with pytest.raises(ValueError, match=message):
        warp(image, ddf, **arguments)


@pytest.mark.parametrize("ddf_shape", [(2, 3, 4, 4), (2, 2, 4, 5), (2, 2, 2, 2), (2, 2, 4), (2, 3, 4, 4, 4)])
def test_shapes_that_do_not_belong_together_are_refused(ddf_shape):
    with pytest.raises(ValueError, match="belong together"):
        warp(torch.zeros(2, 1, 4, 4), torch.zeros(ddf_shape))


@pytest.mark.parametrize("ddf_shape", [(2, 3, 4, 4), (2, 2, 4, 6), (2, 2, 4, 3), (2, 2, 4), (2, 3, 4, 4, 4)])
def test_fields_of_no_middle_are_refused(ddf_shape):
    with pytest.raises(ValueError, match="belong together"):
        warp_center(torch.zeros(2, 1, 4, 4), torch.zeros(ddf_shape))


class Warp(nn.Module):
    def forward(self, image: torch.Tensor, ddf: torch.Tensor) -> torch.Tensor:
        return warp(image, ddf)


def test_script_trace_and_onnx_agree(tmp_path):
    image, ddf = (tensor.float() for tensor in random_pair(5, 6, 4))
    expected = warp(image, ddf)
    torch.testing.assert_close(torch.jit.script(Warp())(image, ddf), expected)
    torch.testing.assert_close(torch.jit.trace(Warp(), (image, ddf))(image, ddf), expected)
    path = tmp_path / "warp.onnx"
    torch.onnx.export(Warp(), (image, ddf), path, input_names=["image", "ddf"], opset_version=20, dynamo=True)
    (result,) = onnxruntime.InferenceSession(path).run(None, {"image": image.numpy(), "ddf": ddf.numpy()})
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5)
