"""The id `DeepRacer-v0`, for one environment and for vectors of them."""

from __future__ import annotations

import gymnasium

DEEPRACER_ID = "DeepRacer-v0"


def register_deepracer() -> None:
    """Registers the id with Gymnasium; a second call changes nothing."""
    if DEEPRACER_ID not in gymnasium.registry:
        gymnasium.register(
            DEEPRACER_ID,
            entry_point="envs.deepracer.env:DeepRacerEnv",
            vector_entry_point="envs.deepracer.env:DeepRacerVectorEnv",
        )
