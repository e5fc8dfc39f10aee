"""Environments: Gymnasium only, nothing of `runtime`.

Importing this package registers every `Roboschool…-v1` id and `DeepRacer-v0` with Gymnasium; no simulator is loaded
before the first `gymnasium.make`.
"""

from envs.deepracer.registration import DEEPRACER_ID, register_deepracer
from envs.roboschool.registration import ROBOSCHOOL_IDS, register_roboschool

register_roboschool()
register_deepracer()

__all__ = ["DEEPRACER_ID", "ROBOSCHOOL_IDS"]
