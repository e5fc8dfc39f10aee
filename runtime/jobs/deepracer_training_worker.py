"""The training job of the DeepRacer notebook: its hyperparameters, its files in S3 or in channels, its outputs.

Source of names, defaults and ranges: DeepRacer's simulation application 6.0.5, `M/sagemaker_graph_manager.py`, and the
console's limits.
"""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from envs import DEEPRACER_ID
from envs.deepracer.metadata import MetadataError, read_metadata
from runtime.container.layout import Container, Layout
from runtime.container.scratch import scratch_folder
from runtime.container.signals import StopRequest
from runtime.errors import Problems, suggest
from runtime.families.deepracer.callbacks import RecordSettings
from runtime.families.deepracer.family import DeepRacerFamily
from runtime.families.deepracer.job_files import JobFile
from runtime.families.deepracer.places import PLACES, Places
from runtime.families.deepracer.records import metrics_name
from runtime.families.deepracer.storage import Bucket, Uploads
from runtime.jobs.training import Request, run_training
from runtime.outputs.console import Reporter
from runtime.outputs.result import Finish
from runtime.settings.schema import StopCriteria
from runtime.settings.types import Setting, coerce

_NO_BOUND = 100_000  # the default of both stop criteria, which means no limit
METADATA = "model/model_metadata.json"
REWARD = "customer_reward_function.py"
PARAMS = "training_params.yaml"
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
    "loss_type": (
        Setting("text", "Loss of the value function.", choices=("mean squared error", "huber")),
        "mean squared error",
    ),
    "num_episodes_between_training": (Setting("int", "Episodes of a rollout.", low=1, high=1000), 20),
    "sac_alpha": (Setting("float", "SAC: temperature of the entropy.", low=0, above=True), 0.2),
    "term_cond_max_episodes": (Setting("int", "Episodes in all.", low=1), _NO_BOUND),
    "term_cond_avg_score": (Setting("float", "Mean return at which to stop."), float(_NO_BOUND)),
}
# Accepted without effect, as in the original.
_UNUSED = ("stack_size", "max_sample_count", "sampling_frequency")
# What has no effect on SAC: RLlib's learns after each step, by the Huber loss, and its policy explores by itself.
_OF_PPO = (
    *("num_epochs", "num_episodes_between_training", "beta_entropy", "loss_type"),
    *("exploration_type", "e_greedy_value", "epsilon_steps"),
)
_PLACES = (
    *PLACES,
    *("model_metadata_s3_key", "reward_function_s3_source", "training_params"),
    *("pretrained_s3_bucket", "pretrained_s3_prefix", "pretrained_checkpoint"),
)


def run_worker(container: Container, stop: StopRequest, settings: Mapping[str, Any], finish: Finish) -> None:
    """Runs the notebook's training job, and uploads its files if a bucket is given.

    Args:
        container: The container that the job runs in.
        stop: The stop request.
        settings: Settings of the command line, which override the container's hyperparameters.
        finish: Ends the training as its command does.

    Raises:
        UserError: A hyperparameter or a file is invalid.
        PlatformError: The storage fails.
    """
    asked = {**container.hyperparameters, **settings}
    ours = {name: value for name, value in asked.items() if name.startswith(("rl.", "rl__"))}
    values = read_hyperparameters({name: value for name, value in asked.items() if name not in ours})
    with tempfile.TemporaryDirectory(prefix="deepracer-", dir=scratch_folder()) as scratch:
        places = Places(values, container, Path(scratch))
        job = places.params(values.get("training_params"), PARAMS, is_training=True, stop=stop)
        for note in job.notes:
            Reporter().note(note)
        layout = container.layout or Layout.of_results(Path("results") / f"deepracer-{time.strftime('%Y%m%d-%H%M%S')}")
        folder = layout.deepracer
        uploads = _find_uploads(places, folder, job)
        records = RecordSettings(
            folder,
            best_by=job.values.get("BEST_MODEL_METRIC", "progress"),
            evaluation_trials=job.values.get("MIN_EVAL_TRIALS", 5),
            prints_steps=container.base is not None,
            after=None if uploads is None else uploads.send_if_possible,
        )
        files = _find_files(places, values, job)
        algorithm = _find_algorithm(files)
        if algorithm == "sac" and (unused := [name for name in _OF_PPO if name in asked]):
            Reporter().note(f"{', '.join(unused)}: of no effect, as the metadata's training_algorithm is sac")
        overrides = {**as_overrides(values, job, algorithm=algorithm), **files, **ours}
        bare = dataclasses.replace(container, hyperparameters={})
        results = None if container.base is not None else layout.root
        request = Request(overrides, results=results, family=DeepRacerFamily(records))
        finish(run_training(bare, stop, request))  # before uploads, which may fail
        if uploads is not None:
            uploads.send()
            assert places.bucket is not None
            Uploads(layout.model, {"": (places.bucket, f"{places.prefix}/model/")}).send()


