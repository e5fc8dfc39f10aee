"""A tuning job in the words of SageMaker's CreateHyperParameterTuningJob, read from JSON or YAML.

Source: the API's reference. What concerns only the cloud (roles, instances, networks, tags) is left unread.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runtime.container.layout import PLATFORM_PREFIXES
from runtime.errors import Problems, UserError, suggest
from runtime.outputs.metrics import metric_line
from runtime.tuning.ranges import SCALINGS, Kind, Range, choose_scaling

_SEED = "rl.training.config.seed"
STRATEGIES = ("Bayesian", "Random", "Hyperband", "Grid")
# Defaults of a trial: no videos and no exports, which take longer than a short training; the best trial's model is
# exported at the end.
TRIAL_DEFAULTS: dict[str, Any] = {
    "rl.training.video_freq": 0,
    "rl.training.export": False,
}
_EARLY_STOPPING = ("Off", "Auto")
_TYPES = ("Maximize", "Minimize")
_CONFIG = "HyperParameterTuningJobConfig"
_DEFINITION = "TrainingJobDefinition"
# The request's parts, and our one addition.
_TOP = (
    "HyperParameterTuningJobName",
    _CONFIG,
    _DEFINITION,
    "TrainingJobDefinitions",
    "WarmStartConfig",
    "Tags",
    "Autotune",
    "SeedsPerTrial",
)
_IN_CONFIG = (
    "Strategy",
    "StrategyConfig",
    "HyperParameterTuningJobObjective",
    "ResourceLimits",
    "ParameterRanges",
    "TrainingJobEarlyStoppingType",
    "TuningJobCompletionCriteria",
    "RandomSeed",
)
_WITHIN: dict[str, tuple[str, ...]] = {
    "HyperParameterTuningJobObjective": ("Type", "MetricName"),
    "ResourceLimits": ("MaxNumberOfTrainingJobs", "MaxParallelTrainingJobs", "MaxRuntimeInSeconds"),
    "StrategyConfig": ("HyperbandStrategyConfig",),
    "TuningJobCompletionCriteria": ("TargetObjectiveMetricValue", "BestObjectiveNotImproving", "ConvergenceDetected"),
    "WarmStartConfig": ("ParentHyperParameterTuningJobs", "WarmStartType"),
    _DEFINITION: (
        *("StaticHyperParameters", "AlgorithmSpecification", "StoppingCondition", "DefinitionName", "RoleArn"),
        *("TuningObjective", "HyperParameterRanges", "InputDataConfig", "VpcConfig", "OutputDataConfig"),
        *("ResourceConfig", "HyperParameterTuningResourceConfig", "EnableNetworkIsolation", "CheckpointConfig"),
        *("EnableInterContainerTrafficEncryption", "EnableManagedSpotTraining", "RetryStrategy", "Environment"),
    ),
}
_IN_RANGE = ("Name", "MinValue", "MaxValue", "ScalingType", "Values")
_RANGE_LISTS: dict[str, Kind] = {
    "ContinuousParameterRanges": "continuous",
    "IntegerParameterRanges": "integer",
    "CategoricalParameterRanges": "categorical",
}


@dataclass(frozen=True)
class TuningJob:
    """A tuning job: what is tuned, how, and for how long.

    Attributes:
        objective: Name of the metric.
        maximize: Whether more of it is better.
        regex: The user's own regex that finds it in a metric line; empty for the metric of that name.
        ranges: Ranges of the tuned hyperparameters.
        static: Hyperparameters of every training job.
        strategy: Bayesian, Random, Hyperband or Grid.
        resources: Hyperband's least and most iterations of a training job.
        stops_early: Whether a job that is worse than the median of the others is stopped.
        max_trials: Points to try; SageMaker's MaxNumberOfTrainingJobs.
        max_parallel: Training jobs at a time.
        max_runtime_s: Time limit of the whole tuning, in seconds.
        target: Value of the objective that ends the tuning.
        patience: Number of trials without improvement that ends the tuning.
        seeds: Training jobs of each point, each with a seed of its own.
        random_seed: Seed of the search; None draws one.
        parents: Results of earlier tunings whose trials this one starts from.
    """

    objective: str
    maximize: bool
    ranges: tuple[Range, ...]
    static: Mapping[str, Any] = field(default_factory=dict)
    regex: str = ""
    strategy: str = "Bayesian"
    resources: tuple[int, int] | None = None
    stops_early: bool = False
    max_trials: int = 10
    max_parallel: int = 1
    max_runtime_s: float | None = None
    target: float | None = None
    patience: int | None = None
    seeds: int = 1
    random_seed: int | None = None
    parents: tuple[str, ...] = ()

    @property
    def settings(self) -> dict[str, Any]:
        """Hyperparameters of every training job, with what a trial does where the job does not say.

        A preset's own criterion on the return would make all trials that reach it equal.
        """
        stop: dict[str, Any] = {}
        if "episode_reward" in self.objective + self.regex:
            stop["rl.training.stop.episode_reward_mean"] = None
        if self.resources is not None:
            stop["rl.training.stop.training_iteration"] = self.resources[1]
        return {**TRIAL_DEFAULTS, **stop, **self.static}

    def as_json(self) -> dict[str, Any]:
        """Returns the job as JSON for tuning.json."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def read_objective(self, row: Mapping[str, float]) -> float | None:
        """Returns the objective in a row of metrics, or None where it has none yet."""
        if self.regex:
            return self.read_line(metric_line(row))
        value = row.get(self.objective)
        return None if value is None or not math.isfinite(value) else float(value)

    def read_line(self, line: str) -> float | None:
        """The objective in a line of a log, by the regex: the last that is there, None where there is none."""
        found = re.findall(self.regex, line)
        texts = [match[0] if isinstance(match, tuple) else match for match in found]
        try:
            return float(texts[-1]) if texts else None
        except ValueError:  # the regex found some other text
            return None


