"""The documents: generated pages are current, figures are the benchmarks', links lead somewhere, the site builds."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.reference.presets_page import page as presets_page
from runtime.reference.settings_page import page as settings_page
from tests.conftest import ROOT, run_smrl

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]


def without_code(text: str) -> str:
    """Markdown without its code."""
    return re.sub(r"`[^`\n]*`", "", re.sub(r"```.*?```", "", text, flags=re.S))


def anchors_of(path: Path) -> set[str]:
    """What a link into a page may name, as GitHub and MkDocs derive it from headings."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.S), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(page.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), target
        assert place.is_relative_to(ROOT), target
        if anchor and place.suffix == ".md":
            assert anchor in anchors_of(place), target


def test_every_page_is_reached_from_the_sites_menu() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    for page in (ROOT / "docs").glob("*.md"):
        assert re.search(rf"\b{re.escape(page.name)}\b", menu), page.name


def test_generated_pages_are_current() -> None:
    assert (ROOT / "docs" / "hyperparameters.md").read_text() == settings_page()
    assert (ROOT / "docs" / "presets.md").read_text() == presets_page()


def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Names of 2020" in (tmp_path / "hyperparameters" / "index.html").read_text()


def test_every_command_of_smrl_is_in_the_readme_or_the_docs() -> None:
    from runtime.container.init import COMMANDS

    text = "\n".join(page.read_text() for page in PAGES)
    for command in COMMANDS:
        assert re.search(rf"(smrl|cpu) {command}\b|\b{command} (--|…)", text), command


def numbers(page: str, pattern: str) -> list[float]:
    """The groups of the one place in a page of benchmarks/ where the pattern is, as numbers."""
    found = re.findall(pattern, (ROOT / "benchmarks" / page).read_text(), flags=re.S)
    assert len(found) == 1, (page, pattern, len(found))
    return [float(text.replace(",", "")) for text in (found[0] if isinstance(found[0], tuple) else found)]


# A page of benchmarks/, where its numbers are, and what the README says of them.
FIGURES: list[tuple[str, str, Callable[..., str]]] = [
    ("serving.md", r"echo of the body \|.*?\| (0\.\d+) \|", lambda r: f"takes {1 / r:.1f} times what a bare echo"),
    ("serving.md", r"torch eager \|[^\n]*?\| (\d+\.\d+) \|", lambda r: f"FastAPI with eager torch {r:.1f} times"),
    ("serving.md", r"Ray Serve, RLModule \|[^\n]*?\| (\d+\.\d+) \|", lambda r: f"Ray Serve {r:.0f} times"),
    (
        *("serving.md", r"## ([\d,]+) requests over (\d+) connections\n.*? (\d+) errors;.*?\(\+([\d.]+)%\)"),
        lambda n, c, e, m: (
            f"{'A million' if n == 1e6 else n} requests over {c:.0f} connections: "
            f"{'no error' if e == 0 else e}, memory up by {m:.0f} %"
        ),
    ),
    (
        *("serving.md", r"## ([\d,]+) observations a call.*?scaling \| ([\d,]+) \|"),
        lambda n, rate: f"{n:,.0f} observations a call in process: {rate / 1e6:.0f} million rows a second on one core",
    ),
    (
        *("serving.md", r"JSON lines\n.*?([\d,]+) records/s, one process; at most (\d+) MB"),
        lambda rate, mb: f"`smrl transform`: {round(rate, -4):,.0f} records a second in {mb:.0f} MB",
    ),
    (
        *("offline.md", r"## CartPole, ten logs.*?Chosen: mean ([\d.]+), least ([\d.]+);[^\n]*? (\d+) s a run"),
        lambda mean, least, s: (
            f"holds the pole for {mean} of 200 steps on average (the least: {least}), after {s:.0f} "
            "seconds of learning and judging"
        ),
    ),
    (
        *("offline.md", r"([\d.]+) GB of CSV, [^\n]*?: ([\d.]+) s; [^\n]*\(([\d.]+) times the arrays"),
        lambda gb, s, times: f"{gb:g} GB of CSV is read in {s:.0f} s in {times} times the memory of its arrays",
    ),
    (
        *("offline.md", r"## Ten million transitions\n\n[^\n]*at most ([\d.]+) GB"),
        lambda gb: f"ten million transitions are learned from in {gb} GB",
    ),
    (
        *("RESULTS.md", r"RoboschoolHumanoidFlagrunHarder-v1 \|[^\n]*?\| (\d+\.\d+) \|"),
        lambda ratio: f"(`HumanoidFlagrunHarder`: {ratio:.1f} times)",
    ),
]


