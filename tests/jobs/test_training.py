"""The command smrl on real trainings, as its user sees them."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from runtime.artifacts.checkpoint import checkpoints_in, read_state
from runtime.outputs.metrics import read_rows
from tests.artifacts.test_trust import Payload, list_again
from tests.conftest import BIN, ROOT, TINY, clean_environment, run_smrl

pytestmark = pytest.mark.ray
TINY_WORDS = [f"{name}={value}" for name, value in TINY.items()]
NO_VIDEO = "rl.training.video_freq=0"


def train(*words: str, out: Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return run_smrl("train", "--out", str(out), *TINY_WORDS, *words, cwd=cwd)


def test_a_results_folder_holds_what_the_last_screen_names(tiny_results: Path) -> None:
    rows = read_rows(tiny_results / "metrics.jsonl")
    assert [row["training_iteration"] for row in rows] == list(range(1, 9))
    assert rows[-1]["timesteps_total"] == 8 * 64
    assert rows[-1]["episodes_total"] == 2  # 512 steps in two environments, episodes of 150
    assert rows[-1]["episode_len_mean"] == 150
    assert "episode_reward_mean" not in rows[0]  # no episode had ended
    assert (tiny_results / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    assert [p.name for p in checkpoints_in(tiny_results / "checkpoints")] == [
        f"checkpoint_{n:06d}" for n in (4, 6, 8)
    ] or best_is_kept(tiny_results)
    assert (tiny_results / "videos" / "last.mp4").stat().st_size > 1000
    assert list((tiny_results / "tensorboard").glob("events*"))


def best_is_kept(results: Path) -> bool:
    states = [read_state(path) for path in checkpoints_in(results / "checkpoints")]
    return len(states) == 4 and states[0].training_iteration == 2


def test_the_model_directory_says_what_was_trained(tiny_results: Path) -> None:
    manifest = json.loads((tiny_results / "model" / "manifest.json").read_text())
    assert manifest["env"] == "RoboschoolReacher-v1"
    assert manifest["observation_space"]["shape"] == [9]
    assert manifest["action_space"] == {"type": "Box", "shape": [2], "dtype": "float32", "low": -1.0, "high": 1.0}
    assert manifest["observation_filter"] == "MeanStdFilter"
    assert manifest["training_iteration"] == 8
    assert manifest["versions"]["ray"] == "2.60.0"
    params = json.loads((tiny_results / "model" / "params.json").read_text())
    assert params["training"]["config"]["seed"] == 7
    assert params["sources"]["config.seed"] == "the command line"
    assert params["sources"]["config.gamma"] == "preset reacher"
    assert (params["env"], params["env_config"]) == ("RoboschoolReacher-v1", {})  # as Ray of 2020 had them
    assert read_state(tiny_results / "model" / "checkpoint").training_iteration == 8
    assert (tiny_results / "model" / "best" / "job.json").is_file()


def test_equal_seeds_train_equal_policies(tiny_results: Path, tmp_path: Path) -> None:
    again = train(
        *("--preset", "reacher", "rl.training.stop.training_iteration=8", "rl.training.config.seed=7", NO_VIDEO),
        out=tmp_path / "again",
    )
    assert again.returncode == 0, again.stderr
    one, two = read_rows(tiny_results / "metrics.jsonl"), read_rows(tmp_path / "again" / "metrics.jsonl")
    for name in ("episode_reward_mean", "total_loss", "entropy"):
        assert [row.get(name) for row in one] == [row.get(name) for row in two]


@pytest.mark.parametrize("as_archive", [False, True])
def test_evaluation_prints_each_episode_and_the_summary(as_archive: bool, tiny_results: Path, tmp_path: Path) -> None:
    model = tiny_results
    if as_archive:
        model = tmp_path / "model.tar.gz"
        with tarfile.open(model, "w:gz") as tar:
            tar.add(tiny_results / "model", arcname=".")
    # By relative paths, as the last screen of a training names them.
    done = run_smrl(
        *("evaluate", model.name, "--out", str(tmp_path / "out"), "evaluate_episodes=3", "seed=5"), cwd=model.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    rewards = [float(r) for r in re.findall(r"^Episode reward: (\S+)\. Episode steps: 150$", done.stdout, re.M)]
    assert len(rewards) == 3
    summary = dict(re.findall(r"^(Mean|Max|Min) Reward: (\S+)$", done.stdout, re.M))
    assert float(summary["Mean"]) == pytest.approx(np.mean(rewards))
    assert (float(summary["Max"]), float(summary["Min"])) == (max(rewards), min(rewards))
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [e["total_reward"] for e in report["episodes"]] == rewards
    assert (tmp_path / "out" / report["video"]).stat().st_size > 1000


@pytest.fixture
def hostile_model(tiny_results: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A model directory whose every pickle touches a file when it is read, its hashes in order; and that file."""
    model, marker = tmp_path / "hostile", tmp_path / "escaped"
    shutil.copytree(tiny_results / "model", model)
    for path in model.rglob("*.pkl"):
        path.write_bytes(pickle.dumps(Payload(marker)))
    for checkpoint in ("checkpoint", "best"):
        list_again(model / checkpoint)
    pickle.loads((model / "checkpoint" / "algorithm_state.pkl").read_bytes())
    assert marker.exists(), "the payload does nothing, so no test with it could fail"
    marker.unlink()
    return model, marker


