"""Runs the README's commands, and writes the end of their output into screens.md and README.md.

Run: make bench-screens (about a minute on two idle cores). In README.md the block of code after
`<!-- screen: NAME -->` is that screen. `--readme` updates README.md from screens.md without running anything.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_SCREENS = Path(__file__).with_suffix(".md")
_README = _ROOT / "README.md"
_MARK = re.compile(r"(<!-- screen: ([\w-]+) -->\n```\n)(.*?)(\n```)", flags=re.S)


@dataclass(frozen=True)
class Screen:
    """A command, and the part of its output that is shown.

    Attributes:
        name: Of the screen.
        command: As it is typed.
        first: Pattern of the first line that is shown.
        last: Pattern of the last one.
        setup: Commands that run before it and are not shown.
        exit_code: That the command ends with.
    """

    name: str
    command: str
    first: str
    last: str
    setup: tuple[str, ...] = ()
    exit_code: int = 0


SCREENS = (
    Screen("train", "smrl train --preset reacher", "trained ", "next: "),
    Screen(
        "logged-data",
        "smrl train --preset cartpole-bcq --data data/cartpole.csv --out results/cartpole",
        "learned from",
        "  logged return",
        setup=("smrl collect --env CartPole-v0 --envs 100 --episodes 5 --policy uniform --out data/cartpole.csv",),
    ),
    Screen("logged-data-evaluated", "smrl evaluate results/cartpole", "Mean Reward", "Min Reward"),
    Screen(
        "mistakes",
        "smrl train --preset reachr rl.training.config.gama=0.9 rl.training.stop.time_total_s=-5",
        "smrl: error",
        "  rl.training.stop",
        exit_code=2,
    ),
)


def main() -> None:
    """Measures, or copies what was measured."""
    if "--readme" not in sys.argv:
        with tempfile.TemporaryDirectory() as folder:
            shown = {screen.name: _run(screen, Path(folder)) for screen in SCREENS}
        _write_screens(shown)
    text = _README.read_text(encoding="utf-8")
    _README.write_text(with_screens(text, read_screens()), encoding="utf-8")


def read_screens() -> dict[str, str]:
    """The screens of benchmarks/screens.md by name, each with its command above it."""
    return dict(
        re.findall(r"^## ([\w-]+)\n\n```\n(.*?)\n```$", _SCREENS.read_text(encoding="utf-8"), flags=re.S | re.M)
    )


def with_screens(text: str, screens: dict[str, str]) -> str:
    """A page with the screens that it marks, as they were measured."""
    return _MARK.sub(lambda found: f"{found[1]}{screens[found[2]]}{found[4]}", text)


def _run(screen: Screen, folder: Path) -> str:
    """Runs the command; returns it with the lines of its output that are shown."""
    for command in screen.setup:
        _call(command, folder)
    lines = _call(screen.command, folder, exit_code=screen.exit_code).splitlines()
    start = max(at for at, line in enumerate(lines) if line.startswith(screen.first))
    end = min(at for at, line in enumerate(lines) if at >= start and line.startswith(screen.last))
    return "\n".join([f"$ {screen.command}", *lines[start : end + 1]])


def _call(command: str, folder: Path, *, exit_code: int = 0) -> str:
    """Standard output and error of a command of smrl."""
    program, *words = command.split()
    done = subprocess.run(
        [str(_BIN / program), *words],
        cwd=folder,
        env={**os.environ, "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == exit_code, done.stdout
    return done.stdout


def _write_screens(shown: dict[str, str]) -> None:
    blocks = [f"## {name}\n\n```\n{text}\n```\n" for name, text in shown.items()]
    head = [
        "# What the README's commands print",
        "",
        f"`make bench-screens` on {os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}; "
        f"load {os.getloadavg()[1]:.1f} over the last five minutes.",
        "",
    ]
    _SCREENS.write_text("\n".join([*head, *blocks]), encoding="utf-8")


if __name__ == "__main__":
    main()