def restore_job(described: Mapping[str, Any]) -> TuningJob:
    """Restores the job that `as_json` described."""
    ranges = tuple(Range(**{**one, "values": tuple(one["values"])}) for one in described["ranges"])
    resources = described["resources"]
    pair = None if resources is None else (resources[0], resources[1])
    return TuningJob(**{**described, "ranges": ranges, "resources": pair, "parents": tuple(described["parents"])})


def read_job(path: Path) -> TuningJob:
    """Reads a tuning job.

    Args:
        path: JSON or YAML file.

    Raises:
        UserError: It is not one; every problem is named.
    """
    import yaml

    try:
        words = yaml.safe_load(path.read_text(encoding="utf-8"))  # JSON is YAML
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: got a file that cannot be read ({error}); expected a tuning job in JSON or YAML, in the words of "
            "SageMaker's CreateHyperParameterTuningJob."
        ) from None
    return parse_job(words, source=str(path))


def parse_job(words: Any, *, source: str) -> TuningJob:
    """Reads a tuning job from its nested words.

    Raises:
        UserError: Anything is missing, unknown, or out of range; every problem is named.
    """
    if not isinstance(words, Mapping):
        raise UserError(
            f"{source}: got {type(words).__name__}; expected a mapping with {_CONFIG} and {_DEFINITION}, in the "
            "words of SageMaker's CreateHyperParameterTuningJob."
        )
    problems = Problems(f"the tuning job of {source}")
    job = _Reader(source, problems).read(words)
    problems.raise_if_any()
    return job


