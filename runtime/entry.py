"""The jobs that the scripts in `entrypoints/` start, from SageMaker's toolkit or from a shell."""

from __future__ import annotations

from collections.abc import Sequence

from runtime.container.job import run_job
from runtime.container.layout import Container
from runtime.container.signals import LOOKING, StopRequest
from runtime.settings.command_line import parse_settings


def train(argv: Sequence[str]) -> int:
    """Trains; returns the exit code."""

    def work(container: Container, stop: StopRequest) -> None:
        from runtime.jobs.training import Request, run_training  # slow import, during which signals are handled
        from runtime.report.report_command import finish

        finish(run_training(container, stop, Request(_settings(argv, container))))

    return run_job(work, phase=LOOKING)


def evaluate(argv: Sequence[str]) -> int:
    """Evaluates the model of the `model` channel; returns the exit code."""
    from runtime.jobs.evaluation import run_evaluation
    from runtime.report.report_command import finish

    return run_job(lambda container, stop: finish(run_evaluation(container, stop, _settings(argv, container))))


def tune(argv: Sequence[str]) -> int:
    """Runs the container's tuning job; returns the exit code."""
    from runtime.report.report_command import finish
    from runtime.tuning.tuning_job import TuningRequest, run_tuning

    def work(container: Container, stop: StopRequest) -> None:
        settings = _settings(argv, container)
        finish(run_tuning(container, stop, TuningRequest(None, settings, finish_trial=finish)))

    return run_job(work)


def train_deepracer(argv: Sequence[str]) -> int:
    """Runs the DeepRacer notebook's training job; returns the exit code."""
    from runtime.jobs.deepracer_training_worker import run_worker
    from runtime.report.report_command import finish

    return run_job(lambda container, stop: run_worker(container, stop, _settings(argv, container), finish))


def evaluate_deepracer(argv: Sequence[str]) -> int:
    """Runs the DeepRacer notebook's evaluation job; returns the exit code."""
    from runtime.jobs.deepracer_evaluation_worker import run_evaluation_worker

    return run_job(lambda container, stop: run_evaluation_worker(container, stop, _settings(argv, container)))


def _settings(argv: Sequence[str], container: Container) -> dict[str, str]:
    """Returns the command line's settings, without the hyperparameters that the toolkit repeats there."""
    return {} if tuple(argv) == container.user_args else parse_settings(argv)
