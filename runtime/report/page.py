"""Renders the report as one HTML page without network access or scripts; pictures and videos are embedded.

This file chooses what a page shows; the HTML is in templates/.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from runtime.outputs.learning_curve import smooth
from runtime.report.figures import draw_comparison, draw_curve, draw_trials, small_charts
from runtime.report.results import Results
from runtime.tuning.records import best_trial

# Videos that would make the page larger than this, altogether, stay beside it and are named.
_MOST_VIDEO_BYTES = 24_000_000

# The URL of a video: its data, or an address of the live server.
Embed = Callable[[Path], str]


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes:
        head: Names of the columns.
        rows: Cells of each row.
        best: Index of the row to highlight, if any.
        code: Whether cells are shown as code.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None = None
    code: bool = False

    @cached_property
    def numeric(self) -> list[bool]:
        """Whether each column holds nothing but numbers; those are aligned right."""
        return [bool(self.rows) and all(_looks_numeric(row[at]) for row in self.rows) for at in range(len(self.head))]


@dataclass(frozen=True)
class Picture:
    """A picture, or a video.

    Attributes:
        caption: Caption of the picture or video.
        url: URL of the video; empty if it is too large for the page.
    """

    caption: str
    url: str = ""


@dataclass(frozen=True)
class Race:
    """The laps of one car in a DeepRacer evaluation; its verdict compares the best one with the lower bound."""

    car: str
    track: str
    laps: Table
    verdict: str


@dataclass(frozen=True)
class Evaluation:
    """The content of evaluation.json."""

    returns: Table
    races: Sequence[Race]
    episodes: Table


def render_report(results: Results, *, embed: Embed | None = None) -> str:
    """Renders the report of one job.

    Args:
        results: Contents of the results folder.
        embed: The URL of a video; None puts videos inside.
    """
    heading = results.env or ("tuning" if results.tuning else "logged data")
    settings, defaults = _settings(results)
    return _render(
        "report.html.j2",
        title=results.name,
        heading=heading,
        about=_about(results),
        facts=_facts(results),
        warnings=results.manifest.get("warnings", ()),
        curve=_svg(draw_curve(results.rows, results.goal), "learning curve: mean return over environment steps"),
        estimates=_estimates(results),
        choice=f"Iteration {results.estimates.get('chosen_iteration')}: {results.estimates.get('rule', '')}.",
        trials=_trials(results),
        trials_picture=_trials_picture(results),
        pictures=[Picture(caption, _data_url(path, "image/png")) for caption, path in results.pictures.items()],
        videos=_videos(results, embed),
        evaluation=_evaluation(results.evaluation),
        steps=results.steps,
        small_charts=small_charts(results.rows),
        exports=_exports(results),
        not_exported=results.manifest.get("not_exported"),
        settings=settings,
        defaults=defaults,
        notes=results.config.get("notes", ()),
    )


def render_comparison(runs: Sequence[Results]) -> str:
    """Renders several jobs on one page: their curves, results, and differing settings."""
    names = _distinct_names(runs)
    rows = [[name, *_summary_cells(run)] for name, run in zip(names, runs, strict=True)]
    curves = dict(zip(names, (run.rows for run in runs), strict=True))
    return _render(
        "comparison.html.j2",
        title="comparison",
        names=names,
        results=Table(["run", *_SUMMARY], rows),
        curves=_svg(draw_comparison(curves), "learning curves of all runs"),
        without_settings=[name for name, run in zip(names, runs, strict=True) if not run.config.get("values")],
        differences=_differences(names, runs),
    )


@cache
def _templates() -> Environment:
    folder = Path(__file__).with_name("templates")
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _render(template: str, **values: Any) -> str:
    return _templates().get_template(template).render(values)


def _about(results: Results) -> list[str]:
    """Preset, algorithm and folder, as far as they are known."""
    algorithm = results.config.get("values", {}).get("run") or results.manifest.get("algorithm")
    return [str(part) for part in (results.config.get("preset"), algorithm, results.name) if part]


def _facts(results: Results) -> dict[str, str]:
    """Returns the numbers at the head of the page, by name."""
    last = results.rows[-1] if results.rows else {}
    facts = _tuning_facts(results)
    if "episode_reward_mean" in last:
        facts["mean return"] = f"{last['episode_reward_mean']:.2f}"
    if mean := _number(results.evaluation.get("mean_reward")):
        facts["evaluated"] = mean
    for name, words in (("timesteps_total", "steps"), ("training_iteration", "iterations"), ("updates", "updates")):
        if name in last:
            facts[words] = f"{last[name]:,}"
    if "time_total_s" in last:
        facts["seconds of training"] = f"{last['time_total_s']:,.1f}"
    values = results.config.get("values", {})
    if "config.seed" in values:
        facts["seed"] = str(values["config.seed"])
    return facts


def _tuning_facts(results: Results) -> dict[str, str]:
    job = results.tuning
    if job is None:
        return {}
    best = best_trial(results.trials, seeds=job.seeds, maximize=job.maximize)
    ended = sum(trial.state != "started" for trial in results.trials)
    facts = {"trials": f"{ended} of {job.max_trials}"}
    if best is not None and best.objective is not None:
        facts[f"best {job.objective}"] = _objective(best.objective, best.spread)
    return facts


def _objective(value: float | None, spread: float | None) -> str:
    """Returns a trial's objective, with its standard deviation over seeds."""
    if value is None:
        return ""
    return f"{value:.4g}" if spread is None else f"{value:.4g} ± {spread:.2g}"


