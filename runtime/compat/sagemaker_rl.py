"""`sagemaker_rl` and `sagemaker_rl.ray_launcher`, for scripts."""

import sys

from runtime.container import read_container
from runtime.job import report_crash
from runtime.launcher import SageMakerRayLauncher

__all__ = ["SageMakerRayLauncher"]


def _report_uncaught(kind, error, trace) -> None:  # type: ignore[no-untyped-def]
    """A script that fails outside of train_main still tells SageMaker why."""
    if isinstance(error, KeyboardInterrupt):
        sys.__excepthook__(kind, error, trace)
        return
    report_crash(error, read_container())


sys.excepthook = _report_uncaught
