"""From hyperparameters to one checked, frozen config, each value with its source.

Sources, weakest first: defaults, preset, the launcher's experiment config, hyperparameters.json, command line.
Pure: reads no file but the preset's, and imports nothing heavy, so that a wrong name is answered at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import Problems, UserError, suggest
from runtime.settings.presets import DEFAULT_PRESET, load_preset, preset_of_env
from runtime.settings.renamed import PRESETS_OF_2020, is_data, is_harmless, translate, why_obsolete
from runtime.settings.rules import check_together
from runtime.settings.schema import (
    ANY_ENVIRONMENT,
    ANY_LOG,
    ANY_SCENE,
    DEFAULTS,
    OFFLINE_ALGORITHMS,
    known_paths,
    setting_of,
)
from runtime.settings.types import Setting, coerce, parse_text

DRAWN_SEED = "drawn for this run"  # the source of a seed that nobody set
_PRESET_KEYS = ("preset", "RLCOACH_PRESET", "RLRAY_PRESET")
_ROOT = "rl.training."
_FREE_TREES = ("config.env_config",)
_SCENE = "Unity-v0"  # envs.UNITY_ID; importing that would import Gymnasium

# Where the name stands, the name, its source, and where to note that there is no such environment.
EnvCheck = Callable[[str, str, str, Problems], None]
# The values, their sources, and where to note what the machine has no room for.
SizeCheck = Callable[[Mapping[str, Any], Mapping[str, str], Problems], None]


@dataclass(frozen=True)
class Source:
    """Hyperparameters from one place.

    Attributes:
        name: For messages, as "hyperparameters.json".
        values: Dotted names, `rl__training__…` names, or trees, to raw values.
        is_old_script: From a launcher subclass: what means nothing today is noted, not refused.
    """

    name: str
    values: Mapping[str, Any]
    is_old_script: bool = False


@dataclass(frozen=True)
class JobConfig:
    """A job's resolved settings.

    Attributes:
        preset: Name of the preset, or None for a launcher that brought its own settings.
        values: Path below rl.training to value; env_config is one nested mapping.
        sources: Path to the name of the source that set it; of env_config also of each setting in it.
        notes: What was renamed or dropped, one line each, for the log.
        extras: Hyperparameters that are not `rl.…`, for the job or the user's script.
    """

    preset: str | None
    values: Mapping[str, Any]
    sources: Mapping[str, str]
    notes: tuple[str, ...] = ()
    extras: Mapping[str, Any] = field(default_factory=dict)

    @property
    def env(self) -> str:
        """Name of the environment; empty where a log without one is learned from."""
        return str(self.values.get("env") or "")

    @property
    def is_offline(self) -> bool:
        """Whether the job learns from logged data."""
        return self.values["run"] in OFFLINE_ALGORITHMS

    @property
    def stop(self) -> dict[str, float]:
        """Stop criteria; any reached stops."""
        return self._below("stop.")

    @property
    def algorithm(self) -> dict[str, Any]:
        """The algorithm's settings without the model's and the environment's."""
        below = self._below("config.")
        return {k: v for k, v in below.items() if not k.startswith(("model.", "env_config"))}

    @property
    def model(self) -> dict[str, Any]:
        """The network's settings."""
        return self._below("config.model.")

    @property
    def env_config(self) -> dict[str, Any]:
        """Keyword arguments of the environment."""
        return dict(self.values.get("config.env_config", {}))

    def describe_without_effect(self, names: Iterable[str], *, why: str) -> list[str]:
        """A line for each setting of the algorithm that somebody asked for and that would change nothing.

        Args:
            names: The settings.
            why: Why they change nothing.
        """
        lines = []
        for name in names:
            value, source = self.values.get(f"config.{name}"), self.sources.get(f"config.{name}", "default")
            if value is not None and not source.startswith(("default", "preset ")):
                lines.append(
                    f"{_ROOT}config.{name}: got {value!r} from {source}; expected none, as {why}. Leave it out."
                )
        return lines

    def _below(self, prefix: str) -> dict[str, Any]:
        return {k.removeprefix(prefix): v for k, v in self.values.items() if k.startswith(prefix)}

    def as_tree(self) -> dict[str, Any]:
        """The nested form of a preset's `training`."""
        tree: dict[str, Any] = {}
        for path, value in self.values.items():
            node = tree
            *parents, leaf = path.split(".")
            for parent in parents:
                node = node.setdefault(parent, {})
            node[leaf] = value
        return tree


