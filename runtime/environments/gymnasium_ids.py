"""Ids that Gymnasium has registered and cannot make: of robots that are gone, or of packages that are not installed."""

from __future__ import annotations

import importlib.util

import gymnasium

_FIRST_WITHOUT_MUJOCO_PY = 4
# By how an id's entry point begins: Gymnasium's extra, and what it installs.
_EXTRAS = {
    "gymnasium.envs.mujoco.": ("mujoco", ("mujoco", "imageio")),
    "gymnasium.envs.box2d.": ("box2d", ("Box2D",)),
}


def is_current(env_id: str) -> bool:
    """Whether Gymnasium makes an environment of an id, once its packages are installed.

    Of MuJoCo's robots, versions 2 and 3 stay registered and raise: their mujoco-py is gone.
    """
    found = gymnasium.registry.get(env_id)
    if found is None:
        return False
    is_mujoco = getattr(found.entry_point, "__name__", "") == "_raise_mujoco_py_error"
    return not (is_mujoco and found.version is not None and found.version < _FIRST_WITHOUT_MUJOCO_PY)


def newest_version(env_id: str) -> str:
    """Returns the id with the newest version that Gymnasium has of it; the same one where there is no newer."""
    name, separator, version = env_id.rpartition("-v")
    if not separator or not version.isdecimal():
        return env_id
    known = [spec.version or 0 for spec in gymnasium.registry.values() if (spec.namespace, spec.name) == (None, name)]
    return f"{name}-v{max([int(version), *known])}"


def missing_packages(env_id: str) -> tuple[list[str], str]:
    """Returns the modules that a registered id needs and that are not installed, and the extra that installs them."""
    entry = gymnasium.registry[env_id].entry_point
    for begin, (extra, modules) in _EXTRAS.items():
        if isinstance(entry, str) and entry.startswith(begin):
            return [name for name in modules if importlib.util.find_spec(name) is None], f"gymnasium[{extra}]"
    return [], ""
