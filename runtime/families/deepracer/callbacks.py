"""Writes a DeepRacer training's files after each iteration, and evaluates the policy between iterations."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ray.rllib.core.columns import Columns

from envs.deepracer import kernels
from envs.deepracer.racing import Options, Racing, action_space, read_options
from runtime.artifacts.checkpoint import JobState
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.families.deepracer.car_model import write_car_model
from runtime.families.deepracer.driving import Explorer, drive_episodes
from runtime.families.deepracer.records import (
    HYPERPARAMETERS,
    C,
    SimTrace,
    Trace,
    TrainingMetrics,
    label_of,
    metrics_name,
    write_metadata,
)
from runtime.files import write_json
from runtime.outputs.console import Reporter
from runtime.policies.policy import Policy

FAMILY = "deepracer"  # the name of its state in a checkpoint
BEST_BY = ("progress", "reward", "laptime")
_NEVER_S = 999_999.0  # a lap time that was not driven
_AGENT = "main_level/agent"
_CHECKPOINTS = "deepracer_checkpoints.json"
_KEPT = 4  # newest model_N.pb, beside the best


@dataclasses.dataclass(frozen=True)
class RecordSettings:
    """Settings of a training's records.

    Attributes:
        folder: Folder of the files, in the layout that log tools read.
        hyperparameters: The job's settings under DeepRacer's names, for ip/hyperparameters.json.
        best_by: Metric that selects the best checkpoint: one of BEST_BY.
        evaluation_trials: Episodes of each evaluation; 0 for none.
        after: Called once an iteration's files are written.
        prints_steps: Whether every step is a line on stdout, as simulations in the cloud print it.
    """

    folder: Path
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    best_by: str = "progress"
    evaluation_trials: int = 5
    prints_steps: bool = False
    after: Callable[[], None] | None = None


class TrainingRecords:
    """Writes DeepRacer's training files and evaluates the policy.

    Args:
        settings: Settings of the records.
        env: Environment of the job.
        reporter: Prints the lines of the log.
        seed: Seed of the evaluations.
    """

    def __init__(self, settings: RecordSettings, env: EnvSpec, reporter: Reporter, *, seed: int | None) -> None:
        self._settings = settings
        self._reporter = reporter
        self._options = read_options(**env.config)
        self._metrics = self._make_metrics(0)  # of each worker; the first one evaluates
        self._other_metrics: dict[int, TrainingMetrics] = {}
        self._traces: dict[int, SimTrace] = {}
        self._evaluation_cars = self._make_evaluation_cars(self._options, seed)
        self._explorer = Explorer(self._options.metadata, seed=seed)
        self._best: tuple[float, dict[str, Any]] | None = None
        self._score: float | None = None  # of the latest evaluation; the best checkpoint has the highest
        self._seen = -1  # iteration
        self._why_no_car_model = ""
        (settings.folder / "ip").mkdir(parents=True, exist_ok=True)
        write_metadata(settings.folder, self._options.metadata)
        write_json(settings.folder / HYPERPARAMETERS, settings.hyperparameters)

    def _make_metrics(self, worker: int) -> TrainingMetrics:
        return TrainingMetrics(self._settings.folder / metrics_name(worker), best_by=self._settings.best_by)

    def _metrics_of(self, worker: int) -> TrainingMetrics:
        if worker == 0:
            return self._metrics
        if worker not in self._other_metrics:
            self._other_metrics[worker] = self._make_metrics(worker)
        return self._other_metrics[worker]

    def _make_evaluation_cars(self, options: Options, seed: int | None) -> list[Racing]:
        """Makes the cars for evaluations, spread over each track: trials from one start would all be identical."""
        if not self._settings.evaluation_trials:
            return []
        each = options.on_each_track()
        trials = max(1, self._settings.evaluation_trials // len(each))
        race = dataclasses.replace(
            options.race,
            change_start_position=True,
            round_robin_advance_dist=1 / trials,
            alternate_driving_direction=False,
            number_of_resets=0,
            is_continuous=False,
        )
        return [Racing(dataclasses.replace(one, race=race), worlds=trials, seed=seed) for one in each]

    def after_iteration(self, algorithm: Any, result: Mapping[str, Any], state: JobState) -> dict[str, float]:
        """Records an iteration.

        Args:
            algorithm: RLlib's algorithm after its update.
            result: RLlib's metrics of the iteration.
            state: The job's counters, including this iteration; its extra state is set here.

        Returns:
            Additional metrics of the iteration.
        """
        self._resume(state)
        iteration = state.training_iteration
        taken = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.take_traces() if getattr(runner, "env", None) is not None else None
        )
        driving = [one for one in taken if one is not None]
        ended = {worker: traces for worker, traces in driving if traces}
        self._record_episodes(ended, state, is_alone=len(driving) == 1)
        self._record_learning(result)
        found = self._evaluate(algorithm, state) if self._evaluation_cars else {}
        for metrics in (self._metrics, *self._other_metrics.values()):
            metrics.write()
        self._record_checkpoint(state, f"{iteration}_Step-{state.timesteps_total}.ckpt")
        self._write_car_model(algorithm, iteration)
        others = {str(worker): metrics.rows for worker, metrics in self._other_metrics.items()}
        state.extra[FAMILY] = {
            "score": self._score,
            "metrics": self._metrics.rows,
            "other_metrics": others,
            "best": self._best,
        }
        if self._settings.after is not None:
            self._settings.after()
        return found

    def _resume(self, state: JobState) -> None:
        """Restores the records from the checkpoint: a new machine has no files, and an old one may have later rows."""
        is_next = state.training_iteration == self._seen + 1
        self._seen = state.training_iteration
        if self._metrics.rows and is_next:
            return
        kept = state.extra.get(FAMILY, {})
        self._metrics.resume(list(kept.get("metrics", [])))
        self._other_metrics = {}
        for worker, rows in kept.get("other_metrics", {}).items():
            self._metrics_of(int(worker)).resume(list(rows))
        self._score = kept.get("score")
        self._best = None
        if best := kept.get("best"):
            self._best = float(best[0]), dict(best[1])

    def _record_episodes(self, workers: Mapping[int, Any], state: JobState, *, is_alone: bool) -> None:
        count = sum(len(lengths) for traces in workers.values() for _, lengths in traces)
        episode = state.episodes_total - count
        for worker, traces in workers.items():
            numbered = []
            metrics = self._metrics_of(worker)
            first = metrics.last_episode() + 1
            for trace in (one for rows, lengths in traces for one in np.split(rows, np.cumsum(lengths)[:-1])):
                numbered.append((episode, trace))
                episode, trial = episode + 1, len(numbered)
                metrics.add(trace, episode=first + trial - 1, trial=trial, phase="training")
                total = float(trace[:, C["reward"]].sum())
                self._reporter.log(
                    f"Training> Name={_AGENT}, Worker={worker}, Episode={episode - 1}, Total reward={total:.2f}, "
                    f"Exploration=0, Steps={state.timesteps_total}, Training iteration={state.training_iteration}"
                )
            lines = self._trace_of(worker, is_alone=is_alone).write(state.training_iteration - 1, numbered)
            if self._settings.prints_steps:
                for line in lines:
                    self._reporter.log(line)

    def _trace_of(self, worker: int, *, is_alone: bool) -> SimTrace:
        folder = self._settings.folder if is_alone and not worker else self._settings.folder / str(worker)
        return self._traces.setdefault(worker, SimTrace(folder / "training-simtrace"))

    def _record_learning(self, result: Mapping[str, Any]) -> None:
        learner = result.get("learners", {}).get("default_policy", {})
        columns = [np.atleast_1d(learner.get(name, ())) for name in ("epoch_policy_loss", "epoch_kl", "epoch_entropy")]
        rate = learner.get("default_optimizer_learning_rate")
        for epoch, (loss, divergence, entropy) in enumerate(zip(*columns, strict=True)):
            self._reporter.log(
                f"Policy training> Surrogate loss={loss}, KL divergence={divergence}, Entropy={entropy}, "
                f"training epoch={epoch}, learning_rate={rate}"
            )

    def _evaluate(self, algorithm: Any, state: JobState) -> dict[str, float]:
        """Drives the evaluation trials with the current policy, deterministically."""
        module = algorithm.get_module()

        def act(pictures: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = module.forward_inference({Columns.OBS: pictures})[Columns.ACTION_DIST_INPUTS]
            return logits

        traces: list[Trace] = []
        for racing in self._evaluation_cars:
            rollout = drive_episodes(
                racing, act, self._explorer.likeliest, most_steps=_most_steps(racing), is_shared=False
            )
            traces += np.split(rollout.trace, np.cumsum(rollout.lengths)[:-1])
        for number, trace in enumerate(traces):
            episode, trial = self._metrics.last_episode_and_trial()
            self._metrics.add(trace, episode=episode, trial=trial, phase="evaluation")
            self._reporter.log(
                f"Testing> Name={_AGENT}, Worker=0, Episode={max(episode - 1, 0)}, "
                f"Total reward={float(trace[:, C['reward']].sum()):.2f}, Exploration=0, "
                f"Steps={state.timesteps_total}, Training iteration={state.training_iteration}, Trial={number}"
            )
        progress = [float(trace[-1, C["progress"]]) for trace in traces]
        self._reporter.log(
            f"[BestModelSelection] Number of evaluations: {len(traces)} Evaluation episode progress: {progress}"
        )
        self._reporter.log(f"[BestModelSelection] Evaluation episode progress mean: {np.mean(progress)}")
        self._score = _score(traces, self._settings.best_by)
        laps = [float(trace[-1, C["time"]]) for trace in traces if label_of(trace) == "Lap complete"]
        found = {
            "evaluation_progress_mean": float(np.mean(progress)),
            "evaluation_reward_mean": _mean_reward(traces),
            "evaluation_laps": float(len(laps)),
        }
        return {**found, **({"evaluation_lap_time_s": float(np.mean(laps))} if laps else {})}

    def _record_checkpoint(self, state: JobState, name: str) -> None:
        """Writes deepracer_checkpoints.json and .coach_checkpoint; of equal scores the newer checkpoint is the best."""
        model = self._settings.folder / "model"
        value = 0.0 if self._score is None else self._score
        if self._settings.best_by == "laptime":
            value = -value
        entry = {"name": name, "avg_eval_metric": value, "time_stamp": time.time()}
        score = -math.inf if self._score is None else self._score
        if self._best is None or score >= self._best[0]:
            before = name if self._best is None else self._best[1]["name"]
            self._best = score, entry
            self._reporter.log(f'[BestModelSelection] Updating the best checkpoint to "{name}" from "{before}".')
        write_json(model / _CHECKPOINTS, {"best_checkpoint": self._best[1], "last_checkpoint": entry})
        (model / ".coach_checkpoint").write_text(name, encoding="utf-8")
        self._reporter.log(f"Checkpoint> Saving in path=['{model / name}']")

    def _write_car_model(self, algorithm: Any, iteration: int) -> None:
        """Writes model_N.pb for the checkpoint N, and removes old ones.

        It is not compared with the policy, as the one at the end is, which takes longer than to write it.
        """
        if self._why_no_car_model:
            return
        metadata = self._options.metadata
        try:
            policy = Policy(algorithm.get_module(), action_space(metadata), observation_filter=None)
            content = write_car_model(policy, metadata)
        except UserError as error:
            self._why_no_car_model = str(error)
            self._reporter.note(f"no model_N.pb: {error}")
            return
        folder = self._settings.folder / "model"
        aside = folder / ".car_model"  # not flushed to disk: no job resumes from it
        aside.write_bytes(content)
        aside.replace(folder / f"model_{iteration}.pb")
        assert self._best is not None
        remove_old_models(folder, best=str(self._best[1]["name"]))


def remove_old_models(folder: Path, *, best: str) -> None:
    """Removes all but the newest four and the best model_N.pb of a folder.

    Args:
        folder: The folder.
        best: Name of the best checkpoint, as 7_Step-512.ckpt.
    """
    models = {int(path.stem.removeprefix("model_")): path for path in folder.glob("model_*.pb")}
    for number in sorted(models)[:-_KEPT]:
        if number != int(best.partition("_")[0]):
            models[number].unlink(missing_ok=True)


def _most_steps(racing: Racing) -> int:
    """Returns the step limit of a trial, within which even a car at minimum speed completes a lap."""
    return int(racing.options.track.length / kernels.MIN_SPEED / kernels.CONTROL_S)


def _mean_reward(traces: list[Trace]) -> float:
    return float(np.mean([trace[:, C["reward"]].sum() for trace in traces]))


def _score(traces: list[Trace], best_by: str) -> float:
    """Returns the score that selects the best checkpoint (higher is better; lap times count negatively)."""
    if best_by == "reward":
        return _mean_reward(traces)
    if best_by == "laptime":
        times = [t[-1, C["time"]] if label_of(t) == "Lap complete" else _NEVER_S for t in traces]
        return -float(np.mean(times))
    return float(np.mean([trace[-1, C["progress"]] for trace in traces]))
