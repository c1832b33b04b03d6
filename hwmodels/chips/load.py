"""Load a chip by name or file, whatever it is: a machine of a datasheet or a core design."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias, TypeVar

from hwmodels.machine.spec import HardwareSpec, find_machine, machine_names
from hwmodels.tensorcore.record import SparseTensorCore, core_from, core_names, load_core
from nmsim.errors import SpecError, brief
from nmsim.support.schema import load_record, read_toml

Chip: TypeAlias = HardwareSpec | SparseTensorCore
"""A machine, described by its datasheet; or a core design, described by the sizes and rates of its parts."""
Known = TypeVar("Known", HardwareSpec, SparseTensorCore, Chip)
DESIGN_SECTION = "array"
"""A section that the file of every core design has, and that of no machine."""
ANSWERED_BY = {HardwareSpec: "estimate", SparseTensorCore: "closed form"}
"""Which model answers for each kind of chip."""


def load_chip(chip: str | Path | Chip) -> Chip:
    """Load a machine or a core design by name, or from a TOML file of the user's own.

    Parameters
    ----------
    chip : str, Path, HardwareSpec or SparseTensorCore
        A name or alias in any case (`machine_names()`, `core_names()`); or a path that ends in `.toml`; or a chip, which
        comes back as it is. The content of a file says which of the two it is.

    Returns
    -------
    HardwareSpec or SparseTensorCore

    Raises
    ------
    SpecError
        No chip of that name, or a file with unknown, missing or malformed keys.

    Examples
    --------
    >>> type(load_chip("h200")).__name__, type(load_chip("edge-npu-8x16")).__name__
    ('HardwareSpec', 'SparseTensorCore')
    """
    if isinstance(chip, HardwareSpec | SparseTensorCore):
        return chip
    if isinstance(chip, Path) or (isinstance(chip, str) and chip.endswith(".toml")):
        document = read_toml(Path(chip))
        if DESIGN_SECTION in document:
            return core_from(document, where=str(chip))
        return load_record(HardwareSpec, document, where=str(chip))
    if not isinstance(chip, str):
        raise SpecError(
            f"chip {brief(chip)} (type {type(chip).__name__}): expected a name, a .toml path, a HardwareSpec or a "
            "SparseTensorCore"
        )
    name = chip.strip().lower()
    if name in core_names():
        return load_core(name)
    found = find_machine(name)
    if found is None:
        near = difflib.get_close_matches(name, [*machine_names(), *core_names()], n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise SpecError(
            f"hardware {brief(chip)}: no machine or core design of that name.{hint} Known machines: "
            f"{', '.join(machine_names())}; core designs: {', '.join(core_names())}; or give the path of a .toml file"
        )
    return found


def load_chips(chips: Sequence[str | Path | Chip]) -> list[Chip]:
    """Load several chips, which are then known by ids that differ.

    If several have one id, those of files take the names of their files.

    Raises
    ------
    SpecError
        As `load_chip`; or chips that have one id even so.

    Examples
    --------
    >>> [chip.id for chip in load_chips(["h200", "flexible-8x16"])]
    ['h200', 'flexible-8x16']
    """
    return told_apart(chips, [load_chip(chip) for chip in chips])


def told_apart(
    given: Sequence[object], found: Sequence[Known], *, option: str = "--hardware", what: str = "chips"
) -> list[Known]:
    """Rename chips of one id that come from files after their files.

    Raises
    ------
    SpecError
        Chips that have one id even so.
    """
    ids = [chip.id for chip in found]
    told = [
        replace(chip, id=Path(name).stem)
        if ids.count(chip.id) > 1 and isinstance(name, str | Path) and str(name).endswith(".toml")
        else chip
        for name, chip in zip(given, found, strict=True)
    ]
    for chip in told:
        if sum(other.id == chip.id for other in told) > 1:
            raise SpecError(
                f"{option}: {chip.id} comes twice; expected {what} of different ids or file names"
            )
    return told


def answered_by(chip: Chip) -> str:
    """Name the model that answers for a chip: `"estimate"`, fitted to measured rows, or `"closed form"` of a pipeline.

    Examples
    --------
    >>> answered_by(load_chip("h200")), answered_by(load_chip("dense"))
    ('estimate', 'closed form')
    """
    return ANSWERED_BY[type(chip)]