def test_a_strangers_model_is_played_exported_and_served_without_its_pickles(
    hostile_model: tuple[Path, Path], tiny_results: Path, tmp_path: Path
) -> None:
    from runtime.compat.agents import PPOTrainer
    from runtime.serving.served_policy import load_policy

    model, marker = hostile_model
    evaluated = []
    for place in (model, tiny_results):
        out = str(tmp_path / f"evaluated-{place.name}")
        done = run_smrl("evaluate", str(place), "--out", out, "evaluate_episodes=2", "seed=5", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        evaluated.append(re.findall("^Episode reward: .*$", done.stdout, re.M))
    assert evaluated[0] == evaluated[1]
    done = run_smrl("export", str(model), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    agent = PPOTrainer(env="RoboschoolReacher-v1")
    agent.restore(str(model / "checkpoint"))
    observation = np.linspace(-1, 1, 9).astype(np.float32)
    served = load_policy(model)
    answer = served.run(observation[None], (served.main_output,))[served.main_output]
    np.testing.assert_allclose(answer[0], agent.compute_action(observation), atol=1e-5)
    assert not marker.exists()


def test_an_archive_runs_no_program_as_its_environment(tiny_results: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_results / "model", model)
    described = json.loads((model / "checkpoint" / "job.json").read_text())
    described["env"] = "tests.toy_envs:NoFrames"
    (model / "checkpoint" / "job.json").write_text(json.dumps(described))
    with tarfile.open(tmp_path / "model.tar.gz", "w:gz") as tar:
        tar.add(model, arcname=".")
    done = run_smrl("evaluate", str(tmp_path / "model.tar.gz"), "--out", str(tmp_path / "out"), cwd=ROOT)
    assert done.returncode == 2
    assert "env: got 'tests.toy_envs:NoFrames' from an archive, which runs a program" in done.stderr


def test_a_strangers_checkpoint_is_resumed_only_if_it_is_trusted(
    hostile_model: tuple[Path, Path], tmp_path: Path
) -> None:
    model, marker = hostile_model
    words = ("--preset", "reacher", f"rl.training.restore={model}", "rl.training.stop.training_iteration=9", NO_VIDEO)
    refused = train(*words, out=tmp_path / "refused")
    assert refused.returncode == 2
    assert "algorithm_state.pkl: UnpicklingError: it calls posix.system" in refused.stderr
    assert "set rl.training.trust_checkpoint=true" in refused.stderr
    assert not marker.exists()
    train(*words, "rl.training.trust_checkpoint=true", out=tmp_path / "trusted")
    assert marker.exists()


def test_an_older_models_pickles_are_read_only_if_it_is_trusted(tiny_results: Path, tmp_path: Path) -> None:
    model = tmp_path / "older"
    shutil.copytree(tiny_results / "model", model)
    (model / "checkpoint" / "policy.safetensors").unlink()
    described = json.loads((model / "checkpoint" / "job.json").read_text())
    del described["files"]["policy.safetensors"], described["sha256"]
    (model / "checkpoint" / "job.json").write_text(json.dumps(described))
    words = ("evaluate", str(model), "--out", str(tmp_path / "out"), "evaluate_episodes=1", "seed=5")
    refused = run_smrl(*words, cwd=tmp_path)
    assert refused.returncode == 2
    assert "set trust_checkpoint=true" in refused.stderr
    trusted = run_smrl(*words, "trust_checkpoint=true", cwd=tmp_path)
    assert trusted.returncode == 0, trusted.stderr
    assert "Episode reward" in trusted.stdout


def test_training_resumes_in_the_same_folder_and_from_another(tiny_results: Path, tmp_path: Path) -> None:
    restored = train(
        *("--preset", "reacher", f"rl.training.restore={tiny_results}", "rl.training.stop.training_iteration=10"),
        NO_VIDEO,
        out=tmp_path / "further",
    )
    assert restored.returncode == 0, restored.stderr
    assert "resuming from" in restored.stderr
    rows = read_rows(tmp_path / "further" / "metrics.jsonl")
    assert [row["training_iteration"] for row in rows] == list(range(1, 11))
    assert rows[-1]["timesteps_total"] == 10 * 64
    assert rows[8]["time_total_s"] < rows[7]["time_total_s"]  # another job's checkpoint: this one's clock starts at 0
    once_more = train(
        *("--preset", "reacher", "rl.training.stop.training_iteration=11", NO_VIDEO), out=tmp_path / "further"
    )
    assert "iteration 10, 640 steps" in once_more.stderr
    assert len(read_rows(tmp_path / "further" / "metrics.jsonl")) == 11


@pytest.mark.system
def test_as_many_runners_as_there_are_cpus_count_every_step_and_the_filter_every_observation(tmp_path: Path) -> None:
    done = train(
        *("--preset", "reacher", "rl.training.stop.training_iteration=3", "rl.training.config.num_env_runners=500"),
        out=tmp_path / "remote",
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"500 env runners asked for, \d+ used: this machine has \d+ CPUs", done.stderr)
    rows = read_rows(tmp_path / "remote" / "metrics.jsonl")
    steps = rows[-1]["timesteps_total"]
    assert steps >= 3 * 64
    checkpoint = checkpoints_in(tmp_path / "remote" / "checkpoints")[-1]
    path = checkpoint / "env_runner" / "env_to_module_connector" / "MeanStdFilter" / "state.pkl"
    statistics = pickle.loads(path.read_bytes())[None]["running_stats"][0]
    assert statistics["num_pushes"] == steps
    evaluated = run_smrl("evaluate", str(tmp_path / "remote"), "evaluate_episodes=1", cwd=tmp_path)
    assert "Mean Reward" in evaluated.stdout, evaluated.stderr


def test_gpus_that_are_not_there_are_refused(tmp_path: Path) -> None:
    done = train("--preset", "reacher", "rl.training.config.num_gpus=1", out=tmp_path / "gpu")
    assert done.returncode == 2
    assert "num_gpus_per_learner: got 1 from the command line; expected at most 0" in done.stderr


def test_settings_may_stand_anywhere_and_be_spelled_as_options(tmp_path: Path) -> None:
    words = ["train", "rl.training.config.gama=1", "--preset", "reacher", "--rl.training.config.lr", "fast"]
    done = run_smrl(*words, "--out", str(tmp_path / "x"), cwd=tmp_path)
    assert done.returncode == 2
    assert "gama: got '1'" in done.stderr
    assert "lr: got 'fast'" in done.stderr


def test_evaluation_of_a_bare_checkpoint_keeps_the_environments_settings(tmp_path: Path) -> None:
    """The horizon of training alone is not evaluation's."""
    done = train(
        *("--preset", "reacher", "rl.training.stop.training_iteration=1", "rl.training.config.horizon=7", NO_VIDEO),
        *("rl.training.config.env_config.compat=bullet", "rl.training.config.training_horizon=5"),
        out=tmp_path / "out",
    )
    assert done.returncode == 0, done.stderr
    assert read_rows(tmp_path / "out" / "metrics.jsonl")[0]["episode_len_mean"] == 5
    bare = checkpoints_in(tmp_path / "out" / "checkpoints")[-1]
    state = read_state(bare)
    assert state.policy["env_config"] == {"compat": "bullet"}
    evaluated = run_smrl("evaluate", str(bare), "--out", str(tmp_path / "e"), "evaluate_episodes=1", cwd=tmp_path)
    assert "Episode steps: 7" in evaluated.stdout, evaluated.stderr


@pytest.mark.system
def test_a_policy_learns_what_pays(tmp_path: Path) -> None:
    """Action 1 pays 1 a step, action 0 nothing, for 10 steps: the trained policy's return is 10."""
    done = run_smrl(
        *("train", "--out", str(tmp_path / "out"), "rl.training.env=tests.toy_envs:NoFrames"),
        *("rl.training.stop.training_iteration=12", "rl.training.config.train_batch_size=512"),
        *("rl.training.config.lr=0.003", "rl.training.config.seed=0"),
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert "no video" in done.stderr
    evaluated = run_smrl("evaluate", str(tmp_path / "out"), "evaluate_episodes=2", cwd=ROOT)
    assert "Mean Reward: 10.0" in evaluated.stdout, evaluated.stderr


@pytest.mark.system
def test_a_nan_reward_stops_the_job_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    done = train(
        "rl.training.config.num_env_runners=1",
        *("rl.training.env=tests.toy_envs:NanReward", "rl.training.stop.training_iteration=50"),
        *("rl.training.checkpoint_freq=1", NO_VIDEO),
        out=tmp_path / "out",
    )
    assert done.returncode == 2
    assert "error: reward of tests.toy_envs:NanReward: got nan" in done.stderr
    assert "Traceback" not in done.stderr.split("smrl: error")[-1]
    states = [read_state(path) for path in checkpoints_in(tmp_path / "out" / "checkpoints")]
    assert [s.training_iteration for s in states][-1] >= 3


def test_a_job_that_is_resumed_plays_no_start_twice(tmp_path: Path) -> None:
    path = tmp_path / "starts.txt"
    for iterations in (1, 2):
        done = run_smrl(
            *("train", "--out", str(tmp_path / "out"), "rl.training.env=tests.toy_envs:Starts", *TINY_WORDS),
            *(f"rl.training.stop.training_iteration={iterations}", f"rl.training.config.env_config.path={path}"),
            *("rl.training.config.seed=1", "rl.training.config.batch_mode=complete_episodes", NO_VIDEO),
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
    starts = path.read_text().split()
    assert len(starts) >= 12
    assert len(set(starts)) == len(starts)


@pytest.mark.parametrize(
    ("env", "reason", "code"),
    [
        (
            "Raises",
            r"tests/toy_envs\.py:\d+: Raises\.reward raised RuntimeError: the simulator is on fire at step 1, .*",
            2,
        ),
        ("RaisesBesideTheJob", "OSError: no display on this worker", 1),
    ],
)
def test_an_environment_that_raises_ends_the_job_with_its_own_words(
    env: str, reason: str, code: int, tmp_path: Path
) -> None:
    """The exception is raised in an env runner's process, which Ray would restart repeatedly."""
    done = train(
        *(f"rl.training.env=tests.toy_envs:{env}", "rl.training.stop.training_iteration=2"),
        *("rl.training.config.num_env_runners=1", "rl.training.config.restart_failed_env_runners=true"),
        out=tmp_path / "o",
    )
    assert done.returncode == code
    # As the first line of SageMaker's failure file.
    assert re.search(rf"smrl: error: (.*/)?{reason}\n\Z", done.stderr), done.stderr
    assert code == 1 or "Traceback" not in done.stderr


def test_an_environment_that_exits_is_no_success(tmp_path: Path) -> None:
    done = train("rl.training.env=tests.toy_envs:Exits", "rl.training.stop.training_iteration=2", out=tmp_path / "o")
    assert done.returncode == 1
    assert "called sys.exit(0)" in done.stderr


def test_a_folder_that_cannot_be_written_to_is_said_before_anything_starts(tiny_results: Path, tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "checkpoints").write_text("in the way")
    (tmp_path / "taken").write_text("in the way")
    train = run_smrl("train", "--preset", "reacher", "--out", "results", cwd=tmp_path)
    evaluate = run_smrl("evaluate", str(tiny_results), "--out", "taken", cwd=tmp_path)
    for done, place in ((train, "results/checkpoints"), (evaluate, "taken")):
        assert done.returncode == 3
        assert f"{place}: " in done.stderr
        assert "Traceback" not in done.stderr


def test_two_jobs_do_not_write_to_one_folder(tmp_path: Path) -> None:
    import fcntl

    (tmp_path / "o" / "checkpoints").mkdir(parents=True)
    with (tmp_path / "o" / "checkpoints" / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = train("--preset", "reacher", out=tmp_path / "o")
    assert done.returncode == 2
    assert "another job is writing to" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["rl.training.env=tests.toy_envs:WheelAndButton"],
            "expected a Box, Discrete, MultiDiscrete or MultiBinary one",
        ),
        (
            ["rl.training.env=CartPole-v1", "rl.training.config.env_config.bogus=5"],
            "could not be made with {'bogus': 5}",
        ),
        (["rl.training.env=os:path"], "expected a class 'path' with reset and step in os"),
        (["rl.training.env=tests.toy_envs:Uninstalled"], "Uninstalled: run pip install maze."),
    ],
)
def test_an_environment_that_does_not_fit_is_a_mistake_of_its_users(
    words: list[str], message: str, tmp_path: Path
) -> None:
    done = train(*words, "rl.training.stop.training_iteration=1", out=tmp_path / "o")
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr or "bogus" in message


def test_a_checkpoint_of_another_environment_is_refused(tiny_results: Path, tmp_path: Path) -> None:
    done = train("--preset", "hopper", f"rl.training.restore={tiny_results}", out=tmp_path / "out")
    assert done.returncode == 2
    assert "a checkpoint whose env is RoboschoolReacher-v1; expected RoboschoolHopper-v1" in done.stderr


def test_a_training_begins_with_the_network_and_the_filter_of_another_robots(tmp_path: Path) -> None:
    short = ("rl.training.stop.training_iteration=1", NO_VIDEO)
    assert train("--preset", "inverted-pendulum", *short, out=tmp_path / "teacher").returncode == 0
    words = ("--preset", "inverted-pendulum-swingup", *short, "rl.training.config.lr=0")
    done = train(*words, f"rl.training.warm_start={tmp_path / 'teacher'}", out=tmp_path / "student")
    assert done.returncode == 0, done.stderr
    assert "warm start from" in done.stderr
    assert read_rows(tmp_path / "student" / "metrics.jsonl")[-1]["timesteps_total"] == 64
    teacher, student = (
        load_file(checkpoints_in(tmp_path / name / "checkpoints")[-1] / "policy.safetensors")
        for name in ("teacher", "student")
    )
    assert teacher.keys() == student.keys()
    networks = [name for name in teacher if not name.startswith("filter")]
    assert len(networks) > 5
    for name in networks:
        np.testing.assert_array_equal(teacher[name], student[name], err_msg=name)
    assert np.abs(student["filter.mean"] - teacher["filter.mean"]).max() > 0  # it learns on
    alone = train(*words, out=tmp_path / "alone")
    assert alone.returncode == 0, alone.stderr
    fresh = load_file(checkpoints_in(tmp_path / "alone" / "checkpoints")[-1] / "policy.safetensors")
    assert any((fresh[name] != student[name]).any() for name in networks)
    near, far = (np.abs(one["filter.mean"] - teacher["filter.mean"]).sum() for one in (student, fresh))
    assert near < far  # the mean of the teacher's observations and its own


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--preset", "hopper"), "observation_shape is [9]; expected [15]"),
        (("--preset", "reacher", "rl.training.config.model.fcnet_hiddens=[4]"), "expected one of the same network"),
        (
            ("--preset", "reacher", "rl.training.config.model.vf_share_layers=true"),
            "encoder.encoder.net.mlp.0.weight is not there, and",
        ),
        (("--preset", "reacher", "rl.training.restore=x"), "expected no rl.training.restore beside it (x)"),
        (
            (
                "--preset",
                "cartpole-bcq",
            ),
            "expected a training in an environment. To resume learning from a log",
        ),
    ],
)
def test_a_warm_start_that_does_not_fit_is_refused(
    words: tuple[str, ...], message: str, tiny_results: Path, tmp_path: Path
) -> None:
    tiny = [word for word in TINY_WORDS if "hiddens" not in word] if "hiddens" in str(words) else TINY_WORDS
    tiny = [] if "cartpole-bcq" in words else tiny
    given = ("--out", str(tmp_path / "out"), *tiny, *words, f"rl.training.warm_start={tiny_results}")
    done = run_smrl("train", *given, cwd=ROOT)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("content", "trust", "message"),
    [
        (b"\x80half", "false", "holds no whole checkpoint"),
        (b"\x80", "false", "algorithm_state.pkl: not the file that job.json lists"),
        (b"\x80", "true", "a checkpoint that cannot be restored"),
    ],
)
def test_a_broken_checkpoint_is_refused(
    content: bytes, trust: str, message: str, tiny_results: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_results / "model" / "checkpoint", broken)
    victim = broken / "algorithm_state.pkl"
    victim.write_bytes(content if len(content) > 1 else content * victim.stat().st_size)
    words = ("--preset", "reacher", f"rl.training.restore={broken}", f"rl.training.trust_checkpoint={trust}")
    done = train(*words, out=tmp_path / "out")
    assert done.returncode == 2
    assert message in done.stderr


