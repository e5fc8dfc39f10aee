"""Decodes request bodies to observations by TensorFlow Serving's rules, with errors that name the broken rule.

Source: tensorflow_serving/util/json_tensor.cc for `inputs` and `instances`; the SageMaker TF Serving container for bare
lists, JSON lines and CSV.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from runtime.artifacts.exports import ACTION_MASK, DEFAULT_SIGNATURE, OBSERVATIONS, OBSERVATIONS_ONLY
from runtime.serving.observations import (
    JSON_TYPES,
    RequestError,
    check_joined,
    check_observations,
    find_disallowed,
    short,
    to_array,
    to_masks,
    to_observations,
)
from runtime.serving.served_policy import ServedPolicy

JSON = "application/json"
JSON_LINES = "application/jsonlines"
CSV = "text/csv"
NPY = "application/x-npy"
SAME_TYPES = {
    "application/jsons": JSON_LINES,
    "application/x-jsonlines": JSON_LINES,
    "application/x-ndjson": JSON_LINES,
}
_DEPTH = 8  # of nested lists in an input that nothing reads
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_CSV_CHARACTERS = b"0123456789+-.eE, \t"


class Call(NamedTuple):
    """A decoded request.

    Attributes:
        observations: (B, …) float32 observations, all finite, with their masks after them if the policy takes masks.
        outputs: Names of the outputs to return.
        layout: `columns` for one array per output, `rows` for one entry per observation.
        source: Format of the body.
    """

    observations: NDArray[np.float32]
    outputs: tuple[str, ...]
    layout: Literal["columns", "rows"]
    source: Literal["json", "lines", "csv", "npy"] = "json"


def decode(body: bytes, content_type: str, policy: ServedPolicy) -> Call:
    """Reads a request body.

    Raises:
        RequestError: 415 for a content type that is not one of ours, 400 for anything wrong in the body.
    """
    reader = _READERS.get(content_type)
    if reader is None:
        kind = content_type.partition(";")[0].strip().lower()
        kind = SAME_TYPES.get(kind, kind) or JSON
        reader = _READERS.get(kind)
    if reader is None:
        raise RequestError(
            415, f"Content-Type: got {kind!r}; expected {', '.join(_READERS)}. With curl: -H 'Content-Type: {JSON}'."
        )
    body = body.removeprefix(BYTE_ORDER_MARK)
    if not body.strip():
        raise RequestError(400, "body: got nothing; expected observations.")
    return reader(body, policy)


def _read_json(body: bytes, policy: ServedPolicy) -> Call:
    if b'"inputs"' in body[:32] and (call := _read_typed(body, policy)) is not None:
        return call
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        if b"\n" in body.strip() and body.lstrip()[:1] in b"[{":  # JSON lines under JSON's name, as TFS takes them
            return _read_lines(body, policy)
        hint = " JSON has no NaN or Infinity." if b"NaN" in body or b"Infinity" in body else ""
        raise RequestError(400, f"body: got invalid JSON ({error}).{hint}") from None
    if isinstance(data, list):
        return _read_instances(_as_batch(data, policy), policy, chosen=None)
    if not isinstance(data, dict):
        raise RequestError(400, f"body: got {short(data)}; expected an object with 'inputs' or 'instances'.")
    return _read_object(data, policy)


def _read_typed(body: bytes, policy: ServedPolicy) -> Call | None:
    """Parses and checks the usual request in one pass, in a quarter of the time.

    Returns None for any other or invalid request; the other readers, which have the same rules, then report errors.
    """
    try:
        decoder = _typed_decoder(policy.unread, len(policy.observation_shape) + 1, bool(policy.mask_size))
        request = decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if request.instances is not msgspec.UNSET or request.signature_name is not msgspec.UNSET:
        return None
    observations = to_array(request.inputs.observations, field="inputs.observations")
    observations = check_observations(observations, policy, field="inputs.observations")
    if policy.mask_size:
        masks = to_masks(request.inputs.action_mask, policy, rows=len(observations), field="inputs.action_mask")
        observations = np.concatenate([observations, masks], axis=1)
    return Call(observations, policy.outputs, "columns")


@cache
def _typed_decoder(unread: tuple[tuple[str, str], ...], depth: int, takes_masks: bool) -> Any:
    """Returns a parser of `{"inputs": {…}}`: observations nested to a depth, the other inputs a value or a list."""
    observations: Any = float
    for _ in range(depth):
        observations = list[observations]
    kinds = {"float32": float, "int32": int, "int64": int, "bool": bool}
    fields = [(name, kinds[dtype] | list[kinds[dtype]]) for name, dtype in unread]  # type: ignore[valid-type]
    if takes_masks:
        fields.append((ACTION_MASK, list[list[float]]))
    inputs = msgspec.defstruct("inputs", [(OBSERVATIONS, observations), *fields])
    others: list[Any] = [(name, Any, msgspec.UNSET) for name in ("instances", "signature_name")]
    return msgspec.json.Decoder(msgspec.defstruct("request", [("inputs", inputs), *others]))


def _read_object(data: dict[str, Any], policy: ServedPolicy) -> Call:
    names = data.keys() & {"inputs", "instances"}
    if len(names) == 2:
        raise RequestError(400, "body: got both 'inputs' and 'instances'; expected one of them.")
    if not names:
        if set(data) == set(policy.read):
            return _named_call(data, policy)
        if set(data) == set(policy.inputs):  # one record, as a JSON line has it
            return _read_instances([data], policy, chosen=None)
        if policy.mask_size and set(data) == {OBSERVATIONS}:
            raise RequestError(400, f"body: got no {ACTION_MASK} beside the observations; expected one for each.")
        raise RequestError(400, "body: got neither 'inputs' nor 'instances'; expected one of them.")
    chosen = data.get("signature_name")
    if chosen in (None, ""):
        chosen = None
    elif chosen not in (DEFAULT_SIGNATURE, OBSERVATIONS_ONLY):
        raise RequestError(400, f"Serving signature name: {short(chosen)} not found in signature def.")
    if "inputs" in names:
        return _read_columns(data["inputs"], policy, only=chosen == OBSERVATIONS_ONLY)
    return _read_instances(data["instances"], policy, chosen=chosen)


def _read_columns(inputs: Any, policy: ServedPolicy, *, only: bool) -> Call:
    """Reads TF Serving's `inputs`: every input is required, unknown ones are ignored; a bare list if there is one."""
    only = only or len(policy.inputs) == len(policy.read)
    outputs = (policy.main_output,) if only else policy.outputs
    if isinstance(inputs, dict):
        _check_inputs(inputs, policy, only=only, where="inputs")
        return Call(_to_rows(inputs, policy, where="inputs."), outputs, "columns")
    if not only or policy.mask_size:
        names = policy.read if only else policy.inputs
        raise RequestError(400, f"inputs: got {short(inputs)}; expected an object with {', '.join(sorted(names))}.")
    return Call(to_observations(inputs, policy, field="inputs"), outputs, "columns")


