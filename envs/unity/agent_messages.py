"""Decodes what a Unity player reports of its agents, and encodes their actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.unity.behavior import Behavior, Floats
from envs.unity.message_classes import wire_class
from envs.unity.protocol import process_pixels


@dataclass(frozen=True)
class Steps:
    """One decoded message: D agents that request an action, and E agents whose episode has ended.

    Attributes:
        ids: (D,) ids of the agents that request an action; an agent gets a new id in each episode.
        observations: (D, …) array, or a dict of them.
        rewards: (D,) reward since the agent's last request.
        masks: (D, M) true where an action is allowed, all branches side by side; (D, 0) without discrete actions.
        ended_ids: (E,) ids of the agents whose episode ended; one that also requests an action gets an idle one.
        last_observations: (E, …) final observation of each ended episode.
        last_rewards: (E,) reward of each ended episode's last step.
        interrupted: (E,) true where a step limit truncated the episode.
    """

    ids: NDArray[np.int64]
    observations: Any
    rewards: NDArray[np.float64]
    masks: NDArray[np.bool_]
    ended_ids: NDArray[np.int64]
    last_observations: Any
    last_rewards: NDArray[np.float64]
    interrupted: NDArray[np.bool_]


def decode_agents(behavior: Behavior, infos: Sequence[Any]) -> Steps:
    """Decodes what a player's message reports of the agents of one behavior.

    Args:
        behavior: The agents' sensors and actions.
        infos: The message's AgentInfoProtos.

    Raises:
        ValueError: An observation has another shape than announced, or a value is not finite.
    """
    asking = [info for info in infos if not info.done]
    ended = [info for info in infos if info.done]
    return Steps(
        ids=np.array([info.id for info in asking], np.int64),
        observations=_observations(behavior, asking),
        rewards=_rewards(asking),
        masks=_masks(behavior, asking),
        ended_ids=np.array([info.id for info in ended], np.int64),
        last_observations=_observations(behavior, ended),
        last_rewards=_rewards(ended),
        interrupted=np.array([info.max_step_reached for info in ended], np.bool_),
    )


def _observations(behavior: Behavior, infos: list[Any]) -> Any:
    sensors = [_read_sensor(behavior, k, [info.observations[k] for info in infos]) for k in range(len(behavior.shapes))]
    if behavior.dict_observations:
        return {f"sensor_{k}": rows for k, rows in enumerate(sensors)}
    if len(sensors) == 1:
        return sensors[0] if behavior.is_one_picture else sensors[0].reshape(len(infos), behavior.sensor_sizes[0])
    order = sorted(range(len(sensors)), key=lambda k: k not in behavior.pictures)
    return np.concatenate([sensors[k].reshape(len(infos), behavior.sensor_sizes[k]) for k in order], axis=1)


def _read_sensor(behavior: Behavior, number: int, observations: list[Any]) -> Floats:
    """Decodes (B, …) float32 observations of one sensor."""
    shape = behavior.shapes[number]
    if observations and observations[0].compression_type:
        rows = [_decompress(one, shape) for one in observations]
        return np.stack(rows).astype(np.float32, copy=False)
    data = b"".join([one.float_data.data for one in observations])
    numbers = np.frombuffer(data, "<f4")
    if numbers.size != len(observations) * math.prod(shape):
        raise ValueError(
            f"sensor {number}: got {numbers.size} numbers of {len(observations)} agents; expected {shape} of each"
        )
    if not np.isfinite(numbers).all():
        raise ValueError(f"sensor {number}: got an observation that is not a finite number")
    return np.asarray(numbers, np.float32).reshape(len(observations), *shape)


def _masks(behavior: Behavior, infos: list[Any]) -> NDArray[np.bool_]:
    allowed = np.ones((len(infos), sum(behavior.branches)), np.bool_)
    for row, info in enumerate(infos):
        if info.action_mask:  # true where forbidden; a player sends none until an agent forbids something
            allowed[row] = ~np.frombuffer(info.action_mask, np.bool_)
    return allowed


def encode_idle_action(behavior: Behavior) -> Any:
    """Encodes the action that does nothing, as an AgentActionProto."""
    return encode_actions(
        behavior, np.zeros((1, behavior.continuous), np.float32), np.zeros((1, len(behavior.branches)), np.int64)
    )[0]


def encode_actions(behavior: Behavior, continuous: Floats, discrete: NDArray[np.int64]) -> list[Any]:
    """Encodes actions as AgentActionProtos.

    Args:
        behavior: The agents' sensors and actions.
        continuous: (D, C) continuous actions in ±1.
        discrete: (D, B) choice of each branch.
    """
    kind = wire_class("AgentActionProto")
    continuous = np.ascontiguousarray(continuous, "<f4")
    both = np.concatenate([continuous, discrete], axis=1).astype("<f4")  # the field that players before 1.3 read
    messages = []
    for row in range(len(both)):
        message = kind(vector_actions_deprecated=both[row].tobytes(), continuous_actions=continuous[row].tobytes())
        message.discrete_actions.extend(discrete[row].tolist())
        messages.append(message)
    return messages


def _rewards(infos: list[Any]) -> NDArray[np.float64]:
    """Sums each agent's own reward and its group's, which is 0 without a group."""
    rewards = np.array([info.reward + info.group_reward for info in infos], np.float64)
    if not np.isfinite(rewards).all():
        raise ValueError("reward: got a value that is not a finite number")
    return rewards


def _decompress(observation: Any, shape: tuple[int, ...]) -> Floats:
    """Decodes a picture (H, W, C) in 0..1 from one PNG, or several in a row."""
    try:
        found = process_pixels(observation.compressed_data, shape[2], list(observation.compressed_channel_mapping))
    except Exception as error:  # Pillow raises exceptions of many types
        raise ValueError(f"a picture cannot be read: {error}") from None
    if found.shape != shape:
        raise ValueError(f"a picture: got the shape {found.shape}; expected {shape}")
    return np.asarray(found, np.float32)
