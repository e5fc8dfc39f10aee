"""Imports point down: entrypoints → runtime → envs, and down the list inside runtime."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Each module may import those of its own row's predecessors alone; modules of one row do not import each other.
LAYERS = [
    {
        "errors",
        "coercion",
        "metrics",
        "plot",
        "stop",
        "export.graph",
        "export.graph_def",
        "observation_filter",
        "pixels",
        "noise_head",
        "requirements",
    },
    {"spaces", "container", "schema", "presets", "console", "checkpoint", "export.layers", "export.filters"},
    {"host_line", "scratch"},
    {"ray_node"},
    {"old_names", "ray_session", "job", "manifest", "setting_rules", "sizes", "export.bcq_graph", "trust"},
    {"cluster", "hyperparameters", "old_gym", "policy", "toolkit", "offline.network_policy"},
    {
        "environments",
        "hosts",
        "preset_listing",
        "model",
        "settings_page",
        "presets_page",
        "export.parity",
        "export.verify",
        "ppo.masks",
    },
    {"ppo.module", "ppo.camera_lidar"},
    {"policy_file"},
    {"export.policy_graph", "export.saved_model", "export.onnx_file", "export.torch_program"},
    {"export.exporter"},
    {"video", "export.command"},
    {"serving.served_policy", "serving.counters"},
    {"serving.observations"},
    {"serving.decoding", "serving.registry", "serving.receiving"},
    {"serving.encoding"},
    {"serving.app"},
    {"serving.server", "serving.transform"},
    {"offline.log", "offline.probability_lists", "offline.ope", "offline.rollouts"},
    {"offline.table_columns"},
    {"offline.transitions", "offline.tables", "offline.stored_datasets", "offline.collecting"},
    {"offline.reading", "offline.bounds", "offline.bcq", "offline.behaviour"},
    {"offline.fqe"},
    {"offline.selection"},
    {"offline.results"},
    {"offline.job"},
    {"offline.run"},
    {"ppo.network_kernels", "ppo.rollout", "ppo.seeds", "unity.trajectory"},
    {
        "ppo.episodes",
        "ppo.runner",
        "ppo.faults",
        "ppo.sampling_kernels",
        "ppo.descent_kernels",
    },
    {"deepracer.rollout", "deepracer.network", "deepracer.job_files"},
    {"deepracer.driving", "deepracer.records", "deepracer.evaluation_settings"},
    {"deepracer.runner", "deepracer.learner", "deepracer.races"},
    {"deepracer.building", "deepracer.observer", "deepracer.evaluating", "deepracer.options", "deepracer.storage"},
    {"deepracer.places"},
    {"deepracer.track_listing", "deepracer.reward_check"},
    {"unity.options", "unity.observer", "unity.scene"},
    {"unity.runner"},
    {"unity.building", "unity.evaluating"},
    {"ppo.flat", "ppo.direct_envs"},
    {"ppo.warm"},
    {"ppo.compiled_steps", "ppo.sampling"},
    {"ppo.fast_runner", "ppo.fast_learner"},
    {"ppo.rows", "ppo.build"},
    {"ppo.loop"},
    {"ppo.restarts"},
    {"tuning.ranges", "starting"},
    {"tuning.job", "tuning.sdk"},
    {"tuning.records"},
    {"report.results", "report.figures"},
    {"report.page"},
    {"report.command", "report.watch"},
    {"training", "evaluation"},
    {"tuning.display", "tuning.search"},
    {"tuning.pictures", "tuning.trial"},
    {"tuning.engine"},
    {"tuning.run"},
    {"deepracer.worker", "deepracer.evaluation_worker"},
    {"launcher", "cli", "init"},
    {
        "entry",
        "compat.coach_launcher",
        "compat.agents",
        "compat.gym_2020",
        "compat.ray_2020",
        "compat.gym_unity",
        "compat.unity_2020",
        "compat.sagemaker_rl",
    },
    {"compat.roboschool", "compat.stand_ins"},
]
HEAVY = {"ray", "torch", "d3rlpy", "tensorflow", "matplotlib", "av", "pybullet"}
LIGHT_MODULES = {
    "errors",
    "coercion",
    "schema",
    "old_names",
    "presets",
    "hyperparameters",
    "container",
    "cli",
    "setting_rules",
    "stop",
    "tuning.job",
    "tuning.ranges",
    "tuning.records",
    "tuning.run",
    "manifest",
    "cluster",
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


def test_every_runtime_module_is_in_the_list() -> None:
    named = {name for name in modules_of("runtime") if not name.endswith("__init__")}
    assert named == set().union(*LAYERS)


@pytest.mark.parametrize("name", sorted(set().union(*LAYERS)))
def test_a_module_imports_only_what_is_below_it(name: str) -> None:
    rank = {module: number for number, layer in enumerate(LAYERS) for module in layer}
    for imported in imports(modules_of("runtime")[name]):
        if imported.startswith("runtime."):
            below = imported.removeprefix("runtime.")
            assert rank[below] < rank[name], f"runtime.{name} imports {imported}, which is not below it"


def test_envs_know_nothing_of_runtime() -> None:
    for path in (ROOT / "envs").rglob("*.py"):
        assert not any(name.split(".")[0] in ("runtime", "entrypoints") for name in imports(path)), path


def test_only_container_reads_the_environment_or_spells_opt_ml() -> None:
    for name, path in modules_of("runtime").items():
        text = path.read_text()
        if name != "container":
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
