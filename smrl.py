"""smrl from Python: training, evaluating, acting with a policy, judging one from a log, and the SDK's local mode."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.errors import UserError

if TYPE_CHECKING:
    import pandas
    from numpy.typing import NDArray

    from runtime.offline import PolicyEvaluation
    from runtime.policies.acting import ActingPolicy

__all__ = ["evaluate", "evaluate_policy", "load", "local_session", "read", "train"]


def train(
    env: str | None = None,
    settings: Mapping[str, Any] | None = None,
    *,
    preset: str | Path | None = None,
    out: str | Path | None = None,
    quiet: bool = False,
) -> Path:
    """Trains a policy in this process, as `smrl train` does; interrupting it saves first.

    Call it from the main thread, which a notebook's cells run in.

    Args:
        env: Gymnasium id or `module:Class`; None for the preset's.
        settings: Settings by their names on the command line, as `{"rl.training.stop.time_total_s": 60}`.
        preset: Name of a preset, or path of a YAML file.
        out: Results folder, whose job is resumed if it holds one; None for a new one under `results/`.
        quiet: Whether only the last screen is printed, without the metrics of each iteration.

    Returns:
        The results folder, for `evaluate`, `load` and `read`.

    Raises:
        UserError: A setting or the environment is invalid.
        PlatformError: A file could not be written, or the machine failed.
    """
    from runtime.container.layout import read_container
    from runtime.container.signals import LOOKING, StopRequest

    overrides = dict(settings or {})
    if env is not None:
        overrides["rl.training.env"] = env
    if preset is not None:
        overrides["preset"] = str(preset)
    stop = StopRequest(LOOKING)
    try:
        from runtime.jobs.training import Request, run_training
        from runtime.outputs.lines import QuietReporter
        from runtime.report.report_command import finish

        folder, reporter = None if out is None else Path(out), QuietReporter() if quiet else None
        request = Request(overrides, source="smrl.train", results=folder, reporter=reporter)
        result = run_training(read_container(), stop, request)
        finish(result)
    finally:
        stop.release()
    if result is None or result.layout is None:
        raise UserError("smrl.train: got a host that does not train; expected the head node of the job.")
    return result.layout.root


def evaluate(
    model: str | Path, settings: Mapping[str, Any] | None = None, *, out: str | Path | None = None
) -> dict[str, Any]:
    """Evaluates a trained policy, as `smrl evaluate` does.

    Args:
        model: Results folder, model directory, checkpoint or model.tar.gz.
        settings: Settings by their names on the command line, as `{"evaluate_episodes": 20}`.
        out: Folder for evaluation.json and the video; None for `evaluation/` beside the model.

    Returns:
        What evaluation.json holds.

    Raises:
        UserError: A setting, the model or the environment is invalid.
        PlatformError: A file could not be written.
    """
    from runtime.container.layout import read_container
    from runtime.container.signals import StopRequest

    stop = StopRequest()
    try:
        from runtime.jobs.evaluation import run_evaluation
        from runtime.report.report_command import finish

        folder = None if out is None else Path(out)
        result = run_evaluation(read_container(), stop, settings or {}, model=Path(model), out=folder)
        finish(result)
    finally:
        stop.release()
    report: dict[str, Any] = json.loads(Path(result.summary.facts["results"]).read_text(encoding="utf-8"))
    return report


def evaluate_policy(
    policy: str | Path | Callable[[NDArray[Any]], NDArray[Any]], log: str | Path, **settings: Any
) -> PolicyEvaluation:
    """Estimates the return of a policy from a log of another one, without an environment, as `smrl ope` does.

    Args:
        policy: Results folder, model directory, model.tar.gz, ONNX file, RLlib's checkpoint, or d3rlpy's .d3 file; or
            a function that returns (B, A) action probabilities at (B, O) observations.
        log: CSV, Parquet, HDF5, a Minari dataset's folder, or RLlib's output.
        settings: `gamma`, `horizon`, `temperature`, `epsilon`, `estimate_behavior` and `seed`, as
            `runtime.offline.evaluate_policy` describes them.

    Returns:
        Every estimate with its 95 % interval, and what they rest on.

    Raises:
        UserError: A setting, the policy or the log is invalid, or they have other spaces; all problems are listed.
    """
    from runtime.cluster.session import prepare_environment

    prepare_environment()
    from runtime.offline.evaluation import evaluate_policy as evaluate_on_log

    return evaluate_on_log(policy, log, **settings)


def load(model: str | Path, *, checkpoint: str = "checkpoint") -> ActingPolicy:
    """Loads a trained policy, to act deterministically: `smrl.load(folder).act(observation)`.

    Args:
        model: Results folder or model directory.
        checkpoint: `checkpoint` for the final one, `best` for the best.

    Returns:
        The policy. `act` takes one observation as the environment returns it, Dict, Tuple and Discrete ones flattened
        as by gymnasium.spaces.flatten, and returns an action in the environment's units. A Dict with an action mask and
        one other entry is taken as it is. `reset` starts an episode.

    Raises:
        UserError: The folder holds no such checkpoint.
    """
    from runtime.jobs.loading import load_policy

    return load_policy(Path(model), checkpoint)


def read(results: str | Path) -> pandas.DataFrame:
    """Reads the metrics of a training, which may still run.

    Args:
        results: Results folder.

    Returns:
        A row per iteration with the columns of metrics.jsonl; its index is `training_iteration`.

    Raises:
        UserError: The folder holds no metrics.
    """
    import pandas

    from runtime.outputs.metrics import JSONL, read_rows

    rows = read_rows(Path(results) / JSONL)
    if not rows:
        raise UserError(
            f"smrl.read: got {str(results)!r}, which holds no row of {JSONL}; expected a training's results folder."
        )
    return pandas.DataFrame(rows).set_index("training_iteration")


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


if __name__ == "__main__":
    from runtime.cli import command

    command()
