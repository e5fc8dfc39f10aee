"""A barrier of compiled threads: the C library's, as Python's own would need the GIL."""

from __future__ import annotations

import ctypes

from numba import types

from envs.compiled import fused_without_gil

_SIZE = 64  # bytes; at least that of a pthread_barrier_t
_wait = types.ExternalFunction("pthread_barrier_wait", types.int32(types.intp))


class Barrier:
    """Lets threads go on only when all of them have arrived; usable again at once.

    Attributes:
        address: What `wait_at` takes.

    Args:
        threads: Number of threads.
    """

    def __init__(self, threads: int) -> None:
        self._library = ctypes.CDLL(None)
        self._memory = ctypes.create_string_buffer(_SIZE)
        self.address = ctypes.addressof(self._memory)
        failed = self._library.pthread_barrier_init(ctypes.byref(self._memory), None, threads)
        if failed:
            raise OSError(failed, "pthread_barrier_init")

    @staticmethod
    def exists() -> bool:
        """Whether this system's C library has barriers; macOS's has none."""
        return hasattr(ctypes.CDLL(None), "pthread_barrier_init")


@fused_without_gil
def wait_at(barrier: int) -> None:
    """Waits at the `Barrier` with this address, without the GIL."""
    _wait(barrier)
