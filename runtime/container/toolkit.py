"""The hook that sagemaker-training calls instead of its own runner, as SAGEMAKER_TRAINING_MODULE says.

The toolkit starts the script as a child and tells it nothing of SIGTERM, so a stopped or interrupted job would be
killed with all it has. The hook starts the script just the same, and passes the signal on. Before that it takes out of
requirements.txt what the container brings.
Source: sagemaker-training 5.1.4, trainer.py.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import sys
from pathlib import Path
from types import FrameType

import psutil

from runtime.container.requirements import leave_out_served


def train() -> None:
    """Runs the user's entry point, as the toolkit would."""
    from sagemaker_training import entry_point, environment, files, params, runner

    env = environment.Environment()
    # Without this folder the toolkit fails to write its failure file, and then reports success.
    Path(env.output_dir).mkdir(parents=True, exist_ok=True)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        script = find_script(env.user_entry_point)
        if script is None:
            # Still unpacking or installing: there is nothing to save. The success file ends the toolkit's uploader.
            files.write_success_file()
            sys.exit(0)
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end between the two lines
            script.send_signal(number)

    signal.signal(signal.SIGTERM, on_sigterm)
    # entry_point.run would unpack it itself, and install at once; it leaves a folder that holds something alone.
    files.download_and_extract(uri=env.module_dir, path=environment.code_dir)
    _prepare_requirements(Path(environment.code_dir) / "requirements.txt")
    has_mpi = env.additional_framework_parameters.get(params.MPI_ENABLED)
    spreads = has_mpi and env.current_instance_group in env.distribution_instance_groups
    try:
        entry_point.run(
            env.module_dir,
            env.user_entry_point,
            env.to_cmd_args(),
            env.to_env_vars(),
            runner_type=runner.RunnerType.MPI if spreads else runner.RunnerType.Process,
        )
    finally:
        # The script has ended: the toolkit reports how, even if a stop is requested from now on.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # A helper of a shell script may have failed on the way to success.
    with contextlib.suppress(OSError):
        (Path(env.output_dir) / "failure").unlink(missing_ok=True)


def _prepare_requirements(requirements: Path) -> None:
    try:
        taken = leave_out_served(requirements)
    except (OSError, UnicodeError) as error:  # it cannot be written, or read: pip tries what there is
        sys.stderr.write(f"smrl: requirements.txt stays as it is: {error}\n")
        return
    for requirement in taken:
        sys.stderr.write(f"smrl: requirements.txt: {requirement} is left out, because the container brings it\n")


def find_script(entry_point: str) -> psutil.Process | None:
    """Finds the child that runs the user's script; the toolkit's S3 uploader (its fork) and pip are children too."""
    forks = {child.pid for child in multiprocessing.active_children()}
    path = Path(entry_point)
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):
            words = child.cmdline()
            is_named = any(path.name in word or word == path.stem for word in words)
            if is_named and child.pid not in forks and "pip" not in words:
                return child
    return None
