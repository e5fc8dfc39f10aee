"""Jobs on Unity scenes from end to end: train, evaluate, serve, and the notebook's script of 2020."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.artifacts.checkpoint import JobState
from runtime.container.layout import Container, Layout
from runtime.container.signals import StopRequest
from runtime.outputs.console import Reporter
from runtime.settings.schema import EvaluationSettings
from tests.conftest import ROOT, OptMl, run_smrl
from tests.servers import started
from tests.unity_stand_in import build_player

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# What the notebook sends to its endpoint.
NOTEBOOKS_REQUEST = {
    "inputs": {
        "observations": np.ones(shape=(1, 20)).tolist(),
        "prev_action": [0, 0],
        "is_training": False,
        "prev_reward": -1,
        "seq_lens": -1,
    }
}
RECORDED = [
    *("rl.training.config.train_batch_size=240", "rl.training.config.minibatch_size=60"),
    *("rl.training.config.num_epochs=1", "rl.training.export=false", "rl.training.config.num_env_runners=0"),
]
SHORT = ["rl.training.video_freq=0", *RECORDED]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> OptMl:
    """/opt/ml after the real toolkit trained Basic from a train channel, as the notebook's second half does."""
    base = tmp_path_factory.mktemp("unity") / "opt_ml"
    job = OptMl(base, {"SAGEMAKER_TRAINING_MODULE": "runtime.container.toolkit:train"})
    job.write(
        {
            "sagemaker_program": '"train.py"',
            "preset": '"unity-basic"',
            "rl.training.config.env_config.env_name": '"basic_env_linux.x86_64"',
            "rl.training.config.seed": "3",
        },
        channels=("train",),
    )
    build_player(base / "input" / "data" / "train", "Basic", name="basic_env_linux.x86_64", executable=False)
    job.add_code(ROOT / "entrypoints" / "train.py")
    done = job.run()
    assert done.code == 0, done.log[-3000:]
    return job


@pytest.mark.system
def test_basic_is_trained_to_its_optimum_from_a_train_channel(trained: OptMl) -> None:
    last = trained.rows[-1]
    assert last["episode_reward_mean"] >= 0.9
    assert last["unity_restarts"] == 0
    assert last["time_total_s"] < 120
    logs = list((trained.base / "output" / "intermediate" / "unity").glob("Player-*.log"))
    assert len(logs) == 1
    assert logs[0].read_text().endswith("Received the stop message.\n")


@pytest.mark.system
def test_the_manifest_holds_the_shape_of_the_observation(trained: OptMl) -> None:
    manifest = json.loads((trained.base / "model" / "manifest.json").read_text())
    assert manifest["observation_space"]["shape"] == [20]
    assert manifest["env_config"] == {"env_name": "basic_env_linux.x86_64"}  # nothing of the machine that trained it
    assert [export["format"] for export in manifest["exports"]] == ["tensorflow-savedmodel", "onnx", "torch-export"]


@pytest.mark.system
def test_the_model_is_evaluated_as_the_notebook_does(trained: OptMl, tmp_path: Path) -> None:
    job = OptMl(tmp_path / "opt_ml", trained.environment)
    job.write(
        {
            "sagemaker_program": '"evaluate.py"',
            "evaluate_episodes": "5",
            "algorithm": '"PPO"',
            "env": '"basic_env_linux.x86_64"',
        },
        channels=("model", "train"),
    )
    build_player(job.base / "input" / "data" / "train", "Basic", name="basic_env_linux.x86_64", executable=False)
    shutil.copytree(trained.base / "model", job.base / "input" / "data" / "model", dirs_exist_ok=True)
    job.add_code(ROOT / "entrypoints" / "evaluate.py")
    done = job.run()
    assert done.code == 0, done.log[-3000:]
    returns = [float(found) for found in re.findall(r"^Episode reward: (\S+)\. Episode steps: 7$", done.log, re.M)]
    assert returns == pytest.approx([0.93] * 5)
    assert json.loads((job.base / "output" / "data" / "evaluation.json").read_text())["mean_reward"] > 0.92


