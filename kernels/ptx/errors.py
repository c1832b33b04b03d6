"""What the emulator finds: one error per kind of mistake, each of which names the instruction and the place."""

from dataclasses import dataclass

from nmsim.errors import NmsimError


@dataclass(frozen=True)
class Place:
    """Where an instruction failed.

    Parameters
    ----------
    instruction : str
        Its text.
    line : int
        Of the PTX text, from 1.
    source : str
        File, line and column of the Triton code, as the compiler names them; empty if it does not.
    program : tuple of int, optional
        Number of the program in the grid: x, y, z.
    thread : int, optional
        Number of the thread in its program.
    address : int, optional
        In bytes: in shared memory from its start, in global memory from the start of the nearest tensor.
    """

    instruction: str
    line: int
    source: str = ""
    program: tuple[int, int, int] | None = None
    thread: int | None = None
    address: int | None = None

    def __str__(self) -> str:
        """Name all that is known, in one line."""
        parts = [f"line {self.line}" + (f" ({self.source})" if self.source else "")]
        if self.program is not None:
            parts.append("program " + ",".join(map(str, self.program)))
        if self.thread is not None:
            parts.append(f"thread {self.thread}")
        if self.address is not None:
            parts.append(f"byte {self.address}")
        return f"{', '.join(parts)}: {self.instruction}"


class PtxError(NmsimError):
    """A program that the emulator cannot run, or that breaks a rule of the machine.

    Parameters
    ----------
    message : str
        What is wrong.
    place : Place, optional
        Where.

    Attributes
    ----------
    place : Place or None
    """

    def __init__(self, message: str, place: Place | None = None) -> None:
        super().__init__(message if place is None else f"{message}; {place}")
        self.place = place


class PtxSyntaxError(PtxError):
    """Text that is not PTX, or PTX that the parser does not read."""


class UnknownInstruction(PtxError):
    """An instruction, or a form of one, that the emulator does not have."""


class OutOfBounds(PtxError):
    """An access outside the tensors that were passed, or outside the shared memory of the program."""


class Misaligned(PtxError):
    """An access whose address is not a multiple of its width."""


class SharedRace(PtxError):
    """Two warps use one place of shared memory, one of them writes, and no barrier is between them."""


class UnwrittenRead(PtxError):
    """A read of shared memory that nobody wrote."""


class MissingWait(PtxError):
    """A use of shared memory that an asynchronous copy or product still needs: no wait came before it."""


class WriteConflict(PtxError):
    """Two threads write different values to one place, with nothing that orders them."""


class DivergentBarrier(PtxError):
    """A barrier that some threads of a program never reach, or that a part of a warp reaches."""


class IdleLane(PtxError):
    """An instruction of a whole warp in which a needed lane takes no part."""


class Endless(PtxError):
    """More steps than allowed: a loop without an end, or one that waits for a program that has not started."""
