"""The command `smrl export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.artifacts.manifest import find_model_directory, only_writer
from runtime.errors import Problems, suggest
from runtime.files import sweep
from runtime.settings.types import parse_text

_SETTINGS = {"checkpoint", "trust_checkpoint"}


def run_export(place: Path, settings: Mapping[str, str]) -> None:
    """Exports the policy of a model directory, and prints each format's differences from it.

    Args:
        place: Model directory, or the results folder that holds one as `model`.
        settings: `checkpoint`, the final one if not given, and `trust_checkpoint`.

    Raises:
        UserError: A setting or the folder is invalid, or the policy cannot be exported.
    """
    problems = Problems()
    for name in settings.keys() - _SETTINGS:
        expected = "checkpoint=… or trust_checkpoint=true"
        problems.add(name, settings[name], "the command line", expected=expected, remedy=suggest(name, _SETTINGS))
    trust = parse_text(settings.get("trust_checkpoint", "false"))
    if not isinstance(trust, bool):
        problems.add("trust_checkpoint", trust, "the command line", expected="true or false")
    problems.raise_if_any()
    folder = find_model_directory(place)
    from runtime.export.exporter import export_model

    with only_writer(folder):
        sweep(folder)
        exports = export_model(folder, checkpoint=settings.get("checkpoint", "checkpoint"), trust=bool(trust))
    print(parity_table(exports))
    print(f"exported {settings.get('checkpoint', 'checkpoint')} into {folder}")


def parity_table(exports: list[dict[str, Any]]) -> str:
    """Makes a table with a row for each file, and a column for the largest difference of each output."""
    outputs = list(exports[0]["parity"]["largest_difference"])
    rows = [["file", "bytes", *outputs]]
    for export in exports:
        differences = export["parity"]["largest_difference"]
        rows.append([export["file"], f"{export['bytes']:,}", *(f"{differences[name]:.1e}" for name in outputs)])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)
