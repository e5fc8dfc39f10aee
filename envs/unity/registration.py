"""Registers the id `Unity-v0`, for scenes with one agent and for vectors of many."""

from __future__ import annotations

import gymnasium

UNITY_ID = "Unity-v0"


def register_unity() -> None:
    """Registers the id with Gymnasium; a second call changes nothing."""
    if UNITY_ID not in gymnasium.registry:
        gymnasium.register(
            UNITY_ID,
            entry_point="envs.unity.env:UnityEnv",
            vector_entry_point="envs.unity.vector_env:UnityVectorEnv",
        )
