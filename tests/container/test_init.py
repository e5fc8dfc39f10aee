"""The images' process 1: what it starts for which word, signals, orphans, exit codes, health."""

from __future__ import annotations

import configparser
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import termios
import time
from pathlib import Path

import psutil
import pytest
from packaging.requirements import Requirement

from runtime.container.init import COMMANDS, check_health, find_command, report_out_of_memory
from runtime.errors import UserError
from tests.conftest import BIN, ROOT, TINY, clean_environment
from tests.servers import started

HADOLINT = BIN / "hadolint"


def _can_unshare() -> bool:
    done = subprocess.run(["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False)
    return done.returncode == 0


needs_namespace = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None or not _can_unshare(),
    reason="a process 1 needs a PID namespace of its own, which root may make with util-linux's unshare",
)


def start(*words: str, environment: dict[str, str] | None = None, cwd: Path = ROOT) -> subprocess.Popen[str]:
    """Starts init with WORDS as process 1 of a PID namespace."""
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", str(BIN / "smrl-init"), *words]
    variables = {**clean_environment(), **(environment or {})}
    return subprocess.Popen(command, cwd=cwd, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _process_1(unshare: int) -> int:
    """The process that is number 1 in unshare's namespace, by the number that we know it by."""
    deadline = time.monotonic() + 20
    while not (children := psutil.Process(unshare).children()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return children[0].pid


def _holds(process: int, number: int) -> bool:
    """Whether a process blocks a signal."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    mask = int(next(line.split()[1] for line in lines if line.startswith("SigBlk:")), 16)
    return bool(mask >> (number - 1) & 1)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        ([], ["smrl", "--help"]),
        (["train"], ["smrl", "train"]),
        (["train", "--preset", "hopper"], ["smrl", "train", "--preset", "hopper"]),
        (["serve"], ["smrl", "serve"]),
        (["evaluate", "seed=1"], ["smrl", "evaluate", "seed=1"]),
        (["smrl", "presets"], ["smrl", "presets"]),
    ],
)
def test_words_are_commands_of_smrl(
    words: list[str], command: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("SAGEMAKER_PROGRAM", raising=False)
    assert find_command(words) == [str(BIN / command[0]), *command[1:]]


def test_a_script_of_the_users_is_the_toolkits(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    monkeypatch.delenv("SAGEMAKER_PROGRAM", raising=False)
    config = tmp_path / "input" / "config"
    config.mkdir(parents=True)
    (config / "hyperparameters.json").write_text(json.dumps({"rl.training.stop.training_iteration": "1"}))
    assert find_command(["train"]) == [str(BIN / "smrl"), "train"]
    (config / "hyperparameters.json").write_text(json.dumps({"sagemaker_program": '"train-reacher.py"'}))
    assert find_command(["train"]) == [str(BIN / "train")]
    (config / "hyperparameters.json").write_text(json.dumps({"sagemaker_submit_directory": '"s3://bucket/code"'}))
    assert find_command(["train"]) == [str(BIN / "train")]  # which says that the script's name is missing
    assert find_command(["train", "--preset", "hopper"])[0] == str(BIN / "smrl")  # words are for ours


def test_other_programs_run_and_unknown_words_are_refused() -> None:
    assert find_command(["bash", "-c", "true"]) == [shutil.which("bash"), "-c", "true"]
    with pytest.raises(UserError, match=r"trian: got a word that is no command here; expected one of train, resume,"):
        find_command(["trian"])


@needs_namespace
@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", 137), ("kill -TERM $$", 143)]
)
def test_the_exit_code_is_the_jobs(script: str, code: int) -> None:
    process = start("bash", "-c", script)
    process.communicate(timeout=20)
    assert process.returncode == code


@needs_namespace
def test_signals_reach_the_job_which_process_1_alone_would_not_get() -> None:
    script = "trap 'echo got TERM; exit 3' TERM; echo ready; while :; do sleep 0.1; done"
    process = start("bash", "-c", script)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    os.kill(_process_1(process.pid), signal.SIGTERM)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (3, "got TERM\n")


@needs_namespace
def test_orphans_are_reaped_while_the_job_runs() -> None:
    script = (
        "for i in 1 2 3 4 5; do (sleep 0.1 & exit); done; sleep 1; "
        "ps -eo stat= | grep -c ^Z || true"
    )  # each sleep becomes process 1's, and a zombie unless that waits for it
    process = start("bash", "-c", script)
    out, _ = process.communicate(timeout=20)
    assert out == "0\n"


@needs_namespace
def test_what_the_job_leaves_behind_goes_with_the_container() -> None:
    process = start("bash", "-c", "sleep 300 & disown; echo $!")
    out, _ = process.communicate(timeout=20)  # would wait for sleep, which holds the pipe, were it still there
    assert out.strip().isdigit()


@needs_namespace
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.system
def test_a_container_without_mounts_trains_and_a_stop_saves_what_it_has(tmp_path: Path) -> None:
    """`docker run IMAGE train`, then `docker stop`: process 1 gets SIGTERM, the policy is written, the exit code 0."""
    settings = [f"{name}={value}" for name, value in TINY.items()]
    process = start("train", *settings, environment={"SAGEMAKER_BASE_DIR": str(tmp_path)}, cwd=tmp_path)
    metrics = tmp_path / "output" / "data" / "metrics.jsonl"
    deadline = time.monotonic() + 120
    while not metrics.exists() or not metrics.read_text():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(_process_1(process.pid), signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "ended because  stopped by SIGTERM" in out
    assert f"model          {tmp_path / 'model'}" in out
    assert (tmp_path / "model" / "manifest.json").exists()


@needs_namespace
def test_a_containers_health_is_its_servers(tmp_path: Path) -> None:
    script = f"{BIN}/smrl-init health; echo $?"
    for words, code in ((["bash", "-c", script], "0"), (["bash", "-c", script, "serve"], "1")):  # nobody listens
        out, _ = start(*words, environment={"SAGEMAKER_BIND_TO_PORT": "9"}).communicate(timeout=20)
        assert out.strip() == code


@needs_namespace
def test_a_job_has_the_terminal_and_a_stop_reaches_one_that_was_suspended() -> None:
    """As in `docker run -it`, the job reads what is typed; Ctrl-Z suspends it, and SIGTERM still ends it."""
    ours, theirs = os.openpty()
    command = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", str(BIN / "smrl-init"), "cat"]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=clean_environment(),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    os.write(ours, b"hello\n")
    seen = b""
    while seen.count(b"hello") < 2:  # the terminal's echo, and cat's
        seen += os.read(ours, 100)
    os.write(ours, b"\x1a")
    job = psutil.Process(_process_1(process.pid)).children()[0]
    deadline = time.monotonic() + 20
    while job.status() != psutil.STATUS_STOPPED:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(_process_1(process.pid), signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    os.close(ours)


@needs_namespace
def test_a_signal_that_comes_while_it_starts_is_not_lost() -> None:
    for wait_s in (0.0, 0.02, 0.05):
        process = start("bash", "-c", "trap 'exit 3' TERM; sleep 20 & wait")
        init = _process_1(process.pid)
        deadline = time.monotonic() + 20
        while not _holds(init, signal.SIGTERM):  # until then it is Python's own start, whose process 1 no signal ends
            assert time.monotonic() < deadline
        time.sleep(wait_s)  # before, while and after the job starts; bash itself needs a moment for its trap
        os.kill(init, signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode in (3, 128 + signal.SIGTERM)


def test_what_cannot_be_run_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.write_text("no program")
    broken.chmod(0o755)
    done = subprocess.run([BIN / "smrl-init", str(broken)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (126, f"smrl: error: {broken} cannot be run: Exec format error\n")


def test_the_commands_are_smrls() -> None:
    done = subprocess.run([BIN / "smrl", "--help"], capture_output=True, text=True, check=True)
    named = re.findall(r"^    ([a-z-]+)(?: |$)", done.stdout, re.M)
    assert sorted(COMMANDS) == sorted([*named, "smrl"])


def test_a_home_that_cannot_be_written_is_replaced(tmp_path: Path) -> None:
    ask = ("python3", "-c", "import os; print(os.path.expanduser('~'))")
    for home, expected in (("/proc/none", str(tmp_path / "tmp")), (str(tmp_path), str(tmp_path))):
        (tmp_path / "tmp").mkdir(exist_ok=True)
        environment = {**clean_environment(), "HOME": home, "TMPDIR": str(tmp_path / "tmp")}
        done = subprocess.run(
            [BIN / "smrl-init", *ask], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout == f"{expected}\n"


def test_a_kill_for_memory_is_the_failures_first_line_and_the_jobs_own_words_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    report_out_of_memory(2, since=0)
    reason = "memory: got 2 process(es) killed by the kernel's out-of-memory killer; expected all"
    failure = tmp_path / "output" / "failure"
    assert failure.read_text().startswith(reason)
    assert capsys.readouterr().err.startswith(f"smrl: error: {reason}")
    failure.write_text("ActorDiedError: the env runner is gone\n")
    report_out_of_memory(2, since=0)
    first, second = failure.read_text().splitlines()
    assert first.startswith(reason)
    assert second == "ActorDiedError: the env runner is gone"
    report_out_of_memory(2, since=time.time() + 1)  # an earlier job's file
    (only,) = failure.read_text().splitlines()
    assert only.startswith(reason)


def test_health_is_good_while_nothing_is_served_and_what_ping_says_else(exported_results: Path, tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
        assert check_health(free, is_server=False) == 0  # as in training, even if another program has the port
        assert check_health(free, is_server=True) == 1
        probe.listen()  # something that never answers
        assert check_health(free, is_server=True) == 1
    with started(tmp_path, str(exported_results)) as server:
        server.wait_until(200)
        assert check_health(server.port, is_server=True) == 0
    with started(tmp_path, environment={"SAGEMAKER_BASE_DIR": str(tmp_path)}) as server:  # without a model
        server.wait_until(503)
        assert check_health(server.port, is_server=True) == 1


@pytest.mark.parametrize("name", ["Dockerfile.cpu", "Dockerfile.gpu"])
def test_hadolint_finds_nothing_and_nothing_is_ignored(name: str) -> None:
    done = subprocess.run([HADOLINT, ROOT / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
    assert "hadolint ignore" not in (ROOT / name).read_text()


@pytest.mark.parametrize("kind", ["cpu", "gpu"])
def test_an_image_has_every_package_that_setup_cfg_asks_for_at_the_version_that_is_tested(kind: str) -> None:
    lines = (ROOT / "images" / f"{kind}.txt").read_text().splitlines()[1:]
    locked = {}
    for line in lines:
        found = re.fullmatch(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}", line)
        assert found, line
        locked[found[1].lower().replace("_", "-")] = found[2].removesuffix("+cpu")
    pinned = [
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")
    ]
    versions = {name.lower().replace("_", "-"): version for name, version in pinned}
    for name, version in locked.items():
        assert versions.get(name, version) == version, name
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    for requirement in map(Requirement, setup["options"]["install_requires"].split("\n")[1:]):
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            assert requirement.name.lower() in locked, f"{requirement.name} is missing; run images/lock.py {kind}"


def test_the_list_of_licences_is_that_of_the_image() -> None:
    """Names and versions; what a package says of its licence may depend on what it was built with."""
    rows = re.findall(r"^\| (\S+) \| (\d\S*) \| (\S.*) \|$", (ROOT / "docs" / "licences.md").read_text(), re.M)
    locked = re.findall(r"^([\w.-]+)==(\S+) ", (ROOT / "images" / "cpu.txt").read_text(), re.M)
    assert [(name, version) for name, version, _ in rows] == locked, "run images/licences.py"
    assert {"pybullet": "zlib/libpng License", "ray": "Apache 2.0"}.items() <= {
        name: message for name, _, message in rows
    }.items()


def test_both_images_are_made_alike() -> None:
    """Beside names, comments and NVIDIA's variables, the two files say the same."""

    def gist(kind: str) -> list[str]:
        text = re.sub(rf"\b{kind}(?=\.txt| /code)", "KIND", (ROOT / f"Dockerfile.{kind}").read_text())
        lines = [line.rstrip(" \\") for line in text[text.index("ARG BASE") :].splitlines()]
        return [line for line in lines if "NVIDIA" not in line and "CPUs" not in line]

    assert gist("cpu") == gist("gpu")
    base = r"^ARG BASE=python:3\.11\.\d+-slim-bookworm@sha256:[0-9a-f]{64}$"
    assert re.search(base, (ROOT / "Dockerfile.cpu").read_text(), re.M)