class _Reader:
    """Reads one tuning job: remembers the source of its words and collects its problems."""

    def __init__(self, source: str, problems: Problems) -> None:
        self._source = source
        self._problems = problems

    def read(self, words: Mapping[str, Any]) -> TuningJob:
        self._check_names("", words, _TOP)
        if "TrainingJobDefinitions" in words:
            self._wrong("TrainingJobDefinitions", "several", f"one {_DEFINITION}, as one algorithm is tuned")
        config = self._tree(words, _CONFIG)
        self._check_names(_CONFIG, config, _IN_CONFIG)
        definition = self._tree(words, _DEFINITION)
        for where, words_of in _WITHIN.items():
            tree = definition if where == _DEFINITION else self._tree(words if where in words else config, where)
            self._check_names(where, tree, words_of)
        objective = self._tree(config, "HyperParameterTuningJobObjective")
        limits, criteria = self._tree(config, "ResourceLimits"), self._tree(config, "TuningJobCompletionCriteria")
        name = str(objective.get("MetricName", "episode_reward_mean"))
        ranges = self._read_ranges(self._tree(config, "ParameterRanges"))
        strategy = self._choice(config, "Strategy", STRATEGIES)
        if strategy == "Grid" and any(found.kind != "categorical" for found in ranges):
            self._wrong("Strategy", "Grid", "categorical ranges alone, whose every combination is tried")
        combinations = math.prod(len(found.values) for found in ranges) if strategy == "Grid" else 10
        improving = self._tree(criteria, "BestObjectiveNotImproving")
        return TuningJob(
            objective=name,
            maximize=self._choice(objective, "Type", _TYPES) == "Maximize",
            regex=self._read_regex(definition, name),
            ranges=ranges,
            static=self._read_static(definition, ranges),
            strategy=strategy,
            resources=self._read_resources(config) if strategy == "Hyperband" else None,
            stops_early=self._choice(config, "TrainingJobEarlyStoppingType", _EARLY_STOPPING) == "Auto",
            max_trials=self._whole(limits, "MaxNumberOfTrainingJobs") or combinations,
            max_parallel=self._whole(limits, "MaxParallelTrainingJobs") or 1,
            max_runtime_s=self._whole(limits, "MaxRuntimeInSeconds"),
            target=self._number(criteria, "TargetObjectiveMetricValue"),
            patience=self._whole(improving, "MaxNumberOfTrainingJobsNotImproving"),
            seeds=self._whole(words, "SeedsPerTrial") or 1,
            random_seed=self._whole(config, "RandomSeed", low=0),
            parents=self._read_parents(self._tree(words, "WarmStartConfig")),
        )

    def _wrong(self, where: str, got: object, expected: str, remedy: str = "") -> None:
        self._problems.add(where, got, self._source, expected=expected, remedy=remedy)

    def _check_names(self, where: str, words: Mapping[str, Any], known: tuple[str, ...]) -> None:
        for name in words:
            if name not in known:
                at = f"{where}.{name}" if where else str(name)
                self._wrong(
                    at,
                    words[name],
                    f"a word of CreateHyperParameterTuningJob: {', '.join(known)}",
                    suggest(str(name), known),
                )

    def _tree(self, words: Mapping[str, Any], name: str) -> Mapping[str, Any]:
        found = words.get(name) or {}
        if isinstance(found, Mapping):
            return found
        self._wrong(name, found, "a mapping")
        return {}

    def _choice(self, words: Mapping[str, Any], name: str, choices: tuple[str, ...]) -> str:
        found = words.get(name, choices[0])
        found = "Off" if found is False else found  # as YAML reads it without quotes
        if found not in choices:
            self._wrong(name, found, f"one of {', '.join(choices)}", suggest(str(found), choices))
            return choices[0]
        return str(found)

    def _number(self, words: Mapping[str, Any], name: str) -> float | None:
        if words.get(name) is None:
            return None
        try:
            value = float(words[name])
        except (TypeError, ValueError):
            value = math.nan
        if not math.isfinite(value) or isinstance(words[name], bool):
            self._wrong(name, words[name], "a number")
            return None
        return value

    def _whole(self, words: Mapping[str, Any], name: str, *, low: int = 1) -> int | None:
        value = self._number(words, name)
        if value is None:
            return None
        if value != int(value) or value < low:
            self._wrong(name, words[name], f"a whole number of at least {low}")
            return None
        return int(value)

    def _read_ranges(self, words: Mapping[str, Any]) -> tuple[Range, ...]:
        self._check_names("ParameterRanges", words, (*_RANGE_LISTS, "AutoParameters"))
        if words.get("AutoParameters"):
            self._wrong("AutoParameters", words["AutoParameters"], "ranges, as nothing here can guess them")
        found: list[Range] = []
        for name, kind in _RANGE_LISTS.items():
            listed = words.get(name) or []
            if not isinstance(listed, list):
                self._wrong(name, listed, "a list of ranges")
                continue
            for one in listed:
                read = self._read_range(one, name, kind) if isinstance(one, Mapping) else None
                if read is not None:
                    found.append(read)
                elif not isinstance(one, Mapping):
                    self._wrong(name, one, "a mapping with Name and its values")
        names = [one.name for one in found]
        if _SEED in names:
            self._wrong(_SEED, "a range", "none, as a seed is no hyperparameter; SeedsPerTrial trains with several")
        for name in {name for name in names if names.count(name) > 1}:
            self._wrong(name, f"{names.count(name)} ranges", "one")
        if not any(words.get(name) for name in _RANGE_LISTS):
            self._wrong("ParameterRanges", dict(words), f"at least one range in {', '.join(_RANGE_LISTS)}")
        return tuple(found)

    def _read_range(self, words: Mapping[str, Any], where: str, kind: Kind) -> Range | None:
        self._check_names(where, words, _IN_RANGE)
        name = str(words.get("Name", ""))
        if not name:
            self._wrong(where, dict(words), "a range with a Name")
            return None
        if kind == "categorical":
            values = words.get("Values")
            if not isinstance(values, list) or not values:
                self._wrong(f"{name}.Values", values, "a list of at least one value")
                return None
            return Range(name, kind, values=tuple(dict.fromkeys(map(_as_text, values))))
        named = {f"{name}.{end}": words.get(end) for end in ("MinValue", "MaxValue")}
        for at, value in named.items():
            if value is None:
                self._wrong(at, value, "a number")
        read = self._whole if kind == "integer" else self._number
        low, high = (read(named, at, **({"low": -(2**63)} if kind == "integer" else {})) for at in named)
        scaling = self._choice(words, "ScalingType", SCALINGS)
        if low is None or high is None:
            return None
        if low > high:
            self._wrong(f"{name}.MinValue", low, f"at most its MaxValue, {high:g}")
            return None
        return self._scale(Range(name, kind, low, high), scaling)

    def _scale(self, found: Range, scaling: str) -> Range | None:
        if scaling == "Auto":
            scaling = choose_scaling(found.low, found.high)
        if scaling == "Logarithmic" and found.low <= 0:
            self._wrong(f"{found.name}.MinValue", found.low, "a number above 0 for ScalingType Logarithmic")
            return None
        if scaling == "ReverseLogarithmic" and (found.kind == "integer" or found.low < 0 or found.high >= 1):
            got = f"{found.low:g} to {found.high:g}"
            self._wrong(found.name, got, "a continuous range from 0 to below 1 for ScalingType ReverseLogarithmic")
            return None
        return Range(found.name, found.kind, found.low, found.high, scaling)

    def _read_static(self, definition: Mapping[str, Any], ranges: tuple[Range, ...]) -> dict[str, Any]:
        static = self._tree(definition, "StaticHyperParameters")
        kept = {
            name: value
            for name, value in ((str(key), found) for key, found in static.items())
            if not name.startswith(PLATFORM_PREFIXES)
        }
        for name in sorted({one.name for one in ranges} & kept.keys()):
            self._wrong(f"StaticHyperParameters.{name}", kept[name], "no value, as ParameterRanges has it too")
        longest = self._tree(definition, "StoppingCondition").get("MaxRuntimeInSeconds")
        if longest is not None and "rl.training.stop.time_total_s" not in kept:
            kept["rl.training.stop.time_total_s"] = longest
        return kept

    def _read_regex(self, definition: Mapping[str, Any], name: str) -> str:
        defined = self._tree(definition, "AlgorithmSpecification").get("MetricDefinitions") or []
        for one in defined if isinstance(defined, list) else []:
            if isinstance(one, Mapping) and one.get("Name") == name:
                regex = str(one.get("Regex", ""))
                try:
                    groups = re.compile(regex).groups
                except re.error as error:
                    self._wrong(f"MetricDefinitions.{name}", regex, f"a regular expression ({error})")
                    return ""
                if not groups:
                    self._wrong(f"MetricDefinitions.{name}", regex, "a regular expression with a group for the number")
                return regex
        return ""

    def _read_resources(self, config: Mapping[str, Any]) -> tuple[int, int]:
        found = self._tree(self._tree(config, "StrategyConfig"), "HyperbandStrategyConfig")
        low, high = self._whole(found, "MinResource"), self._whole(found, "MaxResource")
        if low is None or high is None or low > high:
            got = {name: found.get(name) for name in ("MinResource", "MaxResource")}
            self._wrong("HyperbandStrategyConfig", got, "MinResource up to MaxResource, in training iterations")
        return low or 1, high or 1

    def _read_parents(self, words: Mapping[str, Any]) -> tuple[str, ...]:
        listed = words.get("ParentHyperParameterTuningJobs") or []
        if not isinstance(listed, list) or not all(
            isinstance(one, Mapping) and set(one) == {"HyperParameterTuningJobName"} for one in listed
        ):
            expected = "a list of mappings with HyperParameterTuningJobName, a results folder of smrl tune"
            self._wrong("ParentHyperParameterTuningJobs", listed, expected)
            return ()
        return tuple(str(one["HyperParameterTuningJobName"]) for one in listed)


def _as_text(value: object) -> str:
    """Converts a category to SageMaker's text; a YAML list or number becomes a hyperparameter's text."""
    return value if isinstance(value, str) else json.dumps(value)
