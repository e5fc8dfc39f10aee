"""Renders the report as one HTML page that needs no network; the charts' script, pictures and videos are embedded.

This file chooses what a page shows; the HTML is in templates/.
"""

from __future__ import annotations

import base64
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from runtime.outputs.video import poster_of
from runtime.report.figures import Chart, chart_curve, chart_trials, small_charts
from runtime.report.results import Results, Video
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
        name: What it is a table of, for those who do not see where it stands.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    best: int | None = None
    code: bool = False
    name: str = "results"

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
        poster: URL of the picture that a video shows until it plays; empty if it has none.
    """

    caption: str
    url: str = ""
    poster: str = ""


@dataclass(frozen=True)
class RunState:
    """The state of a training in a sentence.

    Attributes:
        state: Running, finished, failed or killed.
        reason: Why it ended, as far as that is known.
    """

    state: str
    reason: str

    @property
    def is_bad(self) -> bool:
        """Whether the training did not end by itself."""
        return self.state in ("failed", "killed")


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
    return render(
        "report.html.j2",
        title=results.name,
        heading=heading,
        about=_about(results),
        state=run_state(results),
        facts=_facts(results),
        warnings=results.manifest.get("warnings", ()),
        curve=chart_curve(results.rows, results.goal),
        estimates=_estimates(results),
        choice=f"Iteration {results.estimates.get('chosen_iteration')}: {results.estimates.get('rule', '')}.",
        trials=_trials(results),
        trials_chart=_trials_chart(results),
        pictures=[Picture(caption, _data_url(path, "image/png")) for caption, path in results.pictures.items()],
        videos=show_videos(results.videos, embed),
        evaluation=_evaluation(results.evaluation),
        steps=results.steps,
        small_charts=small_charts(results.rows),
        exports=_exports(results),
        not_exported=results.manifest.get("not_exported"),
        run=_run(results),
        settings=settings,
        defaults=defaults,
        notes=results.config.get("notes", ()),
    )


@cache
def _templates() -> Environment:
    # The package brings the charting library's files; importing it would read them whether they are used or not.
    youplot = importlib.util.find_spec("youplot")
    assert youplot is not None
    assert youplot.origin is not None
    return Environment(
        loader=FileSystemLoader([Path(__file__).with_name("templates"), Path(youplot.origin).with_name("vendor")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render(template: str, **values: Any) -> str:
    """Renders a template of templates/ with the values that it names."""
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
    if mean := number_text(results.evaluation.get("mean_reward")):
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
            rows.append([words, *(number_text(one.get(part)) for part in ("value", "low", "high"))])
    return Table(["policy", "return", "95 % from", "to"], rows, name="estimated return")


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
    return Table(
        ["trial", "state", job.objective, "steps", *short],
        rows,
        best=order.index(best) if best else None,
        name="trials",
    )


def _trials_chart(results: Results) -> Chart | None:
    return None if results.tuning is None else chart_trials(results.tuning, results.trials)


def show_videos(videos: Sequence[Video], embed: Embed | None) -> list[Picture]:
    """Embeds videos as far as they fit on a page together, and names the rest.

    Args:
        videos: The videos, the most important ones first.
        embed: The URL of a video; None puts videos inside.
    """
    left = _MOST_VIDEO_BYTES
    shown = []
    for video in videos:
        stamp = video.path.stat()
        if embed is None and stamp.st_size > left:
            shown.append(Picture(f"{video.caption}: {video.path}"))
            continue
        left -= stamp.st_size
        url = _data_url(video.path, "video/mp4") if embed is None else embed(video.path)
        shown.append(Picture(video.caption, url, _poster(video.path, stamp.st_mtime_ns)))
    return shown


@lru_cache(maxsize=64)
def _poster(path: Path, changed: int) -> str:
    """Returns a video's poster; a live page asks for it at each redraw, and it is new when the file has changed."""
    jpeg = poster_of(path)
    return "" if jpeg is None else f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def _evaluation(found: Mapping[str, Any]) -> Evaluation | None:
    if not found:
        return None
    returns = [[name, number_text(found.get(f"{name}_reward"))] for name in ("mean", "max", "min", "std")]
    track = str(found.get("track"))
    if dynamics := found.get("dynamics"):
        track += f", dynamics: {dynamics.get('name')}"
    episodes = [
        [str(number), number_text(one.get("total_reward")), str(one.get("steps"))]
        for number, one in enumerate(found.get("episodes", []), start=1)
    ]
    return Evaluation(
        returns=Table(["statistic", "return"], [row for row in returns if row[1]], name="returns"),
        races=[Race(str(racer.get("name")), track, _laps(racer), _verdict(racer)) for racer in found.get("racers", ())],
        episodes=Table(["episode", "return", "steps"], episodes, name="episodes"),
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
    return Table(head, rows, name="exports") if rows else None


def _settings(results: Results) -> tuple[Table | None, Table | None]:
    """Returns the settings that somebody chose, and the defaults."""
    values, sources = results.config.get("values", {}), results.config.get("sources", {})
    if not values:
        return None, None
    rows = [[f"rl.training.{path}", str(value), str(sources.get(path, ""))] for path, value in sorted(values.items())]
    chosen = [row for row in rows if not row[2].startswith("default")]
    defaults = [row for row in rows if row[2].startswith("default")]
    head = ["setting", "value", "source"]
    return Table(head, chosen, code=True, name="settings"), Table(head, defaults, name="defaults")


def run_state(results: Results) -> RunState | None:
    """Returns the state of a training; None where it was not recorded."""
    run = results.run
    if run is None:
        return None
    if run.was_killed:
        return RunState("killed", "its process is gone and has left no reason")
    return RunState(run.state, run.reason)


def _run(results: Results) -> Table | None:
    """Returns how, when and where a training ran."""
    run = results.run
    if run is None:
        return None
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    commit = str(results.manifest.get("git_commit") or "")
    facts = {
        "command": run.command,
        "started": _time(run.started),
        "ended": _time(run.ended),
        "machine": run.machine,
        "versions": versions,
        "git commit": commit,
    }
    return Table(["field", "value"], [[name, text] for name, text in facts.items() if text], name="run")


def _time(text: str) -> str:
    return text.replace("T", " ").replace("+00:00", " UTC")


def _looks_numeric(text: str) -> bool:
    try:
        float(text.replace(",", "").split(" ± ")[0] or "0")
    except ValueError:
        return False
    return True


def number_text(value: Any) -> str:
    """Returns a number with four digits; an empty text for anything else."""
    return f"{value:,.4g}" if isinstance(value, int | float) else ""


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
