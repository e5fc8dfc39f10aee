"""Drives the cars of a race with a network: batched over those that still drive, in bfloat16 where the CPU has it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from envs.deepracer import kernels
from envs.deepracer.metadata import Metadata
from envs.deepracer.racing import Racing
from envs.deepracer.rewards import RewardError
from runtime.errors import UserError
from runtime.families.deepracer.driven_episodes import TRACE, DrivenEpisodes

# A policy network: images (B, H, W, C) or rows (B, N) to logits of the action distribution (B, L).
Network = Callable[[torch.Tensor], torch.Tensor]


def has_bfloat16() -> bool:
    """Whether this CPU has bfloat16 instructions; without them bfloat16 is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def autocast(device: str = "cpu") -> torch.autocast:
    """Enables mixed precision for a network's forward and backward passes; its last layers opt out."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device != "cpu" or has_bfloat16())


class Explorer:
    """Draws actions from a network's outputs.

    Args:
        metadata: Metadata of the car: discrete actions, or steering and speed in ±1, which SAC's policy squashes.
        seed: Seed of the sampled actions.
        epsilon: Share of uniformly random actions in a discrete space, 0..1.
    """

    def __init__(self, metadata: Metadata, *, seed: int | None, epsilon: float = 0.0) -> None:
        self._is_discrete = metadata.actions is not None
        self._squashes = metadata.algorithm == "sac"
        self._random = np.random.default_rng(seed)
        self.epsilon = epsilon

    def draw(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Samples (B,) or (B, 2) actions from (B, L) logits."""
        if self._is_discrete:
            noise = self._random.gumbel(size=logits.shape)
            actions = (logits + noise).argmax(axis=1)
            if self.epsilon:
                uniform = self._random.integers(logits.shape[1], size=len(logits))
                actions = np.where(self._random.random(len(logits)) < self.epsilon, uniform, actions)
            return np.asarray(actions)
        mean, log_std = np.split(logits, 2, axis=1)
        return np.asarray(mean + np.exp(log_std) * self._random.standard_normal(mean.shape), np.float32)

    def likeliest(self, logits: NDArray[np.float32]) -> NDArray[Any]:
        """Returns the (B,) or (B, 2) most likely actions of (B, L) logits."""
        if self._is_discrete:
            return np.asarray(logits.argmax(axis=1))
        mean: NDArray[np.float32] = np.split(logits, 2, axis=1)[0]
        return np.tanh(mean) if self._squashes else mean


def as_rows(found: Any) -> NDArray[Any]:
    """Flattens a dict of images and LIDAR scans to rows (B, N), in Gymnasium's order; images stay (B, H, W, C)."""
    if not isinstance(found, dict):
        return np.asarray(found)
    parts = [np.asarray(found[name], np.float32) for name in sorted(found)]
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def drive_episodes(
    racing: Racing,
    network: Network,
    choose: Callable[[NDArray[np.float32]], NDArray[Any]],
    *,
    most_steps: int,
    is_shared: bool = True,
) -> DrivenEpisodes:
    """Drives one episode in every world, all at once.

    Args:
        racing: The cars, one per world.
        network: Policy network.
        choose: Chooses actions from the network's outputs.
        most_steps: Step limit. If shared, a limit on all worlds together: worlds are taken in order and those beyond
            the limit are dropped, so that long episodes are not the ones to go. Otherwise a limit per episode.
        is_shared: Whether the limit is shared by all worlds.

    Raises:
        UserError: The user's reward function failed.
    """
    count = len(racing.measured)
    for world in range(count):
        racing.restart(world)
    parts: dict[str, list[Any]] = {name: [] for name in ("rows", "pictures", "actions", "logits", "rewards", "trace")}
    active = np.arange(count)
    crashes = np.zeros(count)
    lengths = np.zeros(count, np.int64)
    seen = as_rows(racing.observe())
    actions = np.zeros((count, *(racing.action_space.shape or ())), racing.action_space.dtype)
    while len(active):
        with torch.inference_mode(), autocast():
            logits = network(torch.from_numpy(seen)).float().numpy()
        chosen = choose(logits)
        actions[active] = chosen
        rewards = _step(racing, actions)
        crashes += racing.measured[:, kernels.STATUS] == kernels.CRASHED
        trace = describe_step(racing, crashes)[active]
        for name, value in zip(parts, (active, seen, chosen, logits, rewards[active], trace), strict=True):
            parts[name].append(value)
        lengths[active] += 1
        spent = np.cumsum(lengths) - lengths if is_shared else np.zeros_like(lengths)
        continues = ~racing.simulation.has_ended & (lengths < most_steps) & (spent < most_steps)
        active = active[continues[active]]
        if len(active):
            seen = as_rows(racing.observe(active))
    return _in_episodes(parts, spent < most_steps)


