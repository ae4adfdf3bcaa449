import torch

from regplugins.spatial import AffineTransform


def initial_transform(init, fixed, fixed_grid, moving, moving_grid, seed=0, fixed_mask=None, moving_mask=None):
    m = torch.eye(fixed_grid.ndim + 1, dtype=torch.float64)
    if init == "fov":
        m[:-1, -1] = moving_grid.centre - fixed_grid.centre
    return AffineTransform(m)
