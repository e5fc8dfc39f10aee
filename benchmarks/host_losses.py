"""Measures a training on three containers of which one is killed, stopped, or taken off the network.

python -m benchmarks.host_losses [--image smrl:cpu] [workers] [head] [start], some ten minutes on 2 cores, rewrites the
tables of benchmarks/host_losses.md. It needs a Docker daemon with Compose, and the image of `make image`.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.result_page import write_sections
from tests.conftest import TINY
from tests.docker.containers import NAMES, Containers, containers, docker

_PAGE = Path(__file__).with_suffix(".md")
_PATIENCE_S = 400.0
FIRST, SECOND, THIRD = NAMES
OFFLINE_S = 20.0
DEFAULT = "--time=10"  # Docker's own; compose.yaml's stop_grace_period would be it otherwise
SETTLED = 3  # iterations after which a training has got over a loss
JOB = {
    **TINY,
    "rl.training.config.train_batch_size": 1280,
    "rl.training.config.seed": 1,
    "rl.training.config.min_time_s_per_iteration": 0.5,
    "rl.training.checkpoint_freq": 1,
    "rl.training.video_freq": 0,
    "rl.training.stop.training_iteration": 100_000,
    "rl.training.stop.episode_reward_mean": 1_000,
    "rl.training.stop.timesteps_total": 1_000_000_000,  # the preset's are over in three minutes
}
COUNTERS = ("hosts_lost", "hosts_rejoined", "env_runners_lost", "training_restarts")


@contextlib.contextmanager
def training(image: str) -> Iterator[Containers]:
    """Three hosts that train."""
    with tempfile.TemporaryDirectory() as folder, containers(Path(folder), image, JOB) as hosts:
        hosts.start()
        hosts.wait_for(lambda: hosts.iterations() >= SETTLED)
        yield hosts


class Losses:
    """The rows of a table: what was done, what happened, and the hosts' exit codes."""

    def __init__(self) -> None:
        self.rows = [f"| event | what happened | {' | '.join(NAMES)} |", "|---|---|--:|--:|--:|"]

    def lose(self, hosts: Containers, what: str, event: Callable[[], object], *, of_host: bool = True) -> None:
        """Causes an event that training survives; of a host, if Ray is to take that for lost."""
        before = {name: hosts.count(name) for name in COUNTERS}
        event()
        reached, started = hosts.iterations(), time.monotonic()
        hosts.wait_for(lambda: hosts.iterations() >= reached + SETTLED, _PATIENCE_S)
        took_s = time.monotonic() - started
        hosts.wait_for(lambda: not of_host or hosts.count("hosts_lost") > before["hosts_lost"])
        changes = {name: hosts.count(name) - before[name] for name in COUNTERS}
        counted = ", ".join(f"`{name}` +{change}" for name, change in changes.items() if change) or "nothing is lost"
        self._add(hosts, what, f"training continues, {SETTLED} iterations after {took_s:.0f} s; {counted}")

    def end(self, hosts: Containers, what: str, event: Callable[[], object]) -> None:
        """Causes an event that ends the job."""
        reached, started = hosts.iterations(), time.monotonic()
        event()
        hosts.wait_for_end()
        took_s = time.monotonic() - started
        model = "a model" if (hosts.ml(FIRST) / "model" / "manifest.json").exists() else "no model"
        self._add(hosts, what, f"all have ended after {took_s:.0f} s, with {model}, at iteration {reached} or later")

    def _add(self, hosts: Containers, what: str, happened: str) -> None:
        codes = ["runs" if hosts.is_running(name) else str(hosts.exit_code(name)) for name in NAMES]
        self.rows.append(f"| {what} | {happened} | {' | '.join(codes)} |")
        print(self.rows[-1], flush=True)


def take_offline(hosts: Containers, name: str) -> None:
    """Takes a host off the network for a while."""
    hosts.disconnect(name)
    time.sleep(OFFLINE_S)
    hosts.reconnect(name)


