"""The training job of the DeepRacer notebook: its hyperparameters, its files in S3 or in channels, its outputs.

Source of names, defaults and ranges: DeepRacer's simulation application 6.0.5, `M/sagemaker_graph_manager.py`, and the
console's limits.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.coercion import Setting, coerce
from runtime.console import Reporter
from runtime.container import Container, Layout
from runtime.deepracer.job_files import JobFile, read_job_file
from runtime.deepracer.observer import RecordSettings
from runtime.deepracer.storage import Bucket, Uploads
from runtime.errors import Problems, UserError, suggest
from runtime.schema import STOP
from runtime.stop import StopRequest
from runtime.training import Request, run_training

_NO_BOUND = 100_000  # what the defaults of both stop criteria mean
_PARAMS_COME_WITHIN_S = 1200.0  # a notebook uploads them after it started this job
METADATA, REWARD, PARAMS = "model/model_metadata.json", "customer_reward_function.py", "training_params.yaml"
_MOST_WORKERS = 64

_NUMBERS: dict[str, tuple[Setting, object]] = {
    "batch_size": (Setting("int", "Steps of a minibatch.", low=1, high=4096), 64),
    "num_epochs": (Setting("int", "Passes over a rollout.", low=1, high=100), 10),
    "lr": (Setting("float", "Adam's learning rate.", low=1e-8, high=1e-3), 3e-4),
    "exploration_type": (Setting("text", "How actions are drawn.", choices=("categorical", "e-greedy")), "categorical"),
    "e_greedy_value": (Setting("float", "Least share of uniform actions.", low=0, high=1), 0.05),
    "epsilon_steps": (Setting("int", "Steps until that share.", low=1), 10_000),
    "beta_entropy": (Setting("float", "Weight of the entropy.", low=0, high=1), 0.01),
    "discount_factor": (Setting("float", "Discount per step.", low=0, high=1), 0.999),
    "loss_type": (Setting("text", "Of the values.", choices=("mean squared error", "huber")), "mean squared error"),
    "num_episodes_between_training": (Setting("int", "Episodes of a rollout.", low=1, high=1000), 20),
    "term_cond_max_episodes": (Setting("int", "Episodes in all.", low=1), _NO_BOUND),
    "term_cond_avg_score": (Setting("float", "Mean return at which to stop."), float(_NO_BOUND)),
}
# Taken and without a meaning, as in the original.
_UNUSED = ("stack_size", "max_sample_count", "sampling_frequency", "sac_alpha")
_PLACES = (
    *("s3_bucket", "s3_prefix", "aws_region", "model_metadata_s3_key", "reward_function_s3_source", "training_params"),
    *("pretrained_s3_bucket", "pretrained_s3_prefix", "pretrained_checkpoint"),
)


def run_worker(container: Container, stop: StopRequest, settings: Mapping[str, Any]) -> None:
    """Trains as the notebook's job did, and uploads what it writes if a bucket is given.

    Args:
        container: Where we run.
        stop: The platform's wish to stop.
        settings: Of the command line; they win over the container's hyperparameters.

    Raises:
        UserError: A hyperparameter or a file is at fault.
        PlatformError: The storage is.
    """
    asked = {**container.hyperparameters, **settings}
    ours = {name: value for name, value in asked.items() if name.startswith(("rl.", "rl__"))}
    values = read_hyperparameters({name: value for name, value in asked.items() if name not in ours})
    with tempfile.TemporaryDirectory(prefix="smrl-deepracer-") as scratch:
        files = _Files(values, container, Path(scratch))
        job = files.params(stop)
        for note in job.notes:
            Reporter().note(note)
        layout = container.layout or Layout.of_results(Path("results") / f"deepracer-{time.strftime('%Y%m%d-%H%M%S')}")
        folder = layout.deepracer
        uploads = files.uploads(folder, job)
        records = RecordSettings(
            folder,
            hyperparameters={name: values[name] for name in _NUMBERS},
            best_by=job.values.get("BEST_MODEL_METRIC", "progress"),
            evaluation_trials=job.values.get("MIN_EVAL_TRIALS", 5),
            prints_steps=container.base is not None,
            after=None if uploads is None else uploads.send_if_possible,
        )
        overrides = {**as_overrides(values, job), **files.overrides(job), **ours}
        bare = dataclasses.replace(container, hyperparameters={})
        results = None if container.base is not None else layout.root
        run_training(bare, stop, Request(overrides, results=results, records=records))
        if uploads is not None:
            uploads.send()
        files.upload_model(layout.model)


def read_hyperparameters(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Typed hyperparameters, the defaults filled in.

    Raises:
        UserError: Something is unknown, of the wrong type or out of range; all of it is listed.
    """
    problems = Problems()
    values: dict[str, Any] = {name: default for name, (_, default) in _NUMBERS.items()}
    for name, raw in asked.items():
        if name in _NUMBERS:
            setting = _NUMBERS[name][0]
            try:
                values[name] = coerce(raw.lower() if setting.choices and isinstance(raw, str) else raw, setting)
            except ValueError as error:
                problems.add(name, raw, "the hyperparameters", expected=str(error))
        elif name in _PLACES:
            values[name] = str(raw).strip('"')
        elif name not in _UNUSED:
            known = [*_NUMBERS, *_PLACES]
            problems.add(name, raw, "the hyperparameters", expected="one of DeepRacer's", remedy=suggest(name, known))
    if values.get("pretrained_checkpoint", "best") not in ("best", "last"):
        problems.add(
            "pretrained_checkpoint", values["pretrained_checkpoint"], "the hyperparameters", expected="best or last"
        )
    problems.raise_if_any()
    return values


