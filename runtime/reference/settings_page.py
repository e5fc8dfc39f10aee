"""Writes docs/hyperparameters.md: `python -m runtime.reference.settings_page > docs/hyperparameters.md`."""

from __future__ import annotations

import json
from collections.abc import Mapping

from runtime.families.deepracer.race_settings import RACE, RACE_EVALUATION
from runtime.jobs.catalog import CATALOG, evaluation_settings
from runtime.offline.settings import OfflineNetworkSettings, OfflineSettings
from runtime.ppo.settings import PPONetworkSettings, PPOSettings
from runtime.rllib.algorithm import ALGORITHMS
from runtime.rllib.settings import ActorCriticSettings, RLlibSettings
from runtime.settings.renamed import ALGORITHMS_GONE, ALGORITHMS_OF_2020, OBSOLETE, RENAMED
from runtime.settings.schema import SettingsModel, StopCriteria, TrainingSettings
from runtime.settings.types import Setting

_HEAD = """\
# Hyperparameters

Generated from `runtime/*/settings.py` by `python -m runtime.reference.settings_page`; a test keeps the two equal.

Set them as SageMaker hyperparameters, in hyperparameters.json, or as `NAME=VALUE` words of `smrl train`. Later sources
override earlier ones: defaults, preset, a launcher's experiment config, hyperparameters, command line. `preset` (or
`RLCOACH_PRESET`, `RLRAY_PRESET`) names a preset or a YAML file. Dots may be written as `__`, and a tree may be given
as JSON under `rl`. The end of a name is enough where it is the end of one setting's alone: `lr`, `time_total_s`,
`model.fcnet_hiddens`, `env_config.track`.
"""


def page() -> str:
    """Renders the page in Markdown."""
    parts = [_HEAD]
    job = TrainingSettings.settings()
    parts += _section("Job", "rl.training.", {name: CATALOG.setting_of(name) or rule for name, rule in job.items()})
    parts += _section("Stop criteria: any that is reached ends the job", "rl.training.stop.", StopCriteria.settings())
    parts += _section("PPO", "rl.training.config.", PPOSettings.settings())
    parts.append("\n`rl.training.config.env_config.*` are keyword arguments of the environment.\n")
    parts += _section("Network", "rl.training.config.model.", PPONetworkSettings.settings())
    for algorithm in ALGORITHMS:
        parts += _own_settings(algorithm.name, algorithm.settings)
    parts += _section(
        "Learning from logged data (BCQ, DDQN, CQL, TD3+BC, IQL, BC, MARWIL)",
        "rl.training.config.",
        OfflineSettings.settings(),
    )
    parts += _section(
        "Network for learning from logged data", "rl.training.config.model.", OfflineNetworkSettings.settings()
    )
    parts += ["\nLearning from logged data stops at `rl.training.stop.training_iteration` or `time_total_s`.\n"]
    evaluation = {name: rule for name, rule in evaluation_settings().items() if name not in RACE_EVALUATION}
    parts += _section("Evaluation (`smrl evaluate`, entrypoints/evaluate.py)", "", evaluation)
    title = "DeepRacer races (prefix `rl.training.config.env_config.` in training, none in `smrl evaluate`)"
    parts += _section(title, "", RACE)
    others = {name: setting for name, setting in RACE_EVALUATION.items() if name not in RACE}
    parts += _section("Further settings of a DeepRacer evaluation", "", others)
    parts += ["\n## Names of 2020\n", "| old name | new name |", "|---|---|"]
    parts += [f"| `{old}` | `{new}` |" for old, new in RENAMED.items()]
    parts += ["| `config.monitor` | `video_freq` (false is 0) |"]
    parts += ["\n## Algorithms of 2020\n", "| old name | `rl.training.run` today |", "|---|---|"]
    parts += [f"| `{old}` | `{new}`, {why} |" for old, (new, why) in ALGORITHMS_OF_2020.items()]
    parts += [f"| `{old}` | refused: expected {remedy} |" for old, remedy in ALGORITHMS_GONE.items()]
    parts += [
        "\n## Names with no meaning today\n",
        "Refused as hyperparameters; ignored with a note in a launcher's script.\n",
    ]
    parts += ["| name | why |", "|---|---|"]
    parts += [f"| `{name}` | {reason} |" for name, reason in OBSOLETE.items()]
    return "\n".join(parts) + "\n"


def _own_settings(name: str, settings: type[RLlibSettings]) -> list[str]:
    """A table of an algorithm's settings that PPO does not have as well, or has with another default."""
    general, network = RLlibSettings(), ActorCriticSettings()
    rows = _own_rows("", settings(), general) + _own_rows("model.", settings().model, network)
    left_out = sorted(set(type(network).settings()) - set(settings.network().settings()))
    without = f" without {', '.join(f'`{name}`' for name in left_out)}" if left_out else ""
    return [
        f"\n## {name}\n",
        "Beside these it takes the settings from `gamma` to `metrics_num_episodes_for_smoothing` of PPO's table, and "
        f"the network's from `fcnet_hiddens` to `vf_share_layers`{without}.\n",
        "| name | value | default | what it does |",
        "|---|---|---|---|",
        *rows,
    ]


def _own_rows(prefix: str, own: SettingsModel, shared: SettingsModel) -> list[str]:
    absent = object()
    return [
        f"| `rl.training.config.{prefix}{name}` | {setting.rule} | `{json.dumps(getattr(own, name))}` | {setting.doc} |"
        for name, setting in type(own).settings().items()
        if getattr(own, name) != getattr(shared, name, absent)
    ]


def _section(title: str, prefix: str, settings: Mapping[str, Setting]) -> list[str]:
    rows = [f"| `{prefix}{name}` | {setting.rule} | {setting.doc} |" for name, setting in settings.items()]
    return [f"\n## {title}\n", "| name | value | what it does |", "|---|---|---|", *rows]


if __name__ == "__main__":
    print(page(), end="")
