"""RLlib's env runner for Unity scenes: every agent's decisions, whenever it makes them, as an episode of its own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from runtime.families.unity.scene import open_scene, scene_faults
from runtime.families.unity.trajectory import Trajectory, make_decisions
from runtime.policies.rllib_filter import find_filter
from runtime.policies.spaces import ACTION_MASK
from runtime.rllib.env_runner import Runner
from runtime.rllib.episodes import LENGTHS, RETURNS


class UnityRunner(Runner):
    """Samples all agents of its players; RLlib's env runner requires that every environment answers at every step."""

    def make_env(self) -> None:
        """Starts the players; called by RLlib."""
        settings = dict(self.config.env_config)
        worker = self.worker_index or 0
        if self.is_restarted:
            settings["seed"] = self.config.seed
        self.env = open_scene(settings, players=self.config.num_envs_per_env_runner, worker=worker)
        self.num_envs = self.env.num_envs
        self._trajectories: dict[int, Trajectory] = {}
        self._seen: Any = None
        self._info: dict[str, Any] = {}

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
    ) -> list[SingleAgentEpisode]:
        """Samples decisions with their results: whole episodes, and parts of those that continue.

        Args:
            num_timesteps: Decisions of all agents together; this runner's share of a batch if None.
            num_episodes: Episodes to finish, instead of a number of decisions.
            explore: Whether actions are sampled; as the config says if None.
        """
        explores = self.config.explore if explore is None else explore
        wanted = math.inf if num_episodes is not None else num_timesteps or self._share()
        keeps_whole = self.config.batch_mode == "complete_episodes"
        done: list[SingleAgentEpisode] = []
        if not self._info:
            self._begin()
        steps = 0
        ended = 0
        while steps < wanted and ended < (num_episodes or math.inf):
            finished, taken = self._step(explores)
            done += finished
            ended += len(finished) - int(self._info["lost"].sum())
            steps += sum(map(len, finished)) if keeps_whole else taken
        if not keeps_whole:
            done += [trajectory.take() for trajectory in self._trajectories.values() if len(trajectory)]
        self._increase_sampled_metrics(sum(map(len, done)), ended)
        return done

    def _share(self) -> int:
        """Returns this env runner's share of a batch, in decisions."""
        fragment = self.config.rollout_fragment_length
        if fragment != "auto":
            return int(fragment) * int(self.num_envs)
        batch: int = self.config.total_train_batch_size
        return math.ceil(batch / max(1, int(self.config.num_env_runners)))

    def _begin(self) -> None:
        with scene_faults():
            observations, self._info = self.env.reset()
        self._seen = np.zeros_like(observations)
        self._see(observations)

    def _step(self, explores: bool) -> tuple[list[SingleAgentEpisode], int]:
        """Steps every agent that requests a decision; returns the episodes that ended and the number of results."""
        asking = np.flatnonzero(self._info["acting"])
        actions = self._to_environment(asking, self._decide(asking, explores))
        with scene_faults():
            observations, rewards, terminated, truncated, self._info = self.env.step(actions)
        finished = [chunk for row in np.flatnonzero(self._info["lost"]) if (chunk := self._lose(int(row)))]
        results = np.flatnonzero(self._info["stepped"])
        has_ended = terminated | truncated
        last: Any = self._info.get("final_obs")
        for row in results.tolist():
            if has_ended[row]:
                trajectory = self._trajectories.pop(row)
                trajectory.complete(float(rewards[row]), self._filter(last[row]))
                self._report(trajectory)
                finished.append(trajectory.take(terminated=bool(terminated[row]), truncated=bool(truncated[row])))
        self._see(observations, rewards)
        return finished, len(results)

    def _see(self, observations: NDArray[np.float32], rewards: NDArray[np.float64] | None = None) -> None:
        """Records the observations of the requesting agents: results of their last decisions, or initial ones."""
        for row in np.flatnonzero(self._info["acting"]).tolist():
            self._seen[row] = seen = self._filter(observations[row])
            if row in self._trajectories and rewards is not None:
                self._trajectories[row].complete(float(rewards[row]), seen)
            else:
                self._trajectories[row] = Trajectory(seen)

    def _lose(self, row: int) -> SingleAgentEpisode | None:
        """Decisions of an agent before its player failed, without the last one; the return is not counted."""
        trajectory = self._trajectories.pop(row, None)
        return trajectory.take(truncated=True) if trajectory is not None and len(trajectory) else None

    def _decide(self, asking: NDArray[np.int64], explores: bool) -> Any:
        batch = {Columns.OBS: torch.from_numpy(self._seen[asking])}
        outputs: dict[str, Any] = {}
        if ACTION_MASK in self._info:
            masks = self._info[ACTION_MASK][asking]
            batch[ACTION_MASK] = torch.from_numpy(masks)
            outputs[ACTION_MASK] = masks
        module = self.module
        with torch.inference_mode():
            if explores:
                logits = module.forward_exploration(batch)[Columns.ACTION_DIST_INPUTS]
                distribution = module.get_exploration_action_dist_cls().from_logits(logits)
            else:
                logits = module.forward_inference(batch)[Columns.ACTION_DIST_INPUTS]
                distribution = module.get_inference_action_dist_cls().from_logits(logits).to_deterministic()
            actions = distribution.sample()
            # Of the sampled action, or of the likeliest one without exploration; the loss needs it in both cases.
            drawn_from = module.get_exploration_action_dist_cls().from_logits(logits)
            outputs[Columns.ACTION_LOGP] = drawn_from.logp(actions).numpy()
        outputs[Columns.ACTION_DIST_INPUTS] = logits.numpy()
        is_hybrid = isinstance(actions, tuple | list)
        arrays = tuple(part.numpy() for part in actions) if is_hybrid else actions.numpy()
        for row, decision in zip(asking.tolist(), make_decisions(arrays, outputs, len(asking)), strict=True):
            self._trajectories[row].decide(decision)
        return arrays

    def _to_environment(self, asking: NDArray[np.int64], actions: Any) -> Any:
        """Scatters (B, …) actions of the requesting rows to (N, …) of all rows; continuous ones are clipped to ±1."""
        if isinstance(actions, tuple):
            return tuple(self._to_environment(asking, part) for part in actions)
        clipped = np.clip(actions, -1, 1) if np.issubdtype(actions.dtype, np.floating) else actions
        rows = np.zeros((self.num_envs, *actions.shape[1:]), actions.dtype)
        rows[asking] = clipped
        return rows

    def _filter(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalizes observations by RLlib's filter if there is one, and updates its running statistics."""
        observation_filter = find_filter(self)
        if observation_filter is None:
            return observation
        filtered: NDArray[np.float32] = observation_filter(observation)
        return filtered

    def _report(self, trajectory: Trajectory) -> None:
        self.metrics.log_value(RETURNS, trajectory.total_reward, reduce="item_series")
        self.metrics.log_value(LENGTHS, trajectory.steps, reduce="item_series")

    def take_faults(self) -> list[str]:
        """Returns why players were restarted since the last call."""
        return [] if self.env is None else self.env.take_faults()

    def get_metrics(self) -> Any:
        """Returns the metrics that RLlib aggregates."""
        return self.metrics.reduce()