def _read_instances(rows: Any, policy: ServedPolicy, *, chosen: str | None) -> Call:
    """Reads TF Serving's `instances`: objects with exactly the inputs' names, or plain observations.

    Plain ones need a signature of one input; where the request names no signature, that is `observations_only`.
    """
    if not isinstance(rows, list) or not rows:
        raise RequestError(400, f"instances: got {short(rows)}; expected a list with a row for each observation.")
    if not any(isinstance(row, dict) for row in rows):
        if policy.mask_size:
            raise RequestError(
                400,
                f"instances: got {short(rows)}; expected objects with the keys {sorted(policy.read)}, as the "
                "policy takes action masks.",
            )
        if chosen == DEFAULT_SIGNATURE and len(policy.inputs) > 1:
            raise RequestError(
                400, "instances is a plain list, but expecting list of objects as multiple input tensors required."
            )
        return _observations_call(rows, policy, field="instances")
    first = next(row for row in rows if isinstance(row, dict))
    only = chosen == OBSERVATIONS_ONLY or (chosen is None and set(first) == set(policy.read))
    wanted = set(policy.read) if only else set(policy.inputs)
    for number, row in enumerate(rows):
        where = f"instances[{number}]"
        if not isinstance(row, dict) or set(row) != wanted:
            got = sorted(row) if isinstance(row, dict) else short(row)
            raise RequestError(400, f"{where}: got {got}; expected an object with the keys {sorted(wanted)}.")
        _check_inputs(row, policy, only=only, where=where)
    columns = {name: [row[name] for row in rows] for name in policy.read}
    observations = _to_rows(columns, policy, where="instances.")
    return Call(observations, (policy.main_output,) if only else policy.outputs, "rows")