def as_overrides(values: Mapping[str, Any], job: JobFile) -> dict[str, Any]:
    """Hyperparameters and job file under our own names, on top of the preset."""
    config = {
        "minibatch_size": values["batch_size"],
        "num_epochs": values["num_epochs"],
        "lr": values["lr"],
        "gamma": values["discount_factor"],
        "entropy_coeff": values["beta_entropy"],
        "vf_loss": "huber" if values["loss_type"] == "huber" else "mse",
        "episodes_per_iteration": values["num_episodes_between_training"],
    }
    if values["exploration_type"] == "e-greedy":
        config |= {"epsilon_greedy": values["e_greedy_value"], "epsilon_steps": values["epsilon_steps"]}
    workers = job.values.get("NUM_WORKERS", 1)
    config["num_env_runners"] = workers if workers > 1 else 0
    target = job.values.get("TARGET_REWARD_SCORE")
    score = values["term_cond_avg_score"] if target is None else target
    episodes = min(values["term_cond_max_episodes"], job.values.get("NUMBER_OF_EPISODES") or _NO_BOUND)
    stop: dict[str, Any] = dict.fromkeys(STOP)  # the preset's own criteria are no notebook's
    stop |= {
        "episode_reward_mean": score if score < _NO_BOUND else None,
        "episodes_total": episodes if episodes < _NO_BOUND else None,
    }
    found = {f"rl.training.config.{name}": value for name, value in config.items()}
    return {"preset": "deepracer", **found, **{f"rl.training.stop.{name}": value for name, value in stop.items()}}


