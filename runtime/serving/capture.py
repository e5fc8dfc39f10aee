"""Captures decisions in SageMaker Data Capture's JSON lines, by a thread that answers never wait for.

Source: https://docs.aws.amazon.com/sagemaker/latest/dg/model-monitor-data-capture-endpoint.html
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from runtime.artifacts.exports import ACTION_MASK, OBSERVATIONS
from runtime.files import lock
from runtime.serving.exploring import (
    Attributes,
    Decisions,
    Exploration,
    compute_probabilities,
    find_source,
    pick,
)
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import ServedPolicy
from runtime.serving.variants import Sampled

_EVERY_S = 0.2  # between batches, so that a busy worker flushes five times a second
_PENDING_BYTES = 64 * 2**20
_LINE_BYTES = 1024  # about what an entry takes in memory besides its observations
_FILE_BYTES = 16 * 2**20
_LOCK_S = 5.0
_CLOSE_S = 10.0

_EVENT_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

MakeLines = Callable[[], Iterator[bytes]]
Count = Callable[[int, int], None]


class Capture:
    """Appends lines to `FOLDER/yyyy/mm/dd/hh/NAME.jsonl`, flushed to the disk in batches.

    Lines are dropped, and counted, where they arrive faster than the disk takes them, the disk fails, or the folder
    has reached its limit; files that were moved away make room again.

    Args:
        folder: Folder of all workers' files.
        limit_bytes: Most that the folder's files may hold together.
        count: Called with the number of lines that were written and dropped; never from two threads at once.
        what: What the lines are, for messages.
    """

    def __init__(self, folder: Path, *, limit_bytes: float, count: Count, what: str = "decisions") -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._count = count
        self._what = what
        self._lock = threading.Lock()  # of the three below
        self._pending: list[tuple[MakeLines, int]] = []
        self._pending_bytes = 0
        self._is_closed = False
        self._wake = threading.Event()
        self._close = threading.Event()
        self._file: IO[bytes] | None = None
        self._hour = ""
        self._is_failing = False
        self._thread = threading.Thread(target=self._write_batches, name="capture", daemon=True)
        self._thread.start()

    def offer(self, make_lines: MakeLines, *, lines: int, size_bytes: int) -> None:
        """Queues lines, or drops them if too much is queued; returns at once.

        Args:
            make_lines: Yields the lines, in the capture's thread.
            lines: How many there are.
            size_bytes: Memory that `make_lines` holds.
        """
        size_bytes += lines * _LINE_BYTES
        with self._lock:
            if self._is_closed or self._pending_bytes + size_bytes > _PENDING_BYTES:
                self._count(0, lines)
                return
            self._pending.append((make_lines, lines))
            self._pending_bytes += size_bytes
        self._wake.set()

    def close(self) -> None:
        """Writes what is queued and ends the thread; gives up on a disk that hangs."""
        with self._lock:
            self._is_closed = True
        self._close.set()
        self._wake.set()
        self._thread.join(_CLOSE_S)

    def _write_batches(self) -> None:
        while True:
            self._wake.wait()
            self._close.wait(_EVERY_S)
            self._wake.clear()
            is_last = self._close.is_set()
            with self._lock:
                batch, self._pending = self._pending, []
                self._pending_bytes = 0
            if batch:
                written = self._write(batch)
                with self._lock:
                    self._count(written, sum(lines for _, lines in batch) - written)
            if is_last and not self._pending:
                break
        if self._file is not None:
            self._file.close()

    def _write(self, batch: list[tuple[MakeLines, int]]) -> int:
        """Writes a batch and returns the number of lines that are on the disk."""
        try:
            content = [line for make_lines, _ in batch for line in make_lines()]
            # Workers share the limit, so one at a time measures and writes.
            self._folder.mkdir(parents=True, exist_ok=True)
            with lock(self._folder, timeout_s=_LOCK_S):
                room = self._limit_bytes - _measure(self._folder)
                kept = _fitting(content, room)
                self._append(b"".join(content[:kept]))
        except Exception as error:  # serving goes on, whatever the disk does
            self._report(f"{type(error).__name__}: {error}")
            return 0
        if kept < len(content):
            self._report(f"{self._folder} holds the most it may; move files away, or raise SMRL_CAPTURE_MB")
        elif self._is_failing:
            self._is_failing = False
            self._say(f"{self._what} are captured again")
        return kept

    def _append(self, content: bytes) -> None:
        if not content:
            return
        now = datetime.now(UTC)
        hour = now.strftime("%Y/%m/%d/%H")
        # A file that was moved away meanwhile has no links left.
        if self._file is not None and (
            hour != self._hour or self._file.tell() >= _FILE_BYTES or not os.fstat(self._file.fileno()).st_nlink
        ):
            self._file.close()
            self._file = None
        if self._file is None:
            (self._folder / hour).mkdir(parents=True, exist_ok=True)
            name = f"{now:%M-%S}-{uuid.uuid4().hex}.jsonl"
            self._file = (self._folder / hour / name).open("ab", buffering=0)
            self._hour = hour
        size_bytes = self._file.tell()
        try:
            view = memoryview(content)
            while view:
                view = view[self._file.write(view) :]
            os.fsync(self._file.fileno())
        except OSError:
            file, self._file = self._file, None
            with file:
                file.truncate(size_bytes)  # no partial line, and no lines that were counted as dropped
            raise

    def _report(self, why: str) -> None:
        if not self._is_failing:
            self._is_failing = True
            self._say(f"{self._what} are not captured, serving goes on: {why}")

    def _say(self, text: str) -> None:
        sys.stderr.write(f"serve: capture: {text}\n")
        sys.stderr.flush()


def _measure(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*.jsonl"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # moved away meanwhile
            continue
    return total


def _fitting(lines: list[bytes], room_bytes: float) -> int:
    """Number of the first lines that fit."""
    for number, line in enumerate(lines):
        room_bytes -= len(line)
        if room_bytes < 0:
            return number
    return len(lines)


def decision_lines(
    observations: NDArray[Any], decisions: Decisions, attributes: Attributes, time: datetime, *, mask_size: int = 0
) -> Iterator[bytes]:
    """Yields a line for each decision, in SageMaker Data Capture's layout: payloads are JSON in a string.

    A mask, the last numbers of each observation, is written as the field that a request has it in.
    """
    for row, decision in enumerate(decisions.describe()):
        output = {**decision, "action_probabilities": decisions.probabilities[row].tolist()}
        yield _decision_line(_as_input(observations[row], mask_size), output, attributes, time)


def shadow_lines(
    shadow: ServedPolicy,
    exploration: Exploration,
    observations: NDArray[np.float32],
    sampled: Sampled,
    attributes: Attributes,
    time: datetime,
) -> Iterator[bytes]:
    """Yields what the shadow would have done in each decision, as lines with `"shadow": true`.

    It is computed here, in the capture's thread, after the answer. Its action is picked by the number that picked the
    one that was answered, so that equal probabilities give equal actions. Nothing is yielded where its outputs are not
    finite.
    """
    source = find_source(shadow)
    outputs = shadow.run(observations, (source,))[source]
    if not np.isfinite(outputs).all():
        return
    probabilities = compute_probabilities(source, outputs, exploration, masks=shadow.masks_of(observations))
    actions = pick(probabilities, sampled.uniforms)
    decisions = sampled.decisions._replace(
        actions=actions, probabilities=probabilities, model_ids=[shadow.model_id] * len(actions), variants=[]
    )
    for row, decision in enumerate(decisions.describe()):
        answered = int(sampled.decisions.actions[row])
        output = {**decision, "action_probabilities": probabilities[row].tolist(), "shadow": True, "answered": answered}
        yield _decision_line(_as_input(observations[row], shadow.mask_size), output, attributes, time)


def _as_input(observation: NDArray[Any], mask_size: int) -> Any:
    if not mask_size:
        return observation.tolist()
    return {OBSERVATIONS: observation[:-mask_size].tolist(), ACTION_MASK: observation[-mask_size:].tolist()}


def _decision_line(asked: Any, output: dict[str, Any], attributes: Attributes, time: datetime) -> bytes:
    extra = {"episode_id": attributes.episode, "step": attributes.step} if attributes.episode else {}
    metadata = {"customAttributes": [attributes.text]} if attributes.text else {}
    return _line(
        {
            "captureData": {
                "endpointInput": _payload("INPUT", orjson.dumps(asked)),
                "endpointOutput": _payload("OUTPUT", orjson.dumps(output | extra)),
            },
            "eventMetadata": {
                "eventId": output["event_id"],
                **metadata,
                "inferenceTime": time.isoformat().replace("+00:00", "Z"),
            },
            "eventVersion": "0",
        }
    )


def read_reward(event_id: str, body: bytes) -> dict[str, Any]:
    """Reads the body of a reward: `{"reward": 1.0}`, with `terminated` or `truncated` at an episode's end.

    Raises:
        RequestError: 400 for an id or a body that breaks a rule.
    """
    if not _EVENT_ID.fullmatch(event_id):
        raise RequestError(400, f"event_id: got {event_id[:60]!r}; expected the event_id of a decision.")
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        given = None
    expected = 'expected {"reward": 1.0}, and "terminated": true or "truncated": true where the episode ended'
    if not isinstance(given, dict) or not given.keys() <= {"reward", "terminated", "truncated"}:
        raise RequestError(400, f"body: got {body[:60].decode('utf-8', 'replace')!r}; {expected}.")
    reward = given.get("reward")
    if isinstance(reward, bool) or not isinstance(reward, (int, float)) or not math.isfinite(reward):
        raise RequestError(400, f"reward: got {reward!r}; expected a finite number.")
    for name in ("terminated", "truncated"):
        if not isinstance(given.get(name, False), bool):
            raise RequestError(400, f"{name}: got {given[name]!r}; expected true or false.")
    return given


def reward_lines(event_id: str, reward: dict[str, Any], time: datetime) -> Iterator[bytes]:
    """Yields the line of a reward, in the layout of SageMaker Model Monitor's ground truth."""
    yield _line(
        {
            "groundTruthData": {"data": orjson.dumps(reward).decode(), "encoding": "JSON"},
            "eventMetadata": {"eventId": event_id, "eventTime": time.isoformat().replace("+00:00", "Z")},
            "eventVersion": "0",
        }
    )


def _payload(mode: str, data: bytes) -> dict[str, str]:
    return {"observedContentType": "application/json", "mode": mode, "data": data.decode(), "encoding": "JSON"}


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
