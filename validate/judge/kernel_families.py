"""What a published pattern's words mean: the family of kernels that runs it, N:M if there is one, and the density.

| family | what | words |
|---|---|---|
| library | 2:4 on the sparse matrix unit, through any library | `2:4`, `2:4 weights`, `2:4 activation` |
| sliding | (2L-2):2L as overlapping windows of 2:4 on that unit | `6:8 via sliding 2:4 windows`, `4:6` |
| delta-gemv | unstructured, positions as short differences, one token | `unstructured 50% (4-bit delta)` |
| csr | unstructured, one index a value | `unstructured 50%` |
| vector-nm | N:M whose mask a whole vector of rows shares, vector units | `16:32 vector-wise` |
| column-nm | V:N:M: columns picked for V rows, 2:4 among them | `V:2:10 (V=32)` |
| software | any N:M, decoded by instructions, never on a sparse unit | our own rows of kernels `gpu.…` |
| auto | any other N:M: the model decides how it runs | `8:16` |
"""

import re
from dataclasses import dataclass
from typing import Any

from nmsim.case import SparseOperand
from nmsim.errors import PatternError, RowError
from nmsim.pattern import Pattern

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
            raise RowError(f"{pattern!r}: expected (2L-2):2L, such as 6:8, for sliding 2:4 windows")
        return family
    if words.startswith("unstructured"):
        return _unstructured(words, pattern, kernel, M)
    plain = re.fullmatch(r"(\d+):(\d+)", " ".join(_PLAIN_WORDS.sub(" ", words).split()))
    if not plain:
        raise RowError(
            f"{pattern!r}: expected N:M (also '2:4 weights', '2:4 activation'), 'N:M vector-wise', '6:8 via sliding 2:4 "
            "windows' or 'V:N:M (V=32)'. Also 'unstructured 50%', 'unstructured density 0.3' and "
            "'unstructured 50% (4-bit delta)'."
        )
    # A plain N:M leaves the family open; the library of the kernel decides.
    family = _nm("auto", plain, pattern)
    if _VECTOR_LIBRARIES.search(kernel):
        return _nm("vector-nm", plain, pattern)
    if family.pattern == Pattern(2, 4):
        return _nm("library", plain, pattern)
    return _nm("sliding", plain, pattern) if _fits_windows(family.pattern) else family


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
        raise RowError(f"{text!r}: expected another pattern: {error}") from error
    return KernelFamily(name, pattern, pattern.n / pattern.m)


def _fits_windows(pattern: Pattern | None) -> bool:
    return pattern is not None and pattern.m >= 6 and pattern.m % 2 == 0 and pattern.n == pattern.m - 2


def _unstructured(words: str, text: str, kernel: str, M: int) -> KernelFamily:
    match = _UNSTRUCTURED.fullmatch(words)
    number = (match["a"] or match["b"]) if match else None
    try:
        share = float(number) if number else 0.0
    except ValueError:
        share = 0.0
    if match is None or not share:
        raise RowError(
            f"{text!r}: expected 'unstructured density 0.3', 'unstructured 50%' (of zeros) or 'unstructured 50% (4-bit "
            "delta)'"
        )
    share = share if match["a"] else share / 100
    kept = share if match["word"] == "density" or match["kept"] else 1 - share
    if not 0 < kept <= 1:
        raise RowError(f"{text!r}: expected a share that leaves between 0 and 1 of the elements")
    stored = match["format"] or ""
    if stored and not re.search(r"delta|csr", stored):
        raise RowError(f"{text!r}: stored as {stored!r}, expected 4-bit delta or csr")
    delta = "delta" in stored or (not stored and not _CSR_LIBRARIES.search(kernel))
    delta = delta and (M == 1 or bool(_DELTA_LIBRARIES.search(kernel)) or "delta" in stored)
    return KernelFamily("delta-gemv" if delta else "csr", None, kept)
