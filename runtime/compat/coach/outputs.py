"""What Coach's notebooks read after a training: its CSV of episodes, its log lines, its GIFs and its checkpoint."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from runtime.artifacts.checkpoint import JobState, find_checkpoint
from runtime.container.layout import Layout
from runtime.environments.spec import EnvCreator, EnvSpec
from runtime.errors import PlatformError
from runtime.families.plain.family import PlainFamily
from runtime.files import writing_aside
from runtime.interfaces.context import RunContext
from runtime.interfaces.family import AfterIteration, PreparedEnv
from runtime.outputs.console import Reporter
from runtime.outputs.metrics import JSONL, read_rows
from runtime.outputs.video import as_gif
from runtime.settings.schema import JobConfig

CSV = "worker_0.simple_rl_graph.main_level.main_level.agent_0.csv"
GIFS = "gifs"
CHECKPOINT = "checkpoint"
# The text file that evaluation scripts change the paths in, of TensorFlow's checkpoints.
_INDEX = "checkpoint"
_COLUMNS = ("Episode #", "Training Iter", "Episode Length", "Total steps", "Training Reward")


@dataclass(frozen=True)
class CoachFamily(PlainFamily):
    """The family of a preset's environment, which also writes Coach's CSV and log lines.

    Attributes:
        reward_scale: Factor on the rewards that are learned from.
    """

    reward_scale: float = 1.0

    def describe_env(self, prepared: PreparedEnv, creator: EnvCreator | None, layout: Layout) -> EnvSpec:
        """Describes the environment, with the factor on rewards."""
        return replace(super().describe_env(prepared, creator, layout), reward_scale=self.reward_scale)

    def callbacks(self, config: JobConfig, env: EnvSpec, context: RunContext) -> AfterIteration | None:
        """Returns the callback that writes the episodes of each iteration."""
        log = EpisodeLog(context.layout.intermediate / CSV)

        def after_iteration(algorithm: Any, result: Mapping[str, Any], state: JobState) -> Mapping[str, float]:
            from runtime.rllib.results import finished_episodes  # imports RLlib

            steps = int(result["num_env_steps_sampled_lifetime"])
            for line in log.add(finished_episodes(result), state, steps=steps):
                context.reporter.log(line)
            return {}

        return after_iteration


class EpisodeLog:
    """Appends a row for each episode to Coach's CSV, which SageMaker uploads whenever it is closed.

    Args:
        path: The file; rows of a job that this one resumes are kept, up to its checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_begun = False

    def add(self, episodes: Sequence[tuple[float, int]], state: JobState, *, steps: int) -> Iterable[str]:
        """Adds the episodes of an iteration.

        Args:
            episodes: Return and length of each.
            state: The job's counters, with these episodes.
            steps: Environment steps of the job.

        Returns:
            Coach's log line for each.
        """
        first = state.episodes_total - len(episodes) + 1
        rows, lines = [], []
        for number, (episode_return, length) in enumerate(episodes, start=first):
            rows.append((number, state.training_iteration, length, steps, episode_return))
            lines.append(
                f"Training> Name=main_level/agent, Worker=0, Episode={number}, Total reward={episode_return:g}, "
                f"Steps={steps}, Training iteration={state.training_iteration}"
            )
        earlier = [] if self._has_begun else [_COLUMNS, *_rows_before(first, self._path)]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a" if self._has_begun else "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([*earlier, *rows])
        self._has_begun = True
        return lines


def _rows_before(first: int, path: Path) -> list[list[str]]:
    """Returns the rows of a CSV with the episodes before a number; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [row for row in rows if row and row[0].isdecimal() and int(row[0]) < first]


def write_gifs(layout: Layout, reporter: Reporter) -> None:
    """Writes a GIF of every video, with the number of its last episode in its name, as notebooks sort by it.

    One that cannot be written is a note, as the model is there.
    """
    episodes = {row["training_iteration"]: row["episodes_total"] for row in read_rows(layout.data / JSONL)}
    for video in sorted(layout.videos.glob("*.mp4")):
        _, _, number = video.stem.rpartition("-")
        at = int(number) if number.isdecimal() else max(episodes, default=0)
        target = layout.intermediate / GIFS / f"{video.stem}_episode-{int(episodes.get(at, 0))}_.gif"
        try:
            pixels, _ = as_gif(video)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(pixels)
        except (OSError, ValueError) as error:
            reporter.note(f"no {target.name}: {error}")


def copy_checkpoint(layout: Layout) -> None:
    """Copies the final checkpoint to where notebooks look for it, with the index file that their scripts open.

    Raises:
        PlatformError: The disk is full.
    """
    found = find_checkpoint(layout.model)
    if found is None:
        return
    target = layout.data / CHECKPOINT
    try:
        with writing_aside(target) as aside:
            shutil.copytree(found, aside)
            (aside / _INDEX).write_text('model_checkpoint_path: "."\n', encoding="utf-8")
    except OSError as error:
        raise PlatformError(f"{target}: could not be written: {error.strerror or error}. The model is whole.") from None
