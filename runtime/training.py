"""The training job from end to end: what to train, where to go on from, and what to hand over."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.checkpoint import find_checkpoint
from runtime.console import Reporter, Summary, make_reporter
from runtime.container import Container, Layout
from runtime.environments import EnvCreator, EnvSpec, check_env_name
from runtime.errors import Problems, UserError
from runtime.hyperparameters import JobConfig, Source, resolve
from runtime.stop import StopRequest

_CHANNELS = ("checkpoint", "model")

SaveModel = Callable[[Callable[[], None], JobConfig], None]


@dataclass(frozen=True)
class Request:
    """A training as it was asked for.

    Attributes:
        overrides: From the command line, by dotted name.
        results: Results folder on a laptop; None for a new one under `results/`.
        experiment: A launcher's nested experiment config, or None.
        find_creator: Finds a launcher's environment creator by name; None finds none.
        ray_options: A launcher's arguments of ray.init.
    """

    overrides: Mapping[str, Any]
    results: Path | None = None
    experiment: Mapping[str, Any] | None = None
    find_creator: Callable[[str], EnvCreator | None] = lambda name: None
    ray_options: Mapping[str, Any] | None = None


def run_training(
    container: Container, stop_request: StopRequest, request: Request, *, save_model: SaveModel | None = None
) -> None:
    """Trains a policy and writes everything about it.

    Args:
        container: Where we run.
        stop_request: The platform's wish to stop.
        request: What to train.
        save_model: A launcher's hook; it is given the function that writes the model directory.

    Raises:
        UserError: The settings, the environment or a checkpoint are at fault.
        PlatformError: The machine is.
    """
    if not container.is_master:
        raise UserError(
            f"{container.current_host}: got {len(container.hosts)} hosts; expected one. Training on several hosts "
            "is not available yet; set instance_count to 1."
        )
    started = time.perf_counter()
    config = resolve_config(container, request)
    layout = container.layout or Layout.of_results(request.results or _new_results_folder(config))
    resume_from = _find_resume(config, container, layout)
    reporter = make_reporter(f"smrl train {config.preset or config.env}", config.stop)
    try:
        for note in config.notes:
            reporter.note(note)
        outcome = _train(config, container, (layout, resume_from), (reporter, stop_request), request)
        _hand_over(config, layout, outcome, save_model)
        reporter.finish(_summarise(config, layout, outcome, time.perf_counter() - started))
    finally:
        reporter.close()


def resolve_config(container: Container, request: Request) -> JobConfig:
    """The job's settings, its environment's name checked, its seed drawn where none was set."""
    sources = [Source(container.hyperparameters_source, container.hyperparameters)]
    if request.experiment is not None:
        sources.insert(0, Source("get_experiment_config()", {"rl": request.experiment}, is_old_script=True))
    sources.append(Source("the command line", request.overrides))

    def check_env(where: str, name: str, source: str, problems: Problems) -> None:
        if request.find_creator(name) is None:
            check_env_name(where, name, source, problems)

    is_script = request.experiment is not None
    config = resolve(sources, extras=None if is_script else {}, default_preset=not is_script, check_env=check_env)
    if config.ppo.get("seed") is None:
        seeded = {**config.values, "config.seed": secrets.randbelow(2**31)}
        config = replace(config, values=seeded, sources={**config.sources, "config.seed": "drawn for this run"})
    return config


def _train(
    config: JobConfig,
    container: Container,
    places: tuple[Layout, Path | None],
    listeners: tuple[Reporter, StopRequest],
    request: Request,
) -> Any:
    from runtime.ray_session import prepare_environment, ray_session

    prepare_environment()
    from runtime.ppo.loop import TrainingJob, train

    creator = request.find_creator(config.env)
    env = EnvSpec(config.env, config.env_config, config.ppo.get("horizon"), creator)
    job = TrainingJob(config, env, *places, num_cpus=container.num_cpus, num_gpus=container.num_gpus)
    reporter, stop_request = listeners
    with ray_session(num_cpus=container.num_cpus, num_gpus=container.num_gpus, overrides=request.ray_options):
        stop_request.arm()
        return train(job, reporter, stop_request)


def _find_resume(config: JobConfig, container: Container, layout: Layout) -> Path | None:
    """Where to go on from: this job's own checkpoints first, then what it was told to restore, then channels."""
    own = find_checkpoint(layout.checkpoints)
    if own is not None:
        return own
    if (restore := config.values.get("restore")) is not None:
        source = config.sources["restore"]
        found = find_checkpoint(Path(restore))
        if found is None:
            raise UserError(
                f"rl.training.restore: got {restore!r} from {source}; expected a folder that holds a checkpoint."
            )
        return found
    for name in _CHANNELS:
        if name in container.channels:
            return _from_channel(name, container.channels[name])
    return None


def _from_channel(name: str, folder: Path) -> Path:
    found = find_checkpoint(folder)
    if found is None:
        archive = next(iter(sorted(folder.glob("*.tar.gz"))), None) if folder.is_dir() else None
        hint = f" Unpack {archive.name} into the channel." if archive else " Leave the channel out to start afresh."
        what = "nothing" if not folder.is_dir() or not any(folder.iterdir()) else "files but no checkpoint"
        raise UserError(f"channel {name}: got {what} in {folder}; expected a checkpoint to go on from.{hint}")
    return found


def _new_results_folder(config: JobConfig) -> Path:
    name = config.preset or config.env
    stem = Path(name).stem.replace(":", "-")
    return Path("results") / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}"


def _hand_over(config: JobConfig, layout: Layout, outcome: Any, save_model: SaveModel | None) -> None:
    from runtime.model import write_model
    from runtime.plot import FILE, plot_learning_curve

    plot_learning_curve(
        layout.data / FILE,
        outcome.state.rows,
        title=f"{config.preset or config.env} ({config.env}, PPO)",
        goal=config.stop.get("episode_reward_mean"),
    )

    def write() -> None:
        write_model(layout.model, outcome.checkpoint, config, spaces=outcome.spaces)

    if save_model is None:
        write()
    else:
        save_model(write, config)


def _summarise(config: JobConfig, layout: Layout, outcome: Any, wall_s: float) -> Summary:
    from runtime.plot import FILE

    state = outcome.state
    facts = {
        "mean return": "no episode has ended"
        if state.episode_reward_mean is None
        else f"{state.episode_reward_mean:.2f}",
        "ended because": outcome.why,
        "steps": f"{state.timesteps_total:,} in {state.training_iteration} iterations",
        "seconds": f"{state.time_total_s:.1f} of training, {wall_s:.1f} in all",
        "metrics": str(layout.data / "metrics.jsonl"),
        "curve": str(layout.data / FILE) if (layout.data / FILE).exists() else "none: no episode has ended",
        "TensorBoard": str(layout.data / "tensorboard"),
        "video": str(outcome.last_video) if outcome.last_video else "none",
        "checkpoints": str(layout.checkpoints),
        "model": str(layout.model),
    }
    return Summary(f"trained {config.env}", facts, f"smrl evaluate {layout.root}")
