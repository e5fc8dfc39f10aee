"""Encodes outputs to response bodies in the content type that the client accepts."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from runtime.serving.decoding import CSV, JSON, JSON_LINES, NPY, SAME_TYPES, Call
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import ServedPolicy

Outputs = Mapping[str, NDArray[Any]]
_ORJSON = orjson.OPT_SERIALIZE_NUMPY


def choose_type(accept: str, call: Call) -> str:
    """The content type to answer with: the first of ours that `Accept` names; JSON lines for JSON lines otherwise.

    Raises:
        RequestError: 406 if none of the accepted types is supported.
    """
    usual = JSON_LINES if call.source == "lines" else JSON
    if not accept or accept == "*/*":
        return usual
    if accept in _WRITERS:
        return accept
    for kind in sorted(map(str.strip, accept.lower().split(",")), key=_quality, reverse=True):
        kind = kind.partition(";")[0].strip()
        if kind in ("*/*", "application/*"):
            return usual
        kind = CSV if kind == "text/*" else kind
        kind = SAME_TYPES.get(kind, kind)
        if kind in _WRITERS:
            return kind
    raise RequestError(406, f"Accept: got {accept[:60]!r}; expected one of {', '.join(_WRITERS)}.")


def _quality(kind: str) -> float:
    """The weight that a client gives to a type, 1 if none; sorting by it keeps the client's order among equals."""
    try:
        return float(kind.partition("q=")[2] or 1)
    except ValueError:
        return 0.0


def encode(outputs: Outputs, call: Call, kind: str, policy: ServedPolicy) -> bytes:
    """Encodes the response body. CSV and NumPy hold one array and therefore carry the main output only."""
    return _WRITERS[kind](outputs, call, policy)


def encode_decisions(outputs: Outputs, call: Call, kind: str, decisions: list[dict[str, Any]]) -> bytes:
    """Encodes the response body with the sampled decisions beside the outputs, as `decisions`.

    Raises:
        RequestError: 406 for CSV and NumPy, which hold one array.
    """
    if kind not in (JSON, JSON_LINES):
        raise RequestError(406, f"Accept: got {kind!r}; expected {JSON} or {JSON_LINES} in explore mode.")
    if kind == JSON_LINES and call.source != "json":
        lines = zip(prediction_lines(outputs), decisions, strict=True)
        return b"".join(line[:-2] + b',"decisions":[' + orjson.dumps(decision) + b"]}\n" for line, decision in lines)
    body = _write_json(outputs, call, None)[:-1] + b',"decisions":' + orjson.dumps(decisions) + b"}"
    return body + b"\n" if kind == JSON_LINES else body


def _write_json(outputs: Outputs, call: Call, _: ServedPolicy | None) -> bytes:
    if call.layout == "columns":
        bare = next(iter(outputs.values())) if len(outputs) == 1 else outputs
        return orjson.dumps({"outputs": bare}, option=_ORJSON)
    return orjson.dumps({"predictions": _rows(outputs)}, option=_ORJSON)


def _rows(outputs: Outputs) -> Any:
    """Yields one entry per row: the bare value of a single output, or an object of several."""
    if len(outputs) == 1:
        return next(iter(outputs.values()))
    # By way of text, which has a float32's shortest digits; tolist() would give those of a double.
    columns = [orjson.loads(orjson.dumps(values, option=_ORJSON)) for values in outputs.values()]
    return [dict(zip(outputs, row, strict=True)) for row in zip(*columns, strict=True)]


def _write_lines(outputs: Outputs, call: Call, policy: ServedPolicy) -> bytes:
    """Writes a line for each line of the request; a single one for a JSON request, as TF Serving does."""
    if call.source == "json":
        return _write_json(outputs, call, policy) + b"\n"
    return b"".join(prediction_lines(outputs))


def prediction_lines(outputs: Outputs) -> list[bytes]:
    """Writes `{"predictions":[…]}` and a newline for each row, which batch transform joins with its input."""
    rows = _rows(outputs)
    if isinstance(rows, np.ndarray):
        if rows.ndim == 2:  # one call for all rows: ten times faster than one a row
            texts = orjson.dumps(rows, option=_ORJSON)[2:-2].split(b"],[")
            return [b'{"predictions":[[' + text + b"]]}\n" for text in texts]
        rows = rows.tolist()
    return [b'{"predictions":[' + orjson.dumps(row) + b"]}\n" for row in rows]


def _write_csv(outputs: Outputs, _: Call, policy: ServedPolicy) -> bytes:
    main = outputs[policy.main_output]
    text = orjson.dumps(main.reshape(len(main), -1), option=_ORJSON)
    return text[2:-2].replace(b"],[", b"\n") + b"\n"


def _write_npy(outputs: Outputs, _: Call, policy: ServedPolicy) -> bytes:
    file = io.BytesIO()
    np.save(file, outputs[policy.main_output], allow_pickle=False)
    return file.getvalue()


_WRITERS: dict[str, Callable[[Outputs, Call, ServedPolicy], bytes]] = {
    JSON: _write_json,
    JSON_LINES: _write_lines,
    CSV: _write_csv,
    NPY: _write_npy,
}
