"""What every generated unit has: a specification, named ports, remarks on its signals, and places for registers."""

from collections.abc import Mapping, Sequence

from amaranth.hdl import Elaboratable, Module, Signal

from hwmodels.gates.record import UnitSpec
from nmsim.errors import SpecError
from nmsim.pattern import Pattern


class Unit(Elaboratable):
    """A piece of hardware, combinational unless its specification has stages.

    Parameters
    ----------
    spec : UnitSpec
    inputs, outputs : sequence of Signal
        Every signal has the name of its port.
    boundaries : int
        Places between its steps that may hold a rank of registers.
    notes : mapping of str to str
        Name of a signal -> what it is, for the comments of the Verilog.

    Raises
    ------
    SpecError
        More stages than boundaries.
    """

    comparators = 0
    """Of two keys each; a selector says how many it has."""
    _MustUse__silence = (
        True  # Amaranth warns of units that are not built, but some are only described or refused.
    )

    def __init__(
        self,
        spec: UnitSpec,
        inputs: Sequence[Signal],
        outputs: Sequence[Signal],
        *,
        boundaries: int = 0,
        notes: Mapping[str, str] | None = None,
    ) -> None:
        if spec.stages > boundaries:
            raise SpecError(f"{spec}: {spec.stages} stages; expected at most {boundaries}")
        self.spec = spec
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.notes = dict(notes or {})
        # As evenly as whole steps allow.
        self._cuts = {
            (2 * rank + 1) * boundaries // (2 * spec.stages) for rank in range(spec.stages)
        }  # fmt: skip

    @property
    def pattern(self) -> Pattern:
        """Of the specification."""
        return self.spec.pattern

    @property
    def ports(self) -> list[Signal]:
        """Inputs, then outputs."""
        return [*self.inputs, *self.outputs]

    def at_boundary(self, module: Module, boundary: int, *values: Signal) -> tuple[Signal, ...]:
        """Give what passes a boundary: the values themselves, or registers of them if this boundary holds a rank."""
        if boundary not in self._cuts:
            return values
        held = tuple(Signal.like(value, name=f"{value.name}_held", reset_less=True) for value in values)
        module.d.sync += [register.eq(value) for register, value in zip(held, values, strict=True)]
        return held
