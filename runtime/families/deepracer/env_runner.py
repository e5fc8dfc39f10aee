"""RLlib's env runner for DeepRacer: whole episodes, all of an iteration's at once, as one rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns

from envs.deepracer.env import DeepRacerVectorEnv
from envs.deepracer.racing import read_options
from runtime.families.deepracer.driven_episodes import DrivenEpisodes
from runtime.families.deepracer.driving import Explorer, drive_episodes
from runtime.rllib.env_runner import Runner
from runtime.rllib.episodes import LENGTHS, RETURNS


class RacingRunner(Runner):
    """Runs its share of the `episodes` of RLlib's env config at once, and keeps their traces until they are taken."""

    def make_env(self) -> None:
        """Builds the cars; called by RLlib."""
        settings = dict(self.config.env_config)
        workers = max(1, self.config.num_env_runners)
        self._most_steps = settings.pop("most_steps") // workers
        self._epsilon = settings.pop("epsilon", None)
        episodes = settings.pop("episodes")
        number = max(0, (self.worker_index or 0) - 1)
        shares = [episodes // workers + (n < episodes % workers) for n in range(workers)]
        worlds = max(1, shares[number])
        first = sum(shares[:number])
        options = read_options(**settings)
        tracks = (options.track, *options.others)
        numbers = np.arange(first, first + worlds)  # of this runner's episodes, which take the tracks in turn
        counts = np.bincount(numbers % len(tracks), minlength=len(tracks)).tolist()
        driven = [(count, track) for count, track in zip(counts, tracks, strict=True) if count]
        envs = [DeepRacerVectorEnv(count, **{**settings, "track": track}) for count, track in driven]
        self.env = envs[0]
        self._racings = [env.racing for env in envs]
        self.num_envs = worlds
        seed = self.take_env_seed()
        if seed is not None:
            for racing in self._racings:
                racing.simulation.seed(seed, episodes_before=first // len(tracks))
        self._explorer = Explorer(options.metadata, seed=seed)
        self._traces: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []

    def sample(self, **kwargs: Any) -> list[Any]:
        """Samples one rollout of whole episodes on each track; RLlib's arguments are ignored."""
        if self._epsilon is not None:
            least, over = self._epsilon
            self._explorer.epsilon = max(least, 1 - (1 - least) * self.num_env_steps_sampled_lifetime / over)
        most_steps = self._most_steps // len(self._racings)
        rollouts = [
            drive_episodes(racing, self._act, self._explorer.draw, most_steps=most_steps) for racing in self._racings
        ]
        for rollout in rollouts:
            self._report(rollout)
            self._traces.append((rollout.trace, rollout.lengths))
        return rollouts

    def _act(self, pictures: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.module.forward_exploration({Columns.OBS: pictures})[Columns.ACTION_DIST_INPUTS]
        return logits

    def _report(self, rollout: DrivenEpisodes) -> None:
        begin = 0
        for length in rollout.lengths.tolist():
            self.metrics.log_value(RETURNS, float(rollout.rewards[begin : begin + length].sum()), reduce="item_series")
            self.metrics.log_value(LENGTHS, length, reduce="item_series")
            begin += length
        self._increase_sampled_metrics(rollout.env_steps(), len(rollout.lengths))

    def take_traces(self) -> tuple[int, list[tuple[NDArray[np.float64], NDArray[np.int64]]]]:
        """The worker's number from 0, and (T, K) trace and (E,) episode lengths of each rollout since the last call."""
        taken = self._traces
        self._traces = []
        return max(0, (self.worker_index or 0) - 1), taken

    def get_metrics(self) -> Any:
        """Returns the metrics that RLlib aggregates."""
        return self.metrics.reduce()
