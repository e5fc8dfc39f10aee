"""Gymnasium environments; this package imports nothing of `runtime`.

Importing this package registers every `Roboschool…-v1` id, `DeepRacer-v0`, `Unity-v0`, `Atari-v0` and `MiniGrid-v0`
with Gymnasium; no simulator is loaded before the first `gymnasium.make`.
"""

from envs.deepracer.registration import DEEPRACER_ID, register_deepracer
from envs.preprocessed import register_preprocessed
from envs.roboschool.registration import ROBOSCHOOL_IDS, register_roboschool
from envs.unity.registration import UNITY_ID, register_unity

register_roboschool()
register_deepracer()
register_unity()
register_preprocessed()

# Ids whose environments start the program that their settings name.
PROGRAM_IDS = frozenset({UNITY_ID})

__all__ = ["DEEPRACER_ID", "PROGRAM_IDS", "ROBOSCHOOL_IDS", "UNITY_ID"]
