"""The layers of a policy's network that a picture passes through, whichever algorithm trained it."""

from __future__ import annotations

from typing import Any

from runtime.policies.camera_lidar import CameraLidarModule
from runtime.policies.sac_module import SACModule


def camera_layers(module: Any) -> Any:
    """Returns the convolutions of the picture, in a torch.nn.Sequential that begins with the scaling of pixels."""
    if isinstance(module, CameraLidarModule):
        return module.actor.picture
    encoder = module.pi_encoder if isinstance(module, SACModule) else module.encoder.actor_encoder
    return encoder.net[0].cnn