def _estimates(results: Results) -> Table | None:
    found = results.estimates
    if not found:
        return None
    names = {"value": "chosen policy", "behaviour": "logged episodes", "behaviour_return": "logged, not discounted"}
    rows = []
    for key, words in names.items():
        one = found.get(key)
        if isinstance(one, Mapping):
            rows.append([words, *(_number(one.get(part)) for part in ("value", "low", "high"))])
    return Table(["", "return", "95 % from", "to"], rows)


def _trials(results: Results) -> Table | None:
    """Returns the trials of a tuning, best first."""
    job, trials = results.tuning, results.trials
    if job is None or not trials:
        return None
    best = best_trial(trials, seeds=job.seeds, maximize=job.maximize)
    names = [one.name for one in job.ranges]
    sign = -1 if job.maximize else 1
    order = sorted(trials, key=lambda trial: (trial.objective is None, sign * (trial.objective or 0.0)))
    rows = []
    for trial in order:
        value = _objective(trial.objective, trial.spread)
        steps = sum(record.timesteps_total for record in trial.jobs.values())
        reason = next((record.reason for record in trial.jobs.values() if record.reason), "")
        point = [_short(trial.hyperparameters.get(name)) for name in names]
        rows.append([str(trial.number), trial.state + (f": {reason}" if reason else ""), value, f"{steps:,}", *point])
    short = [name.removeprefix("rl.training.").removeprefix("config.") for name in names]
    return Table(["trial", "state", job.objective, "steps", *short], rows, best=order.index(best) if best else None)


def _trials_picture(results: Results) -> Picture | None:
    if results.tuning is None:
        return None
    return _svg(draw_trials(results.tuning, results.trials), "objective of each trial")


def _videos(results: Results, embed: Embed | None) -> list[Picture]:
    left = _MOST_VIDEO_BYTES
    shown = []
    for video in results.videos:
        size = video.path.stat().st_size
        if embed is not None:
            shown.append(Picture(video.caption, embed(video.path)))
        elif size <= left:
            left -= size
            shown.append(Picture(video.caption, _data_url(video.path, "video/mp4")))
        else:
            shown.append(Picture(f"{video.caption}: {video.path}"))
    return shown


def _evaluation(found: Mapping[str, Any]) -> Evaluation | None:
    if not found:
        return None
    returns = [[name, _number(found.get(f"{name}_reward"))] for name in ("mean", "max", "min", "std")]
    track = str(found.get("track"))
    if dynamics := found.get("dynamics"):
        track += f", dynamics: {dynamics.get('name')}"
    episodes = [
        [str(number), _number(one.get("total_reward")), str(one.get("steps"))]
        for number, one in enumerate(found.get("episodes", []), start=1)
    ]
    return Evaluation(
        returns=Table(["return", ""], [row for row in returns if row[1]]),
        races=[Race(str(racer.get("name")), track, _laps(racer), _verdict(racer)) for racer in found.get("racers", ())],
        episodes=Table(["episode", "return", "steps"], episodes),
    )


