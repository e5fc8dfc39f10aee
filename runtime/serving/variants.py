"""Several policies behind one endpoint: each answers a share of the decisions, and a shadow's are captured, not sent.

Each decision draws its variant by itself, independently of the state and of all earlier decisions. The behavior policy
is then the mixture sum_v w_v pi_v(a | s), over whole episodes too, and its probabilities are what is answered and
captured. The drawn variant's own would not do: one that never takes an action makes it seem impossible although another
variant does take it, so that a policy's importance weights over the whole log no longer have the mean 1.

Source: Precup, Sutton & Singh 2000, Eligibility traces for off-policy policy evaluation, for importance weights by the
behavior policy's probabilities; Veach & Guibas 1995, Optimally combining sampling techniques (the balance heuristic),
for those of a mixture.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.errors import Problems
from runtime.serving.exploring import Decisions, Exploration, compute_probabilities, draw, find_source, pick
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import ServedPolicy

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,63}")
_SUM_TOLERANCE = 1e-6


class VariantSpec(NamedTuple):
    """A variant as the server's settings name it.

    Attributes:
        name: The user's name of it.
        place: Model directory, results folder or model.tar.gz.
        weight: Share of the decisions that it answers, above 0.
    """

    name: str
    place: Path
    weight: float


def read_variants(words: Sequence[str], source: str) -> tuple[VariantSpec, ...]:
    """Reads `NAME=DIR:WEIGHT` words.

    Args:
        words: The words; none for no variants.
        source: Where they come from, for messages.

    Raises:
        UserError: A word, a name, a folder or a weight breaks a rule, or the weights do not sum to 1; all are listed.
    """
    problems = Problems("the variants")
    found: list[VariantSpec] = []
    for word in words:
        name, equals, rest = word.partition("=")
        place, colon, weight_text = rest.rpartition(":")
        if not (equals and colon and place and _NAME.fullmatch(name)):
            expected = "NAME=DIR:WEIGHT, with a name of letters, digits, '.', '_' and '-', as new=results/v1:0.1"
            problems.add("--variant", word, source, expected=expected)
            continue
        weight = _number(weight_text)
        if not 0 < weight <= 1:
            problems.add(f"--variant {name}", weight_text, source, expected="a weight above 0 and at most 1")
        if not Path(place).exists():
            problems.add(f"--variant {name}", place, source, expected="a model directory that exists")
        if any(one.name == name for one in found):
            problems.add(f"--variant {name}", word, source, expected="each name once", remedy="Rename one of them.")
        found.append(VariantSpec(name, Path(place), weight))
    total = math.fsum(one.weight for one in found)
    # A weight that is no number has a line of its own.
    if len(found) == len(words) > 0 and math.isfinite(total) and abs(total - 1) > _SUM_TOLERANCE:
        listed = " + ".join(f"{one.weight:g}" for one in found)
        problems.add("--variant", f"{listed} = {total:g}", source, expected="weights that sum to 1")
    problems.raise_if_any()
    return tuple(found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


class Sampled(NamedTuple):
    """Decisions of B observations, and what is answered beside them.

    Attributes:
        outputs: The drawn variants' outputs, by name.
        decisions: The decisions, with the mixture's probabilities.
        uniforms: (B,) uniform number that each action was picked by.
    """

    outputs: dict[str, NDArray[Any]]
    decisions: Decisions
    uniforms: NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """The policies that answer, each for a share of the decisions.

    Attributes:
        policies: The policies, with the same inputs, outputs and actions.
        names: The user's name of each; empty where there is only the one policy of the server.
        weights: (V,) share of each; they sum to 1.
    """

    policies: tuple[ServedPolicy, ...]
    names: tuple[str, ...] = ()
    weights: tuple[float, ...] = (1.0,)

    def sample(
        self, observations: NDArray[np.float32], outputs: tuple[str, ...], exploration: Exploration, seed: int | None
    ) -> Sampled:
        """Draws a variant and an action of it for each of B observations, the same again for the same seed.

        Args:
            observations: (B, …) observations.
            outputs: Names of the outputs to return.
            exploration: How each variant samples its actions.
            seed: Seed of the draws; None draws the variant from the new event's id, and the action from the system.

        Raises:
            RequestError: 400 where a policy's outputs are not finite.
        """
        sources = [find_source(policy) for policy in self.policies]
        found = [
            policy.run(observations, (*outputs, source)) for policy, source in zip(self.policies, sources, strict=True)
        ]
        for source, one in zip(sources, found, strict=True):
            if not np.isfinite(one[source]).all():
                raise not_finite(source)
        own = [
            compute_probabilities(source, one[source], exploration, masks=policy.masks_of(observations))
            for policy, source, one in zip(self.policies, sources, found, strict=True)
        ]
        rows = len(observations)
        drawn = draw(rows, seed)
        if len(self.policies) == 1:
            variants = np.zeros(rows, np.int64)
            answered, mixture, picked = found[0], own[0], own[0]
        else:
            variants = self._draw_variants(drawn.event_ids, drawn.variants)
            of_each = np.stack(own)
            picked = of_each[variants, np.arange(rows)]
            mixture = np.tensordot(np.array(self.weights), of_each, axes=1)
            answered = {name: np.stack([one[name] for one in found])[variants, np.arange(rows)] for name in outputs}
        decisions = Decisions(
            pick(picked, drawn.uniforms),
            mixture,
            drawn.samples,
            drawn.event_ids,
            [self.policies[i].model_id for i in variants],
            [self.names[i] for i in variants] if self.names else [],
        )
        return Sampled({name: answered[name] for name in outputs}, decisions, drawn.uniforms)

    def _draw_variants(self, event_ids: Sequence[str], uniforms: NDArray[np.float64] | None) -> NDArray[np.int64]:
        """Draws the variant of each decision by its uniform number, or from its event's id where there is none."""
        if uniforms is None:
            uniforms = np.array([event_uniform(event) for event in event_ids])
        below = np.cumsum(self.weights)
        return np.minimum(np.searchsorted(below, uniforms, side="right"), len(below) - 1)


