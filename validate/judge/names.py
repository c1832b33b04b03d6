"""What names in publications mean: the spec of a machine, and the kernels and density of a pattern.

The name of a machine is one that a publication or a driver writes; two matches are an error. What it may be: the id, name or
alias of a spec, the stem of a hardware file's name, or an entry of `data/machine_names.toml`. Case, blanks, punctuation, the
maker, "GPU" and the memory size do not count, but a memory size that the spec has not is refused.

What a published pattern's words mean: the family of kernels that runs it, N:M if there is one, and the density.

| family | what | words |
|---|---|---|
| library | 2:4 on the sparse matrix unit, through any library | `2:4`, `2:4 weights`, `2:4 activation` |
| sliding | (2L-2):2L as overlapping windows of 2:4 on that unit | `6:8 via sliding 2:4 windows`, `4:6` |
| delta-gemv | unstructured, positions as short differences, one token | `unstructured 50% (4-bit delta)` |
| csr | unstructured, one index a value | `unstructured 50%` |
| vector-nm | N:M whose mask a whole vector of rows shares, vector units | `16:32 vector-wise` |
| column-nm | V:N:M: columns picked for V rows, 2:4 among them | `V:2:10 (V=128)` |
| software | any N:M, decoded by instructions, never on a sparse unit | our own rows of kernels `gpu.…` |
| auto | any other N:M: the model decides how it runs | `8:16` |
"""

import difflib
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import hwmodels
from hwmodels import HardwareSpec
from hwmodels.estimate.windows import through_windows
from nmsim.case import SparseOperand
from nmsim.errors import PatternError, RowError, brief
from nmsim.pattern import Pattern
from nmsim.support.schema import About, Id, Text, read_record, record

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
    id: Annotated[Id, About("Id of the hardware spec.")]
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
                f"{brief(text)}: no machine of that name{hint}; expected one of {', '.join(hwmodels.machine_names())} or an "
                "alias; --hardware FILE.toml adds a machine by its id, name or aliases"
            )
        if len(found) > 1:
            raise RowError(
                f"{brief(text)}: could be {' or '.join(sorted(found))}; expected one of the two ids"
            )
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
            f"{brief(text)}: {stated[1]} GB stated, but {spec.id} has {capacity_gb:.4g} GB; expected a machine with "
            "that memory; --hardware FILE.toml adds one"
        )


KERNEL_FAMILIES = ("library", "sliding", "delta-gemv", "csr", "vector-nm", "column-nm", "software", "auto")

_UNSTRUCTURED = re.compile(
    r"unstructured ?(?:(?P<word>density|sparsity) (?P<a>[\d.]+)|(?P<b>[\d.]+) ?%(?: (?P<kept>density))?)"
    r"(?: sparsity)?(?: \((?P<format>[^)]*)\))?"
)
_PLAIN_WORDS = re.compile(r"\b(?:weights?|activations?|sparse|sparsity|semi-?structured)\b|[()]")
_VECTOR_LIBRARIES = re.compile(r"nm-?spmm|nmsparse", re.I)
_DELTA_LIBRARIES = re.compile(r"macko", re.I)
_CSR_LIBRARIES = re.compile(r"sputnik|cusparse(?!lt)|hipsparse(?!lt)|csr", re.I)
_NOT_PRUNED_ONLINE = re.compile(r"\(no pack\)", re.I)


@dataclass(frozen=True)
class KernelFamily:
    """How a pattern runs: one of `KERNEL_FAMILIES`; `pattern` is None for what is no N:M; `density` is kept / all."""

    name: str
    pattern: Pattern | None
    density: float

    def cells(self) -> dict[str, Any]:
        """Columns of a row that say the same."""
        pattern = "" if self.pattern is None else str(self.pattern)
        return {"kernel_family": self.name, "nm_pattern": pattern, "density": self.density}