@pytest.mark.system
def test_the_notebooks_request_is_answered(trained: OptMl, tmp_path: Path) -> None:
    with started(tmp_path, str(trained.base / "model")) as server:
        server.wait_until(200)
        assert server.invoke(NOTEBOOKS_REQUEST)["outputs"]["actions"][0] in (0, 1, 2)
        places = np.eye(20)[[10, 13, 16]].tolist()
        alone = {"signature_name": "observations_only", "inputs": {"observations": places}}
        assert server.invoke(alone)["outputs"] == [2, 2, 2]  # of one output, TF Serving gives the bare list


@pytest.mark.system
def test_a_player_killed_during_training_is_restarted_and_the_job_continues(tmp_path: Path) -> None:
    path = build_player(tmp_path, "3DBall", mode=f"crash=30,once={tmp_path / 'once'}")
    done = run_smrl(
        *("train", "--out", "results", f"rl.training.config.env_config.file_name={path}", "rl.training.env=Unity-v0"),
        *("rl.training.stop.training_iteration=4", *SHORT),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert re.search(
        r"a player was restarted: Unity player .*3DBall\.x86_64: failed: it was ended by SIGSEGV\. Its log",
        done.stderr,
    )
    rows = [json.loads(line) for line in (tmp_path / "results" / "metrics.jsonl").read_text().splitlines()]
    assert [row["unity_restarts"] for row in rows] == [0, 1, 1, 1]
    assert rows[-1]["timesteps_total"] >= 4 * 240
    assert len(list((tmp_path / "results" / "unity").glob("Player-*.log"))) == 2
    evaluated = run_smrl("evaluate", "results", "evaluate_episodes=13", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert len(re.findall(r"^Episode reward: ", evaluated.stdout, re.M)) == 13
    assert "was restarted" not in evaluated.stderr
    frail = build_player(tmp_path, "3DBall", name="frail.x86_64", mode=f"crash=3,once={tmp_path / 'again'}.once")
    words = ["evaluate_episodes=3", "seed=4", f"env={frail}"]
    evaluated = run_smrl("evaluate", "results", "--out", "again", *words, cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "smrl: a player was restarted: " in evaluated.stderr
    assert "smrl: 12 episodes are left out, as their player failed" in evaluated.stderr
    assert json.loads((tmp_path / "again" / "evaluation.json").read_text())["seed"] == 4


@pytest.mark.system
def test_two_runners_have_players_of_their_own_and_a_job_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    path = build_player(tmp_path, "3DBall")
    words = ["train", "--out", "results", f"rl.training.config.env_config.env_name={path}", *SHORT[:-1]]
    words += ["rl.training.config.num_env_runners=2", "rl.training.config.observation_filter=MeanStdFilter"]
    words += ["rl.training.config.seed=9"]
    first = run_smrl(*words, "rl.training.stop.training_iteration=1", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    second = run_smrl(*words, "rl.training.stop.training_iteration=2", cwd=tmp_path)
    assert second.returncode == 0, second.stderr
    rows = [json.loads(line) for line in (tmp_path / "results" / "metrics.jsonl").read_text().splitlines()]
    assert [row["timesteps_total"] for row in rows] == [240, 480]
    logs = [path.read_text() for path in (tmp_path / "results" / "unity").glob("Player-[12]-*.log")]
    seeds = set(re.findall(r"seed (\d+)", "".join(logs)))
    assert len(seeds) == 4  # of two players, in each of two starts of the job
    assert {"1000009", "2000009"} < seeds


def test_a_picture_with_masks_is_trained_recorded_and_evaluated(tmp_path: Path) -> None:
    path = build_player(tmp_path, "GridWorld")
    done = run_smrl(
        *("train", "--out", "results", f"rl.training.config.env_config.env_name={path}"),
        *("rl.training.stop.training_iteration=1", *RECORDED),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert "smrl: sampling by smrl's UnityRunner, learning by RLlib's own code: Unity-v0 has" in done.stderr
    assert (tmp_path / "results" / "videos" / "last.mp4").stat().st_size > 500
    evaluated = run_smrl("evaluate", "results", "evaluate_episodes=2", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr
    assert "was restarted" not in evaluated.stderr  # the stand-in dies where a forbidden action is taken
    assert (tmp_path / "results" / "evaluation" / "evaluation.mp4").stat().st_size > 500


@pytest.mark.parametrize("scene", [pytest.param("Hybrid", marks=pytest.mark.system), "Sensors"])
def test_hybrid_actions_are_trained_and_evaluated(tmp_path: Path, scene: str) -> None:
    path = build_player(tmp_path, scene)
    done = run_smrl(
        *("train", "--out", "results", f"rl.training.config.env_config.env_name={path}"),
        *("rl.training.stop.training_iteration=1", *SHORT, f"rl.training.export={scene == 'Hybrid'}"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    manifest = json.loads((tmp_path / "results" / "model" / "manifest.json").read_text())
    assert [part["type"] for part in manifest["action_space"]["spaces"]] == ["Box", "MultiDiscrete"]
    if scene == "Hybrid":
        assert len(manifest["exports"]) == 3, manifest.get("not_exported")
        assert manifest["exports"][0]["outputs"]["actions"] == {"dtype": "float32", "shape": [-1, 4]}
    evaluated = run_smrl("evaluate", "results", "evaluate_episodes=3", cwd=tmp_path)
    assert evaluated.returncode == 0, evaluated.stderr


@pytest.mark.system
def test_scripts_of_2020_train_and_evaluate_unmodified(opt_ml: OptMl, tmp_path: Path) -> None:
    opt_ml.write(
        {
            "sagemaker_program": '"train-unity.py"',
            "rl.training.config.env_config.env_name": '"basic_env_linux.x86_64"',
            "rl.training.stop.timesteps_total": "1000",
            "rl.training.config.num_sgd_iter": "2",
            "rl.training.config.num_workers": "0",
        },
        channels=("train",),
    )
    build_player(opt_ml.base / "input" / "data" / "train", "Basic", name="basic_env_linux.x86_64", executable=False)
    opt_ml.add_code(ROOT / "tests" / "scripts_2020" / "train-unity.py")
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    assert opt_ml.rows[-1]["timesteps_total"] == 1000
    assert opt_ml.rows[-1]["episode_reward_mean"] < 0.93
    assert json.loads((opt_ml.base / "model" / "manifest.json").read_text())["observation_space"]["shape"] == [20]

    evaluation = OptMl(tmp_path / "evaluation", opt_ml.environment)
    values = {"evaluate_episodes": "1", "algorithm": '"PPO"', "env": '"basic_env_linux.x86_64"'}
    evaluation.write({**values, "sagemaker_program": "evaluate-unity.py"}, channels=("train", "model"))
    for channel, folder in (("train", opt_ml.base / "input" / "data" / "train"), ("model", opt_ml.base / "model")):
        shutil.copytree(folder, evaluation.base / "input" / "data" / channel, dirs_exist_ok=True)
    evaluation.add_code(ROOT / "tests" / "scripts_2020" / "evaluate-unity.py")
    done = evaluation.run()
    assert done.code == 0, done.log[-3000:]
    assert re.search(r"^Episode reward: \S+\. Episode steps: \d+$", done.log, re.M)
    assert "Traceback" not in done.log
    assert not list((evaluation.base / "output" / "intermediate").glob("*.mp4"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["rl.training.config.env_config.env_name=./Basik.x86_64"],
            r"env_config: env_name: got 'Basik\.x86_64'; expected a Linux executable\. \. holds .*Basic\.x86_64",
        ),
        (
            ["rl.training.config.env_config.env_name=./Two.x86_64"],
            r"env_config: behavior_name: got None; expected one of 'Basic\?team=0', 'Walker\?team=0'",
        ),
        (
            [
                *("rl.training.config.env_config.env_name=./Basic.x86_64", "rl.training.config.horizon=10"),
                *("rl.training.config.env_config.time_scale=fast", "rl.training.config.env_config.timescale=2"),
            ],
            r"3 problems[\s\S]*config\.horizon: got 10 from the command line; expected none, as a Unity scene ends"
            r"[\s\S]*env_config: timescale: got a setting[\s\S]*env_config: time_scale: got 'fast'",
        ),
        (
            ["rl.training.config.env_config.env_name=./Absent.x86_64", "rl.training.config.env_config.timeout_s=3"],
            r"did not start: it did not connect within 3 s[\s\S]*unity/Player-0-0-0\.log ends:[\s\S]*display that",
        ),
    ],
)
def test_mistakes_are_reported(tmp_path: Path, settings: list[str], message: str) -> None:
    for scene in ("Basic", "Two"):
        build_player(tmp_path, scene)
    build_player(tmp_path, "Basic", name="Absent.x86_64", mode="absent")
    done = run_smrl("train", "--out", "results", *settings, cwd=tmp_path)
    assert done.returncode == (3 if "Absent" in settings[0] else 2)
    assert re.search(message, done.stderr), done.stderr
    assert "Traceback" not in done.stderr


def choose(
    trained: dict[str, Any],
    logs: Path,
    *,
    channels: Mapping[str, Path] | None = None,
    env_config: Mapping[str, Any] | None = None,
    is_foreign: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """The scene that an evaluation of a policy trained with such settings plays; its logs go below `logs`."""
    from runtime.families.unity.evaluation import choose_scene
    from runtime.interfaces.context import RunContext
    from runtime.interfaces.evaluation import Evaluation
    from runtime.ppo.algorithm import PPO

    evaluation = Evaluation(
        checkpoint=logs,
        state=JobState("Unity-v0", [1], "Discrete(2)", policy={"env_config": trained}),
        algorithm=PPO(),
        place=logs,
        settings=EvaluationSettings(**settings),
        env_config=env_config or {},
        is_foreign=is_foreign,
    )
    container = Container(channels=channels or {})
    layout = replace(Layout.of_results(logs), videos=logs)
    stop = StopRequest()
    stop.release()
    return choose_scene(evaluation, RunContext(container, layout, Reporter(), stop, logs))


def test_an_evaluation_takes_its_own_channels_player_and_a_seed_of_its_own(tmp_path: Path) -> None:
    path = build_player(tmp_path / "train", "Basic")
    trained = {"file_name": "/elsewhere/Basic.x86_64", "timeout_s": 9, "seed": 3}
    settled = choose(trained, tmp_path, channels={"train": path.parent}, env_config={"timeout_s": 5})
    assert (settled["file_name"], settled["timeout_s"]) == (str(path), 5)
    assert settled["seed"] != 3
    other = build_player(tmp_path / "other", "Two")
    settled = choose(trained, tmp_path, env=str(other), seed=8)
    assert settled.items() >= {"file_name": str(other), "seed": 8}.items()


@pytest.mark.parametrize("trained", [{"file_name": "/bin/sh"}, {"env_name": "/bin/sh"}])
@pytest.mark.parametrize("chosen", [{}, {"env": "Unity-v0"}, {"env_config": {"timeout_s": 9}}])
def test_an_archive_starts_no_program_that_its_author_named(
    tmp_path: Path, trained: dict[str, str], chosen: dict[str, Any]
) -> None:
    from runtime.errors import UserError

    with pytest.raises(UserError, match=r"an archive that names a program to start, .*/bin/sh.*trust_checkpoint=true"):
        choose(trained, tmp_path, **chosen)


@pytest.mark.parametrize("by_env", [True, False])
def test_a_player_that_is_named_gets_nothing_of_an_archives_program(tmp_path: Path, by_env: bool) -> None:
    own = str(build_player(tmp_path / "own", "Basic"))
    trained = {
        "file_name": "/bin/sh",
        "registry_url": "file:///x",
        "additional_args": ["-c"],
        "log_folder": "/",
        "seed": 3,
    }
    chosen: dict[str, Any] = {"env": own} if by_env else {"env_config": {"env_name": own}}
    settled = choose(trained, tmp_path / "logs", **chosen)
    assert settled["file_name"] == own
    assert settled["additional_args"] == []
    assert settled["log_folder"] == str(tmp_path / "logs" / "unity")
    assert "registry_url" not in settled
    trusted = choose(trained, tmp_path / "logs", is_foreign=False, **chosen)
    assert trusted["file_name"] == own


def test_the_settings_name_a_scene_and_the_preset_follows() -> None:
    from runtime.jobs.catalog import resolve
    from runtime.settings.resolve import Source

    def chosen(values: dict[str, Any]) -> tuple[str | None, str]:
        config = resolve([Source("a test", values)], extras=None)
        return config.preset, config.env_id

    assert chosen({"rl.training.config.env_config.env_name": "Basic"}) == ("unity-basic", "Unity-v0")
    assert chosen({"rl.training.config.env_config.env_name": "PushBlock"}) == (None, "Unity-v0")
    assert chosen({"rl.training.env": "Unity-v0"}) == (None, "Unity-v0")
    assert chosen({}) == ("reacher", "RoboschoolReacher-v1")