def resolve(
    sources: Iterable[Source],
    *,
    extras: Mapping[str, Setting] | None,
    default_preset: bool = True,
    check_env: EnvCheck | None = None,
    check_sizes: SizeCheck | None = None,
) -> JobConfig:
    """Merges sources into one config.

    Args:
        sources: Weakest first.
        extras: Settings outside `rl.` that the job understands; None allows all (a user's script parses them).
        default_preset: Whether the default preset applies when nothing names one.
        check_env: Notes a problem when there is no environment of a name.
        check_sizes: Notes a problem for each value that the machine has no room for.

    Raises:
        UserError: Anything is unknown, of the wrong type or out of range; all problems are listed.
    """
    return _Resolver(extras, check_env, check_sizes).run(list(sources), default_preset)


class _Resolver:
    """One resolution: what it found so far, and what was wrong."""

    def __init__(
        self,
        extra_settings: Mapping[str, Setting] | None,
        check_env: EnvCheck | None = None,
        check_sizes: SizeCheck | None = None,
    ) -> None:
        self._extra_settings, self._check_env, self._check_sizes = extra_settings, check_env, check_sizes
        self._problems = Problems()
        self._values: dict[str, Any] = {}
        self._sources: dict[str, str] = {}
        self._notes: dict[str, None] = {}
        self._extras: dict[str, Any] = {}

    def run(self, sources: list[Source], default_preset: bool) -> JobConfig:
        preset_name, preset_source = self._find_preset(sources)
        self._set_defaults(DEFAULTS, "default")
        if preset_name is None and default_preset:
            preset_name = self._choose_preset(sources)
        if preset_name is not None:
            self._add_preset(preset_name, preset_source)
        for source in sources:
            self._add(source)
        check_together(self._values, self._sources, self._notes, self._problems)
        self._check_environments()
        if self._check_sizes is not None:
            self._check_sizes(self._values, self._sources, self._problems)
        self._problems.raise_if_any()
        return JobConfig(preset_name, self._values, self._sources, tuple(self._notes), self._extras)

    def _choose_preset(self, sources: list[Source]) -> str | None:
        """The preset of the environment that is asked for; the default one where none is asked for."""
        probe = _Resolver(None)  # its problems are found again by the real resolution
        for source in sources:
            probe._add(source)
        if probe._values.get("run") in OFFLINE_ALGORITHMS or (
            probe._values.keys() >= {"data"} and "run" not in probe._values
        ):
            self._set_defaults(ANY_LOG, "default for any log")
            return None
        settings = probe._values.get("config.env_config", {})
        scene = settings.get("env_name")
        if "env" not in probe._values and (scene or "file_name" in settings):  # as the Unity notebook has it
            probe._values["env"] = self._values["env"] = _SCENE
            self._sources["env"] = "env_config, which names a scene"
        if "env" not in probe._values:
            self._notes[f"no preset and no environment is named: this is the preset {DEFAULT_PRESET}"] = None
            return DEFAULT_PRESET
        env = str(probe._values["env"])
        preset = preset_of_env(env, scene)
        if preset is None and env == _SCENE:
            self._set_defaults(ANY_SCENE, "default for any scene")
        elif preset is None:
            self._set_defaults(ANY_ENVIRONMENT, "default for any environment")
        return preset

    def _set_defaults(self, defaults: Mapping[str, object], source: str) -> None:
        for path, value in defaults.items():
            self._values[path], self._sources[path] = value, source

    def _check_environments(self) -> None:
        if self._check_env is None:
            return
        if self._values.get("env"):
            self._check_env(_ROOT + "env", self._values["env"], self._sources["env"], self._problems)
        if isinstance(self._extras.get("env"), str) and self._extra_settings:
            self._check_env("env", self._extras["env"], self._sources["env"], self._problems)

    def _add_preset(self, name: str, source: str) -> None:
        try:
            preset = load_preset(name, source=source)
        except UserError as error:
            self._problems.add_line(str(error))
            self._values["env"] = ""  # so that its absence is not a second problem
            return
        self._add(Source(f"preset {name}", {"rl": {"training": preset.training}}))

    def _find_preset(self, sources: list[Source]) -> tuple[str | None, str]:
        for source in reversed(sources):
            for key in _PRESET_KEYS:
                if key in source.values:
                    return _preset_name(str(source.values[key])), source.name
        return None, "the default"

    def _add(self, source: Source) -> None:
        for name, raw in source.values.items():
            if name in _PRESET_KEYS:
                continue
            dotted = name.replace("__", ".") if name.startswith("rl__") else name
            if dotted == "rl" or dotted.startswith("rl."):
                self._add_tree(dotted, raw, source)
            else:
                self._add_extra(name, raw, source)

    def _add_extra(self, name: str, raw: Any, source: Source) -> None:
        if self._extra_settings is None:
            self._extras[name] = parse_text(raw) if isinstance(raw, str) else raw
        elif name in self._extra_settings:
            try:
                self._extras[name] = coerce(raw, self._extra_settings[name])
                self._sources[name] = source.name
            except ValueError as error:
                self._problems.add(name, raw, source.name, expected=str(error))
        else:
            known = [*self._extra_settings, *_PRESET_KEYS, *(_ROOT + path for path in known_paths())]
            self._problems.add(name, raw, source.name, expected="a known hyperparameter", remedy=suggest(name, known))

    def _add_tree(self, name: str, raw: Any, source: Source) -> None:
        """Walks down a tree (`rl`, `rl.training`, `rl.training.config`) to its settings."""
        path = name.removeprefix(_ROOT)
        is_tree = name in ("rl", "rl.training") or path in ("config", "stop", "config.model", *_FREE_TREES)
        if not is_tree:
            self._add_setting(path if name.startswith(_ROOT) else name, raw, source)
            return
        tree = parse_text(raw) if isinstance(raw, str) else raw
        if not isinstance(tree, Mapping):
            self._problems.add(name, raw, source.name, expected="a mapping of names to values")
            return
        for key, value in tree.items():
            self._add_tree(f"{name}.{key}", value, source)

    def _add_setting(self, path: str, raw: Any, source: Source) -> None:
        where = path if path.startswith("rl.") else _ROOT + path
        try:
            translated = translate(path, raw)
        except ValueError as error:
            self._problems.add(where, raw, source.name, expected=str(error))
            return
        if translated:
            path, raw, note = translated
            self._notes[note] = None
            if not path:
                return
        if raw in (None, "null") and (path.startswith("stop.") or "schedule" in where):
            self._values.pop(path, None)  # switches a preset's criterion off; no schedule was RLlib's old default
            return
        setting = setting_of(path)
        if setting is None:
            self._refuse(where, path, raw, source)
            return
        try:
            self._set(path, coerce(raw, setting), source)
        except ValueError as error:
            self._problems.add(where, raw, source.name, expected=str(error))

    def _set(self, path: str, value: Any, source: Source) -> None:
        for tree in _FREE_TREES:
            if path.startswith(tree + "."):
                node = self._values[tree] = dict(self._values.get(tree, {}))
                *parents, leaf = path.removeprefix(tree + ".").split(".")
                for parent in parents:
                    if not isinstance(node.get(parent, {}), Mapping):
                        raise ValueError(f"no value of its own for {tree}.{parent}, which has one already")
                    node[parent] = dict(node.get(parent, {}))
                    node = node[parent]
                node[leaf] = parse_text(value) if isinstance(value, str) else value
                self._sources[f"{tree}.{[*parents, leaf][0]}"] = source.name
                path = tree
                break
        else:
            self._values[path] = value
        self._sources[path] = source.name

    def _refuse(self, where: str, path: str, raw: Any, source: Source) -> None:
        reason = why_obsolete(path)
        if reason and (is_harmless(path, raw) or (source.is_old_script and not is_data(path))):
            self._notes[f"{where} has no meaning today: {reason}"] = None
        elif reason:
            self._problems.add(
                where,
                raw,
                source.name,
                expected="a setting that still exists",
                remedy=f"{reason[0].upper()}{reason[1:]}; remove it.",
            )
        else:
            expected = "a setting of the algorithm" if path.startswith("config.") else "a known hyperparameter"
            remedy = _suggest_path(path)
            self._problems.add(where, raw, source.name, expected=expected, remedy=remedy)


def _suggest_path(path: str) -> str:
    """The known setting that is closest: by its last word, spelt in full where it stands in another tree."""
    *parents, leaf = path.split(".")
    by_leaf = {known.rsplit(".", 1)[-1]: known for known in known_paths()}
    close = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)
    if not close:
        return ""
    is_sibling = by_leaf[close[0]].split(".")[:-1] == parents
    return f"Did you mean {close[0] if is_sibling else _ROOT + by_leaf[close[0]]!r}?"


def _preset_name(raw: str) -> str:
    """A preset's name without the quotes that the SDK puts around it, by its name today where it is one of Coach's."""
    name = str(parse_text(raw)).removeprefix("preset-")
    return PRESETS_OF_2020.get(name, name)