def test_bad_settings_are_answered_before_anything_heavy_and_leave_no_folder(tmp_path: Path) -> None:
    program = (
        "import sys; from runtime.cli import main\n"
        "code = main(['train', '--preset', 'reacher', '--out', sys.argv[1], 'rl.training.config.gama=1'])\n"
        "print(code, sorted(m for m in ('ray', 'torch', 'pybullet', 'matplotlib') if m in sys.modules))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "2 []"
    assert "Did you mean 'gamma'?" in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_job_in_one_process_starts_no_ray_and_imports_no_compiler(tmp_path: Path) -> None:
    """Also where RLlib's own code samples and learns, and where the job resumes."""
    program = (
        "import sys; from runtime.cli import main\n"
        "words = ['train', '--preset', 'cartpole', '--out', sys.argv[1], *sys.argv[2:]]\n"
        "for last in (['1'], ['2', 'rl.training.fast=false'], ['3']):\n"
        "    iterations, *more = last\n"
        "    assert main([*words, f'rl.training.stop.training_iteration={iterations}', *more]) == 0\n"
        "    import ray, torch\n"
        "    # RLlib asks for determinism by a variable of CUDA's where PyTorch is built for it.\n"
        "    is_strict = torch.are_deterministic_algorithms_enabled() or torch.version.cuda is not None\n"
        "    print(ray.is_initialized(), is_strict, 'torch._dynamo' in sys.modules)\n"
    )
    settings = [f"{name}={value}" for name, value in TINY.items() if "training_iteration" not in name]
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out"), *settings, "rl.training.export=false"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    told = [line for line in done.stdout.splitlines() if line.startswith(("True", "False"))]
    assert told[0] == "False True False"
    assert [line.split()[0] for line in told] == ["False"] * 3  # PyTorch's own Adam imports the compiler
    assert "resuming from" in done.stderr


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from runtime.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted(m for m in ('ray', 'torch', 'numpy', 'gymnasium', 'pydantic') if m in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.endswith("[]\n")
    assert "train" in done.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["evaluate", "no/such/folder"], "expected a model directory"),
        (["evaluate", str(ROOT / "docs")], "which holds no whole checkpoint"),
        (["train", "reacher"], "expected NAME=VALUE"),
        (["presets", "show", "hoper"], "Did you mean 'hopper'?"),
        (["presets", "show"], "expected the name of a preset"),
    ],
)
def test_likely_mistakes_get_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = run_smrl(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_presets_show_names_every_values_source(tmp_path: Path) -> None:
    done = run_smrl("presets", "show", "hopper", "rl.training.config.lr=0.1", cwd=tmp_path)
    assert re.search(r"rl\.training\.config\.lr +0\.1 +the command line", done.stdout)
    assert re.search(r"rl\.training\.env +RoboschoolHopper-v1 +preset hopper", done.stdout)


@pytest.mark.system
@pytest.mark.slow
def test_a_terminal_gets_a_live_display_and_the_last_screen(tmp_path: Path) -> None:
    """Runs in a pseudo-terminal, as a person would see it."""
    import os
    import pty

    parent, child = pty.openpty()
    command = [str(BIN / "smrl"), "train", "--preset", "reacher", "--out", str(tmp_path / "out"), *TINY_WORDS]
    command += ["rl.training.stop.training_iteration=3", NO_VIDEO]
    environment = {**clean_environment(), "TERM": "xterm-256color", "COLUMNS": "120"}
    process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=child, stderr=child)
    os.close(child)
    screen = b""
    while True:
        try:
            chunk = os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
        if not chunk:
            break
        screen += chunk
    assert process.wait() == 0
    text = screen.decode()
    assert "╭" in text  # rich's panel
    assert "training_iteration: 1 " not in text
    assert "trained RoboschoolReacher-v1" in text
    assert "next: smrl evaluate" in text


