"""Training: RLlib's iterations in our own loop, with metrics, videos, checkpoints and the model at the end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtime.artifacts.checkpoint import (
    JobState,
    checkpoints_in,
    read_state,
    restore_random_states,
    save_checkpoint,
)
from runtime.artifacts.policy_file import check_weights, write_policy_file
from runtime.cluster.hosts import Hosts
from runtime.container.hardware import measure_memory
from runtime.container.signals import SAVING, TRAINING, Interrupted
from runtime.environments.recording import Recorder
from runtime.environments.spec import EnvSpec
from runtime.errors import JobError, UserError, find_cause
from runtime.interfaces.context import RunContext
from runtime.interfaces.family import AfterIteration, EnvFamily
from runtime.outputs.metrics import MetricsLog
from runtime.outputs.video import as_gif
from runtime.policies.joint_policy import policy_of
from runtime.rllib.builder import Builder
from runtime.rllib.env_runner import raise_reported_fault
from runtime.rllib.evaluating import METRIC, STATE, Evaluator
from runtime.rllib.faults import FaultWatch, LostError, find_loss
from runtime.rllib.results import endless_steps, explains_nothing, finished_episodes, has_nan_loss, to_row
from runtime.rllib.seeds import seed_start
from runtime.rllib.settings import RLlibSettings
from runtime.settings.schema import JobConfig
from runtime.settings.sizes import Room, check_batch
from runtime.settings.stop_criteria import reached

# Recording videos may take this share of the training time; one that would take more is skipped.
_RECORDING_SHARE = 0.05
_EMPTY_AT_MOST = 3
# Parts of RLlib's checkpoint that a warm start takes over: the network, and the observation filter.
_WARM_START = ("learner_group/learner/rl_module", "env_runner/env_to_module_connector")
_FIRST_ALGORITHM = "PPO"  # older checkpoints name none
_FIRST_VIDEO_S = 1.0  # a guess, until one has been timed
_LONGEST_VIDEO_S = 30.0
_LONGEST_VIDEO_WHEN_STOPPED_S = 5.0


@dataclass(frozen=True)
class TrainingJob:
    """The inputs of a training.

    Attributes:
        config: Its settings.
        env: Its environment.
        family: The environment's family.
        context: Container, folders, reporter, and the checkpoint to resume from.
        builder: Builds RLlib's algorithm.
        after_iteration: The family's callback, or None.
        hosts: What it may use now; hosts come and go.
    """

    config: JobConfig
    env: EnvSpec
    family: EnvFamily
    context: RunContext
    builder: Builder
    after_iteration: AfterIteration | None = None
    hosts: Hosts = field(default_factory=Hosts)


@dataclass(frozen=True)
class Outcome:
    """The outcome of a training.

    Attributes:
        why: The stop criterion met, or the signal.
        state: Counters at the end.
        checkpoint: The final checkpoint.
        last_video: The last video, if any.
    """

    why: str
    state: JobState
    checkpoint: Path
    last_video: Path | None


class Training:
    """One training: the algorithm, its counters and its logs; Ray must run.

    Args:
        job: The inputs of the training.
        watch: Counts processes that die.

    Raises:
        LostError: A process died that training cannot continue without.
        UserError: The environment is at fault, or the checkpoint does not fit the job.
        PlatformError: A checkpoint could not be written.
        Interrupted: A stop was requested.
    """

    def __init__(self, job: TrainingJob, watch: FaultWatch) -> None:
        context = job.context
        self._job = job
        self._context = context
        self._watch = watch
        self._reporter = context.reporter
        self._request = context.stop
        machines = job.hosts.machines()
        resume_from = context.start.checkpoint
        steps = 0 if resume_from is None else read_state(resume_from).timesteps_total
        self._reporter.show_phase("opening the environment")
        seeded, env = seed_start(job.config, job.env, steps=steps)
        with context.stop, job.family.open_spaces(seeded, env) as probed:
            self._spaces = probed.spaces
            sizes = [math.prod(space.shape or (1,)) for space in (self._spaces.observation, self._spaces.action)]
            check_batch(
                seeded,
                observation_size=sizes[0],
                action_size=sizes[1],
                room=Room(measure_memory()),
                env_bytes=job.builder.env_bytes(env),
                stored_bytes=job.builder.stored_bytes(seeded, self._spaces),
            )
            config, notes = job.builder.fit(seeded, job.family, self._spaces, machines)
            for note in notes:
                self._reporter.note(note)
            self._compiles = job.builder.compiles(config, job.family)
            if self._compiles:
                self._reporter.note("compiling for this processor, once: about half a minute")
                self._reporter.show_phase("compiling")
            self._algorithm: Any = _with_causes(
                lambda: job.builder.build(config, env, job.family, machines, steps=steps)
            )
            self._reporter.note(job.builder.describe_path(self._algorithm, config, job.family))
        self._settings = RLlibSettings.of(job.config)
        shape = list(self._spaces.observation.shape or ())
        self._state = JobState(config.env_id, shape, str(self._spaces.action))
        try:
            with context.stop:
                if resume_from is not None:
                    self._restore(resume_from)
                elif context.start.warm_start is not None:
                    self._begin_with(context.start.warm_start)
        except BaseException:
            self._algorithm.stop()
            raise
        self._state.policy = _policy_settings(config)
        watch.begin(self._algorithm, self._state.faults)
        self._metrics = MetricsLog(context.layout.data, self._state.rows, tracking=context.tracking)
        self._reporter.show_earlier(self._state.rows)
        self._metrics.describe(job.config.values())
        self._recorder = Recorder(env, no_video_reason=probed.no_video_reason)
        episodes = self._settings.evaluation_episodes
        seed = job.config.algorithm.drawn_seed()
        self._evaluator = Evaluator(env, episodes=episodes, seed=seed) if episodes else None
        self._begun_at = self._state.training_iteration
        self._empty_in_a_row = 0
        self._advised: set[str] = set()
        self._recording_s = 0.0
        self._last_recording_s = _FIRST_VIDEO_S
        self._has_skipped = False
        self._seconds_before = self._state.time_total_s
        self._checkpointed_at = self._state.training_iteration if context.start.is_same_job else -1
        self._last_video: Path | None = None
        self._recorded_at = 0.0

    def _begin_with(self, checkpoint: Path) -> None:
        """Restores only the network and the observation filter of a checkpoint."""
        state = self._read_fitting(checkpoint, ("observation_shape", "action_space"))
        algorithm = self._algorithm

        def restore() -> None:
            check_weights(checkpoint, algorithm.learner_group.get_weights())
            for component in _WARM_START:
                algorithm.restore_from_path(str((checkpoint / component).resolve()), component=component)
            algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=algorithm.learner_group)

        with _restoring(checkpoint):
            _with_causes(restore)
        self._reporter.note(f"warm start from {checkpoint}: {state.env}, {state.timesteps_total} steps")

    def _read_fitting(self, checkpoint: Path, same: tuple[str, ...]) -> JobState:
        """Reads the state of a checkpoint, whose attributes `same` must be this job's."""
        state = read_state(checkpoint)
        trained_by = state.policy.get("algorithm", _FIRST_ALGORITHM)
        if trained_by != self._job.config.run:
            raise UserError(
                f"{checkpoint}: got a checkpoint of {trained_by} for a training by {self._job.config.run}; expected "
                f"one of the same algorithm. Set rl.training.run={trained_by}, or start without the checkpoint."
            )
        for what in same:
            if getattr(state, what) != getattr(self._state, what):
                raise UserError(
                    f"{checkpoint}: got a checkpoint whose {what} is {getattr(state, what)}; expected "
                    f"{getattr(self._state, what)}. Train that environment, or start from another checkpoint."
                )
        return state

    def _restore(self, checkpoint: Path) -> None:
        state = self._read_fitting(checkpoint, ("env", "observation_shape", "action_space"))
        with _restoring(checkpoint):
            check_weights(checkpoint, self._algorithm.learner_group.get_weights())
            _with_causes(lambda: self._algorithm.restore_from_path(str(checkpoint.resolve())))
            restore_random_states(checkpoint)
        if not self._context.start.is_same_job:
            state.time_total_s = 0.0
            state.extra = {}
            state.faults = {}
        self._state = state
        self._reporter.note(
            f"resuming from {checkpoint}: iteration {state.training_iteration}, {state.timesteps_total} steps"
        )

    def run(self) -> Outcome:
        """Trains, then writes the final checkpoint, the model, and the last video, the most important first.

        Raises:
            Interrupted: A stop was requested before this job had trained anything.
        """
        self._started = self._stepped_at = self._recorded_at = time.perf_counter()
        try:
            why = self._iterate()
            if self._request.is_set and self._has_nothing_to_save:
                raise Interrupted
            self._request.begin(SAVING)
            self._reporter.show_phase("saving")
            checkpoint = self._save_final()
            assert self._context.write_model is not None
            self._context.write_model(checkpoint, self._spaces, {})
            self._record_video("last")
            if self._recorder.no_video_reason:
                self._reporter.note(f"no video: {self._recorder.no_video_reason}")
        finally:
            self._metrics.close()
            self._recorder.close()
            if self._evaluator is not None:
                self._evaluator.close()
            self._algorithm.stop()
        return Outcome(why, self._state, checkpoint, self._last_video)

    @property
    def _has_nothing_to_save(self) -> bool:
        return self._state.training_iteration == self._begun_at and not self._context.start.is_same_job

    def _iterate(self) -> str:
        if not self._job.config.stop.given():
            self._reporter.note("no rl.training.stop.* is set: this job trains until it is stopped from outside")
        why = self._reached(self._state.rows[-1]) if self._state.rows else None
        if why is not None:
            self._reporter.note(f"nothing left to train: {why}")
        while why is None:
            if self._request.is_set:
                return f"stopped by {self._request.signal_name}"
            is_compiling = self._compiles and self._state.training_iteration == self._begun_at
            self._reporter.show_phase("compiling" if is_compiling else "training")
            try:
                with self._request:
                    result = _with_causes(self._algorithm.train)
            except Interrupted:
                return f"stopped by {self._request.signal_name} in mid-iteration"
            self._request.begin(TRAINING)
            self._watch.look(self._algorithm)
            if self._is_empty_result(result):
                continue
            why = self._reached(self._record(result))
            self._keep_up(is_last=why is not None)
        return why

    def _is_empty_result(self, result: dict[str, Any]) -> bool:
        """Whether no env runner returned a step, so that the result is not counted as an iteration.

        Raises:
            LostError: That has happened several times in a row.
        """
        is_empty = int(result.get("num_env_steps_sampled_lifetime", 0)) <= self._state.timesteps_total
        self._empty_in_a_row = self._empty_in_a_row + 1 if is_empty else 0
        now = time.perf_counter()
        if not is_empty:
            self._stepped_at = now
        if not is_empty or now - self._stepped_at < self._job.builder.patience_s(self._job.config):
            return is_empty
        self._reporter.note("no env runner returned a step; trying again")
        if self._empty_in_a_row >= _EMPTY_AT_MOST:
            raise LostError(f"no step from any env runner in {_EMPTY_AT_MOST} tries")
        return is_empty

    def _reached(self, row: dict[str, float]) -> str | None:
        now = {**row, "time_total_s": self._state.time_total_s}  # a row of another job has that job's clock
        averaged = self._settings.metrics_num_episodes_for_smoothing
        return reached(self._job.config.stop, now, episodes_of_mean=averaged)

    def _record(self, result: dict[str, Any]) -> dict[str, float]:
        if has_nan_loss(result):
            raise UserError(
                f"training of {self._job.config.env}: the loss is NaN after iteration "
                f"{self._state.training_iteration + 1}; expected finite rewards, observations and gradients. "
                "The last checkpoint is kept; lower rl.training.config.lr or set rl.training.config.grad_clip."
            )
        state = self._state
        episodes = finished_episodes(result)
        state.training_iteration += 1
        state.episodes_total += len(episodes)
        state.time_total_s = self._seconds_before + time.perf_counter() - self._started
        averaged = self._settings.metrics_num_episodes_for_smoothing
        state.recent_episodes = [*state.recent_episodes, *episodes][-averaged:]
        row = {
            "training_iteration": state.training_iteration,
            "episodes_total": state.episodes_total,
            "time_total_s": round(state.time_total_s, 3),
            **to_row(result, state.recent_episodes),
        }
        state.timesteps_total = int(row["timesteps_total"])
        state.episode_reward_mean = row.get("episode_reward_mean")
        after_iteration = self._job.after_iteration
        if after_iteration is not None:
            row |= _with_causes(lambda: after_iteration(self._algorithm, result, state))
        state.faults = dict(self._watch.counts)
        row |= state.faults
        row |= self._evaluate(row)
        self._metrics.write(row)
        state.rows = self._metrics.rows
        self._reporter.row(row)
        self._advise()
        return row

    def _evaluate(self, row: dict[str, float]) -> dict[str, float]:
        """Evaluates the policy that the next checkpoint will hold, if there is one after this iteration."""
        self._state.extra.pop(STATE, None)  # of an earlier policy
        every = self._job.config.checkpoint_freq
        is_due = bool(every) and self._state.training_iteration % every == 0
        if self._evaluator is None or self._request.is_set or not (is_due or self._reached(row)):
            return {}
        self._reporter.show_phase("evaluating")
        policy = policy_of(self._algorithm, self._spaces.action)
        try:
            with self._request:
                score = self._evaluator.evaluate(policy)
        except Interrupted:
            return {}
        self._state.extra[STATE] = {"score": score}
        return {METRIC: score}

    def _advise(self) -> None:
        """Advises which settings to change if episodes do not end, or the value function learns nothing; each once."""
        settings = self._settings
        runners = settings.num_env_runners if isinstance(settings.num_env_runners, int) else 1
        if steps := endless_steps(self._state.rows, settings.num_envs_per_env_runner * max(1, runners)):
            self._advise_once(
                "episodes",
                f"no episode has ended for {steps:,} steps of each environment, and the mean return stays that of "
                "earlier ones: if the environment has no step limit, set rl.training.config.horizon",
            )
        elif settings.has_critic and explains_nothing(self._state.rows):
            self._advise_once(
                "values",
                "the value function explains none of the returns (vf_explained_var): lower rl.training.config.gamma, "
                "raise rl.training.config.lr, or scale the environment's rewards to about 1 a step",
            )

    def _advise_once(self, topic: str, advice: str) -> None:
        if topic not in self._advised:
            self._advised.add(topic)
            self._reporter.note(advice)

    def _keep_up(self, *, is_last: bool) -> None:
        """Writes the checkpoint and video that are due."""
        config, iteration = self._job.config, self._state.training_iteration
        if is_last:  # both follow at the end of the job
            return
        if config.checkpoint_freq and iteration % config.checkpoint_freq == 0:
            self._save()
        if config.video_interval_s:
            is_due = time.perf_counter() - self._recorded_at >= config.video_interval_s
        else:
            is_due = bool(config.video_freq) and iteration % config.video_freq == 0
        if is_due and not self._request.is_set and self._may_record_video():
            self._record_video(f"iteration-{iteration:06d}")

    def _may_record_video(self) -> bool:
        """Whether recording a video is cheap enough; always True if the user set a frequency."""
        if self._job.config.is_asked_for("video_freq") or self._job.config.is_asked_for("video_interval_s"):
            return True
        allowed_s = _RECORDING_SHARE * (time.perf_counter() - self._started)
        if self._recording_s + self._last_recording_s <= allowed_s:
            return True
        if not self._has_skipped:
            self._reporter.note(
                f"a video is due, but recording it would take over {_RECORDING_SHARE:.0%} of the training time: "
                "skipped. Set rl.training.video_freq yourself to have every one"
            )
        self._has_skipped = True
        return False

    def _save(self) -> Path:
        self._reporter.show_phase("saving")
        self._checkpointed_at = self._state.training_iteration

        def write(folder: Path) -> None:
            _with_causes(lambda: self._algorithm.save_to_path(str(folder.resolve())))
            write_policy_file(folder)

        return save_checkpoint(self._context.layout.checkpoints, self._state, write_algorithm=write)

    def _save_final(self) -> Path:
        """Saves the final checkpoint, unless this iteration's was just saved."""
        written = checkpoints_in(self._context.layout.checkpoints)
        if written and self._checkpointed_at == self._state.training_iteration:
            return written[-1]
        return self._save()

    def _record_video(self, name: str) -> None:
        if not (self._job.config.video_freq or self._job.config.video_interval_s):
            return
        self._reporter.show_phase("recording video")
        started = time.perf_counter()
        path = self._context.layout.videos / f"{name}.mp4"
        policy = policy_of(self._algorithm, self._spaces.action)
        longest_s = _LONGEST_VIDEO_WHEN_STOPPED_S if self._request.is_set else _LONGEST_VIDEO_S
        episode = self._recorder.record(policy, path, longest_s=longest_s)
        self._recorded_at = time.perf_counter()
        self._last_recording_s = self._recorded_at - started
        self._recording_s += self._last_recording_s
        if episode is not None:
            self._last_video = path
            with contextlib.suppress(OSError, ValueError):  # of a full disk; the video itself is there
                self._metrics.add_video("rollout", *as_gif(path), self._state.timesteps_total)