@functools.lru_cache(maxsize=4096)
def understand(pattern: str, kernel: str, M: int) -> KernelFamily:
    """Read the words of a pattern; if they leave the family open, the kernel's library decides.

    Parameters
    ----------
    pattern, kernel : str
        As a publication writes them.
    M : int
        Tokens.

    Raises
    ------
    RowError
        Unknown words; the error has no row number.

    Examples
    --------
    >>> understand("6:8 via sliding 2:4 windows", "cuSPARSELt", 64)
    KernelFamily(name='sliding', pattern=Pattern(n=6, m=8), density=0.75)
    >>> understand("unstructured density 0.1", "MACKO-SpMV", 1).name, understand("8:16", "", 1).name
    ('delta-gemv', 'auto')
    """
    words = " ".join(pattern.lower().split())
    columns = re.fullmatch(r"(?:v|\d+):(\d+):(\d+)(?: \(v ?= ?\d+\))?", words)
    if columns:
        return _nm("column-nm", columns, pattern)
    vector = re.fullmatch(r"(\d+):(\d+) \(?vector-? ?wise\)?", words)
    if vector:
        return _nm("vector-nm", vector, pattern)
    sliding = re.fullmatch(r"(\d+):(\d+)\b.*\b(?:sliding|slide|windows?)\b.*", words)
    if sliding:
        family = _nm("sliding", sliding, pattern)
        if not _fits_windows(family.pattern):
            raise RowError(f"{brief(pattern)}: expected (2L-2):2L, such as 6:8, for sliding 2:4 windows")
        return family
    if words.startswith("unstructured"):
        return _unstructured(words, pattern, kernel, M)
    plain = re.fullmatch(r"(\d+):(\d+)", " ".join(_PLAIN_WORDS.sub(" ", words).split()))
    if not plain:
        raise RowError(
            f"{brief(pattern)}: expected N:M (also '2:4 weights', '2:4 activation'), 'N:M vector-wise', '6:8 via sliding 2:4 "
            "windows' or 'V:N:M (V=128)'. Also 'unstructured 50%', 'unstructured density 0.3' and "
            "'unstructured 50% (4-bit delta)'."
        )
    # A plain N:M leaves the family open; the library of the kernel decides.
    family = _nm("auto", plain, pattern)
    if _VECTOR_LIBRARIES.search(kernel):
        return _nm("vector-nm", plain, pattern)
    if family.pattern == Pattern(2, 4):
        return _nm("library", plain, pattern)
    return _nm("sliding", plain, pattern) if _fits_windows(family.pattern) else family


@functools.lru_cache(maxsize=4096)
def sparse_operand(pattern: str, kernel: str) -> SparseOperand:
    """Say which operand is pruned.

    torchao's "no pack" timings name a scheme for activations, but run with weights that are pruned beforehand. They are
    the column `fp8_c_sparse_time` of https://github.com/pytorch/ao/pull/2012, whose benchmark gives both linears
    `Float8DynamicActivationFloat8SemiSparseWeightConfig`.

    Examples
    --------
    >>> sparse_operand("2:4 activation", "cuSPARSELt"), sparse_operand("2:4 activation", "CUTLASS fp8 (no pack)")
    ('activations', 'weights')
    """
    if "activation" in pattern.lower() and not _NOT_PRUNED_ONLINE.search(kernel):
        return "activations"
    return "weights"


def _nm(name: str, match: re.Match[str], text: str) -> KernelFamily:
    try:
        pattern = Pattern(int(match[1]), int(match[2]))
    except PatternError as error:
        raise RowError(f"{brief(text)}: expected another pattern: {error}") from error
    return KernelFamily(name, pattern, pattern.n / pattern.m)


def _fits_windows(pattern: Pattern | None) -> bool:
    return pattern is not None and through_windows(pattern) == pattern


def _unstructured(words: str, text: str, kernel: str, M: int) -> KernelFamily:
    match = _UNSTRUCTURED.fullmatch(words)
    number = (match["a"] or match["b"]) if match else None
    try:
        share = float(number) if number else 0.0
    except ValueError:
        share = 0.0
    if match is None or not share:
        raise RowError(
            f"{brief(text)}: expected 'unstructured density 0.3', 'unstructured 50%' (of zeros) or 'unstructured 50% (4-bit "
            "delta)'"
        )
    share = share if match["a"] else share / 100
    kept = share if match["word"] == "density" or match["kept"] else 1 - share
    if not 0 < kept <= 1:
        raise RowError(f"{brief(text)}: expected a share that leaves between 0 and 1 of the elements")
    stored = match["format"] or ""
    if stored and not re.search(r"delta|csr", stored):
        raise RowError(f"{brief(text)}: stored as {brief(stored)}, expected 4-bit delta or csr")
    delta = "delta" in stored or (not stored and not _CSR_LIBRARIES.search(kernel))
    delta = delta and (M == 1 or bool(_DELTA_LIBRARIES.search(kernel)) or "delta" in stored)
    return KernelFamily("delta-gemv" if delta else "csr", None, kept)