class _Files:
    """The job's files: in the bucket by their keys, else in channels, beside the code, or by their paths."""

    def __init__(self, values: Mapping[str, Any], container: Container, scratch: Path) -> None:
        self._values, self._container, self._scratch = values, container, scratch
        self._bucket = self._open(values.get("s3_bucket"))
        self._prefix = values.get("s3_prefix", "").strip("/") or "sagemaker"

    def _open(self, name: str | None) -> Bucket | None:
        if not name:
            return None
        return Bucket(name, endpoint=self._container.s3_endpoint, region=self._values.get("aws_region"))

    def params(self, stop: StopRequest) -> JobFile:
        """training_params.yaml; a job without one is a time trial on the default track."""
        key = self._values.get("training_params", f"{self._prefix}/{PARAMS}" if self._bucket else PARAMS)
        if self._bucket is not None:
            if not self._bucket.wait_for(key, longest_s=_PARAMS_COME_WITHIN_S, stop=stop):
                raise UserError(
                    f"s3://{self._bucket.name}/{key}: got no such file in {_PARAMS_COME_WITHIN_S:g} s; upload it, as "
                    "the notebook does after it has started this job."
                )
            path = self._scratch / PARAMS
            self._bucket.download(key, path)
        else:
            found = self._find(key)
            if found is None and "training_params" in self._values:
                raise UserError(f"training_params: got {key!r}; expected a file, in a channel or beside the code.")
            if found is None:
                return JobFile({}, {}, ())
            path = found
        return read_job_file(path, is_training=True)

    def _find(self, name: str) -> Path | None:
        """A local file: as named, in a channel, or beside the code."""
        folders = [Path(), *self._container.channels.values()]
        if self._container.base is not None:
            folders.append(self._container.base / "code")
        for folder in folders:
            if (path := folder / name).is_file():
                return path.resolve()
        return None

    def overrides(self, job: JobFile) -> dict[str, Any]:
        """Settings of the environment, and what to go on from."""
        env: dict[str, Any] = dict(job.race)
        metadata = self._fetch("model_metadata_s3_key", job.values.get("MODEL_METADATA_FILE_S3_KEY"), METADATA)
        reward = self._fetch("reward_function_s3_source", job.values.get("REWARD_FILE_S3_KEY"), REWARD)
        found = {"model_metadata": metadata, "reward_function": reward}
        env |= {name: str(path) for name, path in found.items() if path is not None}
        if "WORLD_NAME" in job.values:
            env["track"] = job.values["WORLD_NAME"]
        overrides: dict[str, Any] = {f"rl.training.config.env_config.{name}": value for name, value in env.items()}
        if self._values.get("pretrained_s3_prefix"):
            overrides["rl.training.restore"] = str(self._pretrained())
        return overrides

    def _fetch(self, name: str, of_job: str | None, usual: str) -> Path | None:
        """A file by the key that a hyperparameter or the job file names, else by its usual name."""
        key = self._values.get(name) or of_job
        if self._bucket is None:
            found = self._find(key or Path(usual).name) or (None if key else self._find(usual))
            if key and found is None:
                raise UserError(f"{name}: got {key!r}; expected a file, in a channel or beside the code.")
            return found
        usual_key = f"{self._prefix}/{usual}"
        key = key or (usual_key if self._bucket.has(usual_key) else None)
        if key is None:
            return None
        path = self._scratch / Path(usual).name
        self._bucket.download(key, path)
        return path

    def _pretrained(self) -> Path:
        name, prefix = self._values.get("pretrained_s3_bucket"), self._values["pretrained_s3_prefix"].strip("/")
        bucket = self._open(name) or self._bucket
        which = "best" if self._values.get("pretrained_checkpoint", "best") == "best" else "checkpoint"
        if bucket is None:
            return Path(prefix)
        target = self._scratch / "pretrained"
        for choice in dict.fromkeys((which, "checkpoint")):
            if bucket.download_tree(f"{prefix}/model/{choice}", target):
                return target
        raise UserError(
            f"s3://{bucket.name}/{prefix}/model: got no checkpoint of this program; expected one, as a training job "
            "uploads it. Checkpoints of the original simulator cannot be read."
        )

    def uploads(self, folder: Path, job: JobFile) -> Uploads | None:
        """Where the records go in S3, None without a bucket."""
        if self._bucket is None:
            return None
        places: dict[str, tuple[Bucket, str]] = {"": (self._bucket, f"{self._prefix}/")}
        metrics, traces = job.values.get("METRICS_S3_OBJECT_KEY"), job.values.get("SIMTRACE_S3_PREFIX")
        if metrics:
            places["training_metrics.json"] = (self._open(job.values.get("METRICS_S3_BUCKET")) or self._bucket, metrics)
        if traces:
            bucket = self._open(job.values.get("SIMTRACE_S3_BUCKET")) or self._bucket
            below = ["training-simtrace/", *(f"{n}/training-simtrace/" for n in range(_MOST_WORKERS))]
            places |= {name: (bucket, f"{traces.rstrip('/')}/{name}") for name in below}
        return Uploads(folder, places)

    def upload_model(self, folder: Path) -> None:
        """The model directory with its checkpoints, below {prefix}/model."""
        if self._bucket is not None:
            Uploads(folder, {"": (self._bucket, f"{self._prefix}/model/")}).send()
