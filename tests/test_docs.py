"""The documents: generated pages are current, links lead somewhere, the site builds, a documented command learns."""

from __future__ import annotations

import json
import re
import subprocess
import sys
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
    """Returns the anchors of a page, as GitHub and MkDocs derive them from headings."""
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


@pytest.mark.system
@pytest.mark.slow
@pytest.mark.ray
def test_the_documented_pendulum_learns(tmp_path: Path) -> None:
    """Without rewards in units of their return, the mean return stayed at -1,120."""
    page = (ROOT / "docs" / "extending.md").read_text().replace("\\\n", " ")
    (line,) = re.findall(r"^smrl (train rl\.training\.env=Pendulum-v1 .*)$", page, flags=re.M)
    words = ("--out", "results", "rl.training.config.seed=1", "rl.training.export=false", "rl.training.video_freq=0")
    done = run_smrl(*line.split(), *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in (tmp_path / "results" / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["timesteps_total"] < 110_000
    assert rows[-1]["episode_reward_mean"] > -300
    assert rows[-1]["vf_explained_var"] > 0.9
    assert "the value function explains none of the returns" not in done.stdout + done.stderr
