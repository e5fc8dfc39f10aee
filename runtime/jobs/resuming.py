"""Resumes a training from its results folder, with the settings that it began with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from runtime.container.layout import CONFIG, SUMMARY, Layout
from runtime.errors import UserError
from runtime.jobs.training import Request
from runtime.outputs.console import Reporter, Summary
from runtime.settings.resolve import Source
from runtime.settings.schema import ROOT

_ENV_CONFIG = "config.env_config"
_TUNING = "tuning.json"


def describe_resumption(
    folder: Path, changes: Mapping[str, Any], *, source: str = "the command line", reporter: Reporter | None = None
) -> Request:
    """Describes the training that resumes a results folder.

    Args:
        folder: The results folder.
        changes: Settings to change, as a later stop criterion.
        source: Source of the changes, for messages.
        reporter: Shows the job's progress; None chooses one for the terminal or the pipe.

    Raises:
        UserError: The folder holds no training, or a change cannot be made.
    """
    kept = _read(Layout.of_results(folder).data / CONFIG)
    values, sources = kept.get("values"), kept.get("sources")
    if not isinstance(values, dict) or not isinstance(sources, dict):
        is_tuning = (folder / _TUNING).is_file()
        remedy = f" smrl tune --out {folder} resumes a tuning." if is_tuning else ""
        raise UserError(
            f"resume: got {str(folder)!r}, which holds no {CONFIG} with settings; expected the results folder of a "
            f"training.{remedy}"
        )
    if "preset" in changes:
        raise UserError(
            f"resume: got the preset {changes['preset']!r} from {source}; expected none, as the job keeps its "
            "settings. Name the settings to change, or start a new job with smrl train."
        )
    return Request(
        changes,
        kept=_group_by_source(values, sources),
        preset=kept.get("preset"),
        source=source,
        results=folder,
        reporter=reporter,
    )


def _group_by_source(values: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Source, ...]:
    """Returns the kept settings as the sources that set them, so that presets' and the user's stay apart."""
    groups = dict[str, dict[str, Any]]()
    for path, value in values.items():
        if path == _ENV_CONFIG:
            for name, argument in value.items():
                source = names.get(f"{path}.{name}", names.get(path, CONFIG))
                groups.setdefault(source, {})[f"{ROOT}{path}.{name}"] = argument
            continue
        groups.setdefault(names.get(path, CONFIG), {})[ROOT + path] = value
    return tuple(Source(name, group, is_typed=True) for name, group in groups.items())


def read_finished(folder: Path) -> Summary | None:
    """Returns the last screen of a training that has met its stop criterion; None where it has not."""
    written = _read(Layout.of_results(folder).data / SUMMARY)
    try:
        summary = Summary(**written)
    except TypeError:  # absent, or of another version
        return None
    if not summary.values.get("is_finished"):
        return None
    page = folder / "report.html"
    return replace(summary, facts={**summary.facts, "report": str(page)}) if page.is_file() else summary


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
