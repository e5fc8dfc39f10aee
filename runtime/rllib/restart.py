"""Training that restarts in the same job, from its last checkpoint, when it has lost what it needs.

runtime/cluster/hosts.py says what happens when something is lost; faults.py notices it.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path

from runtime.artifacts.checkpoint import checkpoints_in, read_state
from runtime.artifacts.resume import Start
from runtime.container.signals import SAVING, Interrupted
from runtime.errors import PlatformError
from runtime.rllib.faults import FaultWatch, LostError
from runtime.rllib.loop import Outcome, Training, TrainingJob

_ATTEMPTS = 3  # that end without a new checkpoint


def train(job: TrainingJob) -> Outcome:
    """Trains until a stop criterion is met or a stop is requested; Ray must run.

    Raises:
        UserError: The environment is at fault, or the checkpoint does not fit the job.
        PlatformError: A checkpoint could not be written, or processes die again and again.
        Interrupted: A stop was requested while it started, or when it had lost what it would save.
    """
    watch = FaultWatch(job.context.reporter, job.hosts.take_events)
    attempts = 0
    while True:
        begun_from = _newest(job)
        try:
            return Training(job, watch).run()
        except LostError as error:
            if job.context.stop.is_set:
                raise Interrupted from None
            newest = _newest(job)
            attempts = attempts + 1 if newest == begun_from else 1
            if attempts >= _ATTEMPTS:
                raise PlatformError(
                    f"training of {job.config.env}: {error}, {attempts} times without a checkpoint in between; "
                    "expected processes that stay alive. The last checkpoint is kept; see above for what ended them "
                    "(memory, a host, or the environment's own code)."
                ) from None
            watch.count("training_restarts", f"{error}; from {newest.name if newest else 'the beginning'}")
            gc.collect()  # what was half built holds CPUs
            if newest is not None:
                job = replace(job, context=replace(job.context, start=Start(newest, is_same_job=True)))


def _newest(job: TrainingJob) -> Path | None:
    return next(reversed(checkpoints_in(job.context.layout.checkpoints)), None)


def write_from_newest(job: TrainingJob) -> Outcome:
    """Writes the model from the last checkpoint, which is what a stop leaves of a training that has nothing newer.

    Raises:
        Interrupted: There is none.
    """
    newest = _newest(job)
    if newest is None:
        raise Interrupted
    job.context.stop.begin(SAVING)
    assert job.context.write_model is not None
    with job.family.open_spaces(job.config, job.env) as probed:
        job.context.write_model(newest, probed.spaces, {})
    return Outcome(f"stopped by {job.context.stop.signal_name}", read_state(newest), newest, None)
