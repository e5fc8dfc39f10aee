"""Batch transform without a server: predicts for every record of files with the serving code, in constant memory.

An output has the form of its input: JSON lines, as SageMaker writes them with JoinSource=Input, or CSV.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from runtime.artifacts.manifest import unpack
from runtime.container.scratch import scratch_folder
from runtime.container.signals import StopRequest
from runtime.errors import PlatformError, UserError
from runtime.files import writing_aside
from runtime.serving.decoding import BYTE_ORDER_MARK, CSV, Call, csv_call, lines_call
from runtime.serving.encoding import Outputs, encode, prediction_lines
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import ServedPolicy, load_policy

_LINES_AT_ONCE = 4096
_PROGRESS_S = 5.0


@dataclass
class _Progress:
    """Prints the number of records done every few seconds."""

    records: int = 0
    started: float = 0.0
    said: float = 0.0

    def add(self, records: int, path: Path) -> None:
        self.records += records
        now = time.monotonic()
        if now - self.said >= _PROGRESS_S:
            self.said = now
            self.say(f"{path.name}: {self.text()}")

    def text(self) -> str:
        seconds = max(1e-9, time.monotonic() - self.started)
        return f"{self.records:,} records, {self.records / seconds:,.0f} a second"

    @staticmethod
    def say(text: str) -> None:
        sys.stderr.write(f"transform: {text}\n")
        sys.stderr.flush()


def run_transform(model: Path, source: Path, output: Path, stop: StopRequest, *, join: bool) -> None:
    """Answers every record of `source`; writes `NAME.out` below `output` for each file NAME.

    Args:
        model: Model directory, results folder or model.tar.gz.
        source: A file, or a folder of files.
        output: Folder of the results; existing files are replaced once the new one is complete.
        stop: The stop request; files that are complete are kept.
        join: Whether each record is written together with its input.

    Raises:
        UserError: The model or records are invalid: the first invalid line of each file is named, and the other files
            are written.
        PlatformError: The disk is full, or a stop was requested.
    """
    if not source.exists():
        raise UserError(f"--input: got {str(source)!r}, which does not exist; expected a file or a folder.")
    files = _files(source, output)
    with tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch:
        policy = open_served(model, Path(scratch))
    now = time.monotonic()
    progress = _Progress(started=now, said=now)
    wrong = []
    for path, target in files:
        try:
            _transform_file(policy, path, target, stop, progress, join=join)
        except RequestError as error:  # the other files are still processed
            wrong.append(f"{path}: {error}")
        except OSError as error:
            raise PlatformError(f"{target}: could not be read or written: {error.strerror or error}.") from None
    progress.say(f"files in {output}: {len(files) - len(wrong)}; {progress.text()}")
    if wrong:
        raise UserError("\n".join(wrong))


def open_served(model: Path, scratch: Path) -> ServedPolicy:
    """The policy of a model directory, a results folder, or a model.tar.gz, which is unpacked into a scratch folder.

    Raises:
        UserError: There is no model.
    """
    if not model.is_file():
        return load_policy(model)
    try:
        return load_policy(unpack(model, scratch))
    except UserError as error:
        raise UserError(str(error).replace(str(scratch), str(model))) from None


def _files(source: Path, output: Path) -> list[tuple[Path, Path]]:
    """Pairs each input file with its output file.

    Raises:
        UserError: There is no input, or outputs would lie among the inputs.
    """
    if not source.is_dir():
        return [(source, output / f"{source.name}.out")]
    if output.resolve().is_relative_to(source.resolve()):
        raise UserError(f"--output: got {str(output)!r}, which is inside --input; expected a folder elsewhere.")
    found = sorted(path for path in source.rglob("*") if path.is_file() and not path.name.startswith("."))
    if not found:
        raise UserError(f"--input: got {str(source)!r}, which holds no file; expected JSON lines or CSV.")
    return [(path, output / path.relative_to(source).with_name(f"{path.name}.out")) for path in found]


def _transform_file(
    policy: ServedPolicy, path: Path, target: Path, stop: StopRequest, progress: _Progress, *, join: bool
) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"--output: got {str(target.parent)!r}, which is a file; expected a folder.") from None
    answer = _answer_csv if path.suffix.lower() == ".csv" else _answer_lines
    with writing_aside(target) as aside, path.open("rb") as source, aside.open("wb") as file:
        if source.peek(3).startswith(BYTE_ORDER_MARK):
            source.read(3)
        for numbers, lines in _batches(source):
            if stop.is_set:
                raise PlatformError(f"stopped by {stop.signal_name}; {path} and what follows it is not done.")
            file.write(answer(policy, lines, numbers=numbers, join=join))
            progress.add(len(lines), path)


def _batches(source: BinaryIO) -> Iterator[tuple[tuple[int, ...], tuple[bytes, ...]]]:
    """Lines that are not blank, without their ends, some thousands at a time, and their numbers."""
    lines = ((number, line.strip()) for number, line in enumerate(source, start=1) if not line.isspace())
    while batch := list(islice(lines, _LINES_AT_ONCE)):
        numbers, texts = zip(*batch, strict=True)
        yield numbers, texts


def _run(policy: ServedPolicy, call: Call, numbers: Sequence[int]) -> Outputs:
    """Returns the outputs of a batch.

    Raises:
        RequestError: The policy overflows on a record; its line is named.
    """
    outputs = policy.run(call.observations, call.outputs)
    main = outputs[policy.main_output]
    finite = np.isfinite(main.reshape(len(main), -1)).all(axis=1)
    if not finite.all():
        line = numbers[int(np.argmin(finite))]
        raise RequestError(400, f"line {line}: got numbers so large that the {policy.main_output} are not finite.")
    return outputs


def _answer_lines(policy: ServedPolicy, lines: Sequence[bytes], *, numbers: Sequence[int], join: bool) -> bytes:
    call = lines_call(lines, policy, numbers=numbers)
    answers = prediction_lines(_run(policy, call, numbers))
    if not join:
        return b"".join(answers)
    return b"".join(_join(line, answer[:-1]) for line, answer in zip(lines, answers, strict=True))


def _join(line: bytes, answer: bytes) -> bytes:
    """Joins as SageMaker does: an object gets a key, anything else is put beside the answer."""
    if line.startswith(b"{"):
        return line[:-1].rstrip() + b',"SageMakerOutput":' + answer + b"}\n"
    return b'{"SageMakerInput":' + line + b',"SageMakerOutput":' + answer + b"}\n"


def _answer_csv(policy: ServedPolicy, lines: Sequence[bytes], *, numbers: Sequence[int], join: bool) -> bytes:
    call = csv_call(lines, policy, numbers=numbers)
    answers = encode(_run(policy, call, numbers), call, CSV, policy)
    if not join:
        return answers
    rows = answers.splitlines()
    return b"".join(line + b"," + row + b"\n" for line, row in zip(lines, rows, strict=True))
