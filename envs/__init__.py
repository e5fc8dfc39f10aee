"""Environments: Gymnasium only, nothing of `runtime`.

Importing this package registers every `Roboschool…-v1` id with Gymnasium; no simulator is loaded
before the first `gymnasium.make`.
"""

from envs.roboschool.registration import ROBOSCHOOL_IDS, register_roboschool

register_roboschool()

__all__ = ["ROBOSCHOOL_IDS"]