def read_hyperparameters(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Checks and types the hyperparameters, and fills in the defaults.

    Raises:
        UserError: Hyperparameters are unknown, of the wrong type or out of range; all are listed.
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


def as_overrides(values: Mapping[str, Any], job: JobFile, *, algorithm: str = "clipped_ppo") -> dict[str, Any]:
    """Translates the hyperparameters and the job file to `rl.training.*` settings, which override the preset.

    Args:
        values: The hyperparameters.
        job: The job file.
        algorithm: The metadata's training_algorithm.
    """
    is_sac = algorithm == "sac"
    config = _config_of_sac(values) if is_sac else _config_of_ppo(values)
    workers = job.values.get("NUM_WORKERS", 1)
    config["num_env_runners"] = workers if workers > 1 else 0
    target = job.values.get("TARGET_REWARD_SCORE")
    score = values["term_cond_avg_score"] if target is None else target
    episodes = min(values["term_cond_max_episodes"], job.values.get("NUMBER_OF_EPISODES") or _NO_BOUND)
    stop: dict[str, Any] = dict.fromkeys(StopCriteria.settings())  # without the preset's criteria
    stop |= {
        "episode_reward_mean": score if score < _NO_BOUND else None,
        "episodes_total": episodes if episodes < _NO_BOUND else None,
    }
    found = {f"rl.training.config.{name}": value for name, value in config.items()}
    chosen = {"rl.training.env": DEEPRACER_ID, "rl.training.run": "SAC"} if is_sac else {"preset": "deepracer"}
    return {**chosen, **found, **{f"rl.training.stop.{name}": value for name, value in stop.items()}}


def _config_of_sac(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns SAC's settings; the original's temperature is constant."""
    return {
        "train_batch_size": values["batch_size"],
        "actor_lr": values["lr"],
        "critic_lr": values["lr"],
        "alpha_lr": 0.0,
        "initial_alpha": values["sac_alpha"],
        "gamma": values["discount_factor"],
    }


def _config_of_ppo(values: Mapping[str, Any]) -> dict[str, Any]:
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
    return config


def _find_algorithm(files: Mapping[str, Any]) -> str:
    """Returns the training_algorithm of the metadata file; what is wrong with the file is said when it is prepared."""
    path = files.get("rl.training.config.env_config.model_metadata")
    try:
        return "clipped_ppo" if path is None else read_metadata(Path(path)).algorithm
    except MetadataError:
        return "clipped_ppo"


def _find_files(places: Places, values: Mapping[str, Any], job: JobFile) -> dict[str, Any]:
    """Finds the files that the environment's settings name, and the checkpoint to resume from."""
    env: dict[str, Any] = dict(job.race)
    metadata = values.get("model_metadata_s3_key") or job.values.get("MODEL_METADATA_FILE_S3_KEY")
    reward = values.get("reward_function_s3_source") or job.values.get("REWARD_FILE_S3_KEY")
    found = {"model_metadata": places.fetch(metadata, METADATA), "reward_function": places.fetch(reward, REWARD)}
    env |= {name: str(path) for name, path in found.items() if path is not None}
    if "WORLD_NAME" in job.values:
        env["track"] = job.values["WORLD_NAME"]
    overrides: dict[str, Any] = {f"rl.training.config.env_config.{name}": value for name, value in env.items()}
    if prefix := values.get("pretrained_s3_prefix"):
        is_best = values.get("pretrained_checkpoint", "best") == "best"
        begin = places.checkpoint(values.get("pretrained_s3_bucket"), prefix, is_best=is_best, name="pretrained")
        overrides["rl.training.restore"] = str(begin)
    return overrides


def _find_uploads(places: Places, folder: Path, job: JobFile) -> Uploads | None:
    """Finds where to upload the records in S3; None without a bucket."""
    if places.bucket is None:
        return None
    found: dict[str, tuple[Bucket, str]] = {"": (places.bucket, f"{places.prefix}/")}
    metrics, traces = job.values.get("METRICS_S3_OBJECT_KEY"), job.values.get("SIMTRACE_S3_PREFIX")
    if metrics:
        bucket = places.open(job.values.get("METRICS_S3_BUCKET")) or places.bucket
        end = PurePosixPath(metrics).suffix
        keys = [metrics, *(f"{metrics.removesuffix(end)}_{n}{end}" for n in range(1, _MOST_WORKERS))]
        found |= {metrics_name(n): (bucket, key) for n, key in enumerate(keys)}
    if traces:
        bucket = places.open(job.values.get("SIMTRACE_S3_BUCKET")) or places.bucket
        below = ["training-simtrace/", *(f"{n}/training-simtrace/" for n in range(_MOST_WORKERS))]
        found |= {name: (bucket, f"{traces.rstrip('/')}/{name}") for name in below}
    return Uploads(folder, found)
