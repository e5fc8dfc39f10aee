"""A barrier of compiled threads: the C library's, as Python's own would need the GIL."""

from __future__ import annotations

import ctypes

from numba import types

from envs.compiled import fused_without_gil

_SIZE = 64  # bytes; at least that of a pthread_barrier_t
# macOS's C library has no barriers.
HAS_BARRIERS = hasattr(ctypes.CDLL(None), "pthread_barrier_init")
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


if HAS_BARRIERS:

    @fused_without_gil
    def wait_at(barrier: int) -> None:
        """Waits at the `Barrier` with this address, without the GIL."""
        _wait(barrier)

else:

    @fused_without_gil
    def wait_at(barrier: int) -> None:
        """Does nothing: a single thread waits for no other."""
