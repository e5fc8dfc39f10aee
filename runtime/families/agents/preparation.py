"""Checks the settings of several agents against the environment, before anything heavy starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from runtime.environments.agents import JointEnv
from runtime.environments.faults import describe_fault
from runtime.environments.spec import EnvSpec, make_bare
from runtime.errors import JobError, Problems, UserError
from runtime.policies.policy_mapping import PolicyMapping
from runtime.ppo.settings import describe_module
from runtime.rllib.settings import RLlibSettings
from runtime.settings.schema import ROOT, JobConfig

_SHARED = "shared"
_OURS = "default for several agents"
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
_TAKEN = ("checkpoint", "best", "default_policy")  # folders of a model directory, and RLlib's name for a single one
_MAPPING = f"{ROOT}policy_mapping"


def prepare_policies(config: JobConfig) -> JobConfig:
    """Returns the settings with `policies` and `policy_mapping` complete.

    Raises:
        UserError: The algorithm is not PPO, a policy or the mapping is wrong, an agent has no policy, the agents of a
            policy have different spaces, or the environment cannot be made; all problems are listed.
    """
    problems = Problems()
    _check_algorithm(config, problems)
    policies = config.policies or [_SHARED]
    given: Mapping[str, Any] = config.policy_mapping or (
        {"": policies[0]} if len(policies) == 1 else {policy: policy for policy in policies}
    )
    _check_names(config, policies, given, problems)
    spaces = _read_spaces(config, problems)
    if spaces:
        _check_agents(config, PolicyMapping(given), policies, spaces, problems)
    problems.raise_if_any()
    complete = {"policies": list(policies), "policy_mapping": dict(given)}
    return config.replace({name: value for name, value in complete.items() if not getattr(config, name)}, source=_OURS)


def _check_algorithm(config: JobConfig, problems: Problems) -> None:
    if config.run != "PPO":
        expected = f"PPO, which alone trains several agents, as {config.env} has"
        problems.add(f"{ROOT}run", config.run, config.sources["run"], expected=expected)
        return
    for line in describe_module(config, why="the policies of several agents have RLlib's network"):
        problems.add_line(line)
    settings = RLlibSettings.of(config)
    rules = {
        "observation_filter": (settings.observation_filter == "NoFilter", "NoFilter, as several agents are observed"),
        "gym_env_vectorize_mode": (settings.gym_env_vectorize_mode == "sync", "sync, as several agents act"),
    }
    for name, (is_fine, expected) in rules.items():
        if not is_fine:
            path = f"config.{name}"
            problems.add(ROOT + path, getattr(settings, name), config.sources.get(path, "default"), expected=expected)


def _check_names(config: JobConfig, policies: list[str], mapping: Mapping[str, Any], problems: Problems) -> None:
    source = config.sources.get("policies", "default")
    for policy in policies:
        if not _NAME.fullmatch(policy) or policy in _TAKEN:
            expected = f"a letter, then letters, digits, - and _, and none of {', '.join(_TAKEN)}"
            problems.add(f"{ROOT}policies", policy, source, expected=expected)
    if len(set(policies)) < len(policies):
        problems.add(f"{ROOT}policies", policies, source, expected="each policy once")
    for prefix, policy in mapping.items():
        if policy not in policies:
            source = config.sources.get("policy_mapping", "default")
            expected = f"one of rl.training.policies: {', '.join(policies)}"
            problems.add(f"{_MAPPING}[{prefix!r}]", policy, source, expected=expected)


def _read_spaces(config: JobConfig, problems: Problems) -> dict[str, tuple[Any, Any]]:
    """Returns observation and action space of each agent; none, with a problem added, if they cannot be read."""
    spec = EnvSpec(config.env_id, config.algorithm.env_config)
    try:
        env: Any = make_bare(spec)
        assert isinstance(env, JointEnv)
        env.close()
    except UserError as error:
        problems.add_line(str(error))
        return {}
    except JobError:
        raise
    except Exception as error:  # the user's constructor
        problems.add_line(f"environment {spec.name}: {describe_fault(error, object)}. It cannot be made.")
        return {}
    actions: Any = env.action_space
    observations: Any = env.observation_space
    return {agent: (observations[agent], actions[agent]) for agent in observations}


def _check_agents(
    config: JobConfig,
    mapping: PolicyMapping,
    policies: list[str],
    spaces: Mapping[str, tuple[Any, Any]],
    problems: Problems,
) -> None:
    source = config.sources.get("policy_mapping", config.sources.get("policies", "default"))
    alone = [agent for agent in spaces if mapping.find(agent) is None]
    if alone:
        expected = "a beginning of the name of every agent"
        remedy = f"{', '.join(alone)} of {config.env} would have no policy."
        problems.add(_MAPPING, dict(mapping.prefixes), source, expected=expected, remedy=remedy)
    groups = mapping.group(spaces)
    for policy in policies:
        if policy not in groups and policy in mapping.prefixes.values():
            expected = f"an agent of {config.env} for each policy, which are {', '.join(spaces)}"
            problems.add(f"{ROOT}policies", policy, config.sources.get("policies", "default"), expected=expected)
    for policy in policies:
        if policy not in mapping.prefixes.values():
            problems.add(
                f"{ROOT}policies",
                policy,
                config.sources.get("policies", "default"),
                expected="one that rl.training.policy_mapping names",
            )
    for policy, agents in groups.items():
        others = [agent for agent in agents if spaces[agent] != spaces[agents[0]]]
        if others:
            first, other = ("observations {} and actions {}".format(*spaces[agent]) for agent in (agents[0], others[0]))
            problems.add_line(
                f"{_MAPPING}: got {agents[0]} with {first}, and {others[0]} with {other}, for the policy {policy}; "
                "expected agents of the same spaces. Give them policies of their own by rl.training.policies."
            )
