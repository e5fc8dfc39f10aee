"""`sagemaker_rl.stable_baselines_launcher`: Stable-Baselines 2's PPO1 under its own names, trained by our PPO.

Source: Stable-Baselines 2.10, `ppo1/pposgd_simple.py` and `common/policies.py`.
"""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from runtime.artifacts.checkpoint import JobState
from runtime.compat.coach.levels import find_creator
from runtime.compat.gym_2020 import make
from runtime.compat.mpi_launcher import processes_per_host
from runtime.container.job import run_script
from runtime.container.layout import Container
from runtime.container.signals import StopRequest
from runtime.environments.spec import EnvSpec
from runtime.errors import Problems, suggest
from runtime.families.plain.family import PlainFamily
from runtime.interfaces.context import RunContext
from runtime.interfaces.family import AfterIteration
from runtime.jobs.training import Request, run_training
from runtime.report.report_command import finish
from runtime.settings.schema import JobConfig

__all__ = ["SagemakerStableBaselinesPPO1Launcher", "create_env"]

_VIDEO = "rl_out.mp4"
_ENVS = 8  # environments that are stepped together, as in our own presets
_SCHEDULES = ("constant", "linear")
# Of PPO1, which has no setting for them: two layers of 64, apart for policy and value; a log standard deviation that
# does not depend on the state; no clip of the value loss, nor of gradients.
_PPO1 = {
    "num_envs_per_env_runner": _ENVS,
    "use_kl_loss": False,
    "vf_clip_param": 10000.0,
    "vf_loss_coeff": 1.0,
    "grad_clip": None,
    "model": {
        "fcnet_hiddens": [64, 64],
        "fcnet_activation": "tanh",
        "vf_share_layers": False,
        "free_log_std": True,
    },
}


_NUMBERS = {
    "timesteps_per_actorbatch": int,
    "clip_param": float,
    "entcoeff": float,
    "optim_epochs": int,
    "optim_stepsize": float,
    "optim_batchsize": int,
    "gamma": float,
    "lam": float,
    "num_timesteps": int,
}


@dataclass
class CreatedEnv:
    """An environment by its id, made when a script first uses it; the training makes its own.

    Attributes:
        env_id: Its id.
        output_path: Folder for the video.
        seed: Seed of the training.
    """

    env_id: str
    output_path: str
    seed: int = 0

    @cached_property
    def _env(self) -> Any:
        return make(self.env_id)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._env, name)


class StableBaselinesFamily(PlainFamily):
    """The family of the environment, which also prints the lines that the notebook's metric definitions read."""

    def callbacks(self, config: JobConfig, env: EnvSpec, context: RunContext) -> AfterIteration | None:
        """Returns the callback that prints PPO1's table after each iteration, as mpirun tagged it."""

        def after_iteration(algorithm: Any, result: Mapping[str, Any], state: JobState) -> Mapping[str, float]:
            for line in describe_episodes(state):
                context.reporter.log(line)
            return {}

        return after_iteration


def describe_episodes(state: JobState) -> list[str]:
    """Returns the mean length and return of the last 100 episodes, and the number of all, a line for each."""
    table: dict[str, float] = {"EpisodesSoFar": state.episodes_total}
    if state.recent_episodes:
        returns, lengths = zip(*state.recent_episodes, strict=True)
        table |= {"EpLenMean": statistics.fmean(lengths), "EpRewMean": statistics.fmean(returns)}
    return [f"[1,0]<stdout>:| {name:<14} | {value:<10.6g} |" for name, value in table.items()]


def create_env(env_id: str, output_path: str, seed: int = 0) -> CreatedEnv:
    """Returns an environment for a launcher to train in."""
    return CreatedEnv(env_id, output_path, seed)


class SagemakerStableBaselinesPPO1Launcher:
    """Trains PPO with the settings of PPO1.

    Args:
        env: What `create_env` returned.
        output_path: Folder for the video.
        timesteps_per_actorbatch: Steps of one process between updates.
        clip_param: Clip of the ratio.
        entcoeff: Weight of the entropy bonus.
        optim_epochs: Passes over each batch.
        optim_stepsize: Adam's learning rate.
        optim_batchsize: Steps of a minibatch of one process.
        gamma: Discount per step.
        lam: GAE's lambda.
        schedule: Of the learning rate: constant, or linear to 0 at num_timesteps.
        verbose: Accepted; every iteration has its line.
        num_timesteps: Environment steps of all processes.

    Raises:
        UserError: An argument is unknown, missing or not a number; all are listed.
    """

    def __init__(self, **given: Any) -> None:
        problems = Problems("SagemakerStableBaselinesPPO1Launcher")
        names = (*_NUMBERS, "env", "output_path", "schedule", "verbose")
        for name, value in given.items():
            if name not in names:
                problems.add(
                    name, value, "the script", expected=f"one of {', '.join(names)}", remedy=suggest(name, names)
                )
        values: dict[str, Any] = {}
        for name, kind in _NUMBERS.items():
            try:
                values[name] = kind(float(given[name]))
            except KeyError:
                problems.add_line(f"{name}: missing in the script; expected a number.")
            except (TypeError, ValueError):
                problems.add(name, given[name], "the script", expected="a number")
        if given.get("schedule", "linear") not in _SCHEDULES:
            problems.add("schedule", given["schedule"], "the script", expected=f"one of {', '.join(_SCHEDULES)}")
        if not isinstance(given.get("env"), CreatedEnv):
            problems.add("env", given.get("env"), "the script", expected="what create_env() returns")
        problems.raise_if_any()
        self._env: CreatedEnv = given["env"]
        self._values = values
        self._schedule = given.get("schedule", "linear")
        self._output = Path(given.get("output_path") or self._env.output_path)

    def run(self) -> None:
        """Trains, and ends the process with an exit code other than 0 on failure."""
        run_script(self._train)

    def _train(self, container: Container, stop: StopRequest) -> None:
        creator = find_creator(self._env.env_id)
        request = Request(
            overrides={},
            experiment=self._experiment(len(container.hosts) * processes_per_host[0]),
            experiment_source="the arguments of SagemakerStableBaselinesPPO1Launcher",
            find_creator=lambda name: creator if name == self._env.env_id else None,
            family=StableBaselinesFamily(),
        )
        result = run_training(container, stop, request)
        if result is not None and result.layout is not None:
            last = result.layout.videos / "last.mp4"
            if last.is_file():
                self._output.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(last, self._output / _VIDEO)
        finish(result)

    def _experiment(self, processes: int) -> dict[str, Any]:
        """Returns the settings of the training: a batch and a minibatch are those of all processes together."""
        values = self._values
        rate: Any = values["optim_stepsize"]
        if self._schedule == "linear":
            rate = [[0, rate], [values["num_timesteps"], 0.0]]
            sys.stderr.write("smrl: schedule=linear is the learning rate's; PPO's clip stays at clip_param\n")
        config = {
            **_PPO1,
            "seed": self._env.seed,
            "lr": rate,
            "train_batch_size": values["timesteps_per_actorbatch"] * processes,
            "minibatch_size": values["optim_batchsize"] * processes,
            "num_epochs": values["optim_epochs"],
            "clip_param": values["clip_param"],
            "entropy_coeff": values["entcoeff"],
            "gamma": values["gamma"],
            "lambda_": values["lam"],
        }
        stop = {"timesteps_total": values["num_timesteps"]}
        return {"training": {"env": self._env.env_id, "run": "PPO", "stop": stop, "config": config}}
