"""Writes docs/hyperparameters.md: `python -m runtime.reference.settings_page > docs/hyperparameters.md`."""

from __future__ import annotations

from collections.abc import Mapping

from runtime.families.deepracer.race_settings import RACE, RACE_EVALUATION
from runtime.jobs.catalog import CATALOG, evaluation_settings
from runtime.offline.settings import OfflineNetworkSettings, OfflineSettings
from runtime.ppo.settings import PPONetworkSettings, PPOSettings
from runtime.settings.renamed import OBSOLETE, RENAMED
from runtime.settings.schema import StopCriteria, TrainingSettings
from runtime.settings.types import Setting

_HEAD = """\
# Hyperparameters

Generated from `runtime/*/settings.py` by `python -m runtime.reference.settings_page`; a test keeps the two equal.

As SageMaker hyperparameters, in hyperparameters.json, or as `NAME=VALUE` words of `smrl train`. Stronger last:
defaults, preset, the launcher's experiment config, hyperparameters, command line. `preset` (or `RLCOACH_PRESET`,
`RLRAY_PRESET`) names a preset or a YAML file. Dots may be written `__`, and a whole tree may come as JSON under `rl`.
"""


def page() -> str:
    """The page in Markdown."""
    parts, job = [_HEAD], TrainingSettings.settings()
    parts += _section("Job", "rl.training.", {name: CATALOG.setting_of(name) or rule for name, rule in job.items()})
    parts += _section("Stop criteria: any that is reached ends the job", "rl.training.stop.", StopCriteria.settings())
    parts += _section("PPO", "rl.training.config.", PPOSettings.settings())
    parts.append("\n`rl.training.config.env_config.*` are keyword arguments of the environment.\n")
    parts += _section("Network", "rl.training.config.model.", PPONetworkSettings.settings())
    parts += _section(
        "Learning from logged data (BCQ, DDQN, CQL, TD3+BC, IQL)", "rl.training.config.", OfflineSettings.settings()
    )
    parts += _section("Its network", "rl.training.config.model.", OfflineNetworkSettings.settings())
    parts += ["\nIt stops at `rl.training.stop.training_iteration` or `time_total_s`.\n"]
    evaluation = {name: rule for name, rule in evaluation_settings().items() if name not in RACE_EVALUATION}
    parts += _section("Evaluation (`smrl evaluate`, entrypoints/evaluate.py)", "", evaluation)
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
