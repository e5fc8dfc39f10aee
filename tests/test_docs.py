"""The documents: generated pages are current, links lead somewhere, the site builds, a documented command learns."""

from __future__ import annotations

import ast
import configparser
import html
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from runtime.reference.presets_page import page as presets_page
from runtime.reference.settings_page import page as settings_page
from tests.browser import needs_chromium, probe_site
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


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


class Links(HTMLParser):
    """Anchors of a page, links of its readers, and what the browser loads for it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        self.anchors |= {value for name in ("id", "name") if (value := given.get(name))}
        if href := given.get("href"):
            (self.links if tag == "a" else self.loads).append(href)
        if source := given.get("src"):
            self.loads.append(source)


def test_the_site_has_no_dead_link_and_loads_nothing_from_elsewhere(site: Path) -> None:
    pages = {page: Links(page) for page in sorted(site.rglob("*.html"))}
    count = 0
    for page, links in pages.items():
        assert not [one for one in links.loads if urlsplit(one).netloc], page
        for link in (*links.links, *links.loads):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            path = unquote(parts.path)
            base = site if path.startswith("/") else page.parent  # the page of a missing address has absolute links
            place = (base / path.lstrip("/")).resolve() if path else page
            place = place / "index.html" if place.is_dir() else place
            assert place.is_file(), f"{page.relative_to(site)}: {link}"
            if parts.fragment and place in pages:
                assert unquote(parts.fragment) in pages[place].anchors, f"{page.relative_to(site)}: {link}"
            count += 1
    assert count > 1000
    assert (site / "examples" / "my_module.py").read_text() == (ROOT / "examples" / "my_module.py").read_text()


def test_code_is_highlighted_while_the_site_is_built(site: Path) -> None:
    assert '<span class="kn">import</span>' in (site / "first-steps" / "index.html").read_text()
    style = (site / "site.css").read_text()
    assert ".codehilite .kn" in style


def test_an_error_is_found_by_its_words(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())["docs"]
    for words in ("renders no frames", "expected a known hyperparameter", "another job is writing to", "gcc"):
        places = [one["location"] for one in index if words in html.unescape(one["text"])]
        assert any(place.startswith("troubleshooting/#") for place in places), words


OPEN_PAGE = """const openPage = async (page, width) => {
  const frame = document.createElement("iframe");
  frame.style = `border: 0; width: ${width}px; height: 900px`;
  frame.src = `/${page}`;
  const loaded = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await loaded;
  return frame;
};
"""


@needs_chromium
def test_no_page_of_the_site_is_wider_than_its_window_and_tables_wrap_or_scroll(site: Path, tmp_path: Path) -> None:
    pages = [f"{page.parent.relative_to(site)}/" for page in sorted(site.rglob("index.html"))]
    probe = (
        OPEN_PAGE
        + """const seen = [];
    for (const width of [1280, 390]) for (const page of PAGES) {
      const frame = await openPage(page, width);
      const root = frame.contentDocument, right = root.querySelector(".wy-nav-content").getBoundingClientRect().right;
      const cells = [...root.querySelectorAll("td")];
      seen.push({page, width, scrolls: root.documentElement.scrollWidth,
        wide: [...root.querySelectorAll(".rst-content *")].filter(one =>
          one.getBoundingClientRect().right > right + 1 && !one.parentElement.closest("table, pre"))
          .map(one => one.outerHTML.slice(0, 100)),
        stuck: [...root.querySelectorAll("table, pre code")].filter(one => one.scrollWidth > one.clientWidth + 1
          && frame.contentWindow.getComputedStyle(one).overflowX != "auto").map(one => one.outerHTML.slice(0, 100)),
        unwrapped: cells.filter(one => frame.contentWindow.getComputedStyle(one).whiteSpace != "normal").length,
        cells: cells.length,
        elsewhere: frame.contentWindow.performance.getEntriesByType("resource").map(entry => entry.name)
          .filter(name => !name.startsWith(location.origin))});
      frame.remove();
    }
    return seen;"""
    )
    seen = probe_site(site, probe.replace("PAGES", json.dumps(pages)), tmp_path)
    assert len(seen) == 2 * len(pages) > 60
    assert sum(page["cells"] for page in seen) > 1000
    for page in seen:
        assert page["scrolls"] <= page["width"], page
        assert page["wide"] == page["stuck"] == page["elsewhere"] == [], page
        assert page["unwrapped"] == 0, page


@needs_chromium
def test_axe_finds_nothing_on_the_site(site: Path, tmp_path: Path) -> None:
    axe = pytest.importorskip("axe_core_python", reason="axe-core-python is absent; `make install` brings it")
    script = (Path(axe.__file__).parent / "axe.min.js").read_text()
    (site / "axe.js").write_text(script)
    probe = (
        OPEN_PAGE
        + """const seen = [];
    const pages = ["", "install/", "first-steps/", "batch-rl/", "hyperparameters/", "benchmarks/RESULTS/"];
    for (const width of [1280, 390]) for (const page of pages) {
      const frame = await openPage(page, width);
      const axe = frame.contentDocument.createElement("script");
      axe.src = "/axe.js";
      const ready = new Promise(done => axe.onload = done);
      frame.contentDocument.head.append(axe);
      await ready;
      const found = await frame.contentWindow.axe.run();
      seen.push({page, passes: found.passes.map(rule => rule.id),
        violations: found.violations.map(rule => [rule.id, rule.nodes.map(node => node.html.slice(0, 200))])});
    }
    return seen;"""
    )
    for page in probe_site(site, probe, tmp_path):
        assert "color-contrast" in page["passes"]
        assert page["violations"] == [], page["page"]


def texts_of_the_code() -> list[str]:
    """The texts of each of our modules, with a null character where an f-string has a value."""
    return [
        "\n".join(text for node in ast.walk(ast.parse(path.read_text())) if (text := text_of(node)))
        for folder in ("runtime", "envs")
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def text_of(node: ast.AST) -> str:
    """The text of a literal; empty of anything else."""
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)  # type: ignore[misc]
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_each_error_of_the_troubleshooting_page_is_one_of_the_codes() -> None:
    page = (ROOT / "docs" / "troubleshooting.md").read_text()
    pips, ours = page[page.index("## Installing") :].split("## Settings")
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    (versions,) = re.findall(r"not in '([^']+)'`", pips)
    assert {*versions.split(",")} == {*setup["options"]["python_requires"].split(",")}
    errors = re.findall(r"\*\*`([^`]+)`\*\*", ours)
    assert len(errors) > 40
    texts = texts_of_the_code()
    for error in errors:
        words = [part.strip(" :;.") for part in re.split(r"…|got …|expected ", error)]
        assert any(all(word in text for word in words) for text in texts), error


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
