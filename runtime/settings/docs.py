"""The page of all hyperparameters, from the schema: `python -m runtime.settings.docs > docs/hyperparameters.md`."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.settings.renamed import OBSOLETE, RENAMED
from runtime.settings.schema import (
    EVALUATION,
    MODEL,
    OFFLINE,
    OFFLINE_MODEL,
    PPO,
    RACE,
    RACE_EVALUATION,
    STOP,
    TRAINING,
)
from runtime.settings.types import Setting

_HEAD = """\
# Hyperparameters

Generated from `runtime/settings/schema.py` by `python -m runtime.settings.docs`; a test keeps the two equal.

As SageMaker hyperparameters, in hyperparameters.json, or as `NAME=VALUE` words of `smrl train`. Stronger last:
defaults, preset, the launcher's experiment config, hyperparameters, command line. `preset` (or `RLCOACH_PRESET`,
`RLRAY_PRESET`) names a preset or a YAML file. Dots may be written `__`, and a whole tree may come as JSON under `rl`.
"""


def page() -> str:
    """The page in Markdown."""
    parts = [_HEAD]
    parts += _section("Job", "rl.training.", TRAINING)
    parts += _section("Stop criteria: any that is reached ends the job", "rl.training.stop.", STOP)
    parts += _section("PPO", "rl.training.config.", PPO)
    parts.append("\n`rl.training.config.env_config.*` are keyword arguments of the environment.\n")
    parts += _section("Network", "rl.training.config.model.", MODEL)
    parts += _section("Learning from logged data (BCQ, DDQN, CQL, TD3+BC, IQL)", "rl.training.config.", OFFLINE)
    parts += _section("Its network", "rl.training.config.model.", OFFLINE_MODEL)
    parts += ["\nIt stops at `rl.training.stop.training_iteration` or `time_total_s`.\n"]
    parts += _section("Evaluation (`smrl evaluate`, entrypoints/evaluate.py)", "", EVALUATION)
    title = "DeepRacer races: below `rl.training.config.env_config.` in training, as they are in `smrl evaluate`"
    parts += _section(title, "", RACE)
    others = {name: setting for name, setting in RACE_EVALUATION.items() if name not in RACE}
    parts += _section("An evaluation of a DeepRacer policy takes besides", "", others)
    parts += ["\n## Names of 2020\n", "| then | now |", "|---|---|"]
    parts += [f"| `{old}` | `{new}` |" for old, new in RENAMED.items()]
    parts += ["| `config.monitor` | `video_freq` (false is 0) |"]
    parts += ["\n## Names with no meaning today\n", "Refused as hyperparameters, noted in a launcher's script.\n"]
    parts += ["| name | why |", "|---|---|"]
    parts += [f"| `{name}` | {reason} |" for name, reason in OBSOLETE.items()]
    return "\n".join(parts) + "\n"


def _section(title: str, prefix: str, settings: Mapping[str, Setting]) -> list[str]:
    rows = [f"| `{prefix}{name}` | {setting.rule} | {setting.doc} |" for name, setting in settings.items()]
    return [f"\n## {title}\n", "| name | value | what it does |", "|---|---|---|", *rows]


if __name__ == "__main__":
    print(page(), end="")
