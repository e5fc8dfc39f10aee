"""Learns from the decisions of a served policy, with CartPole as a stand-in for users.

    python examples/serving_loop.py --out loop

trains v0 on a few random episodes, serves it in explore mode, lets `--episodes` users ask it for actions and report
rewards over HTTP, joins both into a log, learns v1 from it, serves v1 too, and prints the mean return of both.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium

SMRL = [sys.executable, "-m", "runtime.cli"]
ENVIRONMENT = "CartPole-v1"
MOST_STEPS = 200
# v0 is to have something left to learn.
LITTLE = ("rl.training.stop.training_iteration=2", "rl.training.config.updates_per_iteration=20")
# Of the users' actions. With 0.5 and 200 episodes the log had little but v0's own poor actions, and v1 was worse.
EPSILON = "0.9"


def main() -> None:
    """Runs the loop once."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("loop"), help="folder for everything")
    parser.add_argument("--episodes", type=int, default=500, help="users' episodes to learn from")
    parser.add_argument("--judged", type=int, default=20, help="episodes to compare v0 and v1 by")
    parser.add_argument("settings", nargs="*", help="settings of v1's training, NAME=VALUE")
    given = parser.parse_args()
    out = given.out.absolute()
    out.mkdir(parents=True, exist_ok=True)

    smrl("collect", "--env", "CartPole-v0", "--envs", "40", "--out", str(out / "random.csv"))
    smrl("train", "--preset", "cartpole-bcq", "--data", str(out / "random.csv"), "--out", str(out / "v0"), *LITTLE)
    with served(out / "v0", "--epsilon", EPSILON, "--capture", str(out / "captured")) as port:
        play(port, given.episodes, "users", first_seed=1000)
    smrl("join", str(out / "captured"), "--out", str(out / "log.csv"))
    smrl(
        *("train", "--preset", "cartpole-bcq", "--data", str(out / "log.csv"), "--out", str(out / "v1")),
        *given.settings,
    )
    for version in ("v0", "v1"):
        with served(out / version, "--epsilon", "0", "--capture", str(out / f"judged-{version}")) as port:
            print(f"{version}: mean return {play(port, given.judged, version, first_seed=0):.1f}")


def smrl(*words: str) -> None:
    """Runs a command; its output is shown."""
    subprocess.run([*SMRL, *words], check=True)


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
    """Plays episodes by asking the server for each action; returns their mean return."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    users = gymnasium.make(ENVIRONMENT, max_episode_steps=MOST_STEPS)
    total = 0.0
    for episode in range(episodes):
        state, _ = users.reset(seed=first_seed + episode)
        has_ended, step = False, 0
        while not has_ended:
            attributes = f"seed={(first_seed + episode) * MOST_STEPS + step},episode={name}-{episode},step={step}"
            headers = {"Content-Type": "application/json", "X-Amzn-SageMaker-Custom-Attributes": attributes}
            answer = post(connection, "/invocations", {"instances": [state.tolist()]}, headers)
            (decision,) = answer["decisions"]
            state, reward, terminated, truncated, _ = users.step(decision["action"])
            has_ended = terminated or truncated
            body = {"reward": float(reward), "terminated": terminated, "truncated": truncated}
            post(connection, f"/events/{decision['event_id']}/reward", body, {})
            total += float(reward)
            step += 1
    return total / episodes


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