def _laps(racer: Mapping[str, Any]) -> Table:
    rows = [
        [
            str(lap.get("trial")),
            str(lap.get("episode_status")),
            f"{lap.get('completion_percentage')} %",
            f"{lap.get('elapsed_time_in_milliseconds', 0) / 1000:.3f}",
            str(lap.get("reset_count")),
        ]
        for lap in racer.get("laps", ())
    ]
    return Table(["lap", "status", "of the track", "seconds", "resets"], rows)


def _verdict(racer: Mapping[str, Any]) -> str:
    """Returns the best lap beside the lower bound of the track, as far as there are both."""
    laps = [lap for lap in racer.get("laps", ()) if lap.get("episode_status") == "Lap complete"]
    bound = racer.get("lap_bound_s")
    best = f"{min(lap['elapsed_time_in_milliseconds'] for lap in laps) / 1000:.1f} s" if laps else ""
    allows = f"the track allows {math.floor(10 * bound) / 10:.1f} s" if isinstance(bound, int | float) else ""
    return "; ".join(part for part in (best, allows) if part) + ("." if best or allows else "")


def _exports(results: Results) -> Table | None:
    rows = []
    for one in results.manifest.get("exports", ()):
        parity = one.get("parity", {})
        worst = max(parity.get("largest_difference", {}).values(), default=None)
        difference = "" if worst is None else f"{worst:.2g}"
        compared = f"{parity.get('observations')} observations, tolerance {parity.get('tolerance'):g}" if parity else ""
        rows.append([one["format"], one["file"], f"{one['bytes']:,}", difference, compared])
    head = ["format", "file", "bytes", "largest difference from the policy", "compared on"]
    return Table(head, rows) if rows else None


def _settings(results: Results) -> tuple[Table | None, Table | None]:
    """Returns the settings that somebody chose, and the defaults."""
    values, sources = results.config.get("values", {}), results.config.get("sources", {})
    if not values:
        return None, None
    rows = [[f"rl.training.{path}", str(value), str(sources.get(path, ""))] for path, value in sorted(values.items())]
    chosen = [row for row in rows if not row[2].startswith("default")]
    defaults = [row for row in rows if row[2].startswith("default")]
    head = ["setting", "value", "source"]
    return Table(head, chosen, code=True), Table(head, defaults)


_SUMMARY = ("environment", "mean return", "evaluated", "steps", "seconds", "steps to the goal")


def _summary_cells(run: Results) -> list[str]:
    last = run.rows[-1] if run.rows else {}
    scored = [row for row in run.rows if "episode_reward_mean" in row]
    means = smooth([row["episode_reward_mean"] for row in scored])
    goal = run.goal
    met = [
        row
        for row, mean in zip(scored, means, strict=True)
        if goal is not None and max(mean, row["episode_reward_mean"]) >= goal
    ]
    return [
        run.env,
        _number(last.get("episode_reward_mean", run.manifest.get("episode_reward_mean"))),
        _number(run.evaluation.get("mean_reward")),
        f"{last['timesteps_total']:,}" if "timesteps_total" in last else "",
        _number(last.get("time_total_s")),
        f"{met[0]['timesteps_total']:,}" if met else "",
    ]


def _differences(names: Sequence[str], runs: Sequence[Results]) -> Table:
    values = [run.config.get("values", {}) for run in runs]
    rows = []
    for path in sorted({path for one in values for path in one}):
        found = [one.get(path) for one in values]
        if any(value != found[0] for value in found):
            rows.append([f"rl.training.{path}", *("" if value is None else str(value) for value in found)])
    return Table(["setting", *names], rows, code=True)


def _distinct_names(runs: Sequence[Results]) -> list[str]:
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(names, start=1)]


def _looks_numeric(text: str) -> bool:
    try:
        float(text.replace(",", "").split(" ± ")[0] or "0")
    except ValueError:
        return False
    return True


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, int | float) else ""


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _svg(text: str | None, caption: str) -> Picture | None:
    if text is None:
        return None
    return Picture(caption, "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode())


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
