"""The server as SageMaker and users run it: a real process, real HTTP, and a policy that was really trained."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.errors import UserError
from runtime.manifest import read_manifest, write_json
from runtime.policy import Policy
from runtime.serving.decoding import decode
from runtime.serving.observations import RequestError
from runtime.serving.registry import Registry
from runtime.serving.served_policy import Input, ServedPolicy, load_policy
from tests.conftest import BIN, ROOT, clean_environment, run_peer

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"}
ROWS = np.linspace(-1, 1, 27, dtype=np.float32).reshape(3, 9)
OLD_INPUTS = {"prev_action": [0, 0], "is_training": False, "prev_reward": -1, "seq_lens": -1}

pytestmark = [pytest.mark.slow, pytest.mark.ray]


@dataclass
class Server:
    """A `serve` that was started."""

    process: subprocess.Popen[str]
    port: int
    log_path: Path

    def request(
        self, method: str, path: str, body: bytes | str = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    def invoke(self, body: Any, headers: dict[str, str] | None = None) -> Any:
        """The JSON answer of an invocation; a body that is no text is sent as JSON."""
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, answer = self.request("POST", "/invocations", raw, JSON if headers is None else headers)
        assert status == 200, answer
        return json.loads(answer)

    def refusal(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and error of an invocation."""
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, answer = self.request("POST", "/invocations", raw, JSON if headers is None else headers)
        return status, json.loads(answer)["error"]

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until(self, status: int, timeout_s: float = 30) -> None:
        """Waits for /ping to answer with a status."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/ping")[0] == status:
                    return
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


@contextlib.contextmanager
def started(
    tmp: Path,
    *words: str,
    environment: dict[str, str] | None = None,
    code: int = 0,
    program: tuple[str, ...] = (str(BIN / "serve"),),
) -> Iterator[Server]:
    """Starts `serve WORDS` on a free port; ends it with SIGTERM, which must leave the exit code."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp / f"serve-{port}.log"
    command = [*program, *words, "--host", "127.0.0.1"]
    variables = {**clean_environment(), "SAGEMAKER_BIND_TO_PORT": str(port), **(environment or {})}
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=tmp, env=variables, stdout=file, stderr=file, text=True)
    server = Server(process, port, log)
    try:
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == code, server.log
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(exported_results: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Two workers that serve the trained reacher."""
    with started(tmp_path_factory.mktemp("serve"), str(exported_results), "--workers", "2") as running:
        running.wait_until(200)
        yield running


@pytest.fixture(scope="module")
def policy(exported_results: Path) -> Policy:
    """The policy that was trained, from its checkpoint."""
    folder = exported_results / "model"
    return Policy.load(folder / "checkpoint", settings=read_manifest(folder))


def test_the_sagemaker_sdk_gets_the_policys_actions(server: Server, policy: Policy, tmp_path: Path) -> None:
    """The notebook's request, the SDK's serializers, and its batch transform, by the SDK's own classes."""
    records = tmp_path / "records.jsonl"
    records.write_text("".join(json.dumps(row) + "\n" for row in ROWS.tolist()))
    found = json.loads(run_peer("call_endpoint.py", str(server.port), records).splitlines()[-1])
    np.testing.assert_allclose(found["notebook"], [policy.act(np.ones(9, np.float32))], atol=1e-5)
    asked = np.linspace(-1, 1, 18, dtype=np.float32).reshape(2, 9)
    expected = policy.outputs(asked)["actions"]
    np.testing.assert_allclose(found["json"]["predictions"], expected, atol=1e-5)
    np.testing.assert_allclose(np.array(found["csv"], float), expected, atol=1e-5)
    np.testing.assert_allclose(found["npy"], expected, atol=1e-5)
    np.testing.assert_allclose([line["predictions"][0] for line in found["lines"]], expected, atol=1e-5)
    expected = policy.outputs(ROWS)["actions"]
    for strategy in ("SingleRecordStrategy", "MultiRecordStrategy"):  # a line a record, so that both can be joined
        lines = [json.loads(line)["predictions"][0] for line in found[strategy]]
        np.testing.assert_allclose(lines, expected, atol=1e-5)


def test_every_output_is_the_trained_policys(server: Server, policy: Policy) -> None:
    outputs = server.invoke({"inputs": {"observations": ROWS.tolist(), **OLD_INPUTS}})["outputs"]
    expected = policy.outputs(ROWS)
    assert set(outputs) == {*expected, "actions_0"}
    for name, values in expected.items():
        np.testing.assert_allclose(outputs[name], values, atol=1e-5)
    assert outputs["actions_0"] == outputs["actions"]
    # A row an object, as TF Serving answers `instances` with several outputs.
    rows = [{"observations": row, **OLD_INPUTS} for row in ROWS.tolist()]
    predictions = server.invoke({"instances": rows})["predictions"]
    assert {name: [row[name] for row in predictions] for name in outputs} == outputs


@pytest.mark.parametrize(
    ("body", "key"),
    [
        ({"instances": ROWS.tolist()}, "predictions"),
        ({"signature_name": "observations_only", "instances": ROWS.tolist()}, "predictions"),
        ({"instances": [{"observations": row} for row in ROWS.tolist()]}, "predictions"),
        ({"signature_name": "observations_only", "inputs": ROWS.tolist()}, "outputs"),
        ({"signature_name": "observations_only", "inputs": {"observations": ROWS.tolist()}}, "outputs"),
        ({"inputs": {"observations": ROWS.tolist(), **OLD_INPUTS, "timestep": 7}}, "outputs"),
        (ROWS.tolist(), "predictions"),
        ({"observations": ROWS.tolist()}, "predictions"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_every_form_of_request_means_the_same(server: Server, policy: Policy, body: Any, key: str) -> None:
    answer = server.invoke(body)[key]
    actions = answer["actions"] if isinstance(answer, dict) else answer
    np.testing.assert_allclose(actions, policy.outputs(ROWS)["actions"], atol=1e-5)


def test_a_bare_observation_is_a_batch_of_one(server: Server, policy: Policy) -> None:
    expected = [policy.act(ROWS[0])]
    np.testing.assert_allclose(server.invoke(ROWS[0].tolist())["predictions"], expected, atol=1e-5)
    np.testing.assert_allclose(server.invoke({"observations": ROWS[0].tolist()})["predictions"], expected, atol=1e-5)


@pytest.mark.parametrize("accept", ["application/json", "application/jsonlines", "text/csv", "application/x-npy"])
@pytest.mark.parametrize("kind", ["application/json", "application/jsonlines", "text/csv", "application/x-npy"])
def test_every_type_is_answered_in_every_type(server: Server, policy: Policy, kind: str, accept: str) -> None:
    written = io.BytesIO()
    np.save(written, ROWS)
    body = {
        "application/json": json.dumps({"instances": ROWS.tolist()}).encode(),
        "application/jsonlines": b"".join(json.dumps(row).encode() + b"\r\n" for row in ROWS.tolist()),
        "text/csv": b"\n".join(b", ".join(b"+%.9f" % abs(x) if x >= 0 else b"%.9f" % x for x in row) for row in ROWS),
        "application/x-npy": written.getvalue(),
    }[kind]
    headers = {"Content-Type": f"{kind}; charset=utf-8", "Accept": f"*/*;q=0.1, image/png, {accept};q=0.9"}
    status, told, answer = server.request("POST", "/invocations", body, headers)
    assert (status, told["content-type"]) == (200, accept)
    if accept == "application/x-npy":
        actions = np.load(io.BytesIO(answer))
    elif accept == "text/csv":
        actions = np.loadtxt(io.BytesIO(answer), delimiter=",")
    elif accept == "application/json" or kind == "application/json":
        actions = np.array(json.loads(answer)["predictions"])
    else:
        actions = np.array([json.loads(line)["predictions"][0] for line in answer.splitlines()])
    np.testing.assert_allclose(actions, policy.outputs(ROWS)["actions"], atol=1e-5)


def without(name: str) -> dict[str, Any]:
    inputs = {"observations": ROWS.tolist(), **OLD_INPUTS}
    del inputs[name]
    return {"inputs": inputs}


def having(**changed: Any) -> dict[str, Any]:
    return {"inputs": {"observations": ROWS.tolist(), **OLD_INPUTS, **changed}}


BAD: list[tuple[Any, str]] = [
    (without("seq_lens"), "Missing named input: seq_lens in 'inputs' object."),
    (without("observations"), "Missing named input: observations in 'inputs' object."),
    (having(is_training=0), "inputs.is_training: JSON Value: 0 is not of expected type: bool."),
    (having(seq_lens=-1.0), "inputs.seq_lens: JSON Value: -1.0 is not of expected type: int32."),
    (having(prev_action=["a"]), "inputs.prev_action: JSON Value: 'a' is not of expected type: float32."),
    (having(observations=[[1] * 20]), "inputs.observations: got shape (1, 20); expected (batch, 9)"),
    (having(observations=[1] * 9), "inputs.observations: got shape (9,); expected (batch, 9)"),
    (having(observations=[[1] * 9, [1] * 8]), "inputs.observations: got lists of different lengths or depths"),
    (having(observations=[[True] * 9]), "inputs.observations: got True; expected numbers in nested lists."),
    (having(observations=[["1"] * 9]), "inputs.observations: got '1'; expected numbers"),
    (having(observations=[[None] * 9]), "inputs.observations: got None; expected numbers"),
    (having(observations=[[1e39] * 9]), "inputs.observations[0, 0]: got inf; expected a finite number"),
    (having(observations=[]), "inputs.observations: got shape (0,)"),
    (having(observations={}), "inputs.observations: got {}; expected numbers"),
    ({"inputs": [[1] * 9]}, "inputs: got [[1, 1, 1, 1, 1, 1, 1, 1, 1]]; expected an object with is_training, obs"),
    ({"signature_name": "serving_default", "instances": [[1] * 9]}, "instances is a plain list, but expecting"),
    ({"signature_name": "other", "instances": [[1] * 9]}, "Serving signature name: 'other' not found"),
    ({"instances": [{"observations": [1] * 9, "prev_action": [0]}]}, "instances[0]: got ['observations', 'prev_act"),
    ({"instances": [{"observations": [1] * 9}, [1] * 9]}, "instances[1]: got [1, 1, 1, 1, 1, 1, 1, 1, 1]; expected"),
    ({"instances": []}, "instances: got []; expected a list with a row for each observation."),
    ({"instances": 3}, "instances: got 3; expected a list"),
    ({"inputs": {}, "instances": []}, "got both 'inputs' and 'instances'"),
    ('{"inputs": NaN}', "JSON has no NaN or Infinity."),
    ({"observations": [[1] * 8]}, "observations: got shape (1, 8); expected (batch, 9)"),
    ({"input": [[1] * 9]}, "got neither 'inputs' nor 'instances'"),
    (3, "body: got 3; expected an object"),
    ('{"inputs": ', "body: got invalid JSON (unexpected end of data"),
    ('{"instances": [[NaN, 1, 1, 1, 1, 1, 1, 1, 1]]}', "body: got invalid JSON"),
    ("", "body: got nothing; expected observations."),
    ('{"inputs": ' + "[" * 900 + "]" * 900 + "}", "inputs: got [["),
    ('{"signature_name": ' + "[" * 900 + "]" * 900 + ', "inputs": 1}', "Serving signature name: [["),
    ({"signature_name": 0, "instances": [[1] * 9]}, "Serving signature name: 0 not found"),
]


@pytest.mark.parametrize(("body", "message"), BAD, ids=lambda value: str(value)[:40])
def test_a_bad_request_is_told_what_is_wrong(server: Server, body: Any, message: str) -> None:
    status, error = server.refusal(body)
    assert status == 400
    assert message in error


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


@pytest.mark.parametrize(
    ("kind", "body", "message"),
    [
        ("application/jsonlines", "[1,1,1,1,1,1,1,1,1]\n\n[1,1]\n", "line 3: instances: got shape (1, 2); expected"),
        ("application/jsonlines", "[1,2,3,4\n5,6,7,8,9],[1,1,1,1,1,1,1,1,1]\n", "line 1: got invalid JSON"),
        ("application/jsonlines", "[1,1,1,1,1,1,1,1,1],[1,2,3\n4,5,6,7,8,9]\n", "line 1: got invalid JSON"),
        ("application/jsonlines", "[1,1,1,1,1,1,1,1,1]\n{}\n", "line 2: instances[0]: got []; expected an object"),
        ("application/jsonlines", b"\xef\xbb\xbf", "body: got nothing; expected observations."),
        ("text/csv", b"\xef\xbb\xbf\n \n", "body: got nothing; expected observations."),
        ("application/jsonlines", "1,1,1,1,1,1,1,1,1\n", "line 1: got several JSON values; expected one a line."),
        ("text/csv", "a,b\n", "line 1, column 1: got 'a'; expected a number. There must be no header."),
        ("text/csv", "1,1,1,1,1,1,1,1,1\n1,2,3\n", "line 2: got 3 columns; expected 9."),
        ("text/csv", "\n1,1,1,1,nan,1,1,1,1\n", "line 2, column 5: got nan; expected a finite float32."),
        ("text/csv", "0,0,0,0,0,0,0,0,0],[0,0,0,0,0,0,0,0,0\n", "line 1, column 9: got '0]'; expected a number."),
        ("text/csv", "true,0,0,0,0,0,0,0,0\n", "line 1, column 1: got 'true'; expected a number."),
        ("text/csv", "1_0,0,0,0,0,0,0,0,0\n", "line 1, column 1: got '1_0'; expected a number."),
        ("application/x-npy", b"\x93NUMPY", "body: got no NumPy array"),
        ("application/x-npy", npy(ROWS)[:-4], "bytes after a header that promises 108"),
        ("application/x-npy", npy(ROWS > 0), "body: got an array of bool; expected numbers."),
        ("application/x-npy", npy(np.array([{}])), "body: got no NumPy array"),
        ("application/x-npy", npy(np.full((1, 9), np.inf)), "body[0, 0]: got inf; expected a finite number"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_bodies_of_other_types_are_told_where(server: Server, kind: str, body: Any, message: str) -> None:
    status, error = server.refusal(body, {"Content-Type": kind})
    assert status == 400
    assert message in error


def test_unknown_types_and_places_are_refused(server: Server) -> None:
    assert server.refusal("x=1", {"Content-Type": "application/x-www-form-urlencoded"})[0] == 415
    assert server.refusal(ROWS.tolist(), {**JSON, "Accept": "image/png"})[0] == 406
    assert server.refusal(b"x", {**JSON, "Content-Encoding": "br"})[0] == 415
    assert server.request("GET", "/invocations")[0] == 405
    assert server.request("POST", "/ping")[0] == 405
    assert server.request("GET", "/nothing/here")[0] == 404
    assert server.request("GET", "/")[0] == 404


def test_gzip_both_ways_and_the_custom_attributes_come_back(server: Server) -> None:
    body = gzip.compress(json.dumps({"instances": np.repeat(ROWS, 50, 0).tolist()}).encode())
    attributes = "tfs-model-name=reacher,tfs-method=predict"
    headers = {**JSON, "Content-Encoding": "gzip", "Accept-Encoding": "gzip"}
    headers["X-Amzn-SageMaker-Custom-Attributes"] = attributes
    status, told, answer = server.request("POST", "/invocations", body, headers)
    assert (status, told["content-encoding"]) == (200, "gzip")
    assert told["x-amzn-sagemaker-custom-attributes"] == attributes
    assert len(json.loads(gzip.decompress(answer))["predictions"]) == 150
    plain = {**JSON, "Content-Encoding": "gzip"}
    assert server.refusal(body[:-9], plain) == (400, "body: got gzip data that ends too early.")
    assert "bytes that gzip cannot unpack" in server.refusal(body + b"and then this", plain)[1]
    half = gzip.compress(json.dumps(ROWS[0].tolist()).encode() + b"\n")
    lines = server.request("POST", "/invocations", half + half, {**LINES, "Content-Encoding": "gzip"})[2]
    assert len(lines.splitlines()) == 2  # two members in a row are one content
    status, told, _ = server.request("POST", "/invocations", body, {**plain, "Accept-Encoding": "gzip;q=0"})
    assert (status, told.get("content-encoding")) == (200, None)


def test_ping_has_an_empty_body_and_metrics_add_up_over_workers(server: Server) -> None:
    status, _, body = server.request("GET", "/ping")
    assert (status, body) == (200, b"")

    def total(name: str) -> float:
        text = server.request("GET", "/metrics")[2].decode()
        return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name))

    before = total('smrl_invocations_total{status="2xx"}'), total("smrl_observations_total")
    refused = total('smrl_invocations_total{status="4xx"}')
    for _ in range(20):  # each on a connection of its own, so that both workers have some
        server.invoke(ROWS.tolist())
    server.refusal("")
    after = total('smrl_invocations_total{status="2xx"}'), total("smrl_observations_total")
    assert (after[0] - before[0], after[1] - before[1]) == (20, 60)
    assert total('smrl_invocations_total{status="4xx"}') == refused + 1
    assert total("smrl_invocation_seconds_count") == total("smrl_invocations_total")


def test_batch_transform_is_told_how_many_at_once(server: Server) -> None:
    status, _, body = server.request("GET", "/execution-parameters")
    assert (status, json.loads(body)) == (200, {"MaxConcurrentTransforms": 2, "MaxPayloadInMB": 6})


def test_large_batches_do_not_hold_up_the_health_check(exported_results: Path, tmp_path: Path, policy: Policy) -> None:
    rows = np.random.default_rng(0).normal(size=(500_000, 9)).astype(np.float32)
    body, answers = npy(rows), []
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
        worker.kill()
        worker.wait(10)
        server.wait_until(200)
        assert [w.pid for w in server.workers()] != [worker.pid]
        assert f"serve: worker {worker.pid} ended with code -9; another takes its place" in server.log
        assert len(server.invoke(ROWS.tolist())["predictions"]) == 3


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


def test_pictures_come_as_nested_lists_or_as_flat_rows() -> None:
    """(B, H, W, C): JSON nests them, CSV has one a row, in the order of the array."""
    inputs = {"observations": Input("float32", (2, 3, 1)), "is_training": Input("bool", None)}
    policy = ServedPolicy("pictures", inputs, ("actions", "actions_0"), "actions", (2, 3, 1), session=None)
    pictures = np.arange(12, dtype=np.float32).reshape(2, 2, 3, 1)
    flat = "\n".join(",".join(map(str, picture.ravel())) for picture in pictures)
    columns = {"inputs": {"observations": pictures.tolist(), "is_training": [[False]]}}
    for body, kind in (
        (json.dumps(columns).encode(), "application/json"),
        (json.dumps({"instances": pictures.tolist()}).encode(), "application/json"),
        (b"\n".join(json.dumps(picture).encode() for picture in pictures.tolist()), "application/jsonlines"),
        (flat.encode(), "text/csv"),
        (npy(pictures.astype(np.uint8)), "application/x-npy"),
        (npy(np.asfortranarray(pictures)), "application/x-npy"),
    ):
        np.testing.assert_array_equal(decode(body, kind, policy).observations, pictures)
    one = decode(json.dumps(pictures[0].tolist()).encode(), "application/json", policy)
    np.testing.assert_array_equal(one.observations, pictures[:1])
    with pytest.raises(RequestError, match=r"got shape \(1, 2, 3\); expected \(batch, 2, 3, 1\)"):
        decode(json.dumps({"instances": pictures[:1, :, :, 0].tolist()}).encode(), "application/json", policy)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=10) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=30,
)
NAMES = ["inputs", "instances", "signature_name", "observations", "is_training", "seq_lens"]
REQUESTS = VALUES | st.dictionaries(
    st.sampled_from(NAMES),
    VALUES
    | st.lists(st.lists(st.floats() | st.integers(), min_size=9, max_size=9), max_size=3)
    | st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5),
    max_size=3,
)
BODIES = st.binary(max_size=200) | REQUESTS.map(lambda value: json.dumps(value).encode())
TYPES = ["application/json", "application/jsonlines", "text/csv", "application/x-npy", "", "text/html"]


@given(body=BODIES, kind=st.sampled_from(TYPES), accept=st.sampled_from([*TYPES, "*/*", ";,;"]))
@settings(
    max_examples=int(os.environ.get("SMRL_FUZZ_EXAMPLES", "400")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_request_is_an_error_of_ours(server: Server, body: bytes, kind: str, accept: str) -> None:
    """Over real HTTP. For more of them: SMRL_FUZZ_EXAMPLES=10000 pytest tests/test_serving.py -k no_request."""
    status, _, answer = server.request("POST", "/invocations", body, {"Content-Type": kind, "Accept": accept})
    assert status in (200, 400, 406, 415)
    if status != 200:
        assert json.loads(answer)["error"]
