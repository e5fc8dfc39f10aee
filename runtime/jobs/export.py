"""The command `smrl export`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.artifacts.checkpoint import find_rllib_checkpoint
from runtime.artifacts.manifest import find_model_directory, only_writer
from runtime.artifacts.model_directory import held_checkpoint
from runtime.container.imports import importing
from runtime.errors import Problems, suggest
from runtime.files import sweep
from runtime.jobs.exporting import export_all
from runtime.outputs.console import Reporter
from runtime.settings.types import parse_text

ARCHIVE = ".tar.gz"
_SETTINGS = {"checkpoint", "trust_checkpoint"}


def run_export(place: Path, settings: Mapping[str, str], *, car: Path | None = None) -> None:
    """Exports the policy of a model directory, and prints each format's differences from it.

    Args:
        place: Model directory, the results folder that holds one as `model`, or a checkpoint of RLlib, in which
            `model` is written.
        settings: `checkpoint`, the final one if not given, and `trust_checkpoint`.
        car: Archive for a DeepRacer car to write instead of the other formats; None for those.

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
    if car is not None and not _is_car_name(car.name.removesuffix(ARCHIVE)):
        tried = "-".join(car.name.removesuffix(ARCHIVE).replace(".", "-").split())
        expected = "a name without dots and spaces, as cars cut it at the first dot and replace spaces"
        problems.add("--car", car.name, "the command line", expected=expected, remedy=f" Try {tried or 'my-car'}.")
    problems.raise_if_any()
    rllib = find_rllib_checkpoint(place)
    folder = find_model_directory(place) if rllib is None else _import(rllib, settings, car)
    checkpoint = settings.get("checkpoint", "checkpoint")
    if car is not None:
        target = car.with_name(car.name.removesuffix(ARCHIVE) + ARCHIVE)
        from runtime.families.deepracer.car_archive import write_car_archive  # imports torch

        print(*write_car_archive(held_checkpoint(folder, checkpoint), target, trust=bool(trust)), sep="\n")
        return
    with only_writer(folder):
        sweep(folder)
        exports, missing = export_all(folder, checkpoint=checkpoint, trust=bool(trust))
    print(parity_table(exports))
    print(f"exported {checkpoint} into {folder}")
    if missing:
        Reporter().note(missing)


def _import(rllib: Path, settings: Mapping[str, str], car: Path | None) -> Path:
    """Writes the model directory of a checkpoint that RLlib wrote, into it.

    Raises:
        UserError: It cannot be read, or something is asked of it that it does not have.
    """
    problems = Problems()
    if "checkpoint" in settings:
        expected = f"no name, as {rllib} is RLlib's own checkpoint, which holds one policy"
        problems.add("checkpoint", settings["checkpoint"], "the command line", expected=expected)
    if car is not None:
        problems.add("--car", car.name, "the command line", expected="a policy that a DeepRacer training wrote")
    problems.raise_if_any()
    with importing():  # torch and RLlib
        from runtime.artifacts.rllib_import import import_rllib

    folder = rllib / "model"
    import_rllib(rllib, folder, note=Reporter().note)
    return folder


def _is_car_name(name: str) -> bool:
    return bool(name) and "." not in name and not any(letter.isspace() for letter in name)


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
