"""Runs the production loop of a policy that learns from its users, with CartPole as a stand-in for them.

    python examples/serving_loop.py --out loop

trains v0 on a few random episodes, serves it in explore mode, lets `--episodes` users ask it for actions and report
rewards over HTTP, joins both into a log, learns v1 from two thirds of its episodes, asks `smrl deploy-gate` by the
other third whether v1 may replace v0, serves v1 if so, and prints the mean return of both. If not, it ends with exit
code 4. serving_loop.ipynb has the same steps as cells.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import pandas

SMRL = [sys.executable, "-m", "runtime.cli"]
ENVIRONMENT = "CartPole-v1"
MOST_STEPS = 200
USERS = 8  # at a time
# v0 is to have something left to learn.
LITTLE = ("rl.training.stop.training_iteration=2", "rl.training.config.updates_per_iteration=20")
# Of the users' actions. With 0.5 and 200 episodes the log had little but v0's own poor actions, and v1 was worse.
EPSILON = "0.9"
HELD_OUT = 3  # one episode of so many is for the gate


def main() -> None:
    """Runs the loop once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("loop"), help="folder for everything")
    parser.add_argument("--episodes", type=int, default=2000, help="users' episodes to learn from")
    parser.add_argument("--judged", type=int, default=20, help="episodes to compare v0 and v1 by")
    parser.add_argument("--margin", default="0", help="discounted return by which v1 must be better")
    parser.add_argument("settings", nargs="*", help="settings of v1's training, NAME=VALUE")
    given = parser.parse_args()
    out = given.out.absolute()
    train_first(out)
    serve_users(out, given.episodes)
    learn_from_users(out, given.settings)
    code = ask_gate(out, given.margin)
    if code:
        sys.exit(code)
    for version in ("v0", "v1"):
        print(f"{version}: mean return {measure(out, version, given.judged):.1f}")


def train_first(out: Path) -> None:
    """Trains v0 on a few episodes of random actions."""
    out.mkdir(parents=True, exist_ok=True)
    smrl("collect", "--env", "CartPole-v0", "--envs", "40", "--out", str(out / "random.csv"))
    smrl(*_train(out / "random.csv", out / "v0"), *LITTLE)


def serve_users(out: Path, episodes: int) -> float:
    """Serves v0 in explore mode and captures the users' decisions and rewards; returns the users' mean return."""
    with served(out / "v0", "--epsilon", EPSILON, "--capture", str(out / "captured")) as port:
        return play(port, episodes, "users", first_seed=1000)


def learn_from_users(out: Path, settings: Sequence[str] = ()) -> None:
    """Joins decisions and rewards into a log, keeps some of its episodes for the gate, and trains v1 on the others."""
    smrl("join", str(out / "captured"), "--out", str(out / "log.csv"))
    log = pandas.read_csv(out / "log.csv")
    is_held_out = log["episode_id"].rank(method="dense") % HELD_OUT == 0
    log[is_held_out].to_csv(out / "held_out.csv", index=False)
    log[~is_held_out].to_csv(out / "training.csv", index=False)
    smrl(*_train(out / "training.csv", out / "v1"), *settings)


def ask_gate(out: Path, margin: str = "0") -> int:
    """Compares v1 with v0 on episodes that neither learned from; returns the exit code, 0 to deploy v1."""
    return smrl(
        *("deploy-gate", "--champion", str(out / "v0"), "--challenger", str(out / "v1")),
        *("--data", str(out / "held_out.csv"), "--margin", margin),
        refusal=4,
    )


def measure(out: Path, version: str, episodes: int) -> float:
    """Serves a version without exploration and returns the users' mean return."""
    with served(out / version, "--epsilon", "0", "--capture", str(out / f"judged-{version}")) as port:
        return play(port, episodes, version, first_seed=0)


def _train(log: Path, results: Path) -> tuple[str, ...]:
    return "train", "--quiet", "--preset", "cartpole-bcq", "--data", str(log), "--out", str(results)


def smrl(*words: str, refusal: int = 0) -> int:
    """Runs a command, prints what it prints, and returns its exit code, which is 0 or `refusal`."""
    done = subprocess.run([*SMRL, *words], stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    if done.returncode not in (0, refusal):
        done.check_returncode()
    return done.returncode


@contextlib.contextmanager
def served(results: Path, *words: str) -> Iterator[int]:
    """Serves a policy and yields its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    server = subprocess.Popen([*SMRL, "serve", str(results), "--port", str(port), "--workers", "1", *words])
    try:
        wait_until_ready(server, port)
        yield port
    finally:
        server.terminate()
        server.wait()


def wait_until_ready(server: subprocess.Popen[bytes], port: int) -> None:
    """Waits for the server's health check."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as asking:
            asking.request("GET", "/ping")
            if asking.getresponse().status == 200:
                return
        time.sleep(0.1)
    raise RuntimeError("the server did not become ready; its output is above")


def play(port: int, episodes: int, name: str, *, first_seed: int) -> float:
    """Lets users, several at a time, play episodes through the server; returns their mean return."""
    seeds = range(first_seed, first_seed + episodes)
    with ThreadPoolExecutor(USERS) as users:
        return sum(users.map(partial(play_episode, port, name), seeds)) / episodes


def play_episode(port: int, name: str, seed: int) -> float:
    """Asks the server for each action of an episode, reports each reward, and returns their sum."""
    user = gymnasium.make(ENVIRONMENT, max_episode_steps=MOST_STEPS)
    state, _ = user.reset(seed=seed)
    total, has_ended, step = 0.0, False, 0
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while not has_ended:
            attributes = f"seed={seed * MOST_STEPS + step},episode={name}-{seed},step={step}"
            headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Custom-Attributes": attributes}
            answer = post(connection, "/invocations", {"instances": [state.tolist()]}, headers)
            (decision,) = answer["decisions"]
            state, reward, terminated, truncated, _ = user.step(decision["action"])
            has_ended = terminated or truncated
            body = {"reward": float(reward), "terminated": terminated, "truncated": truncated}
            post(connection, f"/events/{decision['event_id']}/reward", body, {})
            total += float(reward)
            step += 1
    return total


def post(connection: http.client.HTTPConnection, path: str, body: Any, headers: dict[str, str]) -> Any:
    """Sends a JSON request on an open connection and returns the answer."""
    connection.request("POST", path, json.dumps(body), headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    if response.status >= 400:
        raise RuntimeError(f"{path}: {response.status}: {answer['error']}")
    return answer


if __name__ == "__main__":
    main()
