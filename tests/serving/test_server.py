"""The server as a process: starting, stopping, dying workers, broken models, SageMaker's variables, many models."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from runtime.artifacts.manifest import read_manifest
from runtime.errors import UserError
from runtime.files import write_json
from runtime.policies.policy import Policy
from runtime.serving.app import App, Settings
from runtime.serving.model_store import Registry
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import ServedPolicy, load_policy
from tests.conftest import BIN, ROOT, clean_environment
from tests.servers import JSON, ROWS, Server, npy, started

pytestmark = [pytest.mark.slow, pytest.mark.ray]


def test_large_batches_do_not_hold_up_the_health_check(exported_results: Path, tmp_path: Path, policy: Policy) -> None:
    rows = np.random.default_rng(0).normal(size=(500_000, 9)).astype(np.float32)
    body = npy(rows)
    answers = []
    with started(tmp_path, str(exported_results), "--workers", "1") as server:
        server.wait_until(200)

        def ask() -> None:
            answers.append(server.invoke(body, {"Content-Type": "application/x-npy"})["predictions"])

        asking = threading.Thread(target=ask)
        asking.start()
        pings = 0
        while asking.is_alive():
            start = time.monotonic()
            assert server.request("GET", "/ping")[0] == 200
            assert time.monotonic() - start < 2  # SageMaker's limit
            pings += 1
        asking.join()
    assert pings > 1
    np.testing.assert_allclose(answers[0][-100:], policy.outputs(rows[-100:])["actions"], atol=1e-5)


def test_a_worker_that_dies_is_replaced(exported_results: Path, tmp_path: Path) -> None:
    with started(tmp_path, str(exported_results), "--workers", "1") as server:
        server.wait_until(200)
        (worker,) = server.workers()
        worker.suspend()
        time.sleep(1)  # the supervisor waits for its answer now: it checks every half second
        worker.kill()
        worker.wait(10)
        server.wait_until(200)
        assert [w.pid for w in server.workers()] != [worker.pid]
        assert f"serve: worker {worker.pid} ended with code -9; another takes its place" in server.log
        assert len(server.invoke(ROWS.tolist())["predictions"]) == 3


def test_once_a_worker_is_ready_ping_stays_200_while_others_load(exported_results: Path, tmp_path: Path) -> None:
    with started(tmp_path, str(exported_results), "--workers", "6") as server:
        server.wait_until(200)
        deadline = time.monotonic() + 3  # by which the last of them has loaded
        answers = set()
        while time.monotonic() < deadline:
            answers.add(server.request("GET", "/ping")[0])
        assert answers == {200}


def test_workers_end_with_their_parent(exported_results: Path, tmp_path: Path) -> None:
    with started(tmp_path, str(exported_results), code=-signal.SIGKILL) as server:
        server.wait_until(200)
        workers = server.workers()
        server.process.kill()
        _, alive = psutil.wait_procs(workers, timeout=10)
        assert workers
        assert not alive


def test_sigterm_answers_what_is_under_way(exported_results: Path, tmp_path: Path) -> None:
    body = json.dumps({"instances": ROWS.tolist()}).encode()
    with started(tmp_path, str(exported_results), "--workers", "1") as server:
        server.wait_until(200)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.putrequest("POST", "/invocations")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body[:10])
        time_sent = time.monotonic()
        server.wait_until(200)  # another request has gone through since: the first has arrived
        server.process.send_signal(signal.SIGTERM)
        (worker,) = server.workers()
        while any(open_one.status == psutil.CONN_LISTEN for open_one in worker.net_connections()):  # not draining yet
            assert time.monotonic() < time_sent + 10
            time.sleep(0.02)
        connection.send(body[10:])
        response = connection.getresponse()
        assert (response.status, len(json.loads(response.read())["predictions"])) == (200, 3)
        connection.close()
        assert server.process.wait(20) == 0
        assert time.monotonic() - time_sent < 20


def test_ping_is_503_for_a_policy_that_cannot_be_loaded(exported_results: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(exported_results / "model", tmp_path / "model")
    (broken / "policy.onnx").write_bytes((broken / "policy.onnx").read_bytes()[:-100])
    with started(tmp_path, str(broken), "--workers", "2") as server:
        server.wait_until(503)
        status, _, body = server.request("POST", "/invocations", json.dumps(ROWS.tolist()), JSON)
        assert (status, json.loads(body)["error"]) == (503, "no policy is loaded; the server's log says why.")
    assert server.log.count("whose sha256 is not the manifest's") == 1


@pytest.mark.parametrize("damage", ["outputs", "inputs", "shape", "format", "onnx", "type"])
def test_a_description_that_is_not_the_policys_is_found_at_start(
    exported_results: Path, tmp_path: Path, damage: str
) -> None:
    folder = shutil.copytree(exported_results / "model", tmp_path / "model")
    manifest = read_manifest(folder)
    default, alone = manifest["signatures"]["serving_default"], manifest["signatures"]["observations_only"]
    (onnx,) = (export for export in manifest["exports"] if export["format"] == "onnx")
    if damage == "outputs":
        default["outputs"] = {"foo": {}}
    elif damage == "inputs":
        del alone["inputs"]["observations"]
    elif damage == "shape":
        alone["inputs"]["observations"]["shape"] = [-1, 8]
    elif damage == "format":
        del onnx["format"]
    elif damage == "type":
        manifest["exports"] = [1, 2]
    else:
        (folder / "policy.onnx").write_bytes(b"nonsense")
        onnx["sha256"] = hashlib.sha256(b"nonsense").hexdigest()
    write_json(folder / "manifest.json", manifest)
    with pytest.raises(UserError, match="that its policy cannot be loaded by"):
        load_policy(folder)


def test_a_model_that_is_unloaded_is_forgotten_by_every_worker(exported_results: Path, tmp_path: Path) -> None:
    """Two workers' views of one folder: SageMaker unloads to have the memory back."""
    url = str(exported_results / "model")
    one, other = (Registry(tmp_path, workers=2, memory_mb=100) for _ in range(2))
    one.load("x", url)
    one.load("y", url)
    forgotten = weakref.ref(other.get("x"))
    other.get("y")
    one.unload("x")
    other.find("y")
    assert forgotten() is None
    with pytest.raises(RequestError, match="it is not loaded"):
        other.get("x")
    one.load("x", url)
    assert other.get("x") is not None


