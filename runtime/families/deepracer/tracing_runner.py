"""RLlib's env runner for cars that learn from a replay buffer, with the traces that DeepRacer's records are made of."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.env_runner import ENV_STEP_FAILURE

from envs.deepracer import kernels
from envs.deepracer.rewards import RewardError
from runtime.errors import UserError
from runtime.families.deepracer.driving import describe_step
from runtime.rllib.env_runner import Runner


class TracingRunner(Runner):
    """Steps single cars as RLlib does, and keeps the trace of each episode that ends until it is taken."""

    def make_env(self) -> None:
        """Builds the cars; called by RLlib."""
        super().make_env()
        self._cars = [] if self.env is None else [env.unwrapped for env in self.env.unwrapped.envs]
        self._traces: list[tuple[NDArray[np.float64], NDArray[np.int64]]] = []
        self._forget()

    def _forget(self) -> None:
        """Forgets the episodes that have not ended."""
        self._steps: list[list[NDArray[np.float64]]] = [[] for _ in self._cars]
        self._crashes = np.zeros(len(self._cars))
        self._is_over = np.zeros(len(self._cars), bool)

    def _try_env_reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self._forget()
        return super()._try_env_reset(seed=seed, options=options)

    def _try_env_step(self, actions: Any) -> Any:
        """Steps the cars; called by RLlib. A car whose episode is over is reset by the step after its last one."""
        try:
            results = super()._try_env_step(actions)
        except RewardError as error:
            raise UserError(str(error)) from error.__cause__
        if results == ENV_STEP_FAILURE:
            self._forget()
            return results
        was_over = self._is_over
        self._is_over = ~was_over & (np.asarray(results[2]) | np.asarray(results[3]))
        for number in np.flatnonzero(~was_over).tolist():
            racing = self._cars[number].racing
            self._crashes[number] += racing.measured[0, kernels.STATUS] == kernels.CRASHED
            self._steps[number].append(describe_step(racing, self._crashes[number : number + 1])[0])
            if self._is_over[number]:
                steps = self._steps[number]
                self._traces.append((np.stack(steps), np.array([len(steps)])))
                self._steps[number] = []
                self._crashes[number] = 0
        return results

    def take_traces(self) -> tuple[int, list[tuple[NDArray[np.float64], NDArray[np.int64]]]]:
        """The worker's number from 0, and (T, K) trace and (1,) length of each episode since the last call."""
        taken = self._traces
        self._traces = []
        return max(0, (self.worker_index or 0) - 1), taken
