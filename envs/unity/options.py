"""Settings of a Unity scene, checked before any player starts."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from envs.unity.player_process import check_executable
from envs.unity.registry import BUILD_SUFFIXES, MANIFEST_URL, Registry, find_builds

_SUFFIXES = ("", *BUILD_SUFFIXES)
_MOST_PORT = 65535
_LARGEST_FLOAT32 = 3.4e38
_MOST_AGENTS = 10_000
_PLACES = ("file_name", "registry_url", "cache_folder", "log_folder")
OBSERVATIONS = ("flat", "dict")
# Restarts of a player without an episode that ended in between.
MAX_RESTARTS = 3


@dataclasses.dataclass(frozen=True)
class Options:
    """A Unity scene and how to run it.

    Attributes:
        executable: The player's file.
        arguments: Additional command-line arguments.
        behavior_name: Behavior whose agents learn; None where there is only one.
        seed: Seed of the first player; other players of the process add their number.
        time_scale: Simulated seconds per second of wall-clock time.
        no_graphics: Whether the player needs no display.
        timeout_s: Longest wait for a message in seconds, the first one included.
        parameters: Environment parameters by name, sent before every reset.
        base_port: First port to try, or None for any.
        log_folder: Folder of the players' logs, or None for a temporary one.
        observations: `flat` for one array, `dict` for one a sensor.
        num_agents: Most agents at a time, or None for as many as there are at the start.
    """

    executable: Path
    arguments: tuple[str, ...] = ()
    behavior_name: str | None = None
    seed: int = 0
    time_scale: float = 20.0
    no_graphics: bool = True
    timeout_s: float = 60.0
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    base_port: int | None = None
    log_folder: Path | None = None
    observations: str = "flat"
    num_agents: int | None = None


def read_options(
    *,
    env_name: str | None = None,
    file_name: str | Path | None = None,
    folder: str | Path | None = None,
    registry_url: str = MANIFEST_URL,
    cache_folder: str | Path | None = None,
    additional_args: Any = (),
    environment_parameters: Mapping[str, float] | None = None,
    log_folder: str | Path | None = None,
    **settings: Any,
) -> Options:
    """Reads a user's settings into Options; downloads a scene of the registry.

    Args:
        env_name: Name of a scene in the registry, or the path of an executable.
        file_name: Path of the executable; takes precedence over `env_name`.
        folder: Folder to search for the executable, as the channel `train`; where `env_name` is None, for its only one.
        registry_url: A manifest in the form of Unity's, at a URL or in a file.
        cache_folder: Folder of downloads; one in the user's home folder if None.
        additional_args: Additional command-line arguments of the player.
        environment_parameters: Numbers by name, for Unity's float side channel.
        log_folder: As in Options.
        settings: Other attributes of Options.

    Raises:
        ValueError: A setting is wrong; the message lists every problem found.
    """
    wrong: list[str] = []
    known = {field.name for field in dataclasses.fields(Options)} - {"executable", "arguments", "parameters"}
    for name in sorted(set(settings) - known):
        wrong.append(f"{name}: got a setting that no Unity scene has; expected one of {', '.join(_names(known))}.")
        del settings[name]
    places = {
        "file_name": file_name,
        "registry_url": registry_url,
        "cache_folder": cache_folder,
        "log_folder": log_folder,
    }
    wrong_places = _find_wrong_values(places)
    wrong += [*_find_wrong_values(settings), *wrong_places]
    if not _are_words(additional_args):
        wrong.append(f"additional_args: got {additional_args!r}; expected a list of words of the command line.")
    parameters = environment_parameters or {}
    if not isinstance(parameters, Mapping) or not all(_is_float32(value) for value in parameters.values()):
        wrong.append(f"environment_parameters: got {parameters!r}; expected numbers by name.")
    if wrong_places or (wrong and folder is None and is_of_registry(env_name, file_name)):  # no download in vain
        raise ValueError("\n".join(wrong))
    executable = Path()
    arguments = tuple[str, ...]()
    try:
        if folder is not None and file_name is None:
            executable = find_in_folder(Path(folder), env_name)
        else:
            executable, arguments = _find_player(env_name, file_name, Registry(registry_url, cache_folder))
    except ValueError as error:
        wrong.append(str(error))
    if wrong:
        raise ValueError("\n".join(wrong))
    return Options(
        executable,
        (*arguments, *map(str, additional_args)),
        parameters={str(name): float(value) for name, value in parameters.items()},
        log_folder=None if log_folder is None else Path(log_folder).expanduser(),
        **settings,
    )


def _names(known: set[str]) -> list[str]:
    return sorted((known | set(inspect.signature(read_options).parameters)) - {"settings", "folder"})


def _find_wrong_values(settings: dict[str, Any]) -> list[str]:
    """Describes each setting whose type or range is wrong."""
    rules: dict[str, tuple[str, Any]] = {
        "behavior_name": ("a name, as Basic", lambda value: value is None or isinstance(value, str)),
        "seed": ("a whole number of at least 0", lambda value: _is_whole(value) and value >= 0),
        "time_scale": ("a number above 0 and at most 100", lambda value: _is_number(value) and 0 < value <= 100),
        "no_graphics": ("true or false", lambda value: isinstance(value, bool)),
        "timeout_s": ("a number of seconds above 0", lambda value: _is_number(value) and value > 0),
        "base_port": (
            f"a port from 1024 to {_MOST_PORT}",
            lambda value: value is None or (_is_whole(value) and 1024 <= value <= _MOST_PORT),
        ),
        "observations": (" or ".join(OBSERVATIONS), lambda value: value in OBSERVATIONS),
        "num_agents": (
            f"a whole number from 1 to {_MOST_AGENTS:,}",
            lambda value: value is None or (_is_whole(value) and 0 < value <= _MOST_AGENTS),
        ),
        **dict.fromkeys(
            _PLACES, ("text", lambda value: value is None or (isinstance(value, str | Path) and value != ""))
        ),
    }
    return [
        f"{name}: got {settings[name]!r}; expected {expected}."
        for name, (expected, is_right) in rules.items()
        if name in settings and not is_right(settings[name])
    ]


def _find_player(env_name: Any, file_name: Any, registry: Registry) -> tuple[Path, tuple[str, ...]]:
    """Finds the executable, and the arguments that the registry adds to its command line."""
    if file_name is not None:
        return find_executable(Path(file_name), where="file_name"), ()
    if env_name is None:
        raise ValueError("env_name: missing; expected a scene of the registry, as Basic, or file_name.")
    if not isinstance(env_name, str):
        raise ValueError(f"env_name: got {env_name!r}; expected a scene of the registry, as Basic.")
    if not is_of_registry(env_name, file_name):
        return find_executable(Path(env_name), where="env_name"), ()
    scene = registry.fetch(env_name)
    check_executable(scene.executable)
    return scene.executable, scene.arguments


def is_of_registry(env_name: Any, file_name: Any) -> bool:
    """Whether the settings name a scene of the registry rather than a file."""
    is_name = isinstance(env_name, str) and "/" not in env_name and not env_name.endswith(_SUFFIXES[1:])
    return file_name is None and is_name


def find_executable(path: Path, *, where: str) -> Path:
    """Finds the player's file, with or without the suffix of Unity's Linux builds, and makes it executable.

    Args:
        path: Path as the user wrote it.
        where: Setting that holds the path, for messages.

    Raises:
        ValueError: There is no such file, or it cannot run here.
    """
    path = path.expanduser()
    try:
        for suffix in _SUFFIXES:
            found = path.with_name(path.name + suffix) if path.name else path
            if found.is_file():
                check_executable(found)
                return found
    except OSError as error:
        raise ValueError(f"{where}: got a file that cannot be read ({error}); expected a Linux executable.") from None
    raise ValueError(f"{where}: got {str(path)!r}; expected a Linux executable.{_what_is_there(path)}")


def find_in_folder(folder: Path, name: Any) -> Path:
    """Finds a player's file in a folder, as the channel `train`.

    Args:
        folder: Folder to search, subfolders included.
        name: Name of the file, with or without its suffix. Where it is None, or names a scene of the registry and no
            file, the folder's only `.x86_64` file is returned.

    Raises:
        ValueError: The folder holds no such file, or several.
    """
    builds = find_builds(folder)
    wanted = {Path(str(name)).name + suffix for suffix in _SUFFIXES}
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [path for path in files if name is not None and path.name in wanted]
    if not found and (name is None or is_of_registry(name, None)):
        found = builds
    if len(found) == 1:
        check_executable(found[0])
        return found[0]
    names = [str(path.relative_to(folder)) for path in found or builds]
    there = f"It holds {', '.join(names)}." if names else "It holds no .x86_64 file."
    what = "one .x86_64 file" if name is None else f"one file {name}"
    raise ValueError(f"env_name: got {name!r} and the folder {folder}; expected {what} in it. {there}")


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        folder = path
        what = "That is a folder; it"
    elif path.parent.is_dir():
        folder = path.parent
        what = f"{path.parent}"
    else:
        return f" There is no folder {path.parent} either."
    builds = sorted(found.name for found in folder.glob("*.x86*"))
    return f" {what} holds {', '.join(builds)}." if builds else f" {what} holds no .x86_64 file."


def _are_words(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(word, str | int | float) for word in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _is_float32(value: Any) -> bool:
    return _is_number(value) and abs(value) <= _LARGEST_FLOAT32


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
