# SPDX-License-Identifier: Apache-2.0
"""Registration networks: ``forward(pair)`` gives the tensor for inference, ``fields(pair)`` those for the loss."""

from regplugins.networks.base import IdentityNetwork, RegistrationNetwork
from regplugins.networks.blocks import MLP
from regplugins.networks.cost_volume_unet import CostVolumeUNet
from regplugins.networks.fire import Fire, affine_part, bidirectional
from regplugins.networks.gated_cost_volume_unet import GatedCostVolumeUNet
from regplugins.networks.gated_dual_branch import GatedDualBranch
from regplugins.networks.modality_cnn import ModalityCNN
from regplugins.networks.multires_fcn import MultiResolutionFCN
from regplugins.networks.rigid_cnn import RigidCNN
from regplugins.networks.valid_unet import ValidUNet
from regplugins.networks.weights import listed_sha256, load_weights, weights_file