def test_sagemaker_starts_it_without_running_the_training_script(exported_results: Path, tmp_path: Path) -> None:
    """The variables that RLEstimator.deploy sets, a model folder that nobody writes to, and a payload limit."""
    base = tmp_path / "opt_ml"
    model = shutil.copytree(exported_results / "model", base / "model")
    script = tmp_path / "train-reacher.py"
    script.write_text("open('was-imported', 'w')\n")
    before = {path: path.stat().st_mtime_ns for path in model.rglob("*")}
    environment = {
        "SAGEMAKER_BASE_DIR": str(base),
        "SAGEMAKER_PROGRAM": str(script),
        "SAGEMAKER_SUBMIT_DIRECTORY": str(tmp_path),
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "20",
        "SAGEMAKER_REGION": "us-east-1",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "1",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "1",
        "SAGEMAKER_MODEL_SERVER_WORKERS": "1",
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv",
        "SMRL_ACCESS_LOG": "1",
    }
    entry_point = (sys.executable, str(ROOT / "entrypoints" / "serve.py"))
    with started(tmp_path, environment=environment, program=entry_point) as server:
        server.wait_until(200)
        assert len(server.workers()) == 1
        assert server.request("POST", "/invocations", json.dumps(ROWS.tolist()), JSON)[2].count(b",") == 3
        too_much = b"[" + b" " * 2**20 + b"]"
        for headers, body in ((JSON, too_much), ({**JSON, "Content-Encoding": "gzip"}, gzip.compress(too_much))):
            status, error = server.refusal(body, headers)
            assert (status, error[:34]) == (413, "body: got more than 1,048,576 byte")
        for sent in (b"[1,", b""):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.putrequest("POST", "/invocations")
            connection.putheader("Content-Length", "100")
            connection.endheaders(sent)
            response = connection.getresponse()
            assert (response.status, response.getheader("connection")) == (408, "close")
            connection.close()
    assert {path: path.stat().st_mtime_ns for path in model.rglob("*")} == before
    assert not (tmp_path / "was-imported").exists()
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    invoked = [line for line in lines if line["path"] == "/invocations"]
    assert [line["status"] for line in invoked] == [200, 413, 413, 408, 408]
    assert invoked[0]["observations"] == 3
    assert invoked[0]["milliseconds"] > 0


