"""Requests and answers: every body form and type, what is refused and how, and 400 fuzzed ones, over real HTTP."""

from __future__ import annotations

import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.policies.policy import Policy
from runtime.serving.decoding import decode
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import Input, ServedPolicy
from tests.conftest import run_peer
from tests.servers import JSON, LINES, OLD_INPUTS, ROWS, Server, npy

pytestmark = [pytest.mark.slow, pytest.mark.ray]


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
    status, message, answer = server.request("POST", "/invocations", body, headers)
    assert (status, message["content-type"]) == (200, accept)
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
    status, message, answer = server.request("POST", "/invocations", body, headers)
    assert (status, message["content-encoding"]) == (200, "gzip")
    assert message["x-amzn-sagemaker-custom-attributes"] == attributes
    assert len(json.loads(gzip.decompress(answer))["predictions"]) == 150
    plain = {**JSON, "Content-Encoding": "gzip"}
    assert server.refusal(body[:-9], plain) == (400, "body: got gzip data that ends too early.")
    assert "bytes that gzip cannot unpack" in server.refusal(body + b"and then this", plain)[1]
    half = gzip.compress(json.dumps(ROWS[0].tolist()).encode() + b"\n")
    lines = server.request("POST", "/invocations", half + half, {**LINES, "Content-Encoding": "gzip"})[2]
    assert len(lines.splitlines()) == 2  # two members in a row are one content
    status, message, _ = server.request("POST", "/invocations", body, {**plain, "Accept-Encoding": "gzip;q=0"})
    assert (status, message.get("content-encoding")) == (200, None)


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
    """Sends fuzzed requests over real HTTP.

    For more of them: SMRL_FUZZ_EXAMPLES=10000 pytest tests/serving/test_app.py -k no_request.
    """
    status, _, answer = server.request("POST", "/invocations", body, {"Content-Type": kind, "Accept": accept})
    assert status in (200, 400, 406, 415)
    if status != 200:
        assert json.loads(answer)["error"]