@pytest.mark.parametrize(
    ("page", "pattern", "sentence"), FIGURES, ids=[f"{page}-{at}" for at, (page, *_) in enumerate(FIGURES)]
)
def test_a_figure_of_the_readme_is_the_benchmarks(page: str, pattern: str, sentence: Callable[..., str]) -> None:
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert sentence(*numbers(page, pattern)) in readme


def test_the_readmes_table_of_training_speeds_is_the_benchmarks() -> None:
    speeds = (ROOT / "README.md").read_text().split("\n## Speed\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (\w+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", speeds, flags=re.M)
    assert [name for name, *_ in rows] == ["CartPole", "Reacher", "Hopper", "Humanoid"]
    for name, *cells in rows:
        row = rf"\| (?:Roboschool)?{name}-v1 \| ([\d,]+) \|" + r" ([\d,]+) \([^)]*\) \|" * 4
        assert [float(cell.replace(",", "")) for cell in cells] == numbers("RESULTS.md", row)


def test_the_readmes_spans_of_environment_speeds_are_the_benchmarks() -> None:
    table = (ROOT / "benchmarks" / "RESULTS.md").read_text().split("\n## Env steps a second of CPU")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "Roboschool" in line]
    port = [float(row[5]) for row in rows if "FlagrunHarder" not in row[0]]
    mujoco = [float(row[7]) for row in rows if row[7]]
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert f"take {min(port):.1f} to {max(port):.1f} times the steps a second of pybullet_envs_gymnasium" in readme
    assert f"and {min(mujoco):.1f} to {max(mujoco):.1f} times those of Gymnasium's MuJoCo robots" in readme


def test_the_page_of_batch_rl_says_what_its_benchmark_did() -> None:
    """How often intervals held, and what the worst choice played."""
    page = " ".join((ROOT / "docs" / "batch-rl.md").read_text().split())
    covers = r"[^\n]*?interval covers: (\d+) of (\d+)"
    acrobot = numbers("offline.md", rf"## Acrobot, .*?Chosen:{covers}")
    fresh = numbers("offline.md", rf"## The same from other logs.*?Chosen:{covers}")
    pendulum = numbers("offline.md", rf"## Pendulum, .*?Chosen:{covers}")
    counts = ["{:.0f} of {:.0f}".format(*pair) for pair in (acrobot, fresh, pendulum)]
    assert f"held the played return in {counts[0]} logs of Acrobot, {counts[1]} further ones, and {counts[2]}" in page
    held, logs = numbers("offline.md", rf"## A learner that collapses.*?Chosen:{covers}")
    assert held * 2 == logs
    assert "missed the truth in half of the logs" in page
    (least,) = numbers("offline.md", r"## CartPole, ten logs.*?, least ([\d.]+);")
    assert f"played {least:.0f} steps where all others played 195 and more" in page


@pytest.mark.slow
@pytest.mark.ray
def test_the_readmes_pendulum_learns(tmp_path: Path) -> None:
    """With general settings alone it stayed at a mean return of -1,120."""
    readme = (ROOT / "README.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^smrl (train rl\.training\.env=Pendulum-v1 .*)$", readme, flags=re.M)
    words = ("--out", "results", "rl.training.config.seed=1", "rl.training.export=false", "rl.training.video_freq=0")
    done = run_smrl(*line.split(), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in (tmp_path / "results" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["timesteps_total"] < 110_000
    assert rows[-1]["episode_reward_mean"] > -300
    assert rows[-1]["vf_explained_var"] > 0.9
    assert "the value function explains none of the returns" not in done.stdout + done.stderr
