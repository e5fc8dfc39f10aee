"""Resolves hyperparameters to one checked, frozen config, each value with its source.

Sources, weakest first: defaults, preset, the launcher's experiment config, hyperparameters.json, command line.
Pure: reads no file but the preset's, and imports nothing heavy, so that a wrong name is answered at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from runtime.errors import Problems, UserError, suggest
from runtime.settings.catalog import AlgorithmRules, Catalog, Draft, FamilyRules
from runtime.settings.presets import DEFAULT_PRESET, load_preset, preset_of_env
from runtime.settings.renamed import (
    PRESETS_OF_2020,
    RENAMED,
    REPLAY_BUFFER,
    is_data,
    is_harmless,
    join_exploration,
    obsolete_reason,
    translate,
)
from runtime.settings.schema import ROOT, JobConfig, TrainingSettings
from runtime.settings.types import Setting, coerce, parse_text

DRAWN_SEED = "drawn for this run"  # the source of a seed that nobody set
_PRESET_KEYS = ("preset", "RLCOACH_PRESET", "RLRAY_PRESET")
_ENV_CONFIG = "config.env_config"
_TREES = ("config", "stop", "config.model", _ENV_CONFIG, REPLAY_BUFFER)
_FEW_NAMES = 15  # which an error may list

# Arguments: the setting's name, the environment, its source, and where to add a problem if there is none.
EnvCheck = Callable[[str, str, str, Problems], None]
# Arguments: the values, their sources, and where to add problems of values that need too much memory.
SizeCheck = Callable[[Mapping[str, Any], Mapping[str, str], Problems], None]
Rules = Catalog[AlgorithmRules, FamilyRules]


@dataclass(frozen=True)
class Source:
    """Hyperparameters from one place.

    Attributes:
        name: For messages, as "hyperparameters.json".
        values: Dotted names, `rl__training__…` names, or trees, to raw values.
        is_old_script: From a launcher subclass: what means nothing today is noted, not refused.
        is_typed: Values have their types, as in a script or config.json: a text in env_config stays one. Those of
            hyperparameters and of the command line are texts, of which `3` is a number.
    """

    name: str
    values: Mapping[str, Any]
    is_old_script: bool = False
    is_typed: bool = False


@dataclass(frozen=True)
class _Assignment:
    """A value for one path; None as the setting means that the path goes back to its default."""

    path: str
    value: Any
    source: str
    is_removal: bool = False


def resolve(
    sources: Iterable[Source],
    catalog: Rules,
    *,
    extras: Mapping[str, Setting] | None,
    default_preset: bool = True,
    check_env: EnvCheck | None = None,
    check_sizes: SizeCheck | None = None,
) -> JobConfig:
    """Merges sources into one config.

    Args:
        sources: Weakest first.
        catalog: The algorithms and the families of environments that there are.
        extras: Settings outside `rl.` that the job understands; None allows all (a user's script parses them).
        default_preset: Whether the default preset applies when nothing names one.
        check_env: Notes a problem when there is no environment of a name.
        check_sizes: Notes a problem for each value that the machine has no room for.

    Raises:
        UserError: Anything is unknown, of the wrong type or out of range; all problems are listed.
    """
    resolver = _Resolver(catalog, extras)
    return resolver.run(list(sources), default_preset, check_env, check_sizes)


class _Resolver:
    """Resolves one job's settings: holds the draft, and the hyperparameters that are not `rl.…`."""

    def __init__(self, catalog: Rules, extra_settings: Mapping[str, Setting] | None) -> None:
        self._catalog = catalog
        self._extra_settings = extra_settings
        self._draft = Draft()
        self._extras: dict[str, Any] = {}

    def run(
        self,
        sources: list[Source],
        default_preset: bool,
        check_env: EnvCheck | None,
        check_sizes: SizeCheck | None,
    ) -> JobConfig:
        draft = self._draft
        defaults = {name: field.default for name, field in TrainingSettings.model_fields.items()}
        draft.set_missing({name: value for name, value in defaults.items() if value is not None}, "default")
        preset, preset_source = self._find_preset(sources)
        given = [assignment for source in sources for assignment in self._read(source)]
        if check_env is not None:
            _import_env(given, check_env)
        if preset is None and default_preset:
            preset = self._choose_preset(given)
        if preset is not None:
            given = [*self._read_preset(preset, preset_source), *given]
        for assignment in given:
            self._assign(assignment)
        algorithm = self._catalog.algorithm_of(draft.values["run"])
        if algorithm.chooses_preset and draft.values.get("env"):
            family = self._catalog.family_of(draft.values["env"])
            if algorithm.takes_family_settings:
                draft.set_missing(family.defaults, f"default for {draft.values['env']}")
            elif family.algorithms and draft.values["run"] not in family.algorithms:
                expected = f"{' or '.join(family.algorithms)}, which trains in {draft.values['env']}"
                draft.problems.add(f"{ROOT}run", draft.values["run"], draft.sources["run"], expected=expected)
        self._check_belonging(algorithm)
        algorithm.complete(draft)
        if check_env is not None:
            self._check_environments(check_env)
        if check_sizes is not None:
            check_sizes(draft.values, draft.sources, draft.problems)
        draft.problems.raise_if_any()
        return JobConfig.of_values(
            draft.values,
            algorithm.settings,
            preset=preset,
            sources=draft.sources,
            notes=tuple(draft.notes),
            extras=self._extras,
        )

    def _find_preset(self, sources: list[Source]) -> tuple[str | None, str]:
        for source in reversed(sources):
            for key in _PRESET_KEYS:
                if key in source.values:
                    return _preset_name(str(source.values[key])), source.name
        return None, "the default"

    def _choose_preset(self, given: list[_Assignment]) -> str | None:
        """Chooses the preset of the requested environment; the default one if none is requested."""
        named = {one.path: one.value for one in given if not one.is_removal}
        algorithm = self._catalog.algorithm_of(named.get("run"))
        if "run" not in named:
            taking = (one for one in self._catalog.algorithms if not named.keys().isdisjoint(one.inputs))
            algorithm = next(taking, algorithm)
            self._draft.values["run"] = algorithm.names[0]
        if not algorithm.chooses_preset:
            self._draft.set_missing(algorithm.general, "default for any log")
            return None
        if not algorithm.takes_family_settings and "env" not in named:  # the default preset is another algorithm's
            return None
        prefix = f"{_ENV_CONFIG}."
        env_config = {path.removeprefix(prefix): value for path, value in named.items() if path.startswith(prefix)}
        if "env" not in named:
            implied = (family.implied_env(env_config) for family in self._catalog.families)
            env = next((env for env in implied if env is not None), None)
            if env is None:
                self._draft.notes[f"no preset and no environment is named: this is the preset {DEFAULT_PRESET}"] = None
                return DEFAULT_PRESET
            self._draft.set("env", env, "env_config, which names a scene")
            named["env"] = env
        run = str(named.get("run", algorithm.names[0]))
        preset = preset_of_env(str(named["env"]), run, env_config.get("env_name"))
        if preset is None:
            family = self._catalog.family_of(str(named["env"]))
            general = family.general(named) if algorithm.takes_family_settings else algorithm.general
            self._draft.set_missing(general, f"default for any {family.kind}")
        return preset

    def _read_preset(self, name: str, source: str) -> list[_Assignment]:
        try:
            preset = load_preset(name, source=source)
        except UserError as error:
            self._draft.problems.add_line(str(error))
            self._draft.values["env"] = ""  # so that its absence is not a second problem
            return []
        return self._read(Source(f"preset {name}", {"rl": {"training": preset.training}}, is_typed=True))

    def _read(self, source: Source) -> list[_Assignment]:
        """Reads and checks a source's settings, under today's names."""
        found = list[_Assignment]()
        names = dict[str, str]()  # of each path that a short name has set
        for name, raw in source.values.items():
            if name in _PRESET_KEYS:
                continue
            dotted = name.replace("__", ".") if name.startswith("rl__") else name
            if dotted == "rl" or dotted.startswith("rl."):
                found += self._read_tree(dotted, raw, source)
            elif self._extra_settings is not None and name not in self._extra_settings:
                read = self._read_short(name, raw, source)
                names |= {one.path: name for one in read}
                found += read
            else:
                self._add_extra(name, raw, source)
        self._refuse_twice(found, names, source)
        return found

    def _read_short(self, name: str, raw: Any, source: Source) -> list[_Assignment]:
        """Reads a setting whose name is the end of exactly one setting's, as `lr` or `stop.time_total_s`."""
        paths = find_by_end(name, self._catalog.known_paths()) or find_by_end(name, RENAMED)
        if len(paths) == 1:
            return self._read_tree(ROOT + paths[0], raw, source)
        if paths:
            meant = " or ".join(ROOT + path for path in paths)
            self._draft.problems.add(name, raw, source.name, expected=f"the name of one setting: {meant}")
        elif name.startswith(("env_config.", f"{_ENV_CONFIG}.")):
            return self._read_tree(f"{ROOT}config.{name.removeprefix('config.')}", raw, source)
        else:
            self._add_extra(name, raw, source)
        return []

    def _refuse_twice(self, found: list[_Assignment], names: Mapping[str, str], source: Source) -> None:
        """Refuses a setting that one source sets by its short name and again by another."""
        paths = [one.path for one in found]
        for path, name in names.items():
            if paths.count(path) > 1:
                self._draft.problems.add_line(
                    f"{name}: got {ROOT}{path} twice from {source.name}; expected one value. Leave one of them out."
                )

    def _add_extra(self, name: str, raw: Any, source: Source) -> None:
        if self._extra_settings is None:
            self._extras[name] = parse_text(raw) if isinstance(raw, str) else raw
        elif name in self._extra_settings:
            try:
                self._extras[name] = coerce(raw, self._extra_settings[name])
                self._draft.sources[name] = source.name
            except ValueError as error:
                self._draft.problems.add(name, raw, source.name, expected=str(error))
        else:
            paths = self._catalog.known_paths()
            short = [path.rsplit(".", 1)[-1] for path in paths]
            remedy = suggest(name, [*self._extra_settings, *_PRESET_KEYS, *(ROOT + path for path in paths), *short])
            self._draft.problems.add(name, raw, source.name, expected="a known hyperparameter", remedy=remedy)

    def _read_tree(self, name: str, raw: Any, source: Source) -> list[_Assignment]:
        """Walks down a tree (`rl`, `rl.training`, `rl.training.config`) to its settings."""
        path = name.removeprefix(ROOT)
        if name not in ("rl", "rl.training") and path not in _TREES:
            return self._read_setting(path if name.startswith(ROOT) else name, raw, source)
        tree = parse_text(raw) if isinstance(raw, str) else raw
        if not isinstance(tree, Mapping):
            self._draft.problems.add(name, raw, source.name, expected="a mapping of names to values")
            return []
        if path == "config":
            tree, note = join_exploration(tree)
            self._draft.notes |= {note: None} if note else {}
        return [one for key, value in tree.items() for one in self._read_tree(f"{name}.{key}", value, source)]

    def _read_setting(self, path: str, raw: Any, source: Source) -> list[_Assignment]:
        where = path if path.startswith("rl.") else ROOT + path
        remedy = ""
        try:
            translated = translate(path, raw)
            if translated:
                path, raw, note = translated
                self._draft.notes[note] = None
                if not path:
                    return []
            if raw in (None, "null") and (path.startswith("stop.") or "schedule" in where):
                # Switches a preset's criterion off; no schedule was RLlib's old default.
                return [_Assignment(path, None, source.name, is_removal=True)]
            setting = self._catalog.setting_of(path)
            if setting is None:
                self._refuse(where, path, raw, source)
                return []
            if setting.choices and isinstance(raw, str):
                remedy = suggest(raw, setting.choices)
            is_typed = source.is_typed and path.startswith(f"{_ENV_CONFIG}.")
            return [_Assignment(path, raw if is_typed else coerce(raw, setting), source.name)]
        except ValueError as error:
            self._draft.problems.add(where, raw, source.name, expected=str(error), remedy=remedy)
        return []

    def _assign(self, assignment: _Assignment) -> None:
        if assignment.is_removal:
            self._draft.values.pop(assignment.path, None)
        elif assignment.path.startswith(f"{_ENV_CONFIG}."):
            self._assign_env_config(assignment)
        else:
            self._draft.set(assignment.path, assignment.value, assignment.source)

    def _assign_env_config(self, assignment: _Assignment) -> None:
        """Sets one keyword argument of the environment, or a leaf of a nested one."""
        node = tree = dict(self._draft.values.get(_ENV_CONFIG, {}))
        *parents, leaf = assignment.path.removeprefix(f"{_ENV_CONFIG}.").split(".")
        for parent in parents:
            if not isinstance(node.get(parent, {}), Mapping):
                expected = f"no value of its own for {_ENV_CONFIG}.{parent}, which has one already"
                self._draft.problems.add(ROOT + assignment.path, assignment.value, assignment.source, expected=expected)
                return
            node[parent] = dict(node.get(parent, {}))
            node = node[parent]
        node[leaf] = assignment.value
        self._draft.set(_ENV_CONFIG, tree, assignment.source)
        self._draft.sources[f"{_ENV_CONFIG}.{[*parents, leaf][0]}"] = assignment.source

    def _check_belonging(self, algorithm: AlgorithmRules) -> None:
        """Refuses settings of another algorithm, as this one would ignore them."""
        draft = self._draft
        run = self._draft.values["run"]
        trees = {
            "config.model.": tuple(algorithm.settings.network().settings()),
            "config.": tuple(algorithm.settings.settings()),
            "stop.": algorithm.stop_criteria,
        }
        preset_source = next((name for name in draft.sources.values() if name.startswith("preset ")), "")
        of_preset = []
        for path, value in draft.values.items():
            prefix = next((prefix for prefix in trees if path.startswith(prefix)), None)
            if prefix is None or path.removeprefix(prefix) in trees[prefix]:
                continue
            if draft.sources[path] == preset_source:
                of_preset.append(path)
                continue
            which = f": {', '.join(trees[prefix])}" if len(trees[prefix]) <= _FEW_NAMES else ""
            draft.problems.add(f"{ROOT}{path}", value, draft.sources[path], expected=f"a setting of {run}{which}")
        if of_preset:
            expected = f"the algorithm of the {preset_source}, which sets {of_preset[0].rsplit('.', 1)[-1]}"
            remedy = f" Choose a preset of {run} by preset=, or name rl.training.env without a preset."
            draft.problems.add(f"{ROOT}run", run, draft.sources["run"], expected=expected, remedy=remedy)
        for other in self._catalog.algorithms:
            for path in set(other.inputs) - set(algorithm.inputs):
                if path in draft.values:
                    expected = f"an algorithm that learns from {path} as {ROOT}run, one of {', '.join(other.names)}"
                    draft.problems.add(ROOT + path, draft.values[path], draft.sources[path], expected=expected)

    def _check_environments(self, check_env: EnvCheck) -> None:
        draft = self._draft
        if draft.values.get("env"):
            check_env(ROOT + "env", draft.values["env"], draft.sources["env"], draft.problems)
        if isinstance(self._extras.get("env"), str) and self._extra_settings:
            check_env("env", self._extras["env"], draft.sources["env"], draft.problems)

    def _refuse(self, where: str, path: str, raw: Any, source: Source) -> None:
        reason = obsolete_reason(path)
        if reason and (is_harmless(path, raw) or (source.is_old_script and not is_data(path))):
            self._draft.notes[f"{where} has no meaning today: {reason}"] = None
            return
        expected = "a setting of the algorithm" if path.startswith("config.") else "a known hyperparameter"
        remedy = _suggest_path(path, self._catalog.known_paths())
        if reason:
            expected = "a setting that still exists"
            remedy = f"{reason[0].upper()}{reason[1:]}; remove it."
        self._draft.problems.add(where, raw, source.name, expected=expected, remedy=remedy)


def _import_env(given: Iterable[_Assignment], check_env: EnvCheck) -> None:
    """Has the module of an environment imported, by which its family is known; its problems are found again later."""
    named = [one.value for one in given if one.path == "env" and not one.is_removal]
    if named and named[-1]:
        check_env(f"{ROOT}env", named[-1], "", Problems())


def find_by_end(name: str, paths: Iterable[str]) -> list[str]:
    """Returns the path of that name, else every path that ends with it after a dot."""
    known = list(paths)
    return [name] if name in known else [path for path in known if path.endswith(f".{name}")]


def _suggest_path(path: str, known_paths: list[str]) -> str:
    """Suggests the closest known setting by its last word; gives the full path if it is in another tree."""
    *parents, leaf = path.split(".")
    by_leaf = {known.rsplit(".", 1)[-1]: known for known in known_paths}
    close = difflib.get_close_matches(leaf, by_leaf, n=1, cutoff=0.6)
    if not close:
        return ""
    is_sibling = by_leaf[close[0]].split(".")[:-1] == parents
    return f"Did you mean {close[0] if is_sibling else ROOT + by_leaf[close[0]]!r}?"


def _preset_name(raw: str) -> str:
    """Returns a preset's name without the SDK's quotes; translates the names of Coach's presets."""
    name = str(parse_text(raw)).removeprefix("preset-")
    return PRESETS_OF_2020.get(name, name)
