"""The batch RL job: learns from a log, evaluates every iteration off-policy, and saves the policy it selected."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from runtime.artifacts.checkpoint import JobState, checkpoints_in, read_state, restore_random_states, save_checkpoint
from runtime.container.signals import Interrupted
from runtime.errors import PlatformError, Problems, UserError
from runtime.interfaces.context import RunContext
from runtime.offline.bcq import Learner, Recipe
from runtime.offline.data.transitions import Transitions
from runtime.offline.estimators.behavior import estimate_behavior
from runtime.offline.estimators.bounds import bound_returns
from runtime.offline.results import as_json, write_coach_csv, write_report
from runtime.offline.selection import PolicyEvaluator, Report, choose, draw_evaluation_episodes
from runtime.offline.settings import OfflineSettings
from runtime.outputs.metrics import MetricsLog
from runtime.policies.network_policy import EVALUATED_FILE, FILE, NetworkPolicy
from runtime.policies.spaces import Spaces
from runtime.settings.schema import JobConfig
from runtime.settings.stop_criteria import reached


@dataclass(frozen=True)
class OfflineJob:
    """The inputs of a batch RL job.

    Attributes:
        config: Settings of the job.
        data: Logged transitions.
        spaces: Observation and action space of the policy.
        context: Container, folders, reporter, and the checkpoint to resume from.
    """

    config: JobConfig
    data: Transitions
    spaces: Spaces
    context: RunContext


@dataclass(frozen=True)
class OfflineOutcome:
    """The result of a batch RL job.

    Attributes:
        why: The stop criterion that was met, or the signal that stopped the job.
        state: Counters at the end.
        checkpoint: The final checkpoint, which holds the chosen policy.
        chosen: The iteration that was chosen.
        report: Off-policy estimates of the chosen policy.
    """

    why: str
    state: JobState
    checkpoint: Path
    chosen: int
    report: Report


def learn(job: OfflineJob) -> OfflineOutcome:
    """Learns until a stop criterion is met or a stop is requested.

    Raises:
        UserError: The data or the checkpoint does not fit the job.
        PlatformError: A checkpoint could not be written.
    """
    # For networks and regressions this small, a second thread adds more waiting than work.
    torch.set_num_threads(1)
    try:
        with threadpool_limits(limits=1, user_api="blas"):
            return _Learning(job).run()
    except OSError as error:
        where = error.filename or job.context.layout.data
        raise PlatformError(
            f"{where}: could not be written: {error.strerror or error}. Checkpoints are whole; fix it and start again."
        ) from None


class _Learning:
    """State of one job: the learner, the off-policy evaluator, the policy chosen so far, and the metrics."""

    def __init__(self, job: OfflineJob) -> None:
        context = job.context
        self._job = job
        self._context = context
        self._reporter = context.reporter
        self._request = context.stop
        settings = self._settings = OfflineSettings.of(job.config)
        seed = settings.drawn_seed()
        learn_from, held_out = job.data.split(settings.train_fraction, seed=seed)
        evaluated_on = draw_evaluation_episodes(held_out, seed=seed)
        drawn = (
            ""
            if evaluated_on is held_out
            else f", of which {len(evaluated_on):,} of {len(evaluated_on.starts):,} are used for evaluation"
        )
        self._reporter.note(
            f"{len(learn_from):,} transitions of {len(learn_from.starts):,} episodes to learn from, "
            f"{len(held_out):,} of {len(held_out.starts):,} held out{drawn}"
        )
        with context.stop:
            # Bounds of the whole log: a reward that no held-out episode has is still possible.
            bounds = bound_returns(job.data, settings.gamma, horizon=settings.horizon)
            evaluated_on = self._with_behavior(evaluated_on, learn_from)
            known = draw_evaluation_episodes(job.data, seed=seed)
            self._evaluator = PolicyEvaluator(evaluated_on, gamma=settings.gamma, seed=seed, bounds=bounds, log=known)
            self._learner = Learner(learn_from, make_recipe(job.config))
            self._logged = self._evaluator.logged
        self._chosen: tuple[NetworkPolicy, NetworkPolicy] | None = None
        self._kept: dict[str, bytes] = self._learner.state()
        self._state = JobState(job.config.env_id, list(job.data.shape), describe_actions(job.data))
        if context.start.checkpoint is not None:
            self._restore(context.start.checkpoint)
            self._kept = self._learner.state()
        self._state.policy = {
            **self._resume_identity(),
            "env_config": settings.env_config,
            "horizon": settings.horizon,
            **self._choice(),
        }
        self._metrics = MetricsLog(context.layout.data, self._state.rows, step="updates", tracking=context.tracking)
        self._metrics.describe(job.config.values())
        self._seconds_before = self._state.time_total_s
        self._checkpointed_at = self._state.training_iteration if context.start.is_same_job else -1

    def _resume_identity(self) -> dict[str, Any]:
        """Settings and data that a restart must share, so that estimates stay comparable and the networks fit."""
        settings = self._settings
        data = self._job.data
        return {
            "algorithm": self._job.config.run,
            "seed": settings.seed,
            **{name: getattr(settings, name) for name in ("gamma", "loss", "train_fraction")},
            **{name: getattr(settings.model, name) for name in ("fcnet_hiddens", "fcnet_activation")},
            "data": data.fingerprint,
        }

    def _check_identity(self, checkpoint: Path, kept: dict[str, Any]) -> None:
        """Checks that a resumed job has the data and settings that it began with.

        Raises:
            UserError: Something differs; every difference is listed.
        """
        problems = Problems("what resumes")
        for name, value in self._resume_identity().items():
            if name in kept and kept[name] != value:
                problems.add_line(f"{name}: got {value!r} for {checkpoint}, which began with {kept[name]!r}.")
        try:
            problems.raise_if_any()
        except UserError as error:
            raise UserError(f"{error} Use the same settings again, or start a new job with another --out.") from None

    def _with_behavior(self, held_out: Transitions, learn_from: Transitions) -> Transitions:
        """Adds the behavior policy's probabilities to the held-out episodes; estimates them if the log has none."""
        if held_out.num_actions is None:
            self._reporter.note("actions are continuous: policies are evaluated by fitted Q evaluation alone")
            return held_out
        if held_out.has_probabilities:
            return held_out
        self._reporter.note(
            "the data has no action probabilities: importance sampling uses an estimated behavior policy"
        )
        seed = self._settings.drawn_seed()
        return replace(held_out, probabilities=estimate_behavior(learn_from, held_out, seed=seed))

    def _restore(self, checkpoint: Path) -> None:
        state = read_state(checkpoint)
        for what in ("observation_shape", "action_space"):
            if getattr(state, what) != getattr(self._state, what):
                raise UserError(
                    f"{checkpoint}: got a checkpoint whose {what} is {getattr(state, what)}; expected "
                    f"{getattr(self._state, what)}, as the data has. Learn from that data, or restore another one."
                )
        if self._context.start.is_same_job:
            self._check_identity(checkpoint, state.policy)
        self._learner.restore(checkpoint)
        if (
            not self._context.start.is_same_job
        ):  # another job's estimates come from other episodes: only its networks are reused
            self._learner.updates = 0
            self._reporter.note(f"starting from the networks of {checkpoint}")
            return
        self._chosen = NetworkPolicy.load(checkpoint / FILE), NetworkPolicy.load(checkpoint / EVALUATED_FILE)
        restore_random_states(checkpoint)
        self._state = replace(state, env=self._job.config.env_id)
        self._reporter.note(f"resuming from {checkpoint}: iteration {state.training_iteration}")

    def run(self) -> OfflineOutcome:
        """Learns, writes the final checkpoint, and returns the outcome."""
        self._started = time.perf_counter()
        try:
            why = self._iterate()
            if self._chosen is None and not self._request.is_set:
                raise UserError("learning from the data: no estimate is finite; scale its rewards and states.")
            if self._chosen is None:
                raise Interrupted
            self._reporter.show_phase("saving")
            checkpoint = self._save_final()
            self._reporter.note("estimating the chosen policy's return with its interval")
            report = self._evaluator.report(self._chosen[0], ranked=self._ranked())
            chosen = self._choice()
            assert self._context.write_model is not None
            self._context.write_model(checkpoint, self._job.spaces, {**chosen, **as_json(report)})
            self._write_report(report, int(chosen["chosen_iteration"]))
        finally:
            with contextlib.suppress(OSError):  # of a full disk, which has been raised already
                self._metrics.close()
        return OfflineOutcome(why, self._state, checkpoint, int(chosen["chosen_iteration"]), report)

    def _write_report(self, report: Report, chosen: int) -> None:
        try:
            write_report(self._context.layout.data, self._state.rows, report, chosen=chosen)
        except Exception as error:  # the model is written; a failed plot must not fail the job
            self._reporter.note(f"no report: {type(error).__name__}: {error}")

    def _iterate(self) -> str:
        stop = self._job.config.stop
        updates = self._settings.updates_per_iteration
        why = reached(stop, self._state.rows[-1], episodes_of_mean=0) if self._state.rows else None
        if why is not None:
            self._reporter.note(f"nothing left to learn: {why}")
        while why is None:
            if self._request.is_set:
                return f"stopped by {self._request.signal_name}"
            self._reporter.show_phase("learning")
            try:
                with self._request:
                    losses = self._run(updates)
                    policy = self._learner.policy(averaged=True)
                    scores = self._evaluator.score(policy)
            except Interrupted:
                return f"stopped by {self._request.signal_name} during an iteration"
            row = self._record(losses, scores)
            self._choose(policy)
            # Saves the learner as it was evaluated, not in the middle of an iteration that a stop request interrupts.
            self._kept = self._learner.state()
            why = reached(stop, row, episodes_of_mean=0)
            every = self._job.config.checkpoint_freq
            if why is None and every and self._state.training_iteration % every == 0:
                self._save()
        return why

    def _run(self, updates: int) -> dict[str, float]:
        try:
            return self._learner.run(updates)
        except (
            ValueError,
            RuntimeError,
        ) as error:  # torch raises these for NaN and when out of memory
            raise UserError(
                f"learning from {self._job.config.data}: failed in update "
                f"{self._learner.updates} ({str(error).splitlines()[0]}); expected finite losses and a batch that "
                "fits. Lower rl.training.config.lr or train_batch_size, or scale rewards and states."
            ) from None

    def _record(self, losses: dict[str, float], scores: dict[str, float]) -> dict[str, float]:
        finite_scores = {name: value for name, value in scores.items() if np.isfinite(value)}
        if not all(np.isfinite(value) for value in losses.values()) or "estimated_return" not in finite_scores:
            place = self._job.config.data
            raise UserError(
                f"learning from {place}: the loss or the estimate is not finite after update {self._learner.updates}; "
                "expected finite rewards and a learning rate to match. Lower rl.training.config.lr, or scale the "
                "rewards; checkpoints that were written are kept."
            )
        state = self._state
        state.training_iteration += 1
        state.time_total_s = self._seconds_before + time.perf_counter() - self._started
        row = {
            "training_iteration": state.training_iteration,
            "updates": self._learner.updates,
            "time_total_s": round(state.time_total_s, 3),
            **losses,
            **finite_scores,
        }
        self._metrics.write(row)
        state.rows = self._metrics.rows
        self._reporter.row(row)
        self._reporter.log(_coach_line(row))
        write_coach_csv(self._context.layout.intermediate, state.rows)
        return row

    def _choose(self, policy: NetworkPolicy) -> None:
        choice = self._choice()
        if choice["chosen_iteration"] == self._state.training_iteration:
            self._chosen = policy, self._learner.policy()
            self._state.policy.update(choice)

    def _choice(self) -> dict[str, Any]:
        """Returns the iteration that the selection rule picks among those so far, and its value."""
        rows = self._state.rows
        if not rows:
            return {"chosen_iteration": 0, "estimated_return": None}
        # Iterations of an earlier version lack the pessimistic return, and an estimate of another is no match for it.
        compared = "pessimistic_return" if all("pessimistic_return" in row for row in rows) else "estimated_return"
        chosen = rows[choose([row[compared] for row in rows], logged=self._logged)]
        return {
            "chosen_iteration": int(chosen["training_iteration"]),
            "estimated_return": chosen["estimated_return"],
        }

    def _ranked(self) -> list[tuple[float, float]]:
        """Returns each iteration's estimated return by rollouts and by fitted Q evaluation."""
        names = "estimated_return", "fitted_q_evaluation"
        return [(row[names[0]], row[names[1]]) for row in self._state.rows if all(name in row for name in names)]

    def _save(self) -> Path:
        assert self._chosen is not None
        policy, evaluated = self._chosen

        def write(folder: Path) -> None:
            for name, content in self._kept.items():
                (folder / name).write_bytes(content)
            policy.save(folder / FILE)
            evaluated.save(folder / EVALUATED_FILE)

        self._checkpointed_at = self._state.training_iteration
        return save_checkpoint(self._context.layout.checkpoints, self._state, write_algorithm=write)

    def _save_final(self) -> Path:
        written = checkpoints_in(self._context.layout.checkpoints)
        if written and self._checkpointed_at == self._state.training_iteration:
            return written[-1]
        return self._save()


