"""Runs every job inside one frame: exit codes, the failure file, and signal handling from the start."""

from __future__ import annotations

import atexit
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from runtime.container.layout import Container, find_base, read_container
from runtime.container.scratch import remove_own_folders
from runtime.container.signals import INTERRUPTED, LOOKING, WORKING, Interrupted, Phase, StopRequest, end_now
from runtime.errors import JobError, describe_root


def run_job(
    work: Callable[[Container, StopRequest], None], *, phase: Phase = WORKING, ends_process: bool = True
) -> int:
    """Runs a job and turns how it ended into an exit code.

    Args:
        work: The job.
        phase: Phase in which the job starts.
        ends_process: Whether the process ends with it, so that no later signal may change how.

    Returns:
        0 when done or stopped as asked; 2 for the user's mistakes, 3 for the platform's, 1 for ours.
    """
    request = StopRequest(phase)
    container = Container(base=find_base())  # where the failure file goes, should the rest be unreadable
    try:
        container = read_container()
        work(container, request)
    except JobError as error:
        if error.__cause__ is not None:  # an exception of the user's own code: its traceback says where
            traceback.print_exception(error.__cause__)
        sys.stderr.write(f"smrl: error: {error}\n")
        container.write_failure(f"{error}\n{error.trace[-800:]}".rstrip())
        return error.exit_code
    except Interrupted:
        sys.stderr.write(f"smrl: stopped by {request.signal_name} before there was anything to save\n")
        if ends_process:
            _end_now(0)
    except SystemExit as error:
        report_crash(RuntimeError(f"the job's code called sys.exit({error.code!r}) in mid-training"), container)
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("smrl: interrupted\n")
        if ends_process:
            _end_now(INTERRUPTED)
        return INTERRUPTED
    except Exception as error:
        report_crash(error, container)
        return 1
    finally:
        if ends_process:
            request.ignore()
        else:
            request.release()
            atexit.register(request.ignore)
    return 0


def _end_now(code: int) -> NoReturn:
    """Ends the process without what Python would still do, which takes seconds where Torch and Ray are imported."""
    remove_own_folders()
    sys.stdout.flush()
    sys.stderr.flush()
    end_now(code)


def run_script(work: Callable[[Container, StopRequest], None]) -> None:
    """Runs the training of a user's script, and ends the process with an exit code other than 0 on failure."""
    code = run_job(work, phase=LOOKING, ends_process=False)
    if code:
        sys.exit(code)


def report_crash(error: BaseException, container: Container) -> None:
    """Prints a traceback, and writes the failure file with the reason on its first line."""
    trace = "".join(traceback.format_exception(error))
    reason = str(error) if isinstance(error, JobError) else describe_root(error)
    sys.stderr.write(f"{trace}smrl: error: {reason}\n")
    container.write_failure(f"{reason}\n{trace[-800:]}")
