"""Messages, wire and process: what stands between us and a player, against mlagents-envs' own classes."""

from __future__ import annotations

import importlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from envs.unity.agent_messages import encode_actions, encode_idle_action
from envs.unity.message_classes import allow_messages, message_modules, wire_class
from envs.unity.options import read_options
from envs.unity.player import Player, PlayerError, SceneError
from tests.conftest import ROOT
from tests.unity_stand_in import build_player

pytestmark = pytest.mark.filterwarnings(
    # mlagents-envs 0.28.0 compares versions with distutils, which Python 3.11 still has.
    "ignore:distutils Version classes are deprecated:DeprecationWarning",
    "ignore:The distutils package is deprecated:DeprecationWarning",
)


@pytest.fixture
def start(tmp_path: Path) -> Any:
    """Starts players of the stand-in, and ends them."""
    players: list[Player] = []

    def begin(scene: str = "Basic", *, mode: str = "", **settings: Any) -> Player:
        path = build_player(tmp_path / "players", scene, mode=mode)
        options = read_options(file_name=path, log_folder=tmp_path / "logs", **settings)
        players.append(Player(options))
        return players[-1]

    yield begin
    for player in players:
        player.close()


@pytest.mark.parametrize("name", message_modules())
def test_every_message_module_has_the_classes_that_its_generated_code_names(name: str) -> None:
    allow_messages()
    module = importlib.import_module(name)
    assert module.__file__ is not None
    generated = Path(module.__file__).read_text()
    descriptor = module.DESCRIPTOR
    assert descriptor.name == name.replace(".", "/").replace("_pb2", ".proto")
    for kind in (*descriptor.message_types_by_name, *descriptor.enum_types_by_name):
        assert f"\n{kind} = " in generated
        assert hasattr(module, kind)
    found = {
        line.split(" = ")[0] for line in generated.splitlines() if "_reflection.GeneratedProtocolMessageType(" in line
    }
    assert {kind for kind in found if not kind.startswith(" ")} == set(descriptor.message_types_by_name)
    for message in descriptor.message_types_by_name:
        made = getattr(module, message)()
        assert type(made).FromString(made.SerializeToString()) == made


def test_there_are_all_the_modules_of_the_package() -> None:
    assert len(message_modules()) == 21


def test_another_version_is_refused_politely(tmp_path: Path) -> None:
    described = tmp_path / "mlagents_envs-1.1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text("Metadata-Version: 2.1\nName: mlagents-envs\nVersion: 1.1.0\n")
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from envs.unity import message_classes as m; "
        "m.allow_messages()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    message = (
        r"ImportError: mlagents-envs: got version 1\.1\.0; expected 0\.28\.0, .*pip install mlagents-envs==0\.28\.0\n$"
    )
    assert re.search(message, done.stderr), done.stderr


def test_bytes_on_the_wire_are_the_packages_lists_of_numbers() -> None:
    allow_messages()
    message = importlib.import_module("mlagents_envs.communicator_objects.unity_message_pb2").UnityMessageProto()
    agent = message.unity_output.rl_output.agentInfos["Basic"].value.add(id=7, reward=0.5)
    agent.action_mask.extend([True, False, True])
    sensor = agent.observations.add(shape=[3])
    sensor.float_data.data.extend([1.5, -2.0, 3e-7])
    data = message.SerializeToString()
    fast = wire_class("UnityMessageProto").FromString(data)
    info = fast.unity_output.rl_output.agentInfos["Basic"].value[0]
    assert (
        np.frombuffer(info.observations[0].float_data.data, "<f4").tolist() == np.array([1.5, -2.0, 3e-7], "f").tolist()
    )
    assert np.frombuffer(info.action_mask, bool).tolist() == [True, False, True]
    assert fast.SerializeToString() == data


