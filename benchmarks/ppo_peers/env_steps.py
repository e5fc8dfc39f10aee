"""Env steps a second of the PyBullet port and of Gymnasium's MuJoCo robots, one of each stepped alone."""

from __future__ import annotations

import json

import gymnasium

from benchmarks.ppo_peers.counting import quiet, rate_of, read_job


def main() -> None:
    """Prints one line of JSON: a rate for each id asked for."""
    job = read_job()
    found: dict[str, float] = {}
    for name in job["ids"]:
        with quiet():
            env = gymnasium.make(name, disable_env_checker=True).unwrapped
            found[name] = rate_of(env, job["steps"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()
