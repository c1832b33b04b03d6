"""Global and shared memory of the emulated machine, and the checks of every access.

Global memory holds copies of the tensors that were passed, far apart, each at an address with the low 12 bits of its own.
So alignment is that of the host, and an access beyond a tensor meets no other one. Shared memory remembers for each place
who wrote and read it since the last barrier.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.ptx.errors import (
    Misaligned,
    MissingWait,
    OutOfBounds,
    PtxError,
    SharedRace,
    UnwrittenRead,
    WriteConflict,
)

Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Fail = Callable[[type[PtxError], str, int, int], PtxError]
"""Make an error of: its type, a message, which of the accesses, and its address."""

UNSIGNED: dict[int, Any] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
PAGE = 4096
GAP_BYTES = 1024
"""Between two tensors: more than any access is wide."""
BASE = 0x7F00_0000_0000
"""Where global memory begins, a multiple of 4 GiB as far as tensors go."""
SEVERAL = -2
"""In place of a warp: more than one read here."""
WARPGROUP = -3
"""In place of a warp: the four of a warpgroup."""


def _gather(
    views: dict[int, NDArray[np.unsignedinteger]], start: Integers, n_bytes: int
) -> NDArray[np.unsignedinteger]:
    """Read so many bytes at each aligned start: -> [accesses, pieces], pieces of at most 8 bytes."""
    piece = min(n_bytes, 8)
    first = start // piece
    if n_bytes == piece:
        return views[piece].take(first)[:, None]
    return views[piece].take(first[:, None] + np.arange(n_bytes // piece))


def _scatter(
    views: dict[int, NDArray[np.unsignedinteger]], start: Integers, data: NDArray[np.unsignedinteger]
) -> NDArray[np.bool_]:
    """Write rows of data at aligned starts: -> which rows another row has overwritten with another value."""
    rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(start), -1)
    piece = min(rows.shape[1], 8)
    pieces = rows.view(UNSIGNED[piece])
    at = (start // piece)[:, None] + np.arange(pieces.shape[1])
    views[piece][at] = pieces
    lost: NDArray[np.bool_] = (views[piece].take(at) != pieces).any(axis=1)
    return lost


LINE_BYTES, SECTOR_BYTES, BANK_BYTES, BANKS = 128, 32, 4, 32
PASS_BYTES = 128
"""What a warp's access moves in one pass: 32 threads of 4 bytes, 16 of 8 or 8 of 16."""


@dataclass(frozen=True)
class Traffic:
    """What the accesses of whole warps ask of a cache or of shared memory.

    Parameters
    ----------
    requests : int
        Accesses, one per warp and instruction.
    lines : int
        Lines of 128 bytes, counted once per pass of a request. An access of 4 bytes or less per thread is one pass, of 8 bytes
        two, of 16 bytes four.
    conflicts : int
        Words that one bank of 32 must give one after the other, the most of any bank, summed over passes.
    sectors : int
        Sectors of 32 bytes, counted once per request.
    """

    requests: int = 0
    lines: int = 0
    conflicts: int = 0
    sectors: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        return Traffic(
            self.requests + other.requests,
            self.lines + other.lines,
            self.conflicts + other.conflicts,
            self.sectors + other.sectors,
        )


