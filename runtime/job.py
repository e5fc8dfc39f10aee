"""The frame around every job: exit codes, the failure file, and signals from the first moment on."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

from runtime.container import Container, find_base, read_container
from runtime.errors import JobError
from runtime.stop import Interrupted, StopRequest


def run_job(work: Callable[[Container, StopRequest], None]) -> int:
    """Runs a job and turns how it ended into an exit code.

    Args:
        work: The job.

    Returns:
        0 when done or stopped as asked; 2 for the user's mistakes, 3 for the platform's, 1 for ours.
    """
    request = StopRequest()
    container = Container(base=find_base())  # where the failure file goes, should the rest be unreadable
    try:
        container = read_container()
        work(container, request)
    except JobError as error:
        sys.stderr.write(f"smrl: error: {error}\n")
        container.write_failure(str(error))
        return error.exit_code
    except Interrupted:
        sys.stderr.write(f"smrl: stopped by {request.signal_name} before there was anything to save\n")
    except KeyboardInterrupt:
        sys.stderr.write("smrl: interrupted\n")
        return 130
    except Exception as error:
        report_crash(error, container)
        return 1
    finally:
        request.release()
    return 0


def report_crash(error: BaseException, container: Container) -> None:
    """Prints a traceback, and writes the failure file with the reason on its first line."""
    trace = "".join(traceback.format_exception(error))
    sys.stderr.write(trace)
    if isinstance(error, JobError):
        container.write_failure(str(error))
    else:
        container.write_failure(f"{type(error).__name__}: {error}\n{trace[-800:]}")