def _read_lines(body: bytes, policy: ServedPolicy) -> Call:
    lines, numbers = _split(body)
    return lines_call(lines, policy, numbers=numbers)


def _split(body: bytes) -> tuple[list[bytes], list[int]]:
    """Returns the lines that are not blank, and their numbers."""
    lines = body.splitlines()
    kept = [(line.strip(), number) for number, line in enumerate(lines, start=1) if line.strip()]
    return [line for line, _ in kept], [number for _, number in kept]


def lines_call(lines: Sequence[bytes], policy: ServedPolicy, *, numbers: Sequence[int] | None = None) -> Call:
    """Decodes JSON lines: each an observation, an object with the inputs' names, or `{"observations": […]}`.

    Args:
        lines: At least one; none blank.
        policy: Whose observations they are.
        numbers: Line numbers for error messages; 1, 2, 3… if None.

    Raises:
        RequestError: A line is invalid; the message names it.
    """
    numbers = numbers or range(1, len(lines) + 1)
    try:
        return _joined(lines, policy)
    except RequestError as error:
        if len(lines) == 1:
            raise RequestError(400, f"line {numbers[0]}: {error}") from None
    for number, line in zip(numbers, lines, strict=True):  # find the invalid line
        lines_call([line], policy, numbers=[number])
    raise RequestError(
        400, f"line {numbers[0]} and on: got lines of different kinds; expected lists, or objects with equal keys."
    )


def _joined(lines: Sequence[bytes], policy: ServedPolicy) -> Call:
    """Parses all lines in one call, which is several times faster than one call per line.

    A line whose brackets do not balance could otherwise merge with its neighbor.
    """
    if len(lines) > 1 and not all(map(_is_balanced, lines)):
        raise RequestError(400, "got lines that are not each a JSON value.")
    try:
        rows = orjson.loads(b"[" + b",".join(lines) + b"]")
    except orjson.JSONDecodeError as error:
        raise RequestError(400, f"got invalid JSON ({error.msg}).") from None
    if len(rows) != len(lines):
        raise RequestError(400, "got several JSON values; expected one a line.")
    call = _read_instances(rows, policy, chosen=None)
    return Call(call.observations, call.outputs, call.layout, "lines")


def _is_balanced(line: bytes) -> bool:
    """Whether a line looks like one JSON list or object; brackets inside strings make it look otherwise."""
    ends = line[:1] + line[-1:]
    return ends in (b"[]", b"{}") and line.count(b"[") == line.count(b"]") and line.count(b"{") == line.count(b"}")


def _read_csv(body: bytes, policy: ServedPolicy) -> Call:
    lines, numbers = _split(body)
    return csv_call(lines, policy, numbers=numbers)


def csv_call(lines: Sequence[bytes], policy: ServedPolicy, *, numbers: Sequence[int] | None = None) -> Call:
    """Decodes comma-separated rows without a header; an image is one row, in the order of its array.

    Args:
        lines: At least one; none blank.
        policy: Whose observations they are.
        numbers: Line numbers for error messages; 1, 2, 3… if None.

    Raises:
        RequestError: A cell is invalid; the message names its line and column.
    """
    numbers = numbers or range(1, len(lines) + 1)
    rows = _plain_csv(lines)
    if rows is None:
        rows = [_csv_row(line, number) for number, line in zip(numbers, lines, strict=True)]
    size = int(np.prod(policy.row_shape))
    for number, row in zip(numbers, rows, strict=True):
        if len(row) != size:
            raise RequestError(400, f"line {number}: got {len(row)} columns; expected {size}.")
    flat = to_array(rows, field="body")
    if not np.isfinite(flat).all():
        row, column = np.argwhere(~np.isfinite(flat))[0]
        raise RequestError(
            400, f"line {numbers[row]}, column {column + 1}: got {rows[row][column]}; expected a finite float32."
        )
    observations = flat.reshape(-1, *policy.row_shape)
    return Call(check_joined(observations, policy, field="body"), (policy.main_output,), "rows", "csv")


def _plain_csv(lines: Sequence[bytes]) -> list[list[float]] | None:
    """Parses rows as JSON, ten times faster than cell by cell; None if they hold what JSON does not allow (.5, +1)."""
    if any(line.translate(None, _CSV_CHARACTERS) for line in lines):
        return None
    try:
        rows: list[list[float]] = orjson.loads(b"[[" + b"],[".join(lines) + b"]]")
    except orjson.JSONDecodeError:
        return None
    return rows


