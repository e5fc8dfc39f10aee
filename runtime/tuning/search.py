"""Chooses the next point to try: Optuna's samplers, each point with every seed."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from runtime.tuning.records import Record, Trial, best_trial
from runtime.tuning.request import TuningJob

_MOST_DRAWS = 50  # of a point that is new, where there are few
FINISHED = "FINISHED"
# Points that are drawn at random before the search learns from them.
_STARTUP_TRIALS = 8
GRACE_ITERATIONS = 5  # iterations before the median rule applies: first returns are noise
JUDGED_AFTER_TRIALS = 3  # that the median is taken of
REDUCTION = 3  # of Hyperband: one in three is promoted from each rung


class PointSearch:
    """Suggests training jobs: a point of the search space, and a seed.

    Its state can be rebuilt from records: a killed tuning resumes this way, and one can start from another's results.

    Args:
        job: The tuning job.
        trials: Trials of this tuning before it was killed.
        parents: Trials of other tunings.
        seeds: Seeds of the training jobs of each point.
        random_seed: Seed of the sampler.
    """

    def __init__(
        self,
        job: TuningJob,
        trials: Sequence[Trial],
        parents: Sequence[Trial],
        *,
        seeds: Sequence[int],
        random_seed: int,
    ) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._job = job
        self._seeds = tuple(seeds)
        self._space = {one.name: one.distribution for one in job.ranges}
        # What was drawn before a kill is not drawn again.
        self._sampler = _make_sampler(job, random_seed + len(trials))
        self._random = optuna.samplers.RandomSampler(seed=random_seed)
        self._study = optuna.create_study(
            direction="maximize" if job.maximize else "minimize", sampler=self._sampler, pruner=_make_pruner(job)
        )
        self.trials = {trial.number: trial for trial in trials}
        self.is_over = False  # set from outside, when no more jobs are to start
        self._asked: dict[int, optuna.trial.Trial] = {}
        self._handed_out: set[tuple[int, int]] = set()
        # With early stopping, a trial's first seed is compared with other trials; the others run if it is not stopped.
        self._screens = job.stops_early or job.resources is not None
        self._grid = _list_grid(job) if job.strategy == "Grid" else None
        for trial in parents:
            self._add_ended(trial)
        for trial in trials:
            if self._left(trial):
                self._continue_trial(trial)
            else:
                self._add_ended(trial)

    def _to_optuna(self, trial: Trial) -> dict[str, Any] | None:
        """Returns the point in Optuna's values; None if it is outside the search space."""
        drawn = {one.name: one.from_hyperparameter(trial.hyperparameters.get(one.name)) for one in self._job.ranges}
        return None if any(value is None for value in drawn.values()) else drawn

    def _add_ended(self, trial: Trial) -> None:
        drawn = self._to_optuna(trial)
        value = trial.objective
        if drawn is None or value is None:
            return
        iteration = min(job.training_iteration for job in trial.jobs.values())
        state = TrialState.COMPLETE if trial.state == "completed" else TrialState.PRUNED
        self._study.add_trial(
            optuna.trial.create_trial(
                params=drawn,
                distributions=self._space,
                value=value,
                state=state,
                intermediate_values={iteration: value},
            )
        )

    def _continue_trial(self, trial: Trial) -> None:
        drawn = self._to_optuna(trial)
        if drawn is not None:
            self._study.enqueue_trial(drawn)
        self._asked[trial.number] = self._study.ask(self._space)

    def _left(self, trial: Trial) -> list[int]:
        """Seeds of a trial that have not ended, including running ones."""
        states = {seed: job.state for seed, job in trial.jobs.items()}
        first = states.get(self._seeds[0], "started") if self._seeds else "completed"
        if "failed" in states.values() or (self._screens and first == "stopped"):
            runs = [seed for number, seed in self._handed_out if number == trial.number]
            return [seed for seed in runs if states.get(seed, "started") == "started"]
        if self._screens and first == "started":
            return [self._seeds[0]]
        return [seed for seed in self._seeds if states.get(seed, "started") == "started"]

    def suggest(self) -> dict[str, Any] | str | None:
        """Suggests the next training job; None if running jobs may lead to more, or FINISHED."""
        if self.is_over:
            return FINISHED
        waiting = self._find_waiting()
        if waiting is None and self._begin_trial():
            waiting = self._find_waiting()
        if waiting is None:
            return None if self._asked else FINISHED
        self._handed_out.add(waiting)
        number, seed = waiting
        folder = f"trials/{number:03d}" + (f"/seed-{seed}" if len(self._seeds) > 1 else "")
        point = dict(self.trials[number].hyperparameters)
        is_scheduled = seed == self._seeds[0]
        return {"trial": number, "seed": seed, "point": point, "folder": folder, "is_scheduled": is_scheduled}

    def _find_waiting(self) -> tuple[int, int] | None:
        wanted = ((number, seed) for number in self._asked for seed in self._left(self.trials[number]))
        return next((one for one in wanted if one not in self._handed_out), None)

    def _begin_trial(self) -> bool:
        number = max(self.trials, default=0) + 1
        if number > self._job.max_trials or self._has_stagnated():
            return False
        if self._grid is not None:
            if number > len(self._grid):
                return False
            self._study.enqueue_trial(self._grid[number - 1])
        for attempt in range(_MOST_DRAWS):
            # A sampler that is sure of its best point would draw it again and again.
            self._study.sampler = self._sampler if attempt < _MOST_DRAWS / 2 else self._random
            asked = self._study.ask(self._space)
            point = {one.name: one.to_hyperparameter(asked.params[one.name]) for one in self._job.ranges}
            if all(dict(trial.hyperparameters) != point for trial in self.trials.values()):
                break
            self._study.tell(asked, state=TrialState.FAIL)  # the same point and seeds would add nothing
        else:
            return False
        self._asked[number] = asked
        self.trials[number] = Trial(number, point)
        return True

    @property
    def finish_reason(self) -> str:
        """Reason why the search suggests no further points."""
        if self._has_stagnated():
            return f"no better trial in {self._job.patience}"
        if len(self.trials) < self._job.max_trials:
            return f"every point that was drawn has been tried: {len(self.trials)} trials"
        return f"all {len(self.trials)} trials have ended"

    def _has_stagnated(self) -> bool:
        if self._job.patience is None:
            return False
        best = best_trial(self.trials.values(), seeds=len(self._seeds), maximize=self._job.maximize)
        ended = [trial for trial in self.trials.values() if trial.jobs and not self._left(trial)]
        return best is not None and sum(trial.number > best.number for trial in ended) >= self._job.patience

    @property
    def has_reached_target(self) -> bool:
        """Whether a complete trial has reached the job's target."""
        best = best_trial(self.trials.values(), seeds=len(self._seeds), maximize=self._job.maximize)
        if best is None or best.objective is None or self._job.target is None:
            return False
        return best.objective >= self._job.target if self._job.maximize else best.objective <= self._job.target

    def end(self, record: Record) -> None:
        """Records the end of a training job; after a trial's last job, reports the trial to the sampler."""
        trial = self.trials[record.trial]
        trial.jobs[record.seed] = record
        if self._left(trial):
            return
        asked = self._asked.pop(trial.number)
        value = trial.objective
        if value is None:
            self._study.tell(asked, state=TrialState.FAIL)
        elif trial.state == "completed":
            self._study.tell(asked, value)
        else:
            iteration = min(job.training_iteration for job in trial.jobs.values())
            self._report(asked, iteration, value)
            self._study.tell(asked, state=TrialState.PRUNED)

    def _report(self, asked: optuna.trial.Trial, iteration: int, value: float) -> None:
        """Reports a value of the objective, unless the iteration has one: a job that resumes repeats iterations."""
        if iteration not in self._study.get_trials(deepcopy=False)[asked.number].intermediate_values:
            asked.report(value, iteration)

    def should_stop(self, number: int, iteration: int, value: float) -> bool:
        """Whether the job's rule for early stopping ends a running trial.

        Args:
            number: Number of the trial.
            iteration: Iterations that it has done.
            value: Its objective after them.
        """
        asked = self._asked[number]
        self._report(asked, iteration, value)
        has_used_up = self._job.resources is not None and iteration >= self._job.resources[1]
        return has_used_up or (self._screens and asked.should_prune())


