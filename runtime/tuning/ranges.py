"""The ranges that hyperparameters are drawn from, and how they lie in the space that the search sees."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Kind = Literal["continuous", "integer", "categorical"]
# SageMaker's; Auto becomes one of the others when a job is read.
SCALINGS = ("Auto", "Linear", "Logarithmic", "ReverseLogarithmic")
# A range over as many decades is searched by magnitude where the job leaves it open.
_LOGARITHMIC_FROM = 100.0


@dataclass(frozen=True)
class Range:
    """The range of one hyperparameter.

    Attributes:
        name: Name of the hyperparameter, as `rl.training.config.lr`.
        kind: SageMaker's kind.
        low: Smallest value of a numeric range.
        high: Largest value of a numeric range.
        scaling: Scaling of the range: Linear, Logarithmic, or ReverseLogarithmic, which is fine close to 1.
        values: The choices of a category, as text.
    """

    name: str
    kind: Kind
    low: float = 0.0
    high: float = 0.0
    scaling: str = "Linear"
    values: tuple[str, ...] = ()

    @property
    def distribution(self) -> BaseDistribution:
        """The Optuna distribution of the range."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.kind == "categorical":
            return CategoricalDistribution(self.values)
        if self.scaling == "ReverseLogarithmic":
            return FloatDistribution(1.0 - self.high, 1.0 - self.low, log=True)
        is_log = self.scaling == "Logarithmic"
        if self.kind == "integer":
            return IntDistribution(int(self.low), int(self.high), log=is_log)
        return FloatDistribution(self.low, self.high, log=is_log)

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values to check against the setting's rule: both ends, or every choice."""
        if self.kind == "categorical":
            return self.values
        return (self.to_hyperparameter(self._to_drawn(self.low)), self.to_hyperparameter(self._to_drawn(self.high)))

    def to_hyperparameter(self, drawn: Any) -> Any:
        """Converts Optuna's value to the hyperparameter."""
        return 1.0 - drawn if self.scaling == "ReverseLogarithmic" else drawn

    def from_hyperparameter(self, value: Any) -> Any:
        """Converts a hyperparameter to Optuna's value; None if it is outside the range."""
        if self.kind == "categorical":
            return str(value) if str(value) in self.values else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return self._to_drawn(value)

    def _to_drawn(self, value: float) -> Any:
        if self.kind == "integer":
            return int(value)
        return 1.0 - value if self.scaling == "ReverseLogarithmic" else float(value)

    def place(self, value: Any) -> float:
        """Position of a hyperparameter in the scaled range, 0..1."""
        if self.kind == "categorical":
            return self.values.index(str(value)) / max(1, len(self.values) - 1)
        at, low, high = (_scaled(number, self.scaling) for number in (value, self.low, self.high))
        return (at - low) / (high - low) if high > low else 0.5


def _scaled(value: float, scaling: str) -> float:
    if scaling == "Logarithmic":
        return math.log(value)
    return -math.log(1.0 - value) if scaling == "ReverseLogarithmic" else float(value)


def choose_scaling(low: float, high: float) -> str:
    """Returns the scaling that Auto selects for a range."""
    return "Logarithmic" if low > 0 and high / low >= _LOGARITHMIC_FROM else "Linear"
