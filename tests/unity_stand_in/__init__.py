"""A player in the place of a Unity build: its command line, its log file, and ML-Agents' protocol over real gRPC."""

from tests.unity_stand_in.build import build_player

__all__ = ["build_player"]
