"""DeepRacer's three networks as RLlib model settings.

Source: DeepRacer's simulation application 6.0.5, `M/sensors/utils.py` and `M/agents/utils.py`: convolutions without
padding, ReLU, Xavier weights, separate networks for policy and value; the stereo variants of the deeper two.
"""

from __future__ import annotations

from typing import Any

from envs.deepracer.metadata import Metadata
from envs.deepracer.sensors import HEIGHT, WIDTH

# Convolutions as [filters, kernel, stride], then the dense layers of the middleware. The embedders of the deeper two
# end in dense layers, which Coach applies to each pixel's channels before it flattens: convolutions of one pixel.
_SHALLOW = ([[32, 8, 4], [64, 4, 2], [64, 3, 1]], [512])
_MONO = {
    "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW": _SHALLOW,
    "DEEP_CONVOLUTIONAL_NETWORK": ([[32, 5, 2], [32, 3, 1], [64, 3, 2], [64, 3, 1], [64, 1, 1]], [512]),
    "DEEP_CONVOLUTIONAL_NETWORK_DEEP": (
        [[32, 8, 4], [32, 4, 2], [64, 4, 2], [64, 3, 1], [512, 1, 1], [512, 1, 1]],
        [256, 128],
    ),
}
# Their embedders of two cameras have no dense layers.
_STEREO_FILTERS = [[32, 3, 1], [64, 3, 2], [64, 3, 1], [128, 3, 2], [128, 3, 1]]
_STEREO = {name: (_STEREO_FILTERS, hiddens) for name, (_, hiddens) in _MONO.items()} | {
    "DEEP_CONVOLUTIONAL_NETWORK_SHALLOW": _SHALLOW
}


def network_settings(metadata: Metadata) -> dict[str, Any]:
    """Returns the model settings of a metadata's network."""
    is_stereo = metadata.camera == "STEREO_CAMERAS"
    filters, hiddens = (_STEREO if is_stereo else _MONO)[metadata.network]
    lidar = {
        "picture_shape": [HEIGHT, WIDTH, 2 if is_stereo else 1],
        "scan_size": metadata.scan_size,
        "is_picture_first": metadata.sensors == tuple(sorted(metadata.sensors)),
        "own_layers": 0,
    }
    return {
        **({"lidar": lidar} if metadata.lidar is not None else {}),
        "conv_filters": [[*row, "valid"] for row in filters],
        "conv_activation": "relu",
        "conv_kernel_initializer": "xavier_uniform_",
        "head_fcnet_hiddens": hiddens,
        "head_fcnet_activation": "relu",
        "head_fcnet_kernel_initializer": "xavier_uniform_",
        "vf_share_layers": False,
        "free_log_std": metadata.actions is None,
        "log_std_clip_param": 20.0,
        "pixel_scale": 1 / 255,
    }