def lose_workers(image: str, losses: Losses) -> None:
    """The worker nodes one after the other, until the head node is alone, which is then stopped."""
    with training(image) as hosts:
        what = f"`docker network disconnect` {THIRD}, connected again after {OFFLINE_S:.0f} s"
        losses.lose(hosts, what, lambda: take_offline(hosts, THIRD), of_host=False)
        losses.lose(hosts, f"`docker kill` {THIRD}", lambda: docker("kill", hosts.ids[THIRD]))
        hosts.start(THIRD)
        hosts.wait_for(lambda: hosts.count("hosts_rejoined") > 0)
        what = f"`docker start` {THIRD}, which joins again; `docker kill` {SECOND}"
        losses.lose(hosts, what, lambda: docker("kill", hosts.ids[SECOND]))
        losses.lose(hosts, f"`docker stop` {THIRD} (10 s)", lambda: docker("stop", DEFAULT, hosts.ids[THIRD]))
        what = f"`docker stop --time 120` {FIRST}, the last one"
        losses.end(hosts, what, lambda: docker("stop", "--time=120", hosts.ids[FIRST]))


def lose_head(image: str, losses: Losses) -> None:
    """The head node, again and again; the job is started again each time, and resumes from its last checkpoint."""
    with training(image) as hosts:

        def restart() -> None:
            before = hosts.iterations()
            hosts.start()
            hosts.wait_for(lambda: hosts.iterations() >= before + SETTLED)
            numbers = [row["training_iteration"] for row in hosts.rows()]
            assert numbers == list(range(1, len(numbers) + 1)), numbers

        losses.end(hosts, f"`docker kill` {FIRST}", lambda: docker("kill", hosts.ids[FIRST]))
        restart()
        what = "started again, `docker stop` of all three (10 s)"
        losses.end(hosts, what, lambda: docker("stop", DEFAULT, *hosts.ids.values()))
        restart()
        what = "started again, `docker stop --time 120` of all three"
        losses.end(hosts, what, lambda: docker("stop", "--time=120", *hosts.ids.values()))
        restart()
        what = f"started again, `docker network disconnect` {FIRST}, connected again after {OFFLINE_S:.0f} s"
        losses.lose(hosts, what, lambda: take_offline(hosts, FIRST), of_host=False)


def lose_before_meeting(image: str, losses: Losses) -> None:
    """A worker node, and the head node, before the hosts are connected."""
    with tempfile.TemporaryDirectory() as folder, containers(Path(folder), image, JOB) as hosts:
        hosts.start(FIRST, SECOND)
        hosts.wait_for(lambda: f"waiting for {THIRD}" in hosts.log(FIRST))
        hosts.start(THIRD)
        hosts.wait_for(lambda: f"{THIRD}: connecting" in hosts.log(THIRD))
        losses.end(hosts, f"`docker kill` {THIRD}", lambda: docker("kill", hosts.ids[THIRD]))
    with tempfile.TemporaryDirectory() as folder, containers(Path(folder), image, JOB) as hosts:
        (hosts.ml(FIRST) / "checkpoints").write_text("no folder")
        losses.end(hosts, f"{FIRST} cannot write its checkpoints", hosts.start)


_PARTS: dict[str, tuple[str, Callable[[str, Losses], None]]] = {
    "workers": ("Worker nodes", lose_workers),
    "head": ("The head node", lose_head),
    "start": ("Before the hosts are connected", lose_before_meeting),
}


def main() -> None:
    """Runs some parts and rewrites their tables; the others stay as they were."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", default="smrl:cpu")
    parser.add_argument("parts", nargs="*", choices=[*_PARTS, []])
    asked = parser.parse_args()
    head = (
        "# Hosts that are lost, in real containers\n\n`python -m benchmarks.host_losses`: algo-1, algo-2 and algo-3 of "
        "compose.yaml train the reacher on one machine of 2 cores. The last columns are exit codes; 137 is SIGKILL."
    )
    for name in asked.parts or _PARTS:
        title, lose = _PARTS[name]
        losses = Losses()
        lose(asked.image, losses)
        write_sections(_PAGE, head, (title for title, _ in _PARTS.values()), {title: "\n".join(losses.rows)})


if __name__ == "__main__":
    main()
