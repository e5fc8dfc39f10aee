"""Where the hosts of a job reach each other: this host's address, and the head node's port."""

from __future__ import annotations

import contextlib
import socket

import psutil

from runtime.container.layout import Container
from runtime.errors import PlatformError

PORT = 6379  # of Ray on the head node, as Ray's documentation has it; Ray's other ports are drawn


def find_own_address(container: Container) -> str:
    """The IPv4 address that the other hosts reach this one at: by its name, or by the container's interface.

    Raises:
        PlatformError: There is none.
    """
    interfaces = {
        name: [one.address for one in found if one.family == socket.AF_INET]
        for name, found in psutil.net_if_addrs().items()
    }
    of_interface = interfaces.get(container.network_interface)
    resolved = None
    with contextlib.suppress(OSError):
        resolved = socket.gethostbyname(container.current_host)
    own = {address for found in interfaces.values() for address in found}
    if resolved is not None and resolved in own and not resolved.startswith("127."):
        return resolved  # the others look its name up, whatever interface is configured
    if of_interface:
        return of_interface[0]
    raise PlatformError(
        f"{container.current_host}: got no address: network interface {container.network_interface or '(none named)'} "
        f"of resourceconfig.json has none, and the name resolves to {resolved or 'nothing'}; expected one that the "
        f"hosts {', '.join(container.hosts)} reach each other at. The interfaces here are "
        f"{', '.join(sorted(interfaces))}."
    )


class Presence:
    """Whether hosts are still there, by their names: Docker resolves a container's name only while it runs.

    Where names always resolve, as by /etc/hosts, every host counts as present.
    """

    def __init__(self) -> None:
        self._seen_at: dict[str, float] = {}

    def absent_s(self, host: str, now_s: float) -> float:
        """Seconds since the host's name last resolved; 0 for one that has never resolved, and may yet start."""
        with contextlib.suppress(OSError):
            socket.gethostbyname(host)
            self._seen_at[host] = now_s
        return now_s - self._seen_at.get(host, now_s)