def make_recipe(config: JobConfig) -> Recipe:
    """Makes the algorithm's hyperparameters from a job's settings."""
    settings = OfflineSettings.of(config)
    return Recipe(
        algorithm=config.run,
        hidden=tuple(settings.model.fcnet_hiddens),
        activation=settings.model.fcnet_activation,
        lr=settings.lr,
        gamma=settings.gamma,
        batch_size=settings.train_batch_size,
        target_update=settings.target_network_update_freq,
        action_flexibility=settings.action_flexibility,
        loss=settings.loss,
        beta=settings.beta,
        averaging=settings.weight_averaging,
        seed=settings.drawn_seed(),
    )


def describe_actions(data: Transitions) -> str:
    """Describes the action space as checkpoints store it."""
    return f"Discrete({data.num_actions})" if data.num_actions else f"Box{data.actions.shape[1:]}"


def _coach_line(row: dict[str, float]) -> str:
    """Formats an epoch as Coach logged it, for tools that parse it."""
    wis, sdr = row.get("weighted_importance_sampling"), row.get("sequential_doubly_robust")
    parts = {"Epoch": int(row["training_iteration"]), "DM": row["estimated_return"], "WIS": wis, "Sequential-DR": sdr}
    return "Off-Policy Evaluation> " + ", ".join(
        f"{name}={value}" for name, value in parts.items() if value is not None
    )
