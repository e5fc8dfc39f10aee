"""The five notebooks run here from top to bottom, on tiny jobs; their requests to SageMaker are what AWS takes."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbclient
import nbformat
import pytest
from moto.server import ThreadedMotoServer

from runtime.jobs.catalog import resolve
from runtime.settings.resolve import Source
from runtime.settings.types import parse_text
from runtime.tuning.request import read_job
from tests.conftest import PEERS, ROOT, SHORT_RACES, TINY, clean_environment
from tests.unity_stand_in import build_player

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.ray]
EXAMPLES = ROOT / "examples"
SDK_3 = ROOT / ".venv" / "sdk3" / "bin" / "python"
SHORT = {**TINY, "rl.training.export": "true", "rl.training.stop.training_iteration": "8"}


class Cells:
    """The code cells of a notebook that ran."""

    def __init__(self, cells: list[Any]) -> None:
        self._cells = cells

    def outputs(self, beginning: str) -> list[Any]:
        """Returns the outputs of the only cell that starts with a text."""
        (found,) = [cell.outputs for cell in self._cells if cell.source.startswith(beginning)]
        return list(found)


def run_notebook(name: str, results: Path, *, image: str = "", **parameters: Any) -> Cells:
    """Runs a notebook with other parameters; in Docker with an image."""
    notebook = nbformat.read(EXAMPLES / name, as_version=4)
    (at,) = [n for n, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", ())]
    assert 'where = "here"' in notebook.cells[at].source
    place = {"where": "docker", "options": {"folder": str(results), "image": image}}
    here = {"options": {"folder": str(results)}}
    lines = [f"{key} = {value!r}" for key, value in {**parameters, **(place if image else here)}.items()]
    notebook.cells.insert(at + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    nbclient.NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(EXAMPLES)}}).execute()
    return Cells([cell for cell in notebook.cells if cell.cell_type == "code"])


def result_of(outputs: list[Any]) -> Any:
    """The value that a cell ends with."""
    (found,) = [output for output in outputs if output.output_type == "execute_result"]
    return parse_text(found.data["text/plain"])


def kinds_of(outputs: list[Any]) -> list[str]:
    """Lists the types that a cell displays, as image/png or text/html."""
    shown = [output for output in outputs if output.output_type == "display_data"]
    return [kind for output in shown for kind in output.data if kind != "text/plain"]


def test_robots_are_trained_evaluated_and_served(tmp_path: Path) -> None:
    cells = run_notebook("robots.ipynb", tmp_path, hyperparameters=SHORT, episodes=2, own_steps=4000)
    (said,) = [output.text for output in cells.outputs("job.refresh(") if output.output_type == "stream"]
    assert re.match(r"smrl-train-\S+ (runs|has ended)", said)
    assert kinds_of(cells.outputs("job.show(")) == ["image/png", "text/html"]
    plot = cells.outputs("rows =")
    assert kinds_of(plot) == ["image/png"]
    mean, least, most = result_of(cells.outputs("evaluation ="))
    assert least <= mean <= most
    (action,) = result_of(cells.outputs("endpoint ="))
    assert len(action) == 2
    answer = result_of(cells.outputs("endpoint.predict("))
    assert len(answer["predictions"]) == 2
    assert kinds_of(cells.outputs("curve =")) == ["image/png"]
    (own,) = (tmp_path / "robots").glob("smrl-own-*")
    assert json.loads((own / "config.json").read_text())["values"]["env"] == "my_pole:LongPole"


def test_a_unity_build_is_trained_evaluated_and_served(tmp_path: Path) -> None:
    build_player(tmp_path / "build", "Basic", name="basic_env_linux.x86_64")
    settings = {
        **{"rl.training.config.train_batch_size": "240", "rl.training.config.minibatch_size": "60"},
        **{"rl.training.config.num_env_runners": "0", "rl.training.stop.training_iteration": "2"},
    }
    build: dict[str, Any] = {"folder": str(tmp_path / "build"), "executable": "basic_env_linux.x86_64"}
    cells = run_notebook("unity.ipynb", tmp_path, **build, hyperparameters=settings, episodes=2)
    served = result_of(cells.outputs("endpoint ="))
    assert len(served["predictions"]) == 1


def test_hyperparameters_are_tuned(tmp_path: Path) -> None:
    static = {**TINY, "rl.training.stop.timesteps_total": 640}
    cells = run_notebook("tuning.ipynb", tmp_path, max_jobs=3, static_hyperparameters=static)
    shown = cells.outputs("for name in")
    assert "image/png" in kinds_of(shown)
    text = "".join(output.text for output in shown if output.output_type == "stream")
    assert "tuned for episode_reward_mean" in text


def test_a_log_is_learned_from_and_the_loop_closes(tmp_path: Path) -> None:
    settings = {"rl.training.config.updates_per_iteration": 100, "rl.training.stop.training_iteration": 3}
    size: dict[str, Any] = {"envs": 30, "episodes": 2, "evaluate_steps": 100}
    cells = run_notebook("batch_rl.ipynb", tmp_path, **size, hyperparameters=settings)
    assert kinds_of(cells.outputs("job.show(")) == ["image/png"]
    assert result_of(cells.outputs("evaluation =")) > 5
    (table,) = [output.data["text/html"] for output in cells.outputs("pd.Series(")]
    assert f"<td>{result_of(cells.outputs('baseline =')):.6f}</td>" in table
    again = (tmp_path / "batch-rl" / "again.csv").read_text().splitlines()
    assert len(again) == 1 + 30


def test_a_deepracer_car_is_trained_and_raced(tmp_path: Path) -> None:
    settings = dict(word.split("=") for word in SHORT_RACES)
    settings |= {"rl.training.stop.training_iteration": "1", "rl.training.config.num_env_runners": "0"}
    settings |= {"rl.training.export": "false"}
    cells = run_notebook("deepracer.ipynb", tmp_path, hyperparameters=settings, trials=1)
    alone = cells.outputs("laps =")
    assert kinds_of(alone) == ["image/png", "text/html"]
    (table,) = [output.data["text/html"] for output in cells.outputs("report =")]
    assert "completion_percentage" in table
    (races,) = [output.data["text/html"] for output in cells.outputs("races =") if "data" in output]
    assert "obstacles" in races
    assert "bot cars" in races
    race = cells.outputs("race =")
    assert kinds_of(race).count("image/png") == 2


@pytest.fixture
def aws() -> Iterator[dict[str, str]]:
    """The environment in which AWS's SDKs talk to a moto server."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    reset = urllib.request.Request(f"http://{host}:{port}/moto-api/reset", method="POST")
    urllib.request.urlopen(reset).close()  # what it holds is the process's, not the server's
    keys = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
    yield {"AWS_ENDPOINT_URL": f"http://{host}:{port}", **keys}
    server.stop()


