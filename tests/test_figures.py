"""The figures of the README and the docs: each is its source's, and a number with a unit has a source.

A figure that was measured is compared with the file in benchmarks/ that holds it, a setting with the code that has it.
Any other number is listed with its reason.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks.screens import SCREENS, read_screens, with_screens
from benchmarks.zoo import RECORD, row
from runtime.settings.presets import load_shipped_presets
from tests.conftest import ROOT

GENERATED = {"hyperparameters.md", "presets.md", "licences.md"}
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name not in GENERATED)]


@dataclass(frozen=True)
class Figure:
    """A sentence, or a row of a table, with figures in it.

    Attributes:
        pages: Files that contain the sentence.
        sources: File and pattern of the numbers, in the order of the sentence's arguments.
        sentence: Makes the sentence of the pages from the numbers.
    """

    pages: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    sentence: Callable[..., str]

    def written(self) -> str:
        """Makes the sentence from the numbers of its sources."""
        return self.sentence(*(number for source, pattern in self.sources for number in numbers(source, pattern)))


def figure(page: str, source: str, pattern: str, sentence: Callable[..., str]) -> Figure:
    """Makes a figure of one page whose numbers come from one place in a file."""
    return Figure((page,), ((source, pattern),), sentence)


def numbers(source: str, pattern: str) -> list[float]:
    """Returns the groups of a pattern, which occurs once in a file, as numbers."""
    found = re.findall(pattern, (ROOT / source).read_text(), flags=re.S)
    assert len(found) == 1, (source, pattern, len(found))
    return [float(text.replace(",", "")) for text in (found[0] if isinstance(found[0], tuple) else found)]


README = "README.md"
PERFORMANCE = "docs/performance.md"
SCALING = "docs/scaling.md"
BATCH = "docs/batch-rl.md"
RESULTS = "benchmarks/RESULTS.md"
SERVING = "benchmarks/serving.md"
OFFLINE = "benchmarks/offline.md"
INTERVALS = "benchmarks/intervals.md"
CHAOS = "benchmarks/chaos.md"
HOSTS = "benchmarks/scaling.md"
RACES = "benchmarks/deepracer.md"
DYNAMICS = "benchmarks/dynamics.md"
IMAGE = "benchmarks/image.py"
START = "benchmarks/start.md"
ZOO = json.loads(RECORD.read_text())


def covers(heading: str) -> tuple[str, str]:
    """Returns where a section of offline.md says how many intervals contained the true return."""
    return OFFLINE, rf"## {heading}.*?Chosen:[^\n]*?interval covers: (\d+) of (\d+)"


def intervals(problem: str) -> tuple[str, str]:
    """Returns where intervals.md has logs, regrets, coverage and widths of a problem: now, and of before."""
    row = r"[^|]*\| (\d+) of \d+ \|[^|]*\| (\d+)% \|[^\n]*\n?\|?"
    return (
        INTERVALS,
        rf"## {problem}\n\n(\d+) logs[^\n]*; regret ([\d.]+)%, by the estimates of before ([\d.]+)%;[^\n]*\n\n"
        rf"[^\n]*\n[^\n]*\n\|{row}{row}",
    )


def covered(name: str) -> Callable[..., str]:
    """Makes the sentence of docs/batch-rl.md about the intervals of a problem."""
    return lambda logs, regret, regret_before, held, width, held_before, width_before: (
        f"{name}: {held:.0f} of {logs:.0f} intervals contain the true return (before: {held_before:.0f}), at a mean "
        f"width of {width:.0f} % of all possible returns (before: {width_before:.0f} %); regret {regret} % (before: "
        f"{regret_before} %)"
    )


def speeds(env: str) -> Figure:
    """A row of the README's table of training speeds."""
    cells = r"\| ([\d,]+) \|" + r" ([\d,]+) \([^)]*\) \|" * 4
    return figure(
        README,
        RESULTS,
        rf"\| (?:Roboschool)?{env}-v1 {cells}",
        lambda *found: f"| {env} | " + " | ".join(f"{rate:,.0f}" for rate in found) + " |",
    )


