"""Find the hardware spec of a machine from the name that a publication or a driver writes; two matches are an error.

What a name may be: the id, name or alias of a spec, the stem of a hardware file's name, or an entry of
`data/machine_names.toml`. Case, blanks, punctuation, the maker, "GPU" and the memory size do not count, but a memory
size that the spec has not is refused.
"""

import difflib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import hwmodels
from hwmodels import HardwareSpec
from nmsim.errors import RowError
from nmsim.support.schema import About, Text, read_record, record

NAMES_FILE = Path(__file__).parents[1] / "data" / "machine_names.toml"
CAPACITY_TOLERANCE = 0.12
"""Stated and real memory differ by units (GB, GiB) and by what a maker reserves, such as 180 of 192 GB of a B200."""

_MEMORY = re.compile(r"\b(\d+)\s*-?\s*g(?:i?b)?\b")
_NO_MATTER = frozenset(
    (
        *("nvidia", "amd", "intel", "geforce", "tesla", "quadro", "radeon", "instinct"),
        *("gpu", "graphics", "card", "oam", "gddr6", "gddr6x", "gddr7"),
    )
)
_BOARD = re.compile(r"sxm\d?|pcie")
_STACKED = re.compile(r"hbm\d?e?")
"""The kind of memory distinguishes boards of one chip only if nothing else does."""
_OTHER_MACHINE = re.compile(r"\b(laptop|mobile|max-?q|ti|super|pcie|sxm\d?|nvl|mig|d|ada|\d+ ?w)\b")
"""Words in brackets that distinguish machines; brackets without one are a remark."""


@record
class MachineName:
    """A name of a machine, as a publication or a driver writes it."""

    text: Annotated[Text, About("Name as written.")]
    id: Annotated[Text, About("Id of the hardware spec.")]
    why: Annotated[Text, About("What the name leaves open, and what is taken.")]


@record
class MachineNames:
    """Names of machines beside the ids, names and aliases of the hardware specs."""

    name: Annotated[tuple[MachineName, ...], About("Names.")]


class Machines:
    """Machines by name: the shipped ones, and those of given files.

    Parameters
    ----------
    hardware : iterable of str or Path
        Hardware files, or names of specs, beside the shipped ones. They win over a shipped machine of the same name.

    Raises
    ------
    SpecError
        Unknown hardware, or a bad file.

    Examples
    --------
    >>> machines = Machines()
    >>> machines.find("NVIDIA A100-SXM4-80GB").id, machines.find("GeForce RTX 4090").id
    ('a100-sxm', 'rtx4090')
    """

    def __init__(self, hardware: Iterable[str | Path] = ()) -> None:
        own = [(str(given), hwmodels.load_machine(given)) for given in hardware]
        shipped = [hwmodels.load_machine(name) for name in hwmodels.machine_names()]
        self._known: dict[str, dict[str, HardwareSpec]] = {}
        for spec in shipped:
            self._add((spec.id, spec.name, *spec.aliases), spec)
        by_id = {spec.id: spec for spec in shipped}
        for entry in read_record(MachineNames, NAMES_FILE).name:
            if entry.id in by_id:
                self._add((entry.text,), by_id[entry.id])
        for given, spec in own:
            names = [spec.id, spec.name, *spec.aliases]
            names += [Path(given).stem] if given.endswith(".toml") else []
            for name in names:
                self._known[canonical(name)] = {spec.id: spec}

    def _add(self, names: Iterable[str], spec: HardwareSpec) -> None:
        for name in names:
            self._known.setdefault(canonical(name), {})[spec.id] = spec

    def find(self, text: str) -> HardwareSpec:
        """Find the machine of a name.

        Raises
        ------
        RowError
            No machine of that name, two of them, or one with another memory; without a row number.
        """
        remarks = re.findall(r"[(\[](.*?)[)\]]", text.lower())
        bare = "" if any(map(_OTHER_MACHINE.search, remarks)) else re.sub(r"[(\[].*?[)\]]", " ", text)
        found = self._known.get(canonical(text)) or self._known.get(canonical(bare)) if text.strip() else None
        if not found:
            near = difflib.get_close_matches(canonical(text), self._known, n=3, cutoff=0.5)
            ids = list(dict.fromkeys(id_ for name in near for id_ in self._known[name]))
            hint = f" (near: {', '.join(ids)})" if ids else ""
            raise RowError(
                f"{text!r}: no machine of that name{hint}; expected one of {', '.join(hwmodels.machine_names())} or an "
                "alias; --hardware FILE.toml adds a machine by its id, name or aliases"
            )
        if len(found) > 1:
            raise RowError(f"{text!r}: could be {' or '.join(sorted(found))}; expected one of the two ids")
        (spec,) = found.values()
        _check_memory(text, spec)
        return spec


def canonical(text: str) -> str:
    """Keep only the parts of a name that distinguish machines.

    Examples
    --------
    >>> canonical("NVIDIA GeForce RTX-4090 24 GB"), canonical("A100 80GB PCIe")
    ('rtx4090', 'a100pcie')
    """
    words = re.findall(r"[a-z0-9]+", _MEMORY.sub(" ", text.lower()))
    board = any(_BOARD.fullmatch(word) for word in words)
    kept = "".join(
        word for word in words if word not in _NO_MATTER and not (board and _STACKED.fullmatch(word))
    )
    return kept or "".join(words)


def _check_memory(text: str, spec: HardwareSpec) -> None:
    stated = _MEMORY.search(text.lower())
    capacity_gb = spec.dram_capacity_bytes.value / 1e9
    if stated and abs(int(stated[1]) / capacity_gb - 1) > CAPACITY_TOLERANCE:
        raise RowError(
            f"{text!r}: {stated[1]} GB stated, but {spec.id} has {capacity_gb:.4g} GB; expected a machine with "
            "that memory; --hardware FILE.toml adds one"
        )
