"""Puts the modules that scripts of 2020 import into their reach, and into nobody else's.

Imported at every start of Python in our environment, so it imports nothing itself and only puts a finder first.
First, because the notebooks' `dependencies=` put their own dead `sagemaker_rl` into the code folder.
"""

import sys

_STAND_INS = {
    "sagemaker_rl": "runtime.compat.sagemaker_rl",
    "sagemaker_rl.ray_launcher": "runtime.compat.sagemaker_rl",
    "sagemaker_rl.coach_launcher": "runtime.compat.coach_launcher",
    "roboschool": "runtime.compat.roboschool",
    "ray.rllib.agents": "runtime.compat.agents",
    "ray.rllib.agents.registry": "runtime.compat.agents",
    "ray.rllib.agents.ppo": "runtime.compat.agents",
    "gym_unity": "runtime.compat.gym_unity",
    "gym_unity.envs": "runtime.compat.gym_unity",
}
_PATCHED = {
    "gym": "runtime.compat.gym_2020",
    "ray": "runtime.compat.ray_2020",
    "mlagents_envs.environment": "runtime.compat.unity_2020",
}


class StandIns:
    """A finder that answers for names of 2020, when a user's script is what runs."""

    def find_spec(self, name, path=None, target=None):  # type: ignore[no-untyped-def]
        """Called by the import system for every module; anything but our few names is answered at once."""
        if name in _STAND_INS or name in _PATCHED or name.startswith("sagemaker_rl."):
            from runtime.compat.stand_ins import find

            return find(name, path, _STAND_INS.get(name), _PATCHED.get(name))
        if name.startswith("mlagents_envs.communicator_objects."):  # in any program: protobuf refuses them as they are
            from envs.unity.messages import MessageFinder, allow_messages

            allow_messages()
            return MessageFinder.find_spec(name)
        return None


if not any(isinstance(finder, StandIns) for finder in sys.meta_path):
    sys.meta_path.insert(0, StandIns())
