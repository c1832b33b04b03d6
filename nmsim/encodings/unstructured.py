"""What unstructured sparsity costs in CSR and COO, for comparison. Footprints only: no N:M mask is encoded so."""

from dataclasses import dataclass

from nmsim.errors import EncodingError, brief


@dataclass(frozen=True)
class UnstructuredSpec:
    """The facts of a format that stores any mask."""

    name: str
    title: str
    bits_formula: str
    source: str


CSR = UnstructuredSpec(
    name="csr",
    title="compressed sparse row",
    bits_formula="kept * index_bits + (rows + 1) * pointer_bits",
    source="a column index for each kept element and a pointer for each row; 32-bit words as SCALE-Sim v3 counts them",
)
COO = UnstructuredSpec(
    name="coo",
    title="coordinate list",
    bits_formula="kept * 2 * index_bits",
    source="a row and a column index for each kept element",
)


def csr_bits(rows: int, kept_elems: int, *, index_bits: int = 32, pointer_bits: int = 32) -> int:
    """Count the metadata bits of a matrix in compressed sparse rows.

    Parameters
    ----------
    rows, kept_elems : int
    index_bits, pointer_bits : int
        Bits of a column index and of a row pointer.

    Raises
    ------
    EncodingError
        A negative argument.

    Examples
    --------
    A 1024 x 1024 matrix at 50 %, the 525,313 metadata words that SCALE-Sim 3.0.0 counts:

    >>> csr_bits(1024, 524288) // 32
    525313
    """
    _refuse_negative(rows=rows, kept_elems=kept_elems, index_bits=index_bits, pointer_bits=pointer_bits)
    return kept_elems * index_bits + (rows + 1) * pointer_bits


def coo_bits(kept_elems: int, *, index_bits: int = 32) -> int:
    """Count the metadata bits of a matrix as a list of coordinates.

    Examples
    --------
    >>> coo_bits(100)
    6400
    """
    _refuse_negative(kept_elems=kept_elems, index_bits=index_bits)
    return kept_elems * 2 * index_bits


def _refuse_negative(**arguments: int) -> None:
    for name, value in arguments.items():
        if value < 0:
            raise EncodingError(f"{name}={brief(value)}: expected 0 or more")
