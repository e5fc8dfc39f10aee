"""Presets: YAML files that hold an environment, an algorithm's settings, and where the numbers come from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from runtime.errors import Problems, UserError, suggest

PRESET_DIR = Path(__file__).resolve().parents[2] / "presets"
DEFAULT_PRESET = "reacher"

# libyaml's reads all presets in 9 ms, Python's in 80 ms, and a job that names an environment reads all.
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class Preset(BaseModel):
    """A preset file; only its training is required.

    Attributes:
        description: Task of the preset, in one line.
        source: Origin of the preset's numbers.
        expected_return: Mean return that it reaches; None if it was not measured.
        minutes: Minutes of training until then, on 2 cores; None if they were not measured.
        steps: Environment steps until then; None where they were not measured, or where a log is learned from.
        training: The tree below rl.training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    description: str = ""
    source: str = ""
    expected_return: float | None = None
    minutes: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, gt=0)
    training: dict[str, Any]


class ShippedPreset(Preset):
    """A preset that ships, which says what it reaches."""

    description: str = Field(min_length=1)
    source: str = Field(min_length=1)
    expected_return: float
    minutes: float = Field(gt=0)


def preset_names() -> list[str]:
    """Returns the names of the presets that ship, sorted."""
    return sorted(path.stem for path in PRESET_DIR.glob("*.yaml"))


def preset_of_env(env: str, run: str, scene: object = None) -> str | None:
    """Returns the name of the preset that trains in an environment, or None.

    Args:
        env: The environment.
        run: The algorithm.
        scene: Name of the scene, if the executable has several.
    """
    for name in preset_names():
        training = load_preset(name, source="the presets that ship").training
        trained = training.get("config", {}).get("env_config", {}).get("env_name")
        if (training.get("env"), training.get("run", "PPO"), trained) == (env, run, scene):
            return name
    return None


def load_shipped_presets() -> dict[str, ShippedPreset]:
    """Loads the presets that ship, by name."""
    return {name: ShippedPreset.model_validate(_read(PRESET_DIR / f"{name}.yaml")) for name in preset_names()}


def load_preset(name: str, *, source: str) -> Preset:
    """Loads a preset by its name, or by the path of a user's own YAML file.

    Args:
        name: As `reacher`, or `my/preset.yaml`.
        source: Source of the name, for the error.

    Raises:
        UserError: There is no such preset, or its file breaks the schema.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else PRESET_DIR / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(preset_names())
        raise UserError(
            f"preset: got {name!r} from {source}; expected one of {known}, or a path to a .yaml file."
            + suggest(name, preset_names())
        )
    try:
        return Preset.model_validate(_read(path))
    except ValidationError as error:
        _refuse(error, name)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"preset {name}: {path} is not a valid preset: {error}") from None


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=_LOADER)


def _refuse(error: ValidationError, name: str) -> NoReturn:
    """Raises one error with a line for each field that breaks the schema."""
    problems = Problems(f"the preset {name}")
    known = list(Preset.model_fields)
    for fault in error.errors():
        field = ".".join(map(str, fault["loc"]))
        if fault["type"] == "extra_forbidden":
            problems.add_line(
                f"{name}: got {field!r}; expected fields among {', '.join(known)}.{suggest(field, known)}"
            )
        elif fault["type"] == "missing":
            problems.add_line(f"{name}: got no {field!r}; expected a mapping with env, run, stop and config.")
        else:
            where = f"{name}: {field}" if field else name
            problems.add_line(f"{where}: got {fault['input']!r}: {fault['msg'][0].lower()}{fault['msg'][1:]}.")
    problems.raise_if_any()
    raise error
