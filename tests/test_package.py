"""The package: what a build of it holds, how its description reads elsewhere, and the command that copies examples."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from runtime.errors import UserError
from runtime.reference.examples import copy_examples
from smrl_build import absolute_links
from tests.conftest import ROOT, run_smrl

REPOSITORY = "https://example.org/team/smrl"
FILES = ["setup.cfg", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"]
FILES += ["constraints.txt", "smrl.py", "smrl_build.py", "smrl_scripts_of_2020.py", "smrl-scripts-of-2020.pth"]
FOLDERS = ["runtime", "entrypoints", "envs", "presets", "examples", "images", "docs", "tests"]
# As `python -m build` does: the wheel is built from the source distribution.
BUILD = """
import sys, tarfile
from pathlib import Path
from setuptools import build_meta
out = Path(sys.argv[1])
source = build_meta.build_sdist(str(out))
print(source)
"""
BUILD_WHEEL = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"


def shipped(
    folder: str, suffixes: tuple[str, ...] = (".py", ".json", ".yaml", ".ipynb", ".md", ".j2", ".js", ".css")
) -> set[str]:
    """Paths of the files of a folder that a user needs."""
    found = (path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes)
    return {str(path.relative_to(ROOT)) for path in found if not {"__pycache__", "results"} & set(path.parts)}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of a copy of this tree, whose setup.cfg has an address, built from its source distribution."""
    work = tmp_path_factory.mktemp("build")
    tree = work / "tree"
    hidden = shutil.ignore_patterns("__pycache__", "*.nb[ic]", "results")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tree / folder, ignore=hidden)
    for file in FILES:
        shutil.copy(ROOT / file, tree)
    text = (tree / "setup.cfg").read_text()
    (tree / "setup.cfg").write_text(text.replace("name = smrl\n", f"name = smrl\nurl = {REPOSITORY}\n", 1))
    subprocess.run([sys.executable, "-c", BUILD, str(work)], cwd=tree, check=True, capture_output=True)
    (source,) = work.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        archive.extractall(work / "unpacked", filter="data")
    (unpacked,) = (work / "unpacked").iterdir()
    subprocess.run([sys.executable, "-c", BUILD_WHEEL, str(work)], cwd=unpacked, check=True, capture_output=True)
    (built,) = work.glob("*.whl")
    return zipfile.ZipFile(built)


def test_a_wheel_holds_all_that_runs(wheel: zipfile.ZipFile) -> None:
    needed = set().union(*(shipped(folder) for folder in ("runtime", "entrypoints", "envs", "presets")))
    needed |= {"smrl.py", "smrl_scripts_of_2020.py"}
    assert len(needed) > 300
    assert needed - set(wheel.namelist()) == set()


def test_a_wheel_holds_the_examples(wheel: zipfile.ZipFile) -> None:
    names = {name.replace("runtime/packaged_examples", "examples") for name in wheel.namelist()}
    assert shipped("examples") - names == set()


def test_a_wheel_puts_the_start_up_hook_beside_the_packages_of_any_python(wheel: zipfile.ZipFile) -> None:
    assert wheel.read("smrl-scripts-of-2020.pth") == (ROOT / "smrl-scripts-of-2020.pth").read_bytes()


def test_a_wheel_holds_no_tests_and_no_tools_of_this_repository(wheel: zipfile.ZipFile) -> None:
    roots = {name.split("/")[0] for name in wheel.namelist()}
    assert {root for root in roots if not root.startswith("smrl")} == {"runtime", "entrypoints", "envs", "presets"}
    assert "smrl_build.py" not in roots


def test_the_description_has_absolute_links_alone(wheel: zipfile.ZipFile) -> None:
    (name,) = (name for name in wheel.namelist() if name.endswith("METADATA"))
    text = wheel.read(name).decode()
    assert f"]({REPOSITORY}/raw/HEAD/docs/picture.png)" in text
    assert f"[docs/robots.md]({REPOSITORY}/blob/HEAD/docs/robots.md)" in text
    assert re.findall(r"\]\((?!https?://)[^)]*\)", text) == []


def test_without_an_address_the_description_has_no_link_that_leads_nowhere() -> None:
    text = "![a picture](docs/a.png)\nSee [docs/b.md](docs/b.md#part), [RLlib](https://docs.ray.io)."
    assert absolute_links(text, "") == "\nSee docs/b.md, [RLlib](https://docs.ray.io)."


def test_the_version_is_the_newest_release_of_the_changelog() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    releases = re.findall(r"^## \[(\d[^]]*)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), flags=re.M)
    assert setup["metadata"]["version"] == releases[0][0]


def test_examples_are_copied_with_their_folders(tmp_path: Path) -> None:
    done = run_smrl("examples", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    copied = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert copied == shipped("examples")
    assert "examples/deepracer/steady_laps.py" in done.stdout.splitlines()
    assert run_smrl("examples", cwd=tmp_path).returncode == 0  # nothing differs


def test_in_a_checkout_the_examples_are_where_they_are() -> None:
    done = run_smrl("examples", cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_an_example_that_was_changed_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "my_module.py").write_text("mine = 1\n")
    with pytest.raises(UserError, match=r"my_module\.py, which an example would replace; expected a folder without"):
        copy_examples(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["my_module.py"]
    assert (tmp_path / "my_module.py").read_text() == "mine = 1\n"


def test_the_documents_name_no_example_that_does_not_ship() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    named = {found for page in pages for found in re.findall(r"\bexamples/[\w/.-]+\w", page.read_text())}
    assert len(named) > 5
    assert {name for name in named if not (ROOT / name).exists()} == set()


@pytest.mark.parametrize("dockerfile", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_the_images_compile_kernels_from_all_files_that_these_import(dockerfile: str, tmp_path: Path) -> None:
    """An image copies these files alone before it compiles, so that other changes leave the layer as it is."""
    stage = (ROOT / dockerfile).read_text().split(" AS kernels\n")[1].split("\nFROM ")[0]
    copies = [line.split()[1:] for line in stage.splitlines() if line.startswith("COPY ")]
    assert copies
    for *sources, target in copies:
        for source in sources:
            place = tmp_path / target.removeprefix("/kernels/")
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    program = "import runtime.ppo.compiled.compile_ahead as found; print(found.__file__)"
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith(str(tmp_path))