def run_with_sdk(version: int, script: str, aws: dict[str, str], folder: Path, *words: str) -> str:
    """Runs a script of tests/peers with a version of the SageMaker SDK; returns what it printed."""
    python = PEERS if version == 2 else SDK_3
    if not python.exists():
        pytest.skip(f"{python.parent.parent} is absent; `make test` installs the SageMaker SDKs")
    config = folder / "sdk.yaml"  # without the telemetry that the SDK would send
    config.write_text("SchemaVersion: '1.0'\nSageMaker: {PythonSDK: {Modules: {TelemetryOptOut: true}}}\n")
    environment = {**clean_environment(), **aws, "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config)}
    command = [str(python), str(ROOT / "tests" / "peers" / script), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("version", [2, 3])
def test_a_tuner_of_the_sdk_becomes_a_job_for_this_machine(version: int, aws: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "job.json"
    run_with_sdk(version, "write_tuner.py", aws, tmp_path, str(path))
    job = read_job(path)
    assert (job.max_trials, job.max_parallel, job.strategy) == (50, 5, "Bayesian")
    assert {one.name: (one.low, one.high) for one in job.ranges} == {
        "rl.training.config.kl_coeff": (0.5, 1.0),
        "rl.training.config.num_sgd_iter": (3, 50),
    }
    assert job.static["preset"] == "hopper"  # of the script train-hopper.py, or as a hyperparameter
    assert job.static["rl.training.stop.time_total_s"] == "600"
    assert job.read_objective({"episode_reward_mean": 7.5}) == 7.5


@pytest.mark.parametrize("version", [2, 3])
def test_sagemaker_is_asked_for_the_same_jobs(version: int, aws: dict[str, str], tmp_path: Path) -> None:
    """Runs the SDK of that version; moto checks each request against AWS's own model of the API."""
    *said, last = run_with_sdk(version, "run_on_sagemaker.py", aws, tmp_path, str(tmp_path)).splitlines()
    found = json.loads(last)
    assert f"{found['started']} has ended" in said  # moto's jobs end at once
    assert found["runs"] is False
    request = found["requests"]["CreateTrainingJob"]
    image = "1.dkr.ecr.us-east-1.amazonaws.com/smrl:cpu"
    assert request["AlgorithmSpecification"]["TrainingImage"] == image
    assert "ContainerEntrypoint" not in request["AlgorithmSpecification"]  # the image's own, which knows dotted names
    names = [one["Name"] for one in request["AlgorithmSpecification"]["MetricDefinitions"]]
    assert names[:2] == ["episode_reward_mean", "episode_reward_max"]
    (channel,) = request["InputDataConfig"]
    assert channel["ChannelName"] == "train"
    assert request["StoppingCondition"]["MaxRuntimeInSeconds"] == 86400
    arrived = {name: value for name, value in request["HyperParameters"].items() if not name.startswith("sagemaker_")}
    assert request["HyperParameters"]["sagemaker_program"].strip('"') == "train.py"
    values = resolve([Source("hyperparameters.json", arrived)], extras={}).values()
    assert (values["config.kl_coeff"], values["stop.time_total_s"]) == (0.5, 600)
    assert (values["config.model.fcnet_hiddens"], values["config.use_gae"]) == ([32, 32], True)
    transform = found["requests"]["CreateTransformJob"]
    assert transform["DataProcessing"] == {"JoinSource": "Input"}
    assert found["requests"]["CreateModel"]["PrimaryContainer"] == {"Image": image, "ModelDataUrl": found["model"]}
    tuning = found["requests"]["CreateHyperParameterTuningJob"]["TrainingJobDefinition"]
    assert tuning["StaticHyperParameters"]["preset"] == "reacher"
    assert tuning["AlgorithmSpecification"]["MetricDefinitions"][0]["Name"] == "episode_reward_mean"
