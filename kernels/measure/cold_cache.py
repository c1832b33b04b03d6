"""Operands made cold: far more than the caches hold has been read since each was used last."""

from collections.abc import Hashable

import numpy as np

from kernels.calibrate import microbench
from kernels.timing import interleaved as timing
from kernels.timing.host import Host
from nmsim.support import parallel

LEAST_READ_BYTES = 1 << 12
WAITING_BYTES = 16 << 20


class ColdCache:
    """Counts the bytes that calls read, and reads a buffer if these do not suffice.

    Parameters
    ----------
    host : Host
    clock : callable
        Seconds.
    """

    def __init__(self, host: Host, clock: timing.Clock) -> None:
        self._cores, self._clock = host.cores, clock
        self._buffer = np.ones(host.beyond_caches_bytes, np.uint8)
        self._place = 0
        self._read_bytes = 0
        self._last_use: dict[Hashable, int] = {}

    def note_use(self, operand: Hashable, read_bytes: int) -> None:
        """Take down that an operand was read just now, all of it."""
        self._read_bytes += read_bytes
        self._last_use[operand] = self._read_bytes

    def chill(self, operand: Hashable) -> None:
        """Read until `Host.beyond_caches_bytes` lie between now and the operand's last use."""
        since = self._read_bytes - self._last_use.get(operand, self._read_bytes)
        self.read(len(self._buffer) - since)

    def wait(self, until_s: float) -> None:
        """Read until a time, which keeps the cores awake and at their clock."""
        while self._clock() < until_s:
            self.read(WAITING_BYTES)

    def read(self, count_bytes: int) -> None:
        """Read on in the buffer, round and round, on all cores."""
        while count_bytes > 0:
            stop = min(len(self._buffer), self._place + count_bytes)
            part = self._buffer[self._place : stop]
            pieces = [p for p in np.array_split(part, self._cores) if p.nbytes >= LEAST_READ_BYTES]
            parallel.run(microbench.read, pieces, self._cores)
            self._read_bytes += part.nbytes
            count_bytes -= part.nbytes
            self._place = stop % len(self._buffer)