def test_episodes_that_never_end_are_noted_once(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import gymnasium\n"
        "import numpy as np\n"
        "class Endless(gymnasium.Env):\n"
        "    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)\n"
        "    action_space = gymnasium.spaces.Discrete(2)\n"
        "    def reset(self, *, seed=None, options=None):\n"
        "        super().reset(seed=seed)\n"
        "        return self.observation_space.sample(), {}\n"
        "    def step(self, action):\n"
        "        return self.observation_space.sample(), float(action), False, False, {}\n"
    )
    settings = ("rl.training.stop.training_iteration=14", "rl.training.export=false", "rl.training.video_freq=0")
    done = run_smrl("train", "--env", "endless:Endless", *settings, "--out", "results", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    noted = re.findall(r"no episode has ended for ([\d,]+) steps of each environment", done.stdout + done.stderr)
    assert len(noted) == 1
    assert "rl.training.config.horizon" in done.stdout + done.stderr


def test_a_value_function_that_learns_nothing_is_noted_once(tmp_path: Path) -> None:
    """Pendulum's returns of -1,000 are out of reach of the general settings."""
    words = ("train", "rl.training.env=Pendulum-v1", "rl.training.stop.training_iteration=12", "--out", "results")
    settings = {**TINY, "rl.training.config.seed": "1", "rl.training.video_freq": "0"}
    done = run_smrl(*words, *(f"{name}={value}" for name, value in settings.items()), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "results" / "metrics.jsonl")
    assert max(row["vf_explained_var"] for row in rows) < 0.05
    note = r"explains none of the returns \(vf_explained_var\): lower rl\.training\.config\.gamma, raise rl\."
    assert len(re.findall(note, done.stdout + done.stderr)) == 1
