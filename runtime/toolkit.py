"""The hook that sagemaker-training calls in place of its own runner: SAGEMAKER_TRAINING_MODULE=runtime.toolkit:train.

The toolkit starts the script as a child and tells it nothing of SIGTERM, so a stopped or interrupted job would be
killed with all it has. The hook starts the script just the same, and passes the signal on.
Source: sagemaker-training 5.1.4, trainer.py.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from pathlib import Path
from types import FrameType

import psutil


def train() -> None:
    """Runs the user's entry point, as the toolkit would."""
    from sagemaker_training import entry_point, environment, params, runner

    signal.signal(signal.SIGTERM, _pass_on)
    env = environment.Environment()
    # Without this folder the toolkit fails to write its failure file, and then reports success.
    Path(env.output_dir).mkdir(parents=True, exist_ok=True)
    has_mpi = env.additional_framework_parameters.get(params.MPI_ENABLED)
    spreads = has_mpi and env.current_instance_group in env.distribution_instance_groups
    entry_point.run(
        env.module_dir,
        env.user_entry_point,
        env.to_cmd_args(),
        env.to_env_vars(),
        runner_type=runner.RunnerType.MPI if spreads else runner.RunnerType.Process,
    )


def _pass_on(number: int, frame: FrameType | None) -> None:
    """Sends the signal to the script; before there is one, the job just ends."""
    children = psutil.Process().children()
    if not children:
        sys.exit(0)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end between the two lines
            child.send_signal(number)