def _policy_settings(config: JobConfig) -> dict[str, Any]:
    """Returns the settings that acting and evaluating need beside the network."""
    settings = RLlibSettings.of(config)
    return {
        "algorithm": config.run,
        "env_config": settings.env_config,
        "horizon": settings.horizon,
        "normalize_actions": settings.normalize_actions,
        "clip_actions": settings.clip_actions,
        **({"policy_mapping": dict(config.policy_mapping)} if config.policy_mapping else {}),
    }


@contextlib.contextmanager
def _restoring(checkpoint: Path) -> Iterator[None]:
    """Raises as a user's error what RLlib raises when a checkpoint does not fit."""
    try:
        yield
    except LostError:
        raise
    except Exception as error:  # RLlib's unpickling raises many types of errors
        raise UserError(
            f"{checkpoint}: got a checkpoint that cannot be restored ({type(error).__name__}: {error}); expected "
            "one of the same network and settings. Restore from another checkpoint, or start without."
        ) from error


def _with_causes(call: Callable[[], Any]) -> Any:
    """Calls; what we raised ourselves comes out as it was, however often RLlib or Ray wrapped it."""
    try:
        result = call()
    except Exception as error:
        ours = find_cause(error, JobError) or find_cause(error, Interrupted)
        if ours is not None:
            raise ours from ours.__cause__  # the wrappings say nothing more
        if isinstance(error, ValueError) and "nan" in str(error).lower():
            raise UserError(
                "training: the network's output became NaN; expected finite observations from the environment and "
                "finite weights. Look for NaN in the observations, or lower rl.training.config.lr."
            ) from error
        raise_reported_fault()  # of a runner that RLlib does not wait for any more
        if (loss := find_loss(error)) is not None:
            raise LostError(loss) from error
        raise
    raise_reported_fault()
    return result
