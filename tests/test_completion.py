"""Completion in a shell, and pipes that close early."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.outputs.metrics import read_rows
from tests.conftest import ROOT, TINY, clean_environment

SMRL = [sys.executable, "-m", "runtime.cli"]
# Completes the last of its words, as the shell does at a press of the tab key.
_BASH = """\
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_smrl; printf '%s\\n' "${COMPREPLY[@]}"
"""


def run(*words: str, shell: str = "", cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Runs smrl, or a shell's command line with it as `$SMRL`."""
    environment = {**clean_environment(), "PYTHONPATH": str(ROOT), "SMRL": " ".join(SMRL)}
    command = ["bash", "-c", f"set -o pipefail; {shell}"] if shell else [*SMRL, *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("completion") / "smrl.bash"
    path.write_text(run("completion", "bash").stdout)
    return path


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("tra",), {"tracks", "train", "transform"}),
        (("train", "--pre"), {"--preset"}),
        (("train", "--preset", "hop"), {"hopper"}),
        (("presets", "sh"), {"show"}),
        (("presets", "show", "cartpole-d"), {"cartpole-dqn", "cartpole-ddqn"}),
        (("train", "time_"), {"time_total_s="}),
        (("completion", ""), {"bash", "zsh", "--help"}),
        (("train", "results/"), {""}),  # which bash completes by itself
    ],
)
def test_bash_completes_commands_options_presets_and_settings(
    words: tuple[str, ...], expected: set[str], script: Path
) -> None:
    command = ["bash", "-c", _BASH, "bash", str(script), "smrl", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = set(done.stdout.split("\n")[:-1])
    assert found == expected if "cartpole-d" not in words else "cartpole-dqn" in found


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is absent")
def test_zsh_completes_at_the_prompt(tmp_path: Path) -> None:
    """In a terminal of zsh's own, at the press of the tab key."""
    (tmp_path / "smrl.zsh").write_text(run("completion", "zsh").stdout)
    program = f"""\
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'PS1="> "; smrl() {{ print -r -- "got <$*>"; }}; autoload -Uz compinit; compinit -u -D'
zpty -w shell 'source {tmp_path}/smrl.zsh; print ready'
zpty -r -m shell seen $'*\\nready*'
zpty -w -n shell $'smrl train --pres\\thoppe\\ttime_tot\\t\\n'
zpty -r -m shell seen '*got <*>*'
print -r -- "$seen"
"""
    done = subprocess.run(["zsh", "-f", "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert "got <train --preset hopper time_total_s=>" in done.stdout, done.stderr


@pytest.mark.parametrize("command", ["presets", "--help", "presets show hopper", "completion bash"])
def test_a_pipe_that_closes_early_ends_a_listing_quietly(command: str) -> None:
    done = run(shell=f"$SMRL {command} | head -1")
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 1
    assert done.returncode in (0, 141)  # 141 where all was not yet written


def test_a_listing_that_nobody_reads_ends_as_by_sigpipe() -> None:
    done = run(shell="{ sleep 1; $SMRL presets; echo $? >&2; } | true")
    assert done.stderr == "141\n"


@pytest.mark.ray
def test_a_training_whose_lines_nobody_reads_goes_on_to_its_end(tmp_path: Path) -> None:
    settings = " ".join(f"'{name}={value}'" for name, value in TINY.items())
    words = f"train --preset reacher training_iteration=3 video_freq=0 --out out {settings}"
    done = run(shell=f"$SMRL {words} | head -1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "BrokenPipe" not in done.stderr
    assert done.stdout.startswith("training_iteration: 1 ")
    assert len(read_rows(tmp_path / "out" / "metrics.jsonl")) == 3
    assert (tmp_path / "out" / "summary.json").is_file()
