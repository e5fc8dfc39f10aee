"""Servers to measure ours against: `serving_peers.py echo|fastapi|rayserve PORT CHECKPOINT`, one process each."""

import sys
import time
from pathlib import Path
from typing import Any


def echo(port: int, _: Path) -> None:
    """A bare ASGI application under the same uvicorn, which sends the body back: what HTTP alone costs."""
    import uvicorn

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(message["body"])).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": message["body"]})

    uvicorn.run(
        app, port=port, loop="uvloop", http="httptools", ws="none", lifespan="off", log_level="error", access_log=False
    )


def fastapi(port: int, checkpoint: Path) -> None:
    """The trained module, eager torch, behind FastAPI."""
    import torch
    import uvicorn
    from fastapi import FastAPI, Request

    policy = _policy(checkpoint)
    torch.set_num_threads(1)
    app = FastAPI()

    @app.post("/invocations")  # type: ignore[untyped-decorator]
    async def invocations(request: Request) -> dict[str, Any]:
        body = await request.json()
        return {"outputs": _answer(policy, body["inputs"]["observations"])}

    uvicorn.run(app, port=port, loop="uvloop", http="httptools", log_level="error", access_log=False)


def rayserve(port: int, checkpoint: Path) -> None:
    """Ray Serve with the RLModule, as Ray's documentation serves one."""
    import ray
    from ray import serve

    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    serve.start(http_options={"port": port, "host": "127.0.0.1"})

    @serve.deployment
    class Served:
        def __init__(self) -> None:
            self.policy = _policy(checkpoint)

        async def __call__(self, request: Any) -> dict[str, Any]:
            body = await request.json()
            return {"outputs": _answer(self.policy, body["inputs"]["observations"])}

    serve.run(Served.bind(), route_prefix="/invocations")  # type: ignore[attr-defined]
    while True:
        time.sleep(60)


def _policy(checkpoint: Path) -> Any:
    from runtime.artifacts.manifest import read_manifest
    from runtime.artifacts.policy_file import read_policy

    return read_policy(checkpoint, settings=read_manifest(checkpoint.parent))


def _answer(policy: Any, observations: list[list[float]]) -> dict[str, Any]:
    """Actions and the distribution's inputs: less than ours returns."""
    import numpy as np

    logits = policy.logits(np.asarray(observations, np.float32))
    space = policy.action_space
    actions = [policy.to_environment(row[: space.shape[0]]).tolist() for row in logits]
    return {"actions": actions, "behaviour_logits": logits.tolist()}


if __name__ == "__main__":
    {"echo": echo, "fastapi": fastapi, "rayserve": rayserve}[sys.argv[1]](int(sys.argv[2]), Path(sys.argv[3]))
