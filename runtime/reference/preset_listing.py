"""Presets for people to read: the list, and one resolved with each value's source."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runtime.jobs.catalog import resolve
from runtime.settings.presets import load_preset, load_shipped_presets
from runtime.settings.resolve import Source


def list_presets() -> str:
    """Lists the included presets as a table."""
    rows: list[tuple[str, ...]] = [("preset", "environment", "return", "minutes", "steps", "")]
    for name, preset in load_shipped_presets().items():
        steps = "" if preset.steps is None else f"{preset.steps:,}"
        reached = (f"{preset.expected_return:g}", f"{preset.minutes:g}", steps)
        rows.append((name, str(preset.training["env"]), *reached, preset.description))
    return _table(rows)


def show_preset(name: str, overrides: Mapping[str, Any]) -> str:
    """Returns a preset's resolved settings, each with its source."""
    preset = load_preset(name, source="the command line")
    config = resolve([Source("the command line", {"preset": name, **overrides})], extras={})
    rows: list[tuple[str, ...]] = [("setting", "value", "source")]
    rows += [
        (f"rl.training.{path}", str(value), config.sources[path]) for path, value in sorted(config.values().items())
    ]
    head = [f"{name}: {preset.description}", f"source: {preset.source.strip()}"]
    if preset.expected_return is not None and preset.minutes is not None:
        steps = "" if preset.steps is None else f", {preset.steps:,} steps"
        minutes = f"in about {preset.minutes:g} minutes on 2 cores{steps}"
        head.append(f"expected return: {preset.expected_return:g}, {minutes}")
    return "\n".join([*head, "", _table(rows)])


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
