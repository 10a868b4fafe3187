"""Small network families from published designs, with width and depth as settings.

`edgeopt:residual` in a recipe calls `residual(**settings)` here. Each function returns an `nn.Module` that
says what it takes in `input_shape`, (channels, height, width). Loading this package loads torch.
"""

from edgeopt.networks.pooled import pooled
from edgeopt.networks.residual import residual
from edgeopt.networks.separable import separable
from edgeopt.networks.ssd import ssd

__all__ = ["pooled", "residual", "separable", "ssd"]