def _make_sampler(job: TuningJob, seed: int) -> optuna.samplers.BaseSampler:
    if job.strategy in ("Random", "Grid"):
        return optuna.samplers.RandomSampler(seed=seed)
    return optuna.samplers.TPESampler(
        seed=seed, multivariate=True, constant_liar=True, n_startup_trials=min(_STARTUP_TRIALS, job.max_trials // 3 + 1)
    )


def _make_pruner(job: TuningJob) -> optuna.pruners.BasePruner:
    """The rule of `should_stop`.

    Source: Li et al. 2018 (asynchronous successive halving); Golovin et al. 2017 (the median rule).
    """
    if job.resources is not None:
        return optuna.pruners.SuccessiveHalvingPruner(min_resource=job.resources[0], reduction_factor=REDUCTION)
    if job.stops_early:
        return optuna.pruners.MedianPruner(n_startup_trials=JUDGED_AFTER_TRIALS, n_warmup_steps=GRACE_ITERATIONS)
    return optuna.pruners.NopPruner()


def _list_grid(job: TuningJob) -> list[dict[str, Any]]:
    names = [one.name for one in job.ranges]
    return [dict(zip(names, point, strict=True)) for point in itertools.product(*(one.values for one in job.ranges))]


def importances(job: TuningJob, trials: Sequence[Trial]) -> dict[str, float]:
    """Computes each hyperparameter's share of the objective's variance by fANOVA; empty for too few trials.

    Source: Hutter et al. 2014, as Optuna has it.
    """
    search = PointSearch(job, (), trials, seeds=(), random_seed=0)
    done = [trial for trial in search._study.get_trials() if trial.state == TrialState.COMPLETE]
    values = {trial.value for trial in done}
    if len(done) < 4 or len(values) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(search._study, evaluator=evaluator))
