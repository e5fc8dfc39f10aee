"""Joins captured decisions with their rewards into a log to learn from."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import orjson

from runtime.artifacts.exports import ACTION_MASK, OBSERVATIONS
from runtime.errors import PlatformError, Problems, UserError
from runtime.offline.data.collecting import write_rows

_SUM_TOLERANCE = 1e-3  # of probabilities, as the reader of logs has it


@dataclass(frozen=True)
class JoinRequest:
    """What `smrl join` does.

    Attributes:
        inputs: Files of JSON lines, or folders of them: decisions and rewards, in any order.
        out: The log to write, .csv or .parquet.
        window_s: Longest time from a decision to its reward, in seconds.
        default_reward: Reward of a decision that got none within the window.
    """

    inputs: tuple[Path, ...]
    out: Path
    window_s: float = 3600.0
    default_reward: float = 0.0


@dataclass(frozen=True)
class _Decision:
    event_id: str
    time: datetime
    observation: list[float]
    mask: list[float]  # empty where the policy takes none
    action: int
    probabilities: list[float]
    model_id: str
    sample_prob: float
    episode_id: str
    step: int | None
    variant: str
    is_shadow: bool


@dataclass(frozen=True)
class _Reward:
    event_id: str
    time: datetime | None
    reward: float
    terminated: bool
    truncated: bool


@dataclass
class _Read:
    """What the inputs hold, and a count of each problem."""

    decisions: dict[str, _Decision] = field(default_factory=dict)
    rewards: dict[str, _Reward] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    broken: set[str] = field(default_factory=set)  # episodes that lack a decision


def run_join(request: JoinRequest) -> None:
    """Joins, writes the log and prints what was joined and what was not.

    Raises:
        UserError: The request is invalid, or nothing could be joined.
        PlatformError: The log could not be written.
    """
    import pandas

    _check(request)
    read = _Read()
    for path in _files(request.inputs):
        _read_file(path, read)
    rows = list(_join(read, request, now=datetime.now(UTC)))
    report = "\n".join(f"join: {text}: {number:,}" for text, number in sorted(read.counts.items()))
    if not rows:
        raise UserError(
            f"join: got no episode to learn from in {', '.join(map(str, request.inputs))}; expected decisions of a "
            f"server with --capture.\n{report}".rstrip()
        )
    try:
        write_rows(pandas.DataFrame(rows), request.out, appends=False)
    except OSError as error:
        raise PlatformError(f"{request.out}: could not be written: {error.strerror or error}.") from None
    episodes = len({row["episode_id"] for row in rows})
    if report:
        print(report)
    print(
        f"{request.out}: {len(rows):,} steps of {episodes:,} episodes; smrl train --data {request.out} learns from it"
    )


def _check(request: JoinRequest) -> None:
    problems = Problems("this command line")
    for path in request.inputs:
        if not path.exists():
            problems.add("input", str(path), "the command line", expected="a file of JSON lines, or a folder of them")
    if not request.out.name.endswith((".csv", ".parquet")):
        problems.add("--out", str(request.out), "the command line", expected="a name that ends in .csv or .parquet")
    if not 0 < request.window_s < math.inf:
        problems.add("--window", request.window_s, "the command line", expected="seconds, above 0")
    if not math.isfinite(request.default_reward):
        problems.add("--default-reward", request.default_reward, "the command line", expected="a finite number")
    problems.raise_if_any()


def _files(inputs: Sequence[Path]) -> Iterator[Path]:
    for path in inputs:
        yield from sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]


def _read_file(path: Path, read: _Read) -> None:
    with path.open("rb") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                record = orjson.loads(line)
                if "captureData" in record:
                    _take_decision(_read_decision(record), read)
                else:
                    _take_reward(_read_reward(record), read)
            except (ValueError, KeyError, TypeError, IndexError):
                read.counts["lines that are neither a decision nor a reward, left out"] += 1


def _read_decision(record: Any) -> _Decision:
    capture, metadata = record["captureData"], record["eventMetadata"]
    asked, output = (orjson.loads(capture[part]["data"]) for part in ("endpointInput", "endpointOutput"))
    asked = asked if isinstance(asked, dict) else {OBSERVATIONS: asked}
    return _Decision(
        event_id=str(metadata["eventId"]),
        time=_time(metadata["inferenceTime"]),
        observation=_flat(asked[OBSERVATIONS]),
        mask=_flat(asked.get(ACTION_MASK, [])),
        action=int(output["action"]),
        probabilities=[float(p) for p in output["action_probabilities"]],
        model_id=str(output.get("model_id", "")),
        sample_prob=float(output.get("sample_prob", math.nan)),
        episode_id=str(output.get("episode_id", "")),
        step=None if output.get("step") is None else int(output["step"]),
        variant=str(output.get("variant", "")),
        is_shadow=output.get("shadow", False) is True,
    )


def _read_reward(record: Any) -> _Reward:
    metadata = record["eventMetadata"]
    data = orjson.loads(record["groundTruthData"]["data"])
    fields = data if isinstance(data, dict) else {"reward": data}
    reward = float(fields["reward"])
    if not math.isfinite(reward):
        raise ValueError(reward)
    time = _time(metadata["eventTime"]) if "eventTime" in metadata else None
    ends = (fields.get("terminated", False) is True, fields.get("truncated", False) is True)
    return _Reward(str(metadata["eventId"]), time, reward, *ends)


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _flat(value: Any) -> list[float]:
    return [number for part in value for number in _flat(part)] if isinstance(value, list) else [float(value)]


def _take_decision(decision: _Decision, read: _Read) -> None:
    if decision.is_shadow:
        read.counts["decisions of a shadow, which nobody got, left out"] += 1
        return
    if decision.event_id in read.decisions:
        read.counts["decisions captured twice, one kept"] += 1
        return
    p = decision.probabilities
    is_valid = abs(sum(p) - 1) <= _SUM_TOLERANCE and all(0 <= number <= 1 + _SUM_TOLERANCE for number in p)
    if not (is_valid and 0 <= decision.action < len(p) and p[decision.action] > 0):
        read.counts["decisions with wrong probabilities (sum not 1, or 0 for the action taken), left out"] += 1
        read.broken.add(decision.episode_id)
        return
    first = next(iter(read.decisions.values()), decision)
    sizes = [(len(one.observation), len(one.mask), len(one.probabilities)) for one in (first, decision)]
    if sizes[0] != sizes[1]:
        read.counts["decisions with other numbers of inputs or actions than the first, left out"] += 1
        read.broken.add(decision.episode_id)
        return
    read.decisions[decision.event_id] = decision


def _take_reward(reward: _Reward, read: _Read) -> None:
    earlier = read.rewards.setdefault(reward.event_id, reward)
    if earlier is reward:
        return
    read.counts["rewards of an event that has one, the earliest kept"] += 1
    if earlier.time is not None and reward.time is not None and reward.time < earlier.time:
        read.rewards[reward.event_id] = reward


def _join(read: _Read, request: JoinRequest, *, now: datetime) -> Iterator[dict[str, Any]]:
    unknown = read.rewards.keys() - read.decisions.keys()
    if unknown:
        read.counts["rewards of unknown events, left out"] += len(unknown)
    episodes: dict[str, list[_Decision]] = defaultdict(list)
    for decision in read.decisions.values():
        episodes[decision.episode_id or decision.event_id].append(decision)
    for name in sorted(episodes, key=lambda name: min(decision.time for decision in episodes[name])):
        if name in read.broken:
            read.counts["episodes that lack a decision, left out"] += 1
            continue
        decisions = _in_order(episodes[name], read.counts)
        if decisions is None:
            continue
        rewards = [_reward_of(decision, read, request, now) for decision in decisions]
        known = [reward for reward in rewards if reward is not None]
        if len(known) < len(rewards):
            read.counts["episodes that still wait for rewards within the window, left out"] += 1
        elif any(reward.terminated or reward.truncated for reward in known[:-1]):
            read.counts["episodes with decisions after their end, left out"] += 1
        else:
            yield from _rows(name, decisions, known)


def _in_order(decisions: list[_Decision], counts: Counter[str]) -> list[_Decision] | None:
    """Sorts an episode by its step numbers where all have one, else by time; None if steps are missing or doubled."""
    steps = [decision.step for decision in decisions if decision.step is not None]
    if len(steps) < len(decisions):
        return sorted(decisions, key=lambda decision: decision.time)
    if sorted(steps) != list(range(len(steps))):
        counts["episodes whose steps are not 0, 1, 2, … each once, left out"] += 1
        return None
    decisions = sorted(decisions, key=lambda decision: decision.step or 0)
    back = sum(after.time < before.time for before, after in pairwise(decisions))
    if back:
        counts["steps whose clock goes back, joined by their numbers"] += back
    return decisions


def _reward_of(decision: _Decision, read: _Read, request: JoinRequest, now: datetime) -> _Reward | None:
    """The reward of a decision, by default after the window; None while the window is open."""
    reward = read.rewards.get(decision.event_id)
    if reward is not None:
        delay_s = 0.0 if reward.time is None else (reward.time - decision.time).total_seconds()
        if delay_s < 0:
            read.counts["rewards before their decision by the clock, joined"] += 1
        if delay_s <= request.window_s:
            return reward
        read.counts["rewards after the window, left out"] += 1
    elif (now - decision.time).total_seconds() <= request.window_s:
        return None
    read.counts["decisions without a reward within the window, which got the default"] += 1
    return _Reward(decision.event_id, None, request.default_reward, terminated=False, truncated=False)


def _rows(name: str, decisions: list[_Decision], rewards: list[_Reward]) -> Iterator[dict[str, Any]]:
    for number, (decision, reward) in enumerate(zip(decisions, rewards, strict=True)):
        is_last = number == len(decisions) - 1
        # A decision that names no episode is one by itself; an episode whose end is unknown was cut off.
        terminated = reward.terminated or not decision.episode_id
        yield {
            "episode_id": name,
            "transition_number": number,
            **{f"state_feature_{i}": value for i, value in enumerate(decision.observation)},
            **{f"{ACTION_MASK}_{i}": value for i, value in enumerate(decision.mask)},
            "action": decision.action,
            "reward": reward.reward,
            "all_action_probabilities": orjson.dumps(decision.probabilities).decode(),
            "terminated": terminated,
            "truncated": is_last and not terminated,
            "event_id": decision.event_id,
            "model_id": decision.model_id,
            "sample_prob": decision.sample_prob,
            **({"variant": decision.variant} if decision.variant else {}),
        }