def _csv_row(line: bytes, number: int) -> list[float]:
    row = []
    for column, cell in enumerate(line.split(b","), start=1):
        try:
            row.append(float(cell if b"_" not in cell else ""))  # Python takes 1_0 for 10
        except ValueError:
            hint = " There must be no header." if cell.strip()[:1].isalpha() else ""
            got = short(cell.decode(errors="replace"))
            raise RequestError(400, f"line {number}, column {column}: got {got}; expected a number.{hint}") from None
    return row


def _read_npy(body: bytes, policy: ServedPolicy) -> Call:
    """Reads a NumPy array (B, …), or one observation."""
    array = _npy_array(body)
    if array.dtype.kind not in "fiu":
        raise RequestError(400, f"body: got an array of {array.dtype}; expected numbers.")
    with np.errstate(over="ignore"):
        observations = array.astype(np.float32)
    if observations.shape == policy.row_shape:
        observations = observations[None]
    return Call(check_joined(observations, policy, field="body"), (policy.main_output,), "rows", "npy")


def _npy_array(body: bytes) -> NDArray[Any]:
    file = io.BytesIO(body)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
        shape, is_fortran, dtype = read(file)
        size = math.prod(shape) * dtype.itemsize
        # The size in the header is checked before memory is allocated for it.
        if dtype.hasobject or size != len(body) - file.tell():
            raise ValueError(f"{len(body) - file.tell():,} bytes after a header that promises {size:,}")
        array = np.frombuffer(body, dtype, offset=file.tell())
        return array.reshape(shape, order="F" if is_fortran else "C")
    except Exception as error:  # the header is parsed by numpy, whose parser raises many types of errors
        raise RequestError(
            400, f"body: got no NumPy array ({str(error)[:100]}); expected what np.save writes."
        ) from None


def _named_call(data: dict[str, Any], policy: ServedPolicy) -> Call:
    """Reads the inputs that the policy reads, by their names alone: a batch of each, or one."""
    batch = _as_batch(data[OBSERVATIONS], policy)
    is_one = batch is not data[OBSERVATIONS]
    named = {name: [value] if is_one else value for name, value in data.items()}
    return Call(_to_rows(named, policy, where=""), (policy.main_output,), "rows")


def _to_rows(inputs: Mapping[str, Any], policy: ServedPolicy, *, where: str) -> NDArray[np.float32]:
    """Converts the inputs that the policy reads to observations with their masks after them."""
    observations = to_observations(inputs[OBSERVATIONS], policy, field=f"{where}{OBSERVATIONS}")
    if not policy.mask_size:
        return observations
    masks = to_masks(inputs[ACTION_MASK], policy, rows=len(observations), field=f"{where}{ACTION_MASK}")
    return np.concatenate([observations, masks], axis=1)


def _observations_call(rows: Any, policy: ServedPolicy, *, field: str) -> Call:
    return Call(to_observations(rows, policy, field=field), (policy.main_output,), "rows")


def _as_batch(data: Any, policy: ServedPolicy) -> Any:
    """Converts a bare list to a batch: one observation becomes a batch of one."""
    depth = 0
    inner = data
    while isinstance(inner, list) and inner:
        depth = depth + 1
        inner = inner[0]
    return [data] if depth == len(policy.observation_shape) else data


def _check_inputs(inputs: Mapping[str, Any], policy: ServedPolicy, *, only: bool, where: str) -> None:
    """Checks that the unread inputs are present and of their type, as TF Serving requires.

    With `only`, checks that the observations are present.
    """
    missing = [name for name in (policy.read if only else policy.inputs) if name not in inputs]
    if missing:
        hint = (
            ""
            if set(missing) <= set(policy.read)
            else ' For observations alone: "signature_name": "observations_only".'
        )
        raise RequestError(400, f"Missing named input: {missing[0]} in '{where}' object.{hint}")
    if only:
        return
    for name, dtype in policy.unread:
        disallowed = find_disallowed(inputs[name], JSON_TYPES[dtype], depth=_DEPTH)
        if disallowed is not None:
            raise RequestError(
                400, f"{where}.{name}: JSON Value: {short(disallowed.value)} is not of expected type: {dtype}."
            )


_READERS: dict[str, Callable[[bytes, ServedPolicy], Call]] = {
    JSON: _read_json,
    JSON_LINES: _read_lines,
    CSV: _read_csv,
    NPY: _read_npy,
}