def spans() -> str:
    """Returns the least and largest ratio of our robots' speeds to the port's and to MuJoCo's."""
    table = (ROOT / RESULTS).read_text().split("\n## Env steps a second of CPU")[1]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if "Roboschool" in line]
    port = [float(row[5]) for row in rows if "FlagrunHarder" not in row[0]]
    mujoco = [float(row[7]) for row in rows if row[7]]
    (harder,) = (float(row[5]) for row in rows if "FlagrunHarder" in row[0])
    return (
        f"take {min(port):.1f} to {max(port):.1f} times the steps a second of pybullet_envs_gymnasium 0.6.0 with the "
        f"same numbers (`HumanoidFlagrunHarder`: {harder:.1f} times), and {min(mujoco):.1f} to {max(mujoco):.1f} times "
        "those of Gymnasium's MuJoCo"
    )


def races() -> str:
    """Reads the longest time of a run of the preset deepracer, and the laps that each car completed."""
    runs = re.findall(r"\n\|(?: [\d.,]+ \|){5} ([\d.]+) \| \d+ \| (\d of \d) \|", (ROOT / RACES).read_text())
    (laps,) = {found[1] for found in runs}
    assert len(runs) == 3
    longest = max(float(found[0]) for found in runs)
    return f"training took {longest} minutes at most, and each car then completed {laps} laps"


def fast_races() -> str:
    """Reads how many laps the racing presets completed on the track that they were trained on, and how fast."""
    row = r"\n\| `(deepracer-race[a-z-]*)` \| `track=reinvent_base` \| \d \|(?:[^|]*\|){4} ([\d.]+) \|[^|]*"
    row += r"\| (\d+) of (\d+) \| ([\d.]+) \| ([\d.]+) \|"
    runs = re.findall(row, (ROOT / RACES).read_text())
    assert [run[0] for run in runs] == ["deepracer-race"] * 3 + ["deepracer-race-continuous"]
    minutes, seconds, (bound,) = (
        [float(run[1]) for run in runs],
        [float(run[4]) for run in runs],
        {run[5] for run in runs},
    )
    complete, of = (sum(int(run[n]) for run in runs) for n in (2, 3))
    return (
        f"four trainings took {min(minutes)} to {max(minutes)} minutes, and {complete} of {of} laps were complete, in "
        f"{min(seconds):.1f} to {max(seconds):.1f} s on average where the track allows {bound} s"
    )


def noise() -> str:
    """Returns which noise gives trials the original's spread, of those that dynamics.md has."""
    (section,) = re.findall(r"\n## Lap times of trials\n(.*)", (ROOT / DYNAMICS).read_text(), flags=re.S)
    first, last = (float(found) for found in re.findall(r"laps took ([\d.]+) to ([\d.]+) s", section)[0])
    rows = [[float(cell) for cell in re.findall(r"[\d.]+", line)] for line in re.findall(r"\n\| \d.*", section)]
    row = min(rows, key=lambda row: abs(row[3] - (last - first) / 2))
    return (
        f"With a `noise` of {row[0]:g}, the lap times of an evaluation's trials spread by ±{row[3]:.1f} s around their "
        f"middle, as the original's do ({first} to {last} s)"
    )


def goal(what: str) -> tuple[str, str]:
    """Returns where start.md has a row of its goals, with or without another commit beside it."""
    return START, rf"\| {what} \|(?: [\d.]+ \|)?? ([\d.]+) \| [\d.]+ \|\n"


