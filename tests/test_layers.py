"""Layers, as setup.cfg has them for import-linter; who reads the environment; and what stays light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HEAVY = {"ray", "torch", "d3rlpy", "tensorflow", "matplotlib", "av", "pybullet"}
LIGHT_MODULES = {
    "errors",
    "files",
    "cli",
    "container.environment_variables",
    "container.hardware",
    "container.layout",
    "container.serving_settings",
    "container.signals",
    "settings.types",
    "settings.schema",
    "settings.renamed",
    "settings.presets",
    "settings.resolve",
    "artifacts.manifest",
    "cluster.head_node",
    "cluster.machines",
    "cluster.worker_node",
    "local_mode.docker",
    "local_mode.training",
    "tuning.ranges",
    "tuning.records",
    "tuning.request",
    "tuning.tuning_job",
}


def imports(path: Path, *, at_import_time: bool = False) -> set[str]:
    """Dotted names that a file imports; with `at_import_time`, without those inside functions and type checks."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if at_import_time else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def modules_of(package: str) -> dict[str, Path]:
    paths = sorted((ROOT / package).rglob("*.py"))
    return {str(p.relative_to(ROOT / package).with_suffix("")).replace("/", "."): p for p in paths}


def test_imports_point_down_the_layers_and_in_no_circle() -> None:
    program = [sys.executable, "-c", "import importlinter.cli; importlinter.cli.lint_imports_command()", "--no-cache"]
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "3 kept, 0 broken" in done.stdout


def test_only_container_reads_the_environment_or_spells_opt_ml() -> None:
    for name, path in modules_of("runtime").items():
        text = path.read_text()
        if not name.startswith("container."):
            assert "os.environ" not in text, path
            assert "getenv" not in text, path
            assert '"/opt/ml' not in text, path


def test_serving_imports_nothing_that_trains_or_exports() -> None:
    """A server is to be ready within seconds and in some 80 MB a worker."""
    unwanted = HEAVY | {"onnx", "gymnasium", "tensorboard", "google.protobuf", "d3rlpy"}
    program = f"import sys, runtime.serving.server, runtime.serving.transform; print({unwanted} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", sorted(LIGHT_MODULES))
def test_light_modules_import_nothing_heavy(name: str) -> None:
    roots = {imported.split(".")[0] for imported in imports(modules_of("runtime")[name], at_import_time=True)}
    assert not roots & HEAVY
