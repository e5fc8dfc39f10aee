"""Names of GPUs, by which processes that share a machine's are limited to their own."""

from __future__ import annotations

import os

import pytest

from runtime.container.environment_variables import name_gpus, show_gpus


@pytest.mark.parametrize(
    ("visible", "names"), [(None, ["0", "1"]), ("3,GPU-1d", ["3", "GPU-1d"]), ("2,5,7", ["2", "5"])]
)
def test_gpus_have_the_names_that_cuda_gives_them(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert name_gpus(2) == names


def test_showing_the_same_gpus_again_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    own = name_gpus(2)[1:]
    for _ in range(2):
        show_gpus(own)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "6"