FIGURES = [
    Figure(
        (PERFORMANCE,),
        (
            goal("command to first environment step, s"),
            (START, r"`import torch, ray\.rllib\.algorithms\.ppo` \| ([\d.]+) "),
        ),
        lambda step, imports: (
            f"{step:.1f} s after the command; importing PyTorch and RLlib takes {imports:.1f} s of them"
        ),
    ),
    Figure(
        (PERFORMANCE,),
        (
            goal("reacher job of two iterations, s without their seconds"),
            goal("the same, CPU seconds with the training"),
            goal("`smrl evaluate` of one episode, s"),
        ),
        lambda job, cpu, evaluation: (
            f"takes {job:.1f} s beside its iterations, and {cpu:.1f} CPU seconds in all. "
            f"`smrl evaluate` of one episode takes {evaluation:.1f} s."
        ),
    ),
    *(speeds(env) for env in ("CartPole", "Reacher", "Hopper", "Humanoid")),
    Figure((PERFORMANCE,), (), spans),
    Figure((README,), (), races),
    figure(README, SERVING, r"echo of the body \|.*?\| (0\.\d+) \|", lambda r: f"a request takes {1 / r:.1f} times"),
    figure(
        PERFORMANCE,
        SERVING,
        r"echo of the body \|.*?\| (0\.\d+) \|",
        lambda r: f"The notebook's request takes {1 / r:.1f} times",
    ),
    Figure(
        (README, PERFORMANCE),
        ((SERVING, r"torch eager \|[^\n]*?\| (\d+\.\d+) \|"),),
        lambda r: f"FastAPI with eager torch takes {r:.1f} times as long as smrl",
    ),
    Figure(
        (README, PERFORMANCE),
        ((SERVING, r"Ray Serve, RLModule \|[^\n]*?\| (\d+\.\d+) \|"),),
        lambda r: f"Ray Serve {r:.0f} times",
    ),
    *(
        figure(
            page,
            SERVING,
            r"\| as by default \| (\d+) .*?\| explore mode \| (\d+) .*?\| explore mode and capture \| (\d+) ",
            say,
        )
        for page, say in (
            (
                PERFORMANCE,
                lambda default, explore, capture: (
                    f"Explore mode takes {explore / default:.1f} times as long as the default answer, and capture adds "
                    f"{capture / explore - 1:.0%}".replace("%", " %")
                ),
            ),
            (
                "docs/serving.md",
                lambda _, explore, capture: (
                    f"the median answer of explore mode takes {capture / explore:.2f} times as long as without"
                ),
            ),
        )
    ),
    figure(
        PERFORMANCE,
        SERVING,
        r"## ([\d,]+) requests over (\d+) connections\n.*? (\d+) errors;.*?\(\+([\d.]+)%\)",
        lambda n, c, e, m: (
            f"{'A million' if n == 1e6 else n} requests over {c:.0f} connections: "
            f"{'no error' if e == 0 else e}, memory up by {m:.0f} %"
        ),
    ),
    figure(
        PERFORMANCE,
        SERVING,
        r"## ([\d,]+) observations a call.*?scaling \| ([\d,]+) \|",
        lambda n, rate: f"{n:,.0f} observations a call in process: {rate / 1e6:.0f} million rows a second on one core",
    ),
    figure(
        PERFORMANCE,
        SERVING,
        r"JSON lines\n.*?([\d,]+) records/s, one process; at most (\d+) MB",
        lambda rate, mb: f"`smrl transform`: {round(rate, -4):,.0f} records a second in {mb:.0f} MB",
    ),
    figure(
        PERFORMANCE,
        OFFLINE,
        r"## CartPole, ten logs.*?Chosen: mean ([\d.]+), least ([\d.]+);[^\n]*? (\d+) s a run",
        lambda mean, least, s: (
            f"balances the pole for {mean} of 200 steps on average (least: {least}), after {s:.0f} seconds of learning"
        ),
    ),
    figure(
        PERFORMANCE,
        OFFLINE,
        r"([\d.]+) GB of CSV, [^\n]*?: ([\d.]+) s; [^\n]*\(([\d.]+) times the arrays",
        lambda gb, s, times: f"{gb:g} GB of CSV is read in {s:.0f} s in {times} times the memory of its arrays",
    ),
    figure(
        PERFORMANCE,
        OFFLINE,
        r"## Ten million transitions\n\n[^\n]*at most ([\d.]+) GB",
        lambda gb: f"learning from ten million transitions takes {gb} GB",
    ),
    *(
        Figure((BATCH,), (intervals(problem),), covered(name))
        for problem, name in (
            ("clinic", "A clinic"),
            ("grid", "A slippery grid"),
            ("cartpole", "CartPole"),
            ("collapse", "CartPole and a learner that collapses"),
            ("acrobot", "Acrobot"),
            ("pendulum", "Pendulum, with continuous actions"),
        )
    ),
    figure(
        BATCH,
        "benchmarks/intervals_compared.md",
        r"\| release 0\.2\.0: [^|]*\| \d+ % \| (\d+) % \| (\d+) % \|",
        lambda width, held: (
            f"release 0.2.0's interval was {width:.0f} % wide in the clinic and covered {held:.0f} % on the grid"
        ),
    ),
    figure(
        BATCH,
        "benchmarks/intervals_compared.md",
        r"norm 2 \| \d+ % \| (\d+) % \| \d+ % \| (\d+) % \|",
        lambda clinic, grid: (
            f"the feasible set of value functions was {clinic:.0f} % wide in the clinic and {grid:.0f} % on the grid"
        ),
    ),
    figure(
        BATCH,
        SERVING,
        r"serving_loop\.py`, ([\d,]+) episodes.*?\| v0 \| ([\d.]+) \|\n\| v1 \| ([\d.]+) \|",
        lambda episodes, v0, v1: f"with {episodes:,.0f} episodes, v0 returned {v0} on average and v1 {v1:.1f}",
    ),
    Figure(
        (BATCH,),
        (covers("A learner that collapses"),),
        lambda held, logs: f"missed the true return in {'half' if held * 2 == logs else (held, logs)} of the logs",
    ),
    figure(
        BATCH,
        OFFLINE,
        r"## CartPole, ten logs.*?, least ([\d.]+); 9 of 10 at (\d+) or more",
        lambda least, good: f"lasted {least:.0f} steps where all others lasted {good:.0f} and more",
    ),
    Figure(
        ("docs/tuning.md",),
        (
            ("benchmarks/tuning.md", r"against the preset: ([\d.]+) times its mean"),
            ("benchmarks/tuning.md", r"against random search ([\d.]+) times"),
        ),
        lambda preset, search: (
            f"returned {preset} times as much as the preset, and {search} times as much as the point of random search"
        ),
    ),
    Figure(
        (SCALING,),
        ((CHAOS, r"that is killed (\d+) times"), (CHAOS, r"(\d+) kills met it training")),
        lambda kills, training: (
            f"was killed {kills:.0f} times at random instants, {training:.0f} of them while it trained"
        ),
    ),
    figure(
        SCALING,
        CHAOS,
        r"; (\d+) iterations repeated",
        lambda repeated: f"repeated {'no iteration' if repeated == 0 else repeated} that it had reported",
    ),
    Figure(
        (SCALING,),
        (
            (CHAOS, r"\| killed 50 times \| [^\n]*\| ([\d.]+) ± ([\d.]+) \|"),
            (CHAOS, r"\| left alone \| [^\n]*\| ([\d.]+) ± ([\d.]+) \|"),
        ),
        lambda *n: "returned {} ± {} in the evaluation, that of a training left alone {} ± {}".format(*n),
    ),
    Figure(
        (SCALING,),
        (
            (HOSTS, r"whose step sleeps for (\d+) ms"),
            (HOSTS, r"\n\| (16) \| [\d,]+ \| [\d.]+ \| ([\d,]+) \| (\d+) % \|"),
        ),
        lambda ms, runners, rate, share: (
            f"sleeps for {ms:.0f} ms in each step, {runners:.0f} env runners sample {rate:,.0f} steps a second, "
            f"{share:.0f} % of {runners:.0f} times the rate of one"
        ),
    ),
    Figure(
        (SCALING,),
        (
            (HOSTS, r"Reacher, ([\d,]+) steps an iteration"),
            (HOSTS, r"\| 1 \| threads[^|]*\| ([\d.]+) \|"),
            (HOSTS, r"\| 3 \| 5 \| ([\d.]+) \|"),
        ),
        lambda steps, one, three: (
            f"an iteration of {steps:,.0f} steps takes {one} s on one host and {three} s on three that share the same"
        ),
    ),
    figure(
        SCALING,
        HOSTS,
        r"Three hosts: (\d+) seconds to the first iteration, (\d+) of them",
        lambda all_s, met_s: f"three hosts need {all_s:.0f} seconds to their first iteration, {met_s:.0f} of them",
    ),
    Figure(
        ("runtime/serving/counters.py",),
        (
            ("benchmarks/counters.md", r"prometheus_client[^|]*\| ([\d.]+) \|"),
            ("benchmarks/counters.md", r"counters\.py` \| ([\d.]+) \|"),
        ),
        lambda peer, ours: f"in {peer} µs a request where this takes {ours} µs",
    ),
    figure("benchmarks/image.md", IMAGE, r"\nSIZE_MB = (\d+)", lambda mb: f"| the image | {mb:,.0f} MB |"),
    figure(
        "benchmarks/image.md",
        IMAGE,
        r"\nREBUILD_S = (\d+)",
        lambda s: f"| a rebuild after a change of smrl's code | {s:.0f} s |",
    ),
    figure(
        "benchmarks/image.md",
        IMAGE,
        r"\nFIRST_METRICS_S = (\d+)",
        lambda s: f"| `train` to its first metrics | {s:.0f} s |",
    ),
    figure(
        "benchmarks/image.md",
        IMAGE,
        r"\nREADY_S = (\d+)",
        lambda s: f"| `serve` to its first 200, one worker | {s:.0f} s |",
    ),
    figure("benchmarks/image.md", IMAGE, r"\nSERVING_MB = (\d+)", lambda mb: f"| its memory | {mb:.0f} MB |"),
    Figure(
        ("docs/image.md",),
        (
            ("benchmarks/image.md", r"\| torch \| ([\d,]+) \|"),
            ("benchmarks/image.md", r"\| llvmlite \| ([\d,]+) \|"),
            ("benchmarks/image.md", r"\| ray \| ([\d,]+) \|"),
        ),
        lambda torch, llvmlite, ray: f"torch {torch:,.0f} MB, LLVM for numba {llvmlite:,.0f} MB, Ray {ray:,.0f} MB",
    ),
    # What the code sets.
    figure(
        "docs/operations.md",
        "runtime/container/signals.py",
        r"_GRACE_S = ([\d.]+)",
        lambda s: f"interrupts it after {s:.0f} seconds",
    ),
    figure(
        "docs/operations.md",
        "runtime/container/signals.py",
        r"_GRACE_S = ([\d.]+)",
        lambda s: f"ends the iteration within {s:.0f} s",
    ),
    figure(
        "docs/operations.md",
        "runtime/cluster/session.py",
        r"OBJECT_STORE_BYTES = (\d+) \* 1024 \* 1024",
        lambda mb: f"Its object store takes {mb:.0f} MB",
    ),
    figure(
        PERFORMANCE,
        "runtime/ppo/compiled/learner.py",
        r"_TOLERANCE = (\S+)",
        lambda share: f"by more than {100 * share:g} % of its norm",
    ),
    figure(
        BATCH,
        "runtime/offline/selection.py",
        r"\nTOLERANCE = (\S+)",
        lambda share: f"is within {100 * share:g} % of the highest",
    ),
    figure(
        BATCH,
        "runtime/offline/estimators/ope.py",
        r"resamples: int = (\d+), level: float = ([\d.]+)",
        lambda resamples, level: (
            f"{100 * level:g} % intervals (the union of the percentiles of {resamples:,.0f} resamples of episodes"
        ),
    ),
    figure(
        "docs/deepracer.md",
        "envs/deepracer/race.py",
        r'"real": Dynamics\(latency_s=([\d.]+)',
        lambda s: f"{s} s of latency",
    ),
    Figure(
        ("docs/deepracer.md",),
        (
            (DYNAMICS, r"console 2022, training \| ([\d,]+) \| ([\d.]+) [^|]*\|[^|]*\| ([\d.]+)"),
            (DYNAMICS, r"AWS 2026, training \| [\d,]+ \|[^|]*\| ([\d.]+)"),
        ),
        lambda steps, gazebo, kinematic, version_6: (
            f"off by {gazebo} m on average with `gazebo` and {kinematic} m with `kinematic` ({steps:,.0f} steps of a "
            f"training in 2022), and by {version_6} m with `gazebo-6`"
        ),
    ),
    Figure(("docs/deepracer.md",), (), noise),
    Figure(("docs/deepracer.md",), (), fast_races),
    Figure(
        ("docs/deepracer.md",),
        (
            ("runtime/families/deepracer/ppo_settings.py", r"_MOST_STEPS = \{[^:]*: ([\d_]+)\}"),
            ("runtime/families/deepracer/ppo_settings.py", r"_MOST_STEPS_OF_LARGER = ([\d_]+)"),
        ),
        lambda most, larger: f"at most {most:,.0f} steps ({larger:,.0f} for the deeper networks)",
    ),
    figure(
        "docs/extending.md",
        "benchmarks/classic.md",
        r"smrl is better on (\d+) of 10.*?LunarLander-v3 \| 1,000,000 \| 200 \| ([\d.]+)"
        r".*?continuous \| 1,000,000 \| 200 \| ([\d.]+)",
        lambda better, lander, continuous: (
            f"of which they learn {better:.0f} better than Stable-Baselines3's defaults. In a million steps, "
            f"LunarLander returns {lander:.0f} on average, and {continuous:.0f} with continuous actions"
        ),
    ),
    figure(
        "docs/extending.md",
        "runtime/ppo/settings.py",
        r"_LONG_EPISODE = (\d+).*?settings\[\"config\.gamma\"\] = ([\d.]+)",
        lambda steps, gamma: f"Where episodes may have {steps:,.0f} steps or more, `gamma` is {gamma}",
    ),
    figure(
        "docs/metrics.md",
        "runtime/rllib/settings.py",
        r"metrics_num_episodes_for_smoothing: .*?\)\] = \(?\s*(\d+)",
        lambda episodes: f"return over the last {episodes:.0f} episodes",
    ),
    figure(
        "docs/reports.md",
        "runtime/report/page.py",
        r"_MOST_VIDEO_BYTES = ([\d_]+)",
        lambda size: f"Videos of more than {size / 1e6:.0f} MB",
    ),
    figure(
        "docs/robots.md",
        "envs/roboschool/robots.py",
        r"StraightAhead\(start_height_m=([\d.]+)",
        lambda height_m: f"{height_m} m up, heading",
    ),
    *(Figure(("docs/robots.md",), (), functools.partial(row, env_id, found)) for env_id, found in ZOO.items()),
    figure(
        "docs/robots.md",
        "envs/roboschool/native.py",
        r"_CHECKED_STEPS = (\d+)",
        lambda steps: f"{steps:.0f} steps of it are compared",
    ),
    figure(
        "docs/robots.md",
        "envs/roboschool/env.py",
        r"render_width: int = (\d+),\s+render_height: int = (\d+)",
        lambda width, height: f"{width:.0f}×{height:.0f} frames",
    ),
    figure(
        SCALING,
        "runtime/settings/schema.py",
        r"cluster_timeout_s: [^\]]*\] = ([\d.]+)",
        lambda s: f"`rl.training.cluster_timeout_s` ({s:.0f} seconds)",
    ),
    figure(
        "docs/scripts-of-2020.md",
        "runtime/compat/gym_2020.py",
        r"LONGEST_EPISODE = ([\d_]+)",
        lambda steps: f"ends an episode after {steps:,.0f} steps",
    ),
    figure(
        "docs/serving.md",
        "runtime/serving/server.py",
        r"_DRAIN_S = (\d+)",
        lambda s: f"takes longer than {s:.0f} s gets a 503",
    ),
]

