"""`roboschool`, for scripts: importing it registers the environments, and their classes have the calls of 2020.

Source: openai/roboschool 1.0.49, `roboschool/__init__.py`; a class made directly has no step limit there either.
"""

from __future__ import annotations

from envs.roboschool.env import RoboschoolEnv
from envs.roboschool.registration import ROBOSCHOOL_IDS
from runtime.compat.gym_2020 import OldEnv


class _Roboschool(OldEnv):
    robot: str

    def __init__(self) -> None:
        super().__init__(RoboschoolEnv(self.robot))


def _make_class(env_id: str) -> type[_Roboschool]:
    name = env_id.removesuffix("-v1")
    doc = f"{env_id} without its step limit."
    return type(
        name, (_Roboschool,), {"robot": name.removeprefix("Roboschool"), "__module__": __name__, "__doc__": doc}
    )


globals().update({made.__name__: made for made in map(_make_class, ROBOSCHOOL_IDS)})