def test_several_models_are_loaded_and_unloaded_by_name(exported_results: Path, tmp_path: Path) -> None:
    first = str(exported_results / "model")
    second = str(shutil.copytree(first, tmp_path / "second"))
    environment = {"SAGEMAKER_MULTI_MODEL": "true", "SMRL_MODELS_MB": "0.3"}
    with started(tmp_path, "--workers", "2", environment=environment) as server:
        server.wait_until(200)

        def load(name: str, url: str) -> int:
            return server.request("POST", "/models", json.dumps({"model_name": name, "url": url}))[0]

        assert server.request("GET", "/models")[2] == b'{"models":[]}'
        assert load("a/b.tar.gz", first) == 200
        assert load("a%2Fb.tar.gz", first) == 200  # another one, whose own name looks escaped
        assert server.request("DELETE", "/models/a%252Fb.tar.gz")[0] == 200
        assert load("a/b.tar.gz", second) == 409
        assert load("\ud800", first) == load("x" * 300, first) == load("long", "/" + "x" * 5000) == 400
        assert load("none", str(tmp_path / "nothing")) == 400
        assert server.request("POST", "/models", "{}")[0] == 400
        for _ in range(10):  # whichever worker it reaches
            status, _, body = server.request("POST", "/models/a%2Fb.tar.gz/invoke", json.dumps(ROWS.tolist()), JSON)
            assert status == 200
        assert len(json.loads(body)["predictions"]) == 3
        assert json.loads(server.request("GET", "/models/a%2Fb.tar.gz")[2]) == {
            "modelName": "a/b.tar.gz",
            "modelUrl": first,
        }
        codes = [load(f"m{number}", second) for number in range(40)]
        assert codes[0] == 200
        assert codes[-1] == 507
        assert json.loads(server.request("GET", "/models")[2])["models"][0]["modelUrl"] == first
        assert server.request("DELETE", "/models/a%2Fb.tar.gz")[0] == 200
        for _ in range(10):
            assert server.request("POST", "/models/a%2Fb.tar.gz/invoke", b"[]", JSON)[0] == 404
        assert server.request("DELETE", "/models/a%2Fb.tar.gz")[0] == 404
        assert server.request("GET", "/models/a%2Fb.tar.gz")[0] == 404
        assert server.request("POST", "/invocations", json.dumps(ROWS.tolist()), JSON)[0] == 404


def test_what_cannot_be_served_is_said_at_once(server: Server, tmp_path: Path) -> None:
    def fail(*words: str, **environment: str) -> str:
        command = [str(BIN / "serve"), *words]
        variables = {**clean_environment(), "SAGEMAKER_BASE_DIR": str(tmp_path), **environment}
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=30, check=False)
        assert done.returncode == 2
        return done.stderr

    assert f"port: got {server.port} on 0.0.0.0, which cannot be had (Address already in use)" in fail(
        "--port", str(server.port)
    )
    assert "model: got 'nowhere', which does not exist" in fail("nowhere")
    assert "--port: got '0'; expected a whole number above 0" in fail("--port", "0")
    wrong = fail(
        SAGEMAKER_BIND_TO_PORT="http",
        SAGEMAKER_MODEL_SERVER_TIMEOUT="-1",
        SAGEMAKER_MODEL_SERVER_WORKERS="1.5",
        SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT="foo",
        SAGEMAKER_MULTI_MODEL="maybe",
    )
    assert (
        "SAGEMAKER_BIND_TO_PORT: got 'http' from the environment; expected a whole number of at least 1 and at" in wrong
    )
    assert "SAGEMAKER_MODEL_SERVER_TIMEOUT: got '-1' from the environment; expected a number" in wrong
    assert (
        "SAGEMAKER_MODEL_SERVER_WORKERS: got '1.5' from the environment; expected a whole number of at least 1" in wrong
    )
    assert "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT: got 'foo' from the environment; expected one of app" in wrong
    assert "SAGEMAKER_MULTI_MODEL: got 'maybe' from the environment; expected true or false." in wrong
    assert "port: got 99999 on 0.0.0.0, which cannot be had" in fail(str(tmp_path), "--port", "99999")


def test_a_request_waits_for_a_worker_that_is_still_loading(
    exported_results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/ping may be answered by a worker that is ready, and the next request reach one that is not."""
    app = App(Settings(exported_results / "model", "model", tmp_path, parent=os.getppid()))
    body = json.dumps(ROWS.tolist()).encode()
    scope = {"type": "http", "method": "POST", "path": "/invocations", "raw_path": b"/invocations"}
    statuses = []
    may_load = threading.Event()

    def load_when_told(directory: Path) -> ServedPolicy:
        assert may_load.wait(60)
        return load_policy(directory)

    monkeypatch.setattr("runtime.serving.app.load_policy", load_when_told)

    async def drive() -> None:
        started, ended = asyncio.Event(), asyncio.Event()

        async def live() -> dict[str, Any]:
            if started.is_set():
                await ended.wait()
            return {"type": "lifespan"}

        async def note_start(_: dict[str, Any]) -> None:
            started.set()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: dict[str, Any]) -> None:
            statuses.append(message.get("status"))

        living = asyncio.create_task(app({"type": "lifespan"}, live, note_start))
        await started.wait()
        request = asyncio.create_task(
            app({**scope, "headers": [(b"content-type", b"application/json")]}, receive, send)
        )
        await asyncio.wait([request], timeout=0.1)
        assert app.policy is None
        assert not statuses
        may_load.set()
        await request
        ended.set()
        await living

    asyncio.run(drive())
    assert statuses[0] == 200