def event_uniform(event_id: str) -> float:
    """Returns the number in [0, 1) that an event's variant is drawn by: the first 53 bits of its id's sha256."""
    return (int.from_bytes(hashlib.sha256(event_id.encode()).digest()[:8], "big") >> 11) * 2.0**-53


def not_finite(output: str) -> RequestError:
    """The refusal of observations for which an output is not finite."""
    return RequestError(400, f"observations: got numbers so large that the policy's {output} are not finite.")


def check_variants(mixture: Mixture, shadow: ServedPolicy | None) -> None:
    """Checks that the variants can stand in for each other, and that the shadow decides about the same.

    Raises:
        UserError: Inputs, outputs or actions differ; all differences are listed.
        RequestError: A policy does not have one discrete action.
    """
    first = mixture.policies[0]
    actions = _count_actions(first)
    problems = Problems("the variants")
    named = list(zip(mixture.names, mixture.policies, strict=True))[1:] if mixture.names else []
    for name, policy in named:
        if (dict(policy.inputs), policy.outputs) != (dict(first.inputs), first.outputs):
            problems.add(
                f"--variant {name}",
                f"the inputs and outputs {_signature(policy)}",
                "its manifest",
                expected=f"those of {mixture.names[0]}, {_signature(first)}",
            )
    others = [(f"--variant {name}", policy) for name, policy in named]
    for where, policy in others + ([] if shadow is None else [("--shadow", shadow)]):
        spaces = policy.row_shape, _count_actions(policy)
        if spaces != (first.row_shape, actions):
            problems.add(
                where,
                f"observations {spaces[0]} and {spaces[1]} actions",
                "its manifest",
                expected=f"{first.row_shape} and {actions}, as the served policy has",
            )
    problems.raise_if_any()


def _signature(policy: ServedPolicy) -> str:
    return f"({', '.join(policy.inputs)}) -> ({', '.join(policy.outputs)})"


def _count_actions(policy: ServedPolicy) -> int:
    source = find_source(policy)
    zeros = np.zeros((1, *policy.row_shape), np.float32)
    return int(policy.run(zeros, (source,))[source].shape[1])


def check_serving_mode(
    variants: Sequence[VariantSpec],
    shadow: Path | None,
    *,
    explores: bool,
    captures: bool,
    has_model: bool,
    is_multi_model: bool,
) -> None:
    """Checks that variants and a shadow go with the server's other settings.

    Raises:
        UserError: They do not; all problems are listed.
    """
    problems = Problems("the server's settings")
    if variants and not explores:
        problems.add_line(
            f"--variant: got {len(variants)} without explore mode; expected a temperature or an epsilon, as an answer "
            "names its variant beside its decision. Add --epsilon 0 to answer the most likely action."
        )
    if variants and has_model:
        problems.add_line("--variant: got a model besides; expected one of them. Name the model as a variant.")
    if is_multi_model and (variants or shadow is not None):
        problems.add_line(
            "--variant and --shadow: got either on an endpoint of models by name; expected one model. Unset "
            "SAGEMAKER_MULTI_MODEL."
        )
    if shadow is not None and not captures:
        problems.add_line(
            f"--shadow: got {str(shadow)!r} without a capture; expected one, as its decisions are captured alone. Add "
            "--capture FOLDER."
        )
    if shadow is not None and not shadow.exists():
        problems.add("--shadow", str(shadow), "the server's settings", expected="a model directory that exists")
    problems.raise_if_any()