# Numbers of other people's contracts, and of formulas, in the pages' own words.
CONSTANTS = {
    "README.md": {
        "In three runs on 2 cores": "the machine of the figure",
        "10, 100 or 1,000 env runners": "sizes of clusters to set up, not a measurement",
    },
    "docs/image.md": {
        "SageMaker gives it 120 s": "SageMaker's time between SIGTERM and SIGKILL",
        "Docker 10 s unless": "docker stop's default",
        "On 2 cores": "the machine of the table",
        "Docker's 64 MB of": "Docker's default for /dev/shm",
    },
    "docs/local-mode.md": {
        "| 10 s, Docker's default | 120 s, as SageMaker does |": "docker stop's default, and SageMaker's time",
        "| 64 MB | 1 GB |": "Docker's default for /dev/shm, and the session's",
    },
    "docs/operations.md": {"SageMaker gives it 120 seconds": "SageMaker's time between SIGTERM and SIGKILL"},
    "docs/performance.md": {"2 cores x86-64": "the machine of the figures"},
    "docs/robots.md": {
        "of 1 − 2 × the angle": "a formula",
        "| a joint at its limit | −0.2 | −0.1 |": "rewards of Roboschool and of the port",
        "| floor | Bullet's restitution of 0 | 0.5 |": "settings of Roboschool and of the port",
        "| Harder's cube | 0.1 m wide | 0.05 m wide |": "settings of Roboschool and of the port",
        "of 100 episodes:": "the episodes of `make zoo`",
    },
    "docs/scaling.md": {
        "Docker's 64 MB": "Docker's default for /dev/shm",
        "one machine of 2 cores": "the machine of the figures",
        "The row for 1,000 env runners": "a size of a cluster, not a measurement",
        "| 1,000 |": "a size of a cluster, not a measurement",
    },
}