def traffic_of(threads: Integers, addresses: Integers, n_bytes: int) -> Traffic:
    """Count what one instruction of some threads asks of memory.

    Parameters
    ----------
    threads : int64 [accesses]
        Numbers of the threads; 32 in a row are a warp.
    addresses : int64 [accesses]
    n_bytes : int
        Of each access.

    Returns
    -------
    Traffic

    Examples
    --------
    A warp that reads 512 bytes in a row, then one that reads a word of each of 32 lines:

    >>> warp = np.arange(32)
    >>> traffic_of(warp, warp * 16, 16)
    Traffic(requests=1, lines=4, conflicts=4, sectors=16)
    >>> traffic_of(warp, warp * 128, 4)
    Traffic(requests=1, lines=32, conflicts=32, sectors=32)
    """
    passes = max(1, 32 * n_bytes // PASS_BYTES)
    warps = threads // 32
    group = warps * passes + threads % 32 * passes // 32
    words = max(1, n_bytes // BANK_BYTES)
    lines = np.unique(np.stack([group, addresses // LINE_BYTES]), axis=1)
    sectors = np.unique(np.stack([warps, addresses // SECTOR_BYTES]), axis=1)
    word = (addresses // BANK_BYTES)[:, None] + np.arange(words)
    once = np.unique(np.stack([np.repeat(group, words), word.reshape(-1)]), axis=1)
    banks, many = np.unique(np.stack([once[0], once[1] % BANKS]), axis=1, return_counts=True)
    worst = np.zeros(group.max(initial=-1) + 1, np.int64)
    np.maximum.at(worst, banks[0], many)
    return Traffic(len(np.unique(warps)), lines.shape[1], int(worst.sum()), sectors.shape[1])


@dataclass(frozen=True)
class Buffer:
    """Memory of the host that a kernel may use: where it begins there, and its bytes, which results are written to."""

    address: int
    data: Bytes


class GlobalMemory:
    """Copies of buffers of the host, placed apart.

    Parameters
    ----------
    buffers : sequence of Buffer
        Those that overlap become one region.
    """

    def __init__(self, buffers: Sequence[Buffer]) -> None:
        self._regions: list[tuple[int, int, int]] = []  # host start, host end, device offset
        self._buffers = [buffer for buffer in buffers if len(buffer.data)]
        merged: list[list[int]] = []
        for buffer in sorted(self._buffers, key=lambda buffer: buffer.address):
            end = buffer.address + len(buffer.data)
            if merged and buffer.address < merged[-1][1]:
                merged[-1][1] = max(merged[-1][1], end)
            else:
                merged.append([buffer.address, end])
        offset = PAGE
        for start, end in merged:
            offset = -(-offset // PAGE) * PAGE + start % PAGE
            self._regions.append((start, end, offset))
            offset += end - start + GAP_BYTES
        size = -(-(offset + PAGE) // PAGE) * PAGE
        # Bytes outside of tensors are odd, so that a read that is not checked shows in results.
        whole = np.full(size // 8, 0xA5A5_A5A5_A5A5_A5A5, np.uint64)
        self._views = {n: whole.view(kind) for n, kind in UNSIGNED.items()}
        self._valid = np.zeros(size, np.bool_)
        self._writer = np.full(size, -1, np.int32)
        for buffer in self._buffers:
            at = self.address(buffer.address) - BASE
            self._views[1][at : at + len(buffer.data)] = buffer.data
            self._valid[at : at + len(buffer.data)] = True

    def address(self, host: int) -> int:
        """Give the address, on the machine, of a byte of a buffer; of no buffer, an address that is never valid."""
        for start, end, offset in self._regions:
            if start <= host < end:
                return BASE + offset + host - start
        return BASE + host % PAGE

    def copy_back(self) -> None:
        """Write results to the buffers of the host."""
        for buffer in self._buffers:
            at = self.address(buffer.address) - BASE
            buffer.data[:] = self._views[1][at : at + len(buffer.data)]

    def offsets(self, addresses: Integers, n_bytes: int, fail: Fail) -> Integers:
        """Check accesses, and give where they are in the copy.

        Raises
        ------
        Misaligned, OutOfBounds
        """
        at = addresses - BASE
        if n_bytes > 1 and (bad := at & (n_bytes - 1)).any():
            which = int(bad.argmax() if bad.dtype == np.bool_ else (bad != 0).argmax())
            raise fail(
                Misaligned,
                f"access of {n_bytes} bytes at an address that is not a multiple",
                which,
                self._named(at[which]),
            )
        outside = (at < 0) | (at > len(self._valid) - n_bytes)
        inside = np.where(outside, 0, at) if outside.any() else at
        valid = self._valid.take(inside)
        if n_bytes > 1:
            valid &= self._valid.take(inside + n_bytes - 1)
        if not valid.all():
            which = int((~valid).argmax())
            text = (
                f"{int((~valid).sum())} threads access {n_bytes} bytes outside the tensors that were passed"
            )
            raise fail(OutOfBounds, text, which, self._named(at[which]))
        return inside

    def _named(self, offset: int) -> int:
        """Count bytes from the start of the nearest tensor: below zero, the access is in front of it."""
        places = [
            (max(start - offset, offset - start - (end - begin)), start)
            for begin, end, start in self._regions
        ]
        return int(offset) - min(places, default=(0, 0))[1]

    def read(self, addresses: Integers, n_bytes: int, fail: Fail) -> NDArray[np.unsignedinteger]:
        """Read aligned bytes: -> unsigned [accesses, pieces of at most 8 bytes]."""
        return _gather(self._views, self.offsets(addresses, n_bytes, fail), n_bytes)

    def write(
        self, addresses: Integers, data: NDArray[np.unsignedinteger], programs: Integers | None, fail: Fail
    ) -> None:
        """Write rows of data.

        Parameters
        ----------
        addresses : int64 [accesses]
        data : unsigned [accesses, ...]
        programs : int64 [accesses], optional
            Numbers of the writing programs. No two programs may write different values to one place. Without numbers, only the
            rows of this call are compared.
        fail : Fail

        Raises
        ------
        Misaligned, OutOfBounds, WriteConflict
        """
        rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(addresses), -1)
        at = self.offsets(addresses, rows.shape[1], fail)
        if programs is not None:
            places = at[:, None] + np.arange(rows.shape[1])
            owners = self._writer[places]
            clash = (owners >= 0) & (owners != programs[:, None]) & (self._views[1][places] != rows)
            if clash.any():
                which = int(clash.any(axis=1).argmax())
                raise fail(
                    WriteConflict,
                    "two programs write different values to one place",
                    which,
                    self._named(at[which]),
                )
            self._writer[places] = programs[:, None]
        if (lost := _scatter(self._views, at, rows)).any():
            which = int(lost.argmax())
            raise fail(
                WriteConflict,
                "two threads write different values to one place",
                which,
                self._named(at[which]),
            )

    def change(
        self,
        addresses: Integers,
        n_bytes: int,
        change: Callable[[int, np.unsignedinteger], np.unsignedinteger],
        fail: Fail,
    ) -> NDArray[np.unsignedinteger]:
        """Change places one after the other, in the order given: -> what each access found."""
        at = self.offsets(addresses, n_bytes, fail) // n_bytes
        view = self._views[n_bytes]
        found = np.empty(len(at), view.dtype)
        for which, place in enumerate(at.tolist()):
            found[which] = view[place]
            view[place] = change(which, found[which])
        return found


class SharedMemory:
    """Shared memory of some programs that run side by side.

    Parameters
    ----------
    programs : int
    n_bytes : int
        Of each of them.
    granule : int
        Bytes that are tracked as one: no access is narrower.
    """

    def __init__(self, programs: int, n_bytes: int, granule: int) -> None:
        self.n_bytes = n_bytes
        self._stride = -(-max(n_bytes, 16) // 16) * 16
        self._granule = granule
        whole = np.full(programs * self._stride // 8, 0xA5A5_A5A5_A5A5_A5A5, np.uint64)
        self._views = {n: whole.view(kind) for n, kind in UNSIGNED.items()}
        places = programs * self._stride // granule
        self._writer = np.full(places, -1, np.int32)
        self._write_epoch = np.full(places, -1, np.int32)
        self._reader = np.full(places, -1, np.int32)
        self._read_epoch = np.full(places, -1, np.int32)
        self._pending = np.zeros(places, np.bool_)
        self.epoch = np.zeros(programs, np.int32)
        """Barriers that each program has passed."""

    def _at(self, slots: Integers, addresses: Integers, n_bytes: int, fail: Fail) -> Integers:
        """Check accesses, and give where they are."""
        if n_bytes > 1 and (bad := (addresses & (n_bytes - 1)) != 0).any():
            which = int(bad.argmax())
            raise fail(
                Misaligned,
                f"shared access of {n_bytes} bytes at an address that is not a multiple",
                which,
                int(addresses[which]),
            )
        bad = (addresses < 0) | (addresses > self.n_bytes - n_bytes)
        if bad.any():
            which = int(bad.argmax())
            text = f"{int(bad.sum())} threads access {n_bytes} bytes outside the {self.n_bytes} bytes of shared memory"
            raise fail(OutOfBounds, text, which, int(addresses[which]))
        return slots * self._stride + addresses

    def _places(self, at: Integers, n_bytes: int) -> Integers:
        """Give the tracked places of accesses: [accesses, places]."""
        first = at // self._granule
        many = n_bytes // self._granule
        return first[:, None] if many == 1 else first[:, None] + np.arange(many)

    def read(
        self, slots: Integers, warps: Integers, addresses: Integers, n_bytes: int, fail: Fail
    ) -> NDArray[np.unsignedinteger]:
        """Read aligned bytes: -> unsigned [accesses, pieces of at most 8 bytes].

        Parameters
        ----------
        slots : int64 [accesses]
            Which of the programs side by side.
        warps : int64 [accesses]
            Warps of these programs that read; `WARPGROUP` if four do.
        addresses : int64 [accesses]
        n_bytes : int
        fail : Fail

        Raises
        ------
        Misaligned, OutOfBounds, UnwrittenRead, MissingWait, SharedRace
        """
        at = self._at(slots, addresses, n_bytes, fail)
        places = self._places(at, n_bytes)
        epoch, warp = self.epoch[slots][:, None], warps[:, None]
        writer = self._writer[places]
        self._raise(
            MissingWait,
            "shared memory is read before a wait for the copy into it",
            self._pending[places],
            addresses,
            fail,
        )
        self._raise(UnwrittenRead, "shared memory is read that nobody wrote", writer < 0, addresses, fail)
        race = (self._write_epoch[places] == epoch) & (writer != warp)
        self._raise(
            SharedRace,
            "shared memory is read that another warp wrote since the last barrier",
            race,
            addresses,
            fail,
        )
        several = (self._read_epoch[places] == epoch) & (self._reader[places] != warp)
        # Lanes of several warps can read one place at once: the last of them is stored, so look again.
        self._reader[places] = np.where(several, SEVERAL, warp)
        again = self._reader[places] != np.where(several, SEVERAL, warp)
        if again.any():
            self._reader[places[again]] = SEVERAL
        self._read_epoch[places] = epoch
        return _gather(self._views, at, n_bytes)

    def write(
        self,
        slots: Integers,
        warps: Integers,
        addresses: Integers,
        data: NDArray[np.unsignedinteger],
        fail: Fail,
    ) -> None:
        """Write rows of data; slots and warps are as in `read`.

        Raises
        ------
        Misaligned, OutOfBounds, MissingWait, SharedRace, WriteConflict
        """
        rows = np.ascontiguousarray(data).view(np.uint8).reshape(len(addresses), -1)
        at = self._at(slots, addresses, rows.shape[1], fail)
        places = self._places(at, rows.shape[1])
        self._raise(
            MissingWait,
            "shared memory is written before a wait for the copy into it",
            self._pending[places],
            addresses,
            fail,
        )
        self._check_write(places, slots, warps, addresses, fail)
        epoch, warp = self.epoch[slots][:, None], warps[:, None]
        # Threads that hold copies of one value may all write it.
        rewritten = (self._write_epoch[places] == epoch) & (self._writer[places] != warp)
        if rewritten.any():
            old = (
                np.ascontiguousarray(_gather(self._views, at, rows.shape[1]))
                .view(np.uint8)
                .reshape(rows.shape)
            )
            other = (old != rows).reshape(*places.shape, -1).any(axis=2)
            self._raise(
                SharedRace,
                "two warps write different values to shared memory without a barrier",
                rewritten & other,
                addresses,
                fail,
            )
        self._writer[places], self._write_epoch[places] = (
            np.broadcast_to(warp, places.shape),
            np.broadcast_to(epoch, places.shape),
        )
        if (lost := _scatter(self._views, at, rows)).any():
            which = int(lost.argmax())
            raise fail(
                WriteConflict, "two threads write different values to one place", which, int(addresses[which])
            )

    def promise(
        self, slots: Integers, warps: Integers, addresses: Integers, n_bytes: int, fail: Fail
    ) -> None:
        """Mark places that an asynchronous copy will write: until it is delivered, nobody may use them."""
        places = self._places(self._at(slots, addresses, n_bytes, fail), n_bytes)
        self._raise(
            MissingWait,
            "a copy into shared memory that another copy still writes",
            self._pending[places],
            addresses,
            fail,
        )
        self._check_write(places, slots, warps, addresses, fail)
        self._pending[places] = True

    def deliver(
        self,
        slots: Integers,
        warps: Integers,
        addresses: Integers,
        data: NDArray[np.unsignedinteger],
        fail: Fail,
    ) -> None:
        """Write what was promised."""
        n_bytes = data.dtype.itemsize * data.shape[1]
        self._pending[self._places(self._at(slots, addresses, n_bytes, fail), n_bytes)] = False
        self.write(slots, warps, addresses, data, fail)

    def _check_write(
        self, places: Integers, slots: Integers, warps: Integers, addresses: Integers, fail: Fail
    ) -> None:
        """Look for a read by another warp since the last barrier."""
        epoch, warp = self.epoch[slots][:, None], warps[:, None]
        race = (self._read_epoch[places] == epoch) & (self._reader[places] != warp)
        self._raise(
            SharedRace,
            "shared memory is written that another warp read since the last barrier",
            race,
            addresses,
            fail,
        )

    def _raise(
        self, kind: type[PtxError], text: str, bad: NDArray[np.bool_], addresses: Integers, fail: Fail
    ) -> None:
        """Raise an error for the first bad place of accesses [accesses, places], if there is one."""
        if bad.any():
            which, place = np.argwhere(bad)[0]
            raise fail(kind, text, int(which), int(addresses[which]) + int(place) * self._granule)
