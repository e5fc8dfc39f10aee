from __future__ import annotations

import io
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from runtime.outputs.console import Summary
from runtime.outputs.panel import LiveReporter, sparkline

STOP = {"episode_reward_mean": 2500.0, "timesteps_total": 10_000_000, "time_total_s": 7200.0}
ROW = {
    "training_iteration": 1,
    "timesteps_total": 1_234_567,
    "episodes_total": 400,
    "time_total_s": 100.0,
    "episode_reward_mean": 10.0,
    "episode_len_mean": 512.5,
    "kl": 0.0123456,
}


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.integers(1, 40))
def test_a_sparkline_fits_its_width_and_has_no_gap(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    assert len(line) <= width
    assert len(line) >= min(len(values), (width + 1) // 2)
    assert set(line) <= set("▁▂▃▄▅▆▇█")


def test_a_sparklines_right_end_is_the_newest_value() -> None:
    assert sparkline([0, 0, 1], 10) == "▁▁█"
    for count in range(1, 200):
        assert sparkline([0.0] * count + [1e6], 20).endswith("█")
        assert sparkline([*range(count), -1e6], 20).endswith("▁")
    assert sparkline([3.0], 10) == "▁"
    assert sparkline([], 10) == ""


def screens(show: Callable[[LiveReporter], None]) -> str:
    """All that a terminal gets, as text; closing the panel draws it a last time."""
    file = io.StringIO()
    reporter = LiveReporter("smrl train ant", STOP, console=Console(file=file, width=80, force_terminal=True))
    try:
        show(reporter)
    finally:
        reporter.close()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n")


def show_training(reporter: LiveReporter) -> None:
    reporter.show_phase("training")
    reporter.row({**ROW, "episode_reward_mean": 900.0})
    for number in range(2, 120):
        steps = 1_234_567 + 20_000 * number
        row = {**ROW, "training_iteration": number, "timesteps_total": steps, "time_total_s": 100.0 + number}
        reporter.row({**row, "episode_reward_mean": float(number)})


def test_the_panel_fits_80_columns_and_cuts_nothing() -> None:
    text = screens(show_training)
    last = text[text.rindex("╭") : text.rindex("╰") + 80]
    assert {len(line) for line in last.splitlines() if line} == {80}
    assert "…" not in last
    assert re.search(r"best +900\.00 ", last)
    assert "20,000 steps/s" in last
    assert re.search(r"kl +0\.01235 ", last)
    assert re.search(r"training \d+:\d\d   elapsed \d+:\d\d   ETA \d+:\d\d \(timesteps_total\)", last)
    line = next(line for line in last.splitlines() if "119.00" in line)
    curve = re.findall("[▁▂▃▄▅▆▇█]+", line)[0]
    assert len(curve) > 15
    assert curve[0] > curve[-1] > curve[1]  # rises to its end, after a first value that was higher


def test_a_phase_is_shown_before_there_are_metrics() -> None:
    text = screens(lambda reporter: reporter.show_phase("compiling"))
    assert re.search(r"compiling 0:0\d   elapsed 0:0\d +│", text)


def test_an_answer_to_a_signal_is_shown_whole_and_takes_the_place_of_the_eta() -> None:
    answer = "SIGINT: ending the iteration within 12 s, then writing checkpoint, model and video; a second ends at once"

    def show(reporter: LiveReporter) -> None:
        show_training(reporter)
        reporter.answer(answer)

    text = screens(show)
    last = text[text.rindex("╭") :]
    assert " ".join(re.sub("[│╰─╯]", " ", last).split()).endswith(answer)
    assert "ETA" not in last


def test_the_last_screen_takes_the_panels_place(capsys: pytest.CaptureFixture[str]) -> None:
    screens(lambda reporter: reporter.finish(Summary("trained Ant", {"mean return": "9"}, "smrl serve x")))
    assert capsys.readouterr().out == "\ntrained Ant\n  mean return  9\nnext: smrl serve x\n"
