"""Loads the policy to evaluate, from any file that holds one, and checks what it answers.

A file is a model directory, a results folder or a model.tar.gz of this program, an ONNX file, a checkpoint of RLlib's
new API stack, or d3rlpy's `.d3`. None of them runs code of its author.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from runtime.artifacts.checkpoint import STATE, read_state
from runtime.artifacts.exports import ACTION_MASK, OBSERVATIONS, PROBABILITIES
from runtime.artifacts.manifest import MANIFEST
from runtime.artifacts.model_directory import open_model
from runtime.artifacts.trust import load_data
from runtime.container.scratch import scratch_folder
from runtime.errors import Problems, UserError
from runtime.offline.data.transitions import Transitions
from runtime.policies.network_policy import FILE, NetworkPolicy
from runtime.policies.spaces import split_masks
from runtime.serving.exploring import Exploration, compute_probabilities
from runtime.serving.served_policy import open_session
from runtime.serving.transform import open_served

if TYPE_CHECKING:
    from runtime.policies.policy import Policy

Singles = NDArray[np.float32]
Answer = Callable[[Singles], NDArray[Any]]

_SUM_TOLERANCE = 1e-3  # of probabilities, as in a log
_SCORES = ("behaviour_logits", "q_values")
_ACTIONS = "actions"
_D3RLPY = ".d3"
_ONNX = ".onnx"
_EXPECTED = (
    "a model directory, a results folder, a model.tar.gz, an .onnx file, a checkpoint of RLlib's new API stack, or a "
    ".d3 file of d3rlpy"
)


@dataclass(frozen=True)
class LoadedPolicy:
    """A policy as it was loaded.

    Attributes:
        name: Path or name, for messages.
        kind: What `answer` returns: `probabilities` or `scores` (B, A) of discrete actions, `chosen` (B,) numbers of
            discrete actions, `continuous` (B, A) actions, or `either` where the log decides between the first and the
            last.
        answer: Computes it for (B, …) observations.
        observation_shape: Shape of one observation; None if any is accepted.
        count: Number of discrete actions, or of dimensions of a continuous one; None if unknown.
        learned_from: Fingerprint of the log that the policy learned from; empty if unknown.
    """

    name: str
    kind: str
    answer: Answer
    observation_shape: tuple[int, ...] | None = None
    count: int | None = None
    learned_from: str = ""


class EvaluatedPolicy:
    """A loaded policy as the estimators call it; each answer is checked.

    Args:
        policy: The policy.
        num_actions: Number of discrete actions of the log, or of dimensions of its continuous ones.
        temperature: Temperature of the softmax that actions are sampled from; None for the policy as it is.
        epsilon: Share of uniformly random actions.
        mask_size: How many of an observation's last numbers are a mask of the allowed actions; 0 if there is none.
    """

    def __init__(
        self,
        policy: LoadedPolicy,
        num_actions: int,
        *,
        temperature: float | None,
        epsilon: float,
        mask_size: int = 0,
    ) -> None:
        self._mask_size = mask_size
        self._policy = policy
        self._num_actions = num_actions
        self._temperature = temperature
        self._epsilon = epsilon

    def probabilities(self, observations: Singles) -> Singles:
        """Returns (B, A) probabilities of the discrete actions at (B, O) observations.

        Raises:
            UserError: The policy's answer is something else.
        """
        found = self._answer(observations)
        kind = self._policy.kind
        masks = split_masks(observations, self._mask_size)[1]
        if kind == "chosen":
            found = self._one_hot(found.reshape(len(observations), -1))
        elif found.shape != (len(observations), self._num_actions):
            raise self._refuse(
                f"an answer of shape {found.shape} for {len(observations)} observations",
                f"({len(observations)}, {self._num_actions}), a number for each of the log's actions",
            )
        if kind in ("probabilities", "either"):
            self._check_probabilities(found)
        if masks is not None and kind != "scores":
            self._check_allowed(found, masks)
        if kind in ("probabilities", "either") and self._temperature is None:
            allowed = np.ones(found.shape, np.float32) if masks is None else masks.astype(np.float32)
            mixed = (1 - self._epsilon) * found + self._epsilon * allowed / allowed.sum(axis=1, keepdims=True)
            return np.asarray(mixed / mixed.sum(axis=1, keepdims=True), np.float32)
        source = PROBABILITIES if kind in ("probabilities", "either", "chosen") else kind
        exploration = Exploration(self._temperature or 0.0, self._epsilon)
        return np.asarray(compute_probabilities(source, found, exploration, masks=masks), np.float32)

    def actions(self, observations: Singles) -> Singles:
        """Returns (B, A) continuous actions at (B, O) observations.

        Raises:
            UserError: The policy's answer is something else.
        """
        found = self._answer(observations)
        if found.shape != (len(observations), self._num_actions):
            raise self._refuse(
                f"an answer of shape {found.shape} for {len(observations)} observations",
                f"({len(observations)}, {self._num_actions}), an action of the log's dimensions for each",
            )
        return np.asarray(found, np.float32)

    def _answer(self, observations: Singles) -> NDArray[Any]:
        shape = self._policy.observation_shape
        rows = observations if shape is None else observations.reshape(len(observations), *shape)
        found = np.asarray(self._policy.answer(rows))
        if found.dtype.kind not in "biuf":
            raise self._refuse(f"an array of {found.dtype}", "numbers")
        if not np.isfinite(found).all():
            row = int(np.argmin(np.isfinite(found.reshape(len(found), -1)).all(axis=1)))
            raise self._refuse(f"{found[row].tolist()} for observation {row}", "finite numbers")
        return found

    def _one_hot(self, found: NDArray[Any]) -> NDArray[np.float32]:
        numbers = found[:, 0]
        if found.shape[1] != 1 or (numbers < 0).any() or (numbers >= self._num_actions).any():
            raise self._refuse(
                f"the action {found[int(np.argmax((numbers < 0) | (numbers >= self._num_actions)))].tolist()}",
                f"one whole number from 0 to {self._num_actions - 1}, as the log has",
            )
        return np.asarray(np.eye(self._num_actions)[numbers.astype(int)], np.float32)

    def _check_probabilities(self, found: NDArray[Any]) -> None:
        outside = ((found < -_SUM_TOLERANCE) | (found > 1 + _SUM_TOLERANCE)).any(axis=1)
        wrong = outside | (np.abs(found.sum(axis=1) - 1) > _SUM_TOLERANCE)
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = ", ".join(f"{value:g}" for value in found[row].tolist())
            raise self._refuse(
                f"[{shown}] for observation {row}",
                "probabilities from 0 to 1 that sum to 1; a network's logits or values have the output name "
                f"{' or '.join(_SCORES)}",
            )

    def _check_allowed(self, found: NDArray[Any], masks: NDArray[np.bool_]) -> None:
        wrong = ((found > _SUM_TOLERANCE) & ~masks).any(axis=1)
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = ", ".join(f"{value:g}" for value in found[row].tolist())
            raise self._refuse(
                f"[{shown}] for observation {row}",
                f"0 for the actions that its {ACTION_MASK} {masks[row].astype(int).tolist()} does not allow; the mask "
                "is the observation's last numbers",
            )

    def _refuse(self, got: str, expected: str) -> UserError:
        return UserError(f"policy: got {got} from {self._policy.name}; expected {expected}.")


def load_target(policy: str | Path | Callable[[Singles], NDArray[Any]]) -> LoadedPolicy:
    """Loads the policy to evaluate.

    Args:
        policy: Path of a file or folder, or a function that returns (B, A) action probabilities (of continuous
            actions, the actions) at (B, O) observations.

    Raises:
        UserError: There is no policy, or it cannot be read.
    """
    if callable(policy):
        return LoadedPolicy(getattr(policy, "__name__", type(policy).__name__), "either", policy)
    place = Path(policy)
    if not place.exists():
        raise UserError(f"policy: got {str(place)!r}, which does not exist; expected {_EXPECTED}.")
    if place.is_dir():
        return _load_folder(place)
    if place.name.endswith(".tar.gz"):
        with tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch:
            return _load_model(place, Path(scratch))
    if place.suffix == _ONNX:
        return _load_onnx(place)
    if place.suffix == _D3RLPY:
        return _load_d3rlpy(place)
    raise UserError(f"policy: got {str(place)!r}; expected {_EXPECTED}.")


def _load_folder(place: Path) -> LoadedPolicy:
    if any((folder / MANIFEST).is_file() for folder in (place, place / "model")):
        with tempfile.TemporaryDirectory(prefix="model-", dir=scratch_folder()) as scratch:
            return _load_model(place, Path(scratch))
    if (place / FILE).is_file():
        return _load_checkpoint(place)
    from runtime.artifacts.rllib_checkpoint import find_rllib_module, read_rllib_policy  # imports RLlib

    if find_rllib_module(place) is not None or (place / "rllib_checkpoint.json").is_file():
        return _of_policy(read_rllib_policy(place), str(place))
    raise UserError(f"policy: got {str(place)!r}, which holds no policy; expected {_EXPECTED}.")


def _load_model(place: Path, scratch: Path) -> LoadedPolicy:
    """Loads an exported policy; where a policy cannot be exported, that of the final checkpoint."""
    try:
        served = open_served(place, scratch)
    except UserError as error:
        try:
            loaded = _load_checkpoint(open_model(place, scratch=scratch / "checkpoint"))
        except UserError:
            raise error from None
        return replace(loaded, name=str(place))
    try:
        checkpoint = open_model(place, scratch=scratch / "checkpoint")
    except UserError:  # the exported file is enough
        return _of_session(served.session, str(place))
    return replace(_of_session(served.session, str(place)), learned_from=_learned_from(checkpoint))


def _learned_from(checkpoint: Path) -> str:
    return str(read_state(checkpoint).policy.get("data", ""))


def _load_checkpoint(checkpoint: Path) -> LoadedPolicy:
    """Loads the policy of a checkpoint that a training of this program wrote."""
    settings = read_state(checkpoint).policy if (checkpoint / STATE).is_file() else {}
    if "normalize_actions" in settings:
        from runtime.artifacts.policy_file import read_policy  # imports RLlib

        return _of_policy(read_policy(checkpoint, settings=settings), str(checkpoint))
    policy = NetworkPolicy.load(checkpoint / FILE)
    shape = policy.observation_shape
    kind, answer = (
        ("probabilities", policy.probabilities) if policy.kind == "greedy" else ("continuous", policy.actions)
    )
    return LoadedPolicy(
        str(checkpoint), kind, answer, shape, policy.num_actions, learned_from=str(settings.get("data", ""))
    )


def _of_policy(policy: Policy, name: str) -> LoadedPolicy:
    """Adapts a network of RLlib.

    Raises:
        UserError: Its actions are neither Discrete nor a Box of one dimension, or it has a state.
    """
    space, shape = policy.action_space, tuple(policy.module.observation_space.shape)
    if policy.module.is_stateful():
        raise UserError(f"policy: got {name}, whose network is recurrent; expected one without a state.")
    if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
        return LoadedPolicy(name, "scores", policy.logits, shape, int(space.n))
    if isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1:
        return LoadedPolicy(name, "continuous", lambda rows: np.stack(policy.act_many(rows)), shape, space.shape[0])
    raise UserError(f"policy: got {name} with actions in {space}; expected Discrete from 0, or a Box of one dimension.")


def _load_onnx(path: Path) -> LoadedPolicy:
    try:
        session = open_session(path.read_bytes())
    except Exception as error:  # onnxruntime raises many types of errors
        raise UserError(
            f"policy: got {str(path)!r}, which cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0]}); expected an ONNX file."
        ) from None
    return _of_session(session, str(path))


def _of_session(session: Any, name: str) -> LoadedPolicy:
    """Adapts an ONNX session with one input, or with observations and masks; its outputs' names say what they are.

    Raises:
        UserError: It has other inputs, or no output that is known.
    """
    inputs, outputs = session.get_inputs(), [one.name for one in session.get_outputs()]
    mask_size = _mask_size(inputs, name)
    shape = tuple(inputs[0].shape[1:])
    shape = (shape[0] + mask_size,) if mask_size else shape
    dtype = {"tensor(double)": np.float64, "tensor(uint8)": np.uint8}.get(inputs[0].type, np.float32)
    batch = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else None

    def run(output: str, rows: NDArray[Any]) -> NDArray[Any]:
        rows = rows.astype(dtype)
        size = batch or max(1, len(rows))
        parts = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            padded = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)])
            numbers, masks = split_masks(padded, mask_size)
            fed = {inputs[0].name: numbers} | ({} if masks is None else {ACTION_MASK: masks.astype(np.float32)})
            parts.append(session.run([output], fed)[0][: len(part)])
        return np.concatenate(parts)

    sample = np.zeros((2, *(side if isinstance(side, int) else 1 for side in shape)), np.float32)
    fixed = shape if all(isinstance(side, int) for side in shape) else None
    for output, kind in ((PROBABILITIES, "probabilities"), *((score, "scores") for score in _SCORES)):
        if output in outputs:
            if kind == "scores" and _ACTIONS in outputs and not _is_one_choice(run(_ACTIONS, sample)):
                continue  # logits of continuous actions, or of several discrete ones
            count = run(output, sample).shape[1]
            return LoadedPolicy(name, kind, partial(run, output), fixed, count)
    chosen = _ACTIONS if _ACTIONS in outputs else outputs[0]
    if chosen != _ACTIONS and len(outputs) != 1:
        raise UserError(
            f"policy: got {name} with the outputs {', '.join(outputs)}; expected one, or one named {PROBABILITIES}, "
            f"{', '.join(_SCORES)} or {_ACTIONS}."
        )
    found = run(chosen, sample)
    if _is_one_choice(found):
        return LoadedPolicy(name, "chosen", partial(run, chosen), fixed)
    if np.issubdtype(found.dtype, np.integer) or found.ndim != 2:
        raise UserError(f"policy: got {name}, whose output {chosen} has the shape {found.shape[1:]}; expected (A,).")
    kind = "continuous" if chosen == _ACTIONS else "either"
    return LoadedPolicy(name, kind, partial(run, chosen), fixed, found.shape[1])


def _mask_size(inputs: Any, name: str) -> int:
    """Returns the numbers of the input `action_mask`; 0 if the session has none.

    Raises:
        UserError: It has other inputs than observations and a mask.
    """
    names = [one.name for one in inputs]
    if len(names) != 1 and names != [OBSERVATIONS, ACTION_MASK]:
        raise UserError(
            f"policy: got {name} with the inputs {', '.join(names)}; expected one, the observations, or "
            f"{OBSERVATIONS} and {ACTION_MASK}."
        )
    return int(inputs[1].shape[1]) if len(names) == 2 else 0


def _is_one_choice(actions: NDArray[Any]) -> bool:
    return bool(np.issubdtype(actions.dtype, np.integer) and actions.size == len(actions))


def _load_d3rlpy(path: Path) -> LoadedPolicy:
    """Loads an algorithm that d3rlpy 2 saved.

    Raises:
        UserError: The file is something else, or has an algorithm that needs the episode so far.
    """
    try:
        load_data(path.read_bytes())  # a .d3 file is a pickle: this one holds data alone
        with contextlib.redirect_stdout(sys.stderr):  # where d3rlpy logs that versions differ
            import d3rlpy

            import runtime.offline.bcq  # noqa: F401, which imports d3rlpy in silence and registers our Q function

            algorithm = d3rlpy.load_learnable(str(path), device=False)
        is_discrete = algorithm.get_action_type() == d3rlpy.constants.ActionSpace.DISCRETE
        shape, count = algorithm.impl.observation_shape, int(algorithm.impl.action_size)
    except Exception as error:  # pickle, d3rlpy and torch raise many types of errors
        raise UserError(
            f"policy: got {str(path)!r}, which cannot be read ({type(error).__name__}: "
            f"{(str(error) or 'no message').splitlines()[0]}); expected what d3rlpy 2's `algorithm.save` wrote."
        ) from None
    if not hasattr(algorithm, "predict_value"):
        raise UserError(
            f"policy: got {str(path)!r} with {type(algorithm).__name__}; expected an algorithm that acts by the "
            "current observation alone, as the estimators need."
        )
    if not is_discrete:
        return LoadedPolicy(str(path), "continuous", algorithm.predict, tuple(shape), count)
    return LoadedPolicy(str(path), "chosen", algorithm.predict, tuple(shape), count)


def check_spaces(policy: LoadedPolicy, data: Transitions, *, temperature: float | None, epsilon: float) -> None:
    """Checks that a policy has the log's observations and kind of actions, and what is sampled.

    Raises:
        UserError: Something differs; all differences are listed.
    """
    problems = Problems("the policy and the log")
    width = int(np.prod(data.shape))
    shape = policy.observation_shape
    if shape is not None and int(np.prod(shape)) != width:
        problems.add_line(
            f"policy: got {policy.name} for observations of shape {shape}; expected {width} numbers, as the log has "
            f"state features{' and numbers of a mask' if data.mask_size else ''}. Name the log that this policy's "
            "observations are in."
        )
    is_discrete = data.num_actions is not None
    if policy.kind != "either" and is_discrete is (policy.kind == "continuous"):
        kinds = ["discrete" if flag else "continuous" for flag in (not is_discrete, is_discrete)]
        problems.add_line(f"policy: got {policy.name} with {kinds[0]} actions; expected {kinds[1]} ones, as the log's.")
    elif policy.count is not None and policy.count != (expected := data.num_actions or data.actions.shape[1]):
        what = "actions" if is_discrete else "dimensions of an action"
        problems.add_line(f"policy: got {policy.name} with {policy.count} {what}; expected {expected}, as the log's.")
    if not is_discrete and (temperature is not None or epsilon):
        problems.add_line(
            "temperature, epsilon: got one for continuous actions; expected neither: the estimate is that of the "
            "policy's deterministic action."
        )
    elif temperature and policy.kind == "chosen":
        problems.add_line(
            f"temperature: got {temperature:g} for {policy.name}, which answers the chosen action alone; expected "
            "none. Export the policy with its action_probabilities, behaviour_logits or q_values."
        )
    problems.raise_if_any()
