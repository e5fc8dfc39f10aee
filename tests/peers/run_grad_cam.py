"""Has deepracer-utils draw the Grad-CAM of a car's policy: PACKAGES MODEL PICTURES RESULT.

It and OpenCV come from PACKAGES, the project's own environment; TensorFlow is this one's. PICTURES is an .npy file
of (N, height, width, 3) float32 RGB in 0…1; RESULT, another one, is (N, actions, height, width, 3) uint8 RGB.
"""

import sys

import numpy as np

packages, model, pictures, result = sys.argv[1:]
sys.path.append(packages)
from deepracer.model import visualization  # noqa: E402  # from the path that the line above adds

session, _, policy = visualization.load_session(model, log_device_placement=False)
actions = int(policy.shape[1])
drawn = [
    [
        visualization.visualize_gradcam_discrete_ppo(session, picture, category_index=action, num_of_actions=actions)
        for action in range(actions)
    ]
    for picture in np.load(pictures)
]
np.save(result, np.array(drawn))
