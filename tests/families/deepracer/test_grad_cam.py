"""Heat over a picture: where the policy's choice comes from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from envs.deepracer.sensors import HEIGHT, WIDTH
from runtime.families.deepracer.grad_cam import draw_heat, find_heat
from tests.families.deepracer.test_car_model import make_car, make_rows

PATCH = 16


def test_heat_is_where_the_only_light_is() -> None:
    policy, _ = make_car("discrete")
    with torch.no_grad():
        for name, parameter in policy.module.named_parameters():
            if name.endswith("bias"):
                parameter.zero_()
    pictures = np.zeros((8, HEIGHT, WIDTH, 1), np.uint8)
    places = [(20 + 60 * (at % 2), 10 + 35 * (at // 2)) for at in range(8)]
    for picture, (y, x) in zip(pictures, places, strict=True):
        picture[y : y + PATCH, x : x + PATCH] = 255
    heat, logits = find_heat(policy.module, pictures, is_discrete=True)
    np.testing.assert_allclose(logits, policy.logits(pictures), atol=1e-5)
    assert heat.shape == (8, HEIGHT, WIDTH)
    lit = 0
    for found, (y, x) in zip(heat, places, strict=True):
        if found.max() == 0:  # the light there only speaks for other actions
            continue
        lit += 1
        assert found.max() == pytest.approx(1, abs=1e-5)
        rows, columns = np.nonzero(found)
        # A convolution's place sees 36 pixels of the picture, and is drawn 12 wide.
        assert rows.min() > y - 40
        assert rows.max() < y + PATCH + 40
        assert columns.min() > x - 40
        assert columns.max() < x + PATCH + 40
    assert lit >= 4


@pytest.mark.parametrize("name", ["continuous", "stereo", "lidar before the camera"])
def test_every_kind_of_car_has_a_picture(name: str) -> None:
    policy, metadata = make_car(name)
    _, rows = make_rows(metadata, 3)
    assert draw_heat(policy.module, rows, metadata).size == (3 * 2 * WIDTH, 2 * HEIGHT)
    assert all(parameter.grad is None for parameter in policy.module.parameters())