@pytest.mark.parametrize("scene", ["Basic", "3DBall", "GridWorld", "FloatGridWorld", "Hybrid", "Staggered"])
def test_a_player_reads_what_the_packages_own_environment_reads(scene: str, start: Any, tmp_path: Path) -> None:
    allow_messages()
    from mlagents_envs.environment import UnityEnvironment

    ours = start(scene, seed=5)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    theirs = UnityEnvironment(str(tmp_path / "players" / f"{scene}.x86_64"), base_port=port, seed=5, no_graphics=True)
    try:
        theirs.reset()
        steps = ours.steps()
        random = np.random.default_rng(0)
        spec = theirs.behavior_specs[ours.name]
        for _ in range(60):
            decisions, ended = theirs.get_steps(ours.name)
            assert steps.ids.tolist() == decisions.agent_id.tolist()
            assert steps.ended_ids.tolist() == ended.agent_id.tolist()
            assert steps.interrupted.tolist() == ended.interrupted.tolist()
            np.testing.assert_array_equal(steps.rewards, decisions.reward.astype(float) + decisions.group_reward)
            np.testing.assert_array_equal(steps.last_rewards, ended.reward.astype(float) + ended.group_reward)
            for one, other in ((steps.observations, decisions.obs), (steps.last_observations, ended.obs)):
                rows = [np.concatenate([part[row].ravel() for part in other]) for row in range(len(one))]
                np.testing.assert_array_equal([row.ravel() for row in one], rows)
            masks = decisions.action_mask
            if masks is not None:
                np.testing.assert_array_equal(steps.masks, ~np.concatenate(masks, axis=1))
            continuous = random.uniform(-1, 1, (len(decisions), spec.action_spec.continuous_size)).astype(np.float32)
            discrete = _allowed(random, steps.masks, spec.action_spec.discrete_branches)
            action = spec.action_spec.empty_action(len(decisions))
            if continuous.size:
                action.add_continuous(continuous)
            if discrete.size:
                action.add_discrete(discrete.astype(np.int32))
            theirs.set_actions(ours.name, action)
            theirs.step()
            ours.send(encode_actions(ours.behavior, continuous, discrete))
            steps = ours.receive()
    finally:
        theirs.close()


def _allowed(random: np.random.Generator, masks: Any, branches: tuple[int, ...]) -> Any:
    """A random allowed action of each branch."""
    chosen = []
    begin = 0
    for size in branches:
        part = masks[:, begin : begin + size]
        chosen.append([random.choice(np.flatnonzero(row)) for row in part])
        begin += size
    return np.array(chosen, np.int64).reshape(len(branches), len(masks)).T


def test_eight_players_start_at_once_on_ports_of_their_own(start: Any) -> None:
    options = start()._options
    with ThreadPoolExecutor(8) as pool:
        players = list(pool.map(lambda number: Player(options, number=number), range(8)))
    for player in players:
        player.close()
    assert len({player._connection.port for player in players}) == 8
    assert len({player.log for player in players}) == 8


def test_a_port_that_is_taken_is_passed_over(start: Any) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        player = start(base_port=port)
        assert port < player._connection.port < port + 1000


def test_a_player_listens_on_this_machine_alone(start: Any) -> None:
    port = start()._connection.port
    addresses = {one.laddr.ip for one in psutil.Process().net_connections("inet") if one.laddr.port == port}
    assert {address.removeprefix("::ffff:") for address in addresses} == {"127.0.0.1"}


def test_settings_reach_the_player(start: Any) -> None:
    player = start(seed=11, time_scale=7, environment_parameters={"small_goal": 0.25}, additional_args=["--arena", "3"])
    log = player.log.read_text()
    assert "-nographics -batchmode --mlagents-port" in log
    assert "--arena 3" in log
    assert "seed 11\n" in log
    assert "engine setting 2 7\n" in log
    assert "parameter small_goal 0.25\n" in log
    one, zero = np.ones((1, 1), np.int64), np.zeros((1, 0), np.float32)
    for _ in range(3):
        player.send(encode_actions(player.behavior, zero, one))
        steps = player.receive()
    assert steps.last_rewards.tolist() == pytest.approx([0.24])


def test_closing_ends_the_player_and_says_goodbye(start: Any) -> None:
    player = start()
    process = psutil.Process(player._player_process._process.pid)
    family = [process, *process.children(recursive=True)]
    player.close()
    _, alive = psutil.wait_procs(family, timeout=5)
    assert not alive
    assert player.log.read_text().endswith("Received the stop message.\n")


_PARENT = """
import sys, time
from pathlib import Path
from envs.unity.options import read_options
from envs.unity.player import Player
player = Player(read_options(file_name=sys.argv[1], log_folder=sys.argv[2]))
print(player._player_process._process.pid, flush=True)
time.sleep(120)
"""


