from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.container.job import report_crash
from runtime.container.layout import Container, read_container
from runtime.errors import PlatformError, RemoteError
from tests.conftest import OptMl


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAGEMAKER_BASE_DIR", "SM_MODEL_DIR", "SM_HPS", "SM_CHANNELS", "SM_USER_ARGS"):
        monkeypatch.delenv(name, raising=False)


def test_everything_is_below_the_base_folder(opt_ml: OptMl, monkeypatch: pytest.MonkeyPatch) -> None:
    opt_ml.write({"a": "1", "sagemaker_program": "x.py", "_tuning_objective_metric": "m"}, channels=("train",))
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml.base))
    container = read_container()
    assert container.hyperparameters == {"a": "1"}
    assert container.channels == {"train": opt_ml.base / "input" / "data" / "train"}
    assert container.is_master
    layout = container.layout
    assert layout is not None
    assert layout.videos == opt_ml.base / "output" / "intermediate"
    assert not layout.videos.exists()  # SageMaker's uploader wants to make it itself
    assert layout.checkpoints == opt_ml.base / "checkpoints"


def test_hyperparameters_come_from_the_environment_where_there_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SM_MODEL_DIR", str(tmp_path / "model"))
    monkeypatch.setenv("SM_HPS", json.dumps({"rl.training.config.lr": 0.1}))
    container = read_container()
    assert container.base == tmp_path
    assert container.hyperparameters == {"rl.training.config.lr": 0.1}
    assert container.hyperparameters_source == "SM_HPS"


@pytest.mark.parametrize(("devices", "expected"), [("all", True), ("0,1", True), ("void", False), (None, False)])
def test_the_image_for_gpus_is_known_by_nvidias_variable(
    devices: str | None, expected: bool, opt_ml: OptMl, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt_ml.write({})
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml.base))
    monkeypatch.delenv("NVIDIA_VISIBLE_DEVICES", raising=False)
    if devices is not None:
        monkeypatch.setenv("NVIDIA_VISIBLE_DEVICES", devices)
    assert read_container().is_for_gpus == expected


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_corrupt_hyperparameters_are_the_platforms_fault(
    text: str, opt_ml: OptMl, monkeypatch: pytest.MonkeyPatch
) -> None:
    opt_ml.write({}, raw=text)
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml.base))
    with pytest.raises(PlatformError, match=r"hyperparameters.json.*expected a JSON object"):
        read_container()


def test_missing_hyperparameters_are_the_platforms_fault(opt_ml: OptMl, monkeypatch: pytest.MonkeyPatch) -> None:
    opt_ml.write({})
    (opt_ml.base / "input" / "config" / "hyperparameters.json").unlink()
    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(opt_ml.base))
    with pytest.raises(PlatformError, match="expected SageMaker's hyperparameters"):
        read_container()


def test_the_failure_file_holds_what_sagemaker_shows(tmp_path: Path) -> None:
    Container(base=tmp_path).write_failure("reason\n" + "x" * 5000)
    text = (tmp_path / "output" / "failure").read_text()
    assert text.startswith("reason\n")
    assert len(text) <= 1025


def _bare_assert() -> None:
    raise AssertionError


def _in_words_of_its_own() -> None:
    try:
        raise KeyError("joint")
    except KeyError:
        raise OSError("no such joint") from None


def _wrapped_without_a_word() -> None:
    try:
        raise ValueError("\n  two\nlines")
    except ValueError as error:
        raise RuntimeError from error


def _of_an_env_runner() -> None:
    try:
        raise IndexError("list index out of range")
    except IndexError:
        message = pickle.dumps(RemoteError("OSError: no display", "Traceback of the runner\n"))
        raise pickle.loads(message) from None


@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (_bare_assert, r"AssertionError: raise AssertionError \(.*test_layout.py, line \d+\)"),
        (_in_words_of_its_own, "OSError: no such joint"),
        (_wrapped_without_a_word, "ValueError: two"),
        (_of_an_env_runner, "OSError: no display"),
    ],
)
def test_the_failure_file_begins_with_what_started_it(fail: Callable[[], None], reason: str, tmp_path: Path) -> None:
    try:
        fail()
    except Exception as error:
        report_crash(error, Container(tmp_path))
    assert re.fullmatch(reason, (tmp_path / "output" / "failure").read_text().splitlines()[0])


def test_a_laptop_has_no_layout_and_no_failure_file(tmp_path: Path) -> None:
    container = Container()
    container.write_failure("reason")
    assert container.layout is None
    assert not list(tmp_path.iterdir())
