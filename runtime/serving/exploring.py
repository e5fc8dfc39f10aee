"""Explore mode: samples discrete actions of the served policy, with the probabilities that off-policy methods need."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from runtime.artifacts.exports import PROBABILITIES
from runtime.serving.observations import RequestError
from runtime.serving.served_policy import ServedPolicy

Floats = NDArray[np.float64]

_LARGEST_SEED = 2**63 - 1
_LARGEST_STEP = 2**53
_LONGEST_EPISODE = 200  # characters of an id


@dataclass(frozen=True)
class Exploration:
    """How actions are sampled: with `epsilon` uniformly, else from the policy at `temperature`.

    Attributes:
        temperature: Divides the logits (or Q values, or log probabilities) before the softmax; 0 takes the most likely
            action.
        epsilon: Share of uniformly random actions, 0 to 1.
    """

    temperature: float = 0.0
    epsilon: float = 0.0


class Attributes(NamedTuple):
    """What a request's custom attributes say about its decision.

    Attributes:
        seed: Seed of the sampled action, if given.
        episode: The client's id of the episode that the decision belongs to; empty if it is an episode of its own.
        step: Number of the decision in its episode, if given.
        text: The attributes as they were sent.
    """

    seed: int | None = None
    episode: str = ""
    step: int | None = None
    text: str = ""


class Decisions(NamedTuple):
    """Sampled actions of B observations.

    Attributes:
        actions: (B,) action numbers.
        probabilities: (B, A) probability that each action had.
        samples: (B,) `sample_prob`: uniform numbers in [0, 1), independent of the actions, to draw subsets by.
        event_ids: (B,) unique ids.
        model_ids: (B,) ids of the policies that took them.
        variants: (B,) the user's names of these policies; empty without variants.
    """

    actions: NDArray[np.int64]
    probabilities: Floats
    samples: Floats
    event_ids: list[str]
    model_ids: list[str]
    variants: list[str] = []  # noqa: RUF012 - never changed

    def describe(self) -> list[dict[str, Any]]:
        """Returns an object for each decision, as it is answered."""
        chosen = self.probabilities[np.arange(len(self.actions)), self.actions]
        rows = zip(
            self.actions.tolist(), chosen.tolist(), self.event_ids, self.model_ids, self.samples.tolist(), strict=True
        )
        found: list[dict[str, Any]] = [
            {"action": action, "action_prob": p, "event_id": event, "model_id": model, "sample_prob": sample}
            for action, p, event, model, sample in rows
        ]
        for decision, name in zip(found, self.variants, strict=False):
            decision["variant"] = name
        return found


class Draws(NamedTuple):
    """Random numbers of B decisions, uniform in [0, 1) and independent of each other.

    Attributes:
        uniforms: (B,) what each action is picked by.
        samples: (B,) `sample_prob`.
        variants: (B,) what each variant is drawn by; None without a seed, where the event's id decides.
        event_ids: (B,) unique ids.
    """

    uniforms: Floats
    samples: Floats
    variants: Floats | None
    event_ids: list[str]


def read_attributes(header: bytes, rows: int) -> Attributes:
    """Reads `seed=7,episode=user-12,step=3`; names that are not ours are left to the client.

    Args:
        header: The request's X-Amzn-SageMaker-Custom-Attributes, the one header that SageMaker's endpoints pass on.
        rows: Number of observations of the request.

    Raises:
        RequestError: 400 for a value that breaks a rule.
    """
    if not header:
        return Attributes()
    text = header.decode("latin-1")
    given = dict(part.strip().partition("=")[::2] for part in text.split(","))
    where = "X-Amzn-SageMaker-Custom-Attributes"
    episode = given.get("episode", "")
    if len(episode) > _LONGEST_EPISODE:
        raise RequestError(400, f"{where}: episode: got {len(episode)} characters; expected up to {_LONGEST_EPISODE}.")
    if episode and rows != 1:
        raise RequestError(400, f"{where}: episode: got {rows} observations; expected one, the episode's next step.")
    return Attributes(
        _whole(given.get("seed"), f"{where}: seed", _LARGEST_SEED),
        episode,
        _whole(given.get("step"), f"{where}: step", _LARGEST_STEP),
        text,
    )


def _whole(text: str | None, where: str, largest: int) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdigit()) or len(text) > len(str(largest)) or int(text) > largest:
        raise RequestError(400, f"{where}: got {text[:40]!r}; expected a whole number from 0 to {largest}.")
    return int(text)


def find_source(policy: ServedPolicy) -> str:
    """Returns the output that actions are sampled from.

    Raises:
        RequestError: 400 if the policy's actions are not one discrete action, numbered from 0.
    """
    if policy.sampling_source is None:
        raise RequestError(
            400,
            f"explore mode: got the policy of {policy.name}; expected one discrete action, numbered from 0. "
            "Serve it without a temperature and an epsilon.",
        )
    return policy.sampling_source


def compute_probabilities(
    source: str, values: NDArray[np.float32], exploration: Exploration, *, masks: NDArray[np.bool_] | None = None
) -> Floats:
    """Computes the probability of each action, (B, A), from the policy's (B, A) output `source`.

    An action that (B, A) `masks` do not allow has none.
    """
    allowed = np.ones(values.shape, bool) if masks is None else masks
    scores = values.astype(np.float64)
    if source == PROBABILITIES:
        with np.errstate(divide="ignore"):
            scores = np.log(scores)
    scores = np.where(allowed, scores, -np.inf)
    best = scores.max(axis=1, keepdims=True)
    if exploration.temperature > 0:
        policy = np.exp((scores - best) / exploration.temperature)
        policy /= policy.sum(axis=1, keepdims=True)
    else:
        # The first of the best, as the served `actions` are.
        policy = np.eye(scores.shape[1])[scores.argmax(axis=1)]
    uniform = allowed / allowed.sum(axis=1, keepdims=True)
    mixed: Floats = (1 - exploration.epsilon) * policy + exploration.epsilon * uniform
    return mixed


def draw(rows: int, seed: int | None) -> Draws:
    """Draws the numbers of some decisions, the same ones again for the same seed; the ids are always new."""
    if seed is None:
        # Of the system, which is safe in threads and costs a tenth of a new generator: 53 bits as NumPy takes them.
        uniform = (np.frombuffer(os.urandom(16 * rows), np.uint64) >> np.uint64(11)).reshape(2, rows) * 2.0**-53
        variants = None
    else:
        generator = np.random.default_rng(seed)
        uniform = generator.random((2, rows))
        variants = generator.random(rows)
    return Draws(uniform[0], uniform[1], variants, [str(uuid.uuid4()) for _ in range(rows)])


def pick(probabilities: Floats, uniforms: Floats) -> NDArray[np.int64]:
    """Picks the action of each row of (B, A) probabilities that a (B,) uniform number falls on."""
    below = np.cumsum(probabilities, axis=1)
    below /= below[:, -1:]
    actions: NDArray[np.int64] = (below <= uniforms[:, None]).sum(axis=1)
    return actions