def _step(racing: Racing, actions: NDArray[Any]) -> NDArray[np.float64]:
    try:
        return racing.step(actions)
    except RewardError as error:
        raise UserError(str(error)) from error.__cause__


def describe_step(racing: Racing, crashes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns (C, K) trace rows, with the columns of TRACE, of the step that was just taken."""
    simulation, measured = racing.simulation, racing.measured
    columns = dict.fromkeys(TRACE, np.zeros(len(measured)))
    behind, ahead = measured[:, kernels.WAYPOINT_BEHIND], measured[:, kernels.WAYPOINT_AHEAD]
    center = simulation.track.center
    front = measured[:, kernels.FRONT_X : kernels.FRONT_Y + 1]
    is_turned = measured[:, kernels.DIRECTION] == 1
    places = [np.where(is_turned, len(center) - 1 - index, index).astype(np.int64) for index in (behind, ahead)]
    apart = [np.linalg.norm(center[place] - front, axis=1) for place in places]
    columns |= {
        "episode": simulation.episodes.astype(np.float64),
        "steps": measured[:, kernels.STEPS],
        "x": front[:, 0],
        "y": front[:, 1],
        "yaw_deg": np.degrees(measured[:, kernels.YAW]),
        "steering_deg": racing.commands[:, 0],
        "speed": racing.commands[:, 1],
        "action": racing.actions if racing.actions.ndim == 1 else np.full(len(measured), -1.0),
        "reward": racing.rewards,
        "has_ended": simulation.has_ended.astype(np.float64),
        "all_wheels_on_track": (measured[:, kernels.WHEELS_ON_TRACK] == 4).astype(np.float64),
        "progress": measured[:, kernels.PROGRESS],
        "closest_waypoint": np.where(apart[0] <= apart[1], behind, ahead),
        "track_length": np.full(len(measured), simulation.track.length),
        "time": simulation.cars[:, kernels.TIME],
        "status": measured[:, kernels.STATUS],
        "pause_s": simulation.pause_s,
        "crashes": crashes,
        "wall_clock": np.full(len(measured), time.time()),
    }
    return np.stack([columns[name] for name in TRACE], axis=1)


def _in_episodes(parts: dict[str, list[Any]], is_kept: NDArray[np.bool_]) -> DrivenEpisodes:
    """Regroups steps from time order into whole episodes; dropped steps are left out."""
    rows = np.concatenate(parts["rows"])
    order = np.argsort(rows, kind="stable")
    order = order[is_kept[rows[order]]]
    lengths = np.bincount(rows[order], minlength=len(is_kept))
    return DrivenEpisodes(
        observations=np.concatenate(parts["pictures"])[order],
        actions=np.concatenate(parts["actions"])[order],
        logits=np.concatenate(parts["logits"])[order],
        rewards=np.concatenate(parts["rewards"])[order].astype(np.float32),
        lengths=lengths[lengths > 0].astype(np.int64),
        trace=np.concatenate(parts["trace"])[order],
    )
