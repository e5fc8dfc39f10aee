"""Drift: the statistics of an export, the sums of several workers, and what /metrics says of unusual inputs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from runtime.errors import UserError
from runtime.export.exporter import describe_filter
from runtime.policies.filter import ObservationFilter
from runtime.serving.drift import Drift, TrainingObservations, read_training_observations
from runtime.serving.served_policy import load_policy
from tests.servers import Server, started
from tests.small_models import write_linear_model

TRAINING = TrainingObservations(np.array([1.0, -2.0]), np.array([2.0, 0.5]), 10.0)
WEIGHTS = ((-1.0, 0.0), (1.0, 0.0))


def _metrics(text: str) -> dict[str, float]:
    pairs = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_the_shift_is_the_difference_of_means_in_deviations_over_all_workers(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal([3, -2], [2, 0.5], (5000, 2)).astype(np.float32)
    rows[:7, 1] = 100
    workers = [Drift(tmp_path, TRAINING) for _ in range(2)]
    for i in range(0, 5000, 10):
        workers[i // 10 % 2].add(rows[i : i + 10])
    workers[1].flush()
    found = _metrics(workers[0].text())
    expected = (rows.astype(np.float64).mean(axis=0) - TRAINING.mean) / TRAINING.std
    shifts = [found[f'smrl_input_shift{{input="{i}"}}'] for i in range(2)]
    np.testing.assert_allclose(shifts, expected, rtol=1e-4)
    assert shifts[0] == pytest.approx(1, abs=0.1)
    assert found["smrl_drift_observations_total"] == 5000
    assert found['smrl_input_shift_sum{input="0"}'] == pytest.approx(5000 * expected[0], rel=1e-4)
    assert found['smrl_inputs_out_of_range_total{input="0"}'] == 0
    assert found['smrl_inputs_out_of_range_total{input="1"}'] == 7


def test_the_range_is_what_the_policys_filter_does_not_clip(tmp_path: Path) -> None:
    """The counter agrees with the filter itself, on inputs on both sides of its clip."""
    rows = np.linspace([-60, -20], [60, 20], 101, dtype=np.float32)
    drift = Drift(tmp_path, TRAINING)
    drift.add(rows)
    seen = ObservationFilter(TRAINING.mean, TRAINING.std, TRAINING.clip)(rows)
    found = _metrics(drift.text())
    for i in range(2):
        clipped = int((np.abs(seen[:, i]) >= TRAINING.clip).sum())
        assert found[f'smrl_inputs_out_of_range_total{{input="{i}"}}'] == clipped > 0


def test_a_manifest_keeps_the_filter_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    filtered = ObservationFilter(TRAINING.mean, TRAINING.std, TRAINING.clip)
    folder = write_linear_model(tmp_path / "good", WEIGHTS, training_observations=describe_filter(filtered))
    found = load_policy(folder).training
    assert found is not None
    np.testing.assert_array_equal(found.mean, TRAINING.mean)
    np.testing.assert_array_equal(found.std, TRAINING.std)
    assert found.clip == TRAINING.clip
    assert describe_filter(None) is None
    assert read_training_observations({"training_observations": None}, 2) is None
    assert read_training_observations({}, 2) is None
    bad = {"mean": [0.0], "std": [1.0], "clip": 10.0}
    write_linear_model(tmp_path / "bad", WEIGHTS, training_observations=bad)
    with pytest.raises(UserError, match=r"expected the finite mean and deviation of 2 inputs"):
        load_policy(tmp_path / "bad")


@pytest.mark.slow
def test_metrics_show_shifted_and_impossible_inputs_of_a_server(tmp_path: Path) -> None:
    filtered = ObservationFilter(TRAINING.mean, TRAINING.std, TRAINING.clip)
    write_linear_model(tmp_path / "model", WEIGHTS, training_observations=describe_filter(filtered))
    with started(tmp_path, "model", "--workers", "2") as server:
        server.wait_until(200, timeout_s=120)
        for _ in range(20):
            server.invoke([[5, -2], [5, -2.0], [5, -2], [5, 98]])
        found = _await_rows(server, 80)
        assert found['smrl_input_shift{input="0"}'] == pytest.approx(2)
        assert found['smrl_input_shift{input="1"}'] == pytest.approx(50)
        assert found['smrl_inputs_out_of_range_total{input="0"}'] == 0
        assert found['smrl_inputs_out_of_range_total{input="1"}'] == 20


@pytest.mark.slow
def test_metrics_say_that_a_policy_without_a_filter_has_no_statistics(tmp_path: Path) -> None:
    write_linear_model(tmp_path / "model", WEIGHTS, training_observations=None)
    with started(tmp_path, "model", "--workers", "1") as server:
        server.wait_until(200, timeout_s=120)
        server.invoke([[1, 2]])
        text = server.request("GET", "/metrics")[2].decode()
        assert "# No smrl_input_shift: " in text
        assert "smrl_observations_total 1\n" in text


def _await_rows(server: Server, rows: int) -> dict[str, float]:
    """Waits until both workers have summed what they were sent."""
    deadline = time.monotonic() + 60
    while True:
        found = _metrics(server.request("GET", "/metrics")[2].decode())
        if found["smrl_drift_observations_total"] == rows:
            return found
        assert time.monotonic() < deadline
        time.sleep(0.05)