UNITS = (
    r"%|×|x\b|times\b|seconds?\b|minutes?\b|hours?\b|s\b|ms\b|µs\b|us\b|GB\b|MB\b|kB\b|KB\b|bytes?\b|Gbit/s|k?m\b|cm\b|"
    r"steps?\b|episodes?\b|records?\b|rows?\b|requests?\b|connections?\b|observations?\b|iterations?\b|transitions?\b|"
    r"frames?\b|laps?\b|trainings?\b|env runners\b|cores?\b|of \d|±"
)
NUMBER_WITH_UNIT = re.compile(rf"(?<![\w.\[])\d[\d,]*(?:\.\d+)?\s*-?\s*(?:{UNITS})")
MEASURED_CELL = re.compile(r"\| [-−]?\d+[.,][\d.,]*(?: [A-Za-z%µ/]+)? (?=\|)")


def prose(page: Path) -> str:
    """A page on one line, without blocks of code and the targets of links."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    return " ".join(re.sub(r"\]\([^)]*\)", "]", text).split())


def benchmark_rows() -> set[str]:
    """Every row of every table in benchmarks/."""
    pages = [page.read_text() for page in (ROOT / "benchmarks").glob("*.md")]
    return {line for page in pages for line in page.splitlines() if line.startswith("| ")}


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.pages[0])
def test_a_figure_is_its_sources(figure: Figure) -> None:
    for page in figure.pages:
        assert figure.written() in prose(ROOT / page), page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_number_with_a_unit_has_a_source(page: Path) -> None:
    text = prose(page)
    name = str(page.relative_to(ROOT))
    for sentence in [*(one.written() for one in FIGURES if name in one.pages), *benchmark_rows()]:
        text = text.replace(sentence, " ")
    for sentence in CONSTANTS.get(name, {}):
        assert sentence in text, f"{sentence!r} is excused and not there"
        text = text.replace(sentence, " ")
    text = re.sub(r"`[^`]*`", "`", text)
    found = [*NUMBER_WITH_UNIT.finditer(text), *MEASURED_CELL.finditer(text)]
    assert not found, [text[max(0, one.start() - 40) : one.end() + 30] for one in found]


def test_the_readmes_screens_are_what_its_commands_printed() -> None:
    readme = (ROOT / "README.md").read_text()
    assert with_screens(readme, read_screens()) == readme
    marked = re.findall(r"<!-- screen: ([\w-]+) -->", readme)
    assert len(marked) >= 4
    assert set(marked) <= {screen.name for screen in SCREENS}


def test_the_readme_can_be_read_in_one_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 250


def test_the_figures_of_a_preset_are_those_of_one_of_its_measured_runs() -> None:
    record = json.loads((ROOT / "benchmarks" / "presets.json").read_text())
    assert len(record) > 5
    shipped = load_shipped_presets()
    for name, runs in record.items():
        preset = shipped[name]
        of_run = [run for run in runs if run["steps"] == preset.steps]
        assert len(of_run) == 1, name
        assert preset.expected_return == pytest.approx(of_run[0]["evaluated_return"], rel=0.01), name
        assert preset.minutes == pytest.approx(of_run[0]["seconds"] / 60, abs=0.06), name
