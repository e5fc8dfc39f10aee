from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.settings.types import Setting, coerce

INT, FLOAT, BOOL = Setting("int", ""), Setting("float", ""), Setting("bool", "")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_arrives_unchanged_however_often_it_was_quoted(number: float) -> None:
    for text in (number, str(number), json.dumps(number), json.dumps(str(number))):
        assert coerce(text, FLOAT) == number


@given(st.integers(-(10**12), 10**12))
def test_a_whole_number_arrives_from_int_and_float_text(number: int) -> None:
    for text in (number, str(number), f"{number}.0", json.dumps(str(number))):
        value = coerce(text, INT)
        assert value == number
        assert type(value) is int


@given(st.floats(-1e6, 1e6).filter(lambda x: x != int(x)))
def test_a_float_is_never_truncated_to_an_int(number: float) -> None:
    with pytest.raises(ValueError, match="a whole number"):
        coerce(str(number), INT)


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("True", True), ('"True"', True), ("0", False), (0, False)]
)
def test_booleans_arrive_from_every_spelling(text: object, value: bool) -> None:
    assert coerce(text, BOOL) is value


@pytest.mark.parametrize("text", ["[64, 64]", "(64, 64)", '"[64, 64]"', [64, 64], "[64.0, 64]"])
def test_lists_arrive_from_json_and_python_text(text: object) -> None:
    assert coerce(text, Setting("ints", "", low=0, above=True)) == [64, 64]


@pytest.mark.parametrize("text", ["[0, 64]", "[64, -1]", "64", "[64, 'x']", '"abc"'])
def test_bad_lists_are_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="a list of whole numbers"):
        coerce(text, Setting("ints", "", low=0, above=True))


def test_a_schedule_is_a_number_or_rising_points_from_0() -> None:
    schedule = Setting("schedule", "", low=0)
    assert coerce("1e-4", schedule) == 1e-4
    assert coerce("[[0, 0.1], [100, 0]]", schedule) == [[0, 0.1], [100, 0.0]]
    for bad in ("[[1, 0.1], [100, 0]]", "[[0, 0.1], [0, 0]]", "[[0, 0.1]]", "[[0, 0.1], [100, -1]]", "[]"):
        with pytest.raises(ValueError, match="timestep 0"):
            coerce(bad, schedule)


@given(st.floats(0, 1))
def test_a_range_holds_its_ends_and_refuses_what_is_outside(number: float) -> None:
    unit = Setting("float", "", low=0, high=1)
    assert coerce(number, unit) == number
    with pytest.raises(ValueError, match="between 0 and 1"):
        coerce(number + 1.001, unit)


@pytest.mark.parametrize("text", ["nan", "NaN", float("nan")])
def test_nan_is_no_number(text: object) -> None:
    with pytest.raises(ValueError, match="a number"):
        coerce(text, FLOAT)