@pytest.mark.parametrize("wrapper", [False, True])
def test_a_player_does_not_outlive_a_killed_parent(tmp_path: Path, wrapper: bool) -> None:
    path = build_player(tmp_path, "Basic")
    if wrapper:  # as xvfb-run: the player is a grandchild
        script = tmp_path / "wrapped.x86_64"
        script.write_text(f'#!/bin/sh\nsleep 100 &\nsetsid sleep 101 &\n"{path}" "$@"\n')
        script.chmod(0o755)
        path = script
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(path), str(tmp_path / "logs")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        supervisor = psutil.Process(int(parent.stdout.readline()))
        family = [supervisor, *supervisor.children(recursive=True)]
        assert len(family) == (5 if wrapper else 2)
        os.kill(parent.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=10)
    assert not alive


def test_a_program_that_forgets_to_close_ends_all_the_same(tmp_path: Path) -> None:
    path = build_player(tmp_path, "Basic")
    program = _PARENT.replace("time.sleep(120)", "")
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(tmp_path / "logs")], cwd=ROOT, capture_output=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    assert not psutil.pid_exists(int(done.stdout))


def test_a_player_does_not_outlive_its_killed_supervisor(start: Any) -> None:
    supervisor = psutil.Process(start()._player_process._process.pid)
    children = supervisor.children(recursive=True)
    supervisor.kill()
    _, alive = psutil.wait_procs(children, timeout=10)
    assert not alive


@pytest.mark.parametrize(
    ("mode", "message"),
    [
        ("exit=3", r"did not start: it ended with exit code 3\.[\s\S]*There is no license[\s\S]*libstandin\.so\.1"),
        ("absent", r"did not start: it did not connect within 3 s\..*timeout_s[\s\S]*display that never comes"),
        ("api=2.0.0", r"it speaks protocol 2\.0\.0, mlagents-envs 0\.28\.0 speaks 1\.5\.0; .*com\.unity\.ml-agents"),
        ("api=what", r"it speaks protocol a version that is none, .*speaks 1\.5\.0"),
        ("crash=1", r"did not start: it was ended by SIGSEGV\.[\s\S]*Caught fatal signal"),
        ("garbage=1", r"did not start: its message is not ML-Agents'\."),
        ("quit=1", r"did not start: Communicator has exited\."),
    ],
)
def test_a_player_that_does_not_start_is_reported_with_the_end_of_its_log(start: Any, mode: str, message: str) -> None:
    with pytest.raises(PlayerError, match=message) as caught:
        start(mode=mode, timeout_s=3 if mode == "absent" else 30)
    assert caught.value.is_start
    assert "Player-0-0-" in str(caught.value)


def test_a_slow_start_is_waited_for(start: Any) -> None:
    assert start(mode="slow=2", timeout_s=20).steps().ids.tolist() == [0]


def test_a_player_that_died_is_noticed_long_before_the_time_out(start: Any) -> None:
    player = start(mode="crash=3", timeout_s=60)
    action = encode_idle_action(player.behavior)
    player.send([action])
    player.receive()
    began = time.monotonic()
    player.send([action])
    with pytest.raises(PlayerError, match=r"failed: it was ended by SIGSEGV\."):
        player.receive()
    assert time.monotonic() - began < 10


def test_a_reward_that_is_no_number_is_the_scenes_fault(start: Any) -> None:
    player = start(mode="nan=2")
    player.send([encode_idle_action(player.behavior)])
    with pytest.raises(
        SceneError, match=r"Basic\.x86_64: behavior 'Basic\?team=0': reward: got a value that is not a finite number"
    ):
        player.receive()


@pytest.mark.parametrize("wanted", ["Basic", "Basic?team=0", "Walker"])
def test_a_behavior_is_chosen_with_or_without_its_team(start: Any, wanted: str) -> None:
    player = start("Two", behavior_name=wanted)
    assert player.name.startswith(wanted)
    player.send(
        [encode_idle_action(player.behavior)]
    )  # the stand-in refuses a message that leaves the other one's action out
    assert len(player.receive().ids) == 1


@pytest.mark.parametrize("wanted", [None, "Biped"])
def test_behaviors_are_listed_where_the_choice_is_not_clear(start: Any, wanted: str | None) -> None:
    with pytest.raises(
        ValueError, match=rf"behavior_name: got {wanted!r}; expected one of 'Basic\?team=0', 'Walker\?team=0'"
    ):
        start("Two", behavior_name=wanted)
