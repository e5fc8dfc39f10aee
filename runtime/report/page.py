"""The report as one HTML page: no network, no scripts; pictures and films are inside it."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.outputs.learning_curve import smooth
from runtime.report.figures import draw_comparison, draw_curve, draw_small, draw_trials
from runtime.report.results import Results
from runtime.tuning.records import best_trial

# Films larger than this, altogether, stay beside the page and are named.
_MOST_FILM_BYTES = 24_000_000
_STYLE = """
:root { color-scheme: light; --line: #ddd; --quiet: #666; --accent: #4c78a8; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #f6f7f9; margin: 0; }
main { max-width: 1080px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { font-size: 26px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 0 0 12px; }
.quiet { color: var(--quiet); }
section { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px; margin-top: 18px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin-top: 18px; }
.fact { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: 12px 14px; }
.fact b { display: block; font-size: 18px; font-weight: 600; overflow-wrap: anywhere; }
.fact span { color: var(--quiet); font-size: 13px; }
img { max-width: 100%; height: auto; display: block; margin: 0 auto; }
.films { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; }
figure { margin: 0; } figcaption { color: var(--quiet); font-size: 13px; margin-top: 4px; }
video { width: 100%; border-radius: 6px; background: #000; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13.5px; width: 100%; }
th, td { text-align: left; padding: 4px 12px 4px 0; border-bottom: 1px solid #eee; vertical-align: top; }
th { color: var(--quiet); font-weight: 600; } td.number, th.number { text-align: right; }
tr.best td { font-weight: 700; color: #1b7837; }
code { font-family: ui-monospace, monospace; font-size: 12.5px; overflow-wrap: anywhere; }
.warning { border-left: 4px solid #e8a33d; padding-left: 10px; }
details > summary { cursor: pointer; color: var(--accent); margin-top: 10px; }
"""

# How a file gets into the page: as a data URL, or as an address of the live server.
Embed = Callable[[Path], str]


def render_report(results: Results, *, embed: Embed | None = None) -> str:
    """A job's page.

    Args:
        results: What the job left.
        embed: The URL of a film; None puts films inside.
    """
    return _page(f"{results.name} · smrl", _body(results, embed))


def render_comparison(runs: Sequence[Results]) -> str:
    """Several jobs on one page: their curves, what they came to, and where their settings differ."""
    names = _distinct_names(runs)
    rows = [[name, *_summary_cells(run)] for name, run in zip(names, runs, strict=True)]
    curves = dict(zip(names, (run.rows for run in runs), strict=True))
    body = [
        "<h1>Comparison</h1>",
        f"<div class=quiet>{html.escape(', '.join(names))}</div>",
        _section("Results", _table(["run", *_SUMMARY], rows)),
        _section("Learning curves", _svg(draw_comparison(curves), "learning curves of all runs")),
        _section("Settings that differ", _differences(names, runs)),
    ]
    return _page("comparison · smrl", "".join(body))


def _page(title: str, body: str) -> str:
    head = (
        f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    )
    head += f"<style>{_STYLE}</style>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{body}</main></body></html>\n'


def _body(results: Results, embed: Embed | None) -> str:
    parts = [_head(results)]
    curve = "learning curve: mean return over environment steps"
    parts.append(_section("Learning curve", _svg(draw_curve(results.rows, results.goal), curve)))
    parts.append(_section("Estimated return", _estimates(results)))
    parts.append(_section("Trials", _trials(results)))
    for caption, path in results.pictures.items():
        parts.append(_section(caption, f'<img alt="{html.escape(caption)}" src="{_data_url(path, "image/png")}">'))
    parts.append(_section("Videos", _films(results, embed)))
    parts.append(_section("Evaluation", _evaluation(results)))
    parts.append(_section("Losses and speed", _svg(draw_small(results.rows), "losses, KL and steps per second")))
    parts.append(_section("Exports", _exports(results)))
    parts.append(_section("Settings", _settings(results)))
    return "".join(parts)


def _section(title: str, content: str | None) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>" if content else ""


def _head(results: Results) -> str:
    manifest, last = results.manifest, results.rows[-1] if results.rows else {}
    title = results.env or ("tuning" if results.tuning else "logged data")
    values = results.config.get("values", {})
    about = [results.config.get("preset"), values.get("run") or manifest.get("algorithm"), results.name]
    facts: dict[str, str] = {}
    if results.tuning is not None:
        facts |= _tuning_facts(results)
    if "episode_reward_mean" in last:
        facts["mean return"] = f"{last['episode_reward_mean']:.2f}"
    if mean := _number(results.evaluation.get("mean_reward")):
        facts["evaluated"] = mean
    for name, words in (("timesteps_total", "steps"), ("training_iteration", "iterations"), ("updates", "updates")):
        if name in last:
            facts[words] = f"{last[name]:,}"
    if "time_total_s" in last:
        facts["seconds of training"] = f"{last['time_total_s']:,.1f}"
    if "config.seed" in values:
        facts["seed"] = str(values["config.seed"])
    cells = "".join(
        f"<div class=fact><b>{html.escape(v)}</b><span>{html.escape(k)}</span></div>" for k, v in facts.items()
    )
    line = " · ".join(html.escape(str(part)) for part in about if part)
    warnings = "".join(f"<p class=warning>{html.escape(str(text))}</p>" for text in manifest.get("warnings", ()))
    return f"<h1>{html.escape(title)}</h1><div class=quiet>{line}</div><div class=facts>{cells}</div>{warnings}"


def _tuning_facts(results: Results) -> dict[str, str]:
    job = results.tuning
    assert job is not None
    best = best_trial(results.trials, seeds=job.seeds, maximize=job.maximize)
    ended = sum(trial.state != "started" for trial in results.trials)
    facts = {"trials": f"{ended} of {job.max_trials}"}
    if best is not None and best.objective is not None:
        spread = "" if best.spread is None else f" ± {best.spread:.2g}"
        facts[f"best {job.objective}"] = f"{best.objective:.4g}{spread}"
    return facts


def _estimates(results: Results) -> str | None:
    found = results.estimates
    if not found:
        return None
    names = {"value": "chosen policy", "behaviour": "logged episodes", "behaviour_return": "logged, not discounted"}
    rows = []
    for key, words in names.items():
        one = found.get(key)
        if isinstance(one, Mapping):
            rows.append([words, *(_number(one.get(part)) for part in ("value", "low", "high"))])
    chosen = html.escape(f"Iteration {found.get('chosen_iteration')}: {found.get('rule', '')}.")
    return _table(["", "return", "95 % from", "to"], rows) + f"<p class=quiet>{chosen}</p>"


def _trials(results: Results) -> str | None:
    job, trials = results.tuning, results.trials
    if job is None or not trials:
        return None
    best = best_trial(trials, seeds=job.seeds, maximize=job.maximize)
    names = [one.name for one in job.ranges]
    sign = -1 if job.maximize else 1
    order = sorted(trials, key=lambda trial: (trial.objective is None, sign * (trial.objective or 0.0)))
    rows, marks = [], []
    for trial in order:
        value = "" if trial.objective is None else f"{trial.objective:.4g}"
        value += "" if trial.spread is None else f" ± {trial.spread:.2g}"
        steps = sum(record.timesteps_total for record in trial.jobs.values())
        reason = next((record.reason for record in trial.jobs.values() if record.reason), "")
        point = [_short(trial.hyperparameters.get(name)) for name in names]
        rows.append([str(trial.number), trial.state + (f": {reason}" if reason else ""), value, f"{steps:,}", *point])
        marks.append("best" if trial is best else "")
    short = [name.removeprefix("rl.training.").removeprefix("config.") for name in names]
    table = _table(["trial", "state", job.objective, "steps", *short], rows, marks=marks)
    return (_svg(draw_trials(job, trials), "objective of each trial") or "") + table


def _films(results: Results, embed: Embed | None) -> str | None:
    if not results.videos:
        return None
    left, shown = _MOST_FILM_BYTES, []
    for video in results.videos:
        size = video.path.stat().st_size
        if embed is None and size > left:
            shown.append(f"<figure><figcaption>{html.escape(f'{video.caption}: {video.path}')}</figcaption></figure>")
            continue
        left -= size
        source = _data_url(video.path, "video/mp4") if embed is None else embed(video.path)
        film = f'<video controls loop muted playsinline preload="metadata" src="{source}"></video>'
        shown.append(f"<figure>{film}<figcaption>{html.escape(video.caption)}</figcaption></figure>")
    return f"<div class=films>{''.join(shown)}</div>"


def _evaluation(results: Results) -> str | None:
    found = results.evaluation
    if not found:
        return None
    episodes = found.get("episodes", [])
    facts = [[name, _number(found.get(f"{name}_reward"))] for name in ("mean", "max", "min", "std")]
    parts = [_table(["return", ""], [row for row in facts if row[1]])]
    for racer in found.get("racers", ()):
        laps = [
            [
                str(lap.get("trial")),
                str(lap.get("episode_status")),
                f"{lap.get('completion_percentage')} %",
                f"{lap.get('elapsed_time_in_milliseconds', 0) / 1000:.3f}",
                str(lap.get("reset_count")),
            ]
            for lap in racer.get("laps", ())
        ]
        table = _table(["lap", "status", "of the track", "seconds", "resets"], laps)
        where = str(found.get("track"))
        if dynamics := found.get("dynamics"):
            where += f", dynamics: {dynamics.get('name')}"
        parts.append(f"<p><b>{html.escape(str(racer.get('name')))}</b> on {html.escape(where)}</p>{table}")
    rows = [
        [str(n), _number(one.get("total_reward")), str(one.get("steps"))] for n, one in enumerate(episodes, start=1)
    ]
    parts.append(
        f"<details><summary>{len(rows)} episodes</summary>{_table(['episode', 'return', 'steps'], rows)}</details>"
    )
    return "".join(parts)


def _exports(results: Results) -> str | None:
    rows = []
    for one in results.manifest.get("exports", ()):
        parity = one.get("parity", {})
        worst = max(parity.get("largest_difference", {}).values(), default=None)
        compared = f"{parity.get('observations')} observations, tolerance {parity.get('tolerance'):g}" if parity else ""
        rows.append(
            [one["format"], one["file"], f"{one['bytes']:,}", "" if worst is None else f"{worst:.2g}", compared]
        )
    if not rows:
        why = results.manifest.get("not_exported")
        return f"<p class=warning>{html.escape(str(why))}</p>" if why else None
    return _table(["format", "file", "bytes", "largest difference from the policy", "compared on"], rows)


def _settings(results: Results) -> str | None:
    values, sources = results.config.get("values", {}), results.config.get("sources", {})
    if not values:
        return None
    rows = [[f"rl.training.{path}", str(value), str(sources.get(path, ""))] for path, value in sorted(values.items())]
    own = [row for row in rows if not row[2].startswith("default")]
    rest = [row for row in rows if row[2].startswith("default")]
    head = ["setting", "value", "source"]
    notes = "".join(f"<p class=quiet>{html.escape(str(note))}</p>" for note in results.config.get("notes", ()))
    more = f"<details><summary>{len(rest)} defaults</summary>{_table(head, rest)}</details>" if rest else ""
    return notes + _table(head, own, code=True) + more


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


def _differences(names: Sequence[str], runs: Sequence[Results]) -> str | None:
    values = [run.config.get("values", {}) for run in runs]
    if not all(values):
        without = ", ".join(name for name, one in zip(names, values, strict=True) if not one)
        return f"<p class=quiet>Not compared: {html.escape(without)} has no config.json, as a tuning's trials have.</p>"
    paths = sorted({path for one in values for path in one})
    rows = []
    for path in paths:
        found = [one.get(path) for one in values]
        if any(value != found[0] for value in found):
            rows.append([f"rl.training.{path}", *("" if value is None else str(value) for value in found)])
    return _table(["setting", *names], rows, code=True) if rows else "<p class=quiet>None.</p>"


def _distinct_names(runs: Sequence[Results]) -> list[str]:
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(names, start=1)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, marks: Sequence[str] = (), code: bool = False) -> str:
    listed = list(rows)
    numeric = [bool(listed) and all(_looks_numeric(row[at]) for row in listed) for at in range(len(head))]
    css = [' class="number"' if is_number else "" for is_number in numeric]
    cells = "".join(f"<th{style}>{html.escape(name)}</th>" for name, style in zip(head, css, strict=True))
    body = []
    for at, row in enumerate(listed):
        mark = f' class="{marks[at]}"' if marks and marks[at] else ""
        texts = [f"<code>{html.escape(cell)}</code>" if code else html.escape(cell) for cell in row]
        body.append(f"<tr{mark}>" + "".join(f"<td{s}>{t}</td>" for t, s in zip(texts, css, strict=True)) + "</tr>")
    return f"<div class=wide><table><thead><tr>{cells}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"


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


def _svg(text: str | None, alt: str) -> str | None:
    if text is None:
        return None
    url = "data:image/svg+xml;base64," + base64.b64encode(text.encode()).decode()
    return f'<img alt="{html.escape(alt)}" src="{url}">'


def _data_url(path: Path, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
