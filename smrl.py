"""What notebooks import of smrl: the SageMaker SDK's local mode, with tuning jobs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from runtime.errors import UserError

__all__ = ["local_session"]


def local_session(
    boto_session: Any = None, *, folder: str | Path = "results/local", config: Mapping[str, Any] | None = None
) -> Any:
    """A session of the SageMaker SDK (version 2) whose jobs run in containers on this machine, tuning jobs included.

    It is the SDK's LocalSession, with what that lacks: `HyperparameterTuner.fit()`, whose training jobs are containers
    of the estimator's image and whose objective is read from their logs; and a Ctrl-C that lets a job save. It needs
    Docker with Compose, and no AWS account.

    Args:
        boto_session: A boto3 session, for data on S3; the environment's own if None.
        folder: Where logs go, and results of jobs without an output_path.
        config: Configuration of the SDK's local mode, as `{"local": {"serving_port": 8081}}`.

    Raises:
        UserError: The SDK is missing or of another version, or Optuna is missing.
    """
    try:
        import optuna  # noqa: F401, the search's, and no dependency of the SDK
        from sagemaker import local  # noqa: F401, which the session extends
    except ImportError as error:
        raise UserError(
            f"local_session: got {_installed_sdk()} and no module {error.name}; expected version 2 and Optuna. "
            "pip install 'sagemaker<3' optuna. With version 3, runtime.tuning.sdk.write_tuning_job and smrl tune run "
            "a tuner's job."
        ) from None
    from runtime.local_mode.session import TuningLocalSession

    return TuningLocalSession(boto_session, Path(folder).absolute(), config or {})


def _installed_sdk() -> str:
    for package in ("sagemaker", "sagemaker-train"):
        try:
            return f"the SageMaker SDK {3 if package == 'sagemaker-train' else metadata.version(package)}"
        except metadata.PackageNotFoundError:
            continue
    return "no SageMaker SDK"
