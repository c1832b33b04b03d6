"""Exact bytes between DRAM and the chip for one product, operand by operand.

One definition serves a single case (plain numbers) and a table of cases (arrays): all functions take either.

The sparse operand is stored as N values per group and a stream of codes over all its rows. A group with fewer non-zeros
and the tail group are filled up with zeros. Codes of a row may share a byte with those of the next. The other operand is
dense. Each operand is moved once (assumption A10). Values and metadata are each
rounded up to whole bytes.
"""

import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from nmsim import packing
from nmsim.errors import EncodingError
from nmsim.format import SparseFormat
from nmsim.units import ceil_div

OUTPUT_BITS = 16
"""Bits of an output element, except for 32-bit value types, whose output has 32."""


@dataclass(frozen=True)
class Traffic:
    """Bytes of one product by operand; numbers, or arrays of one entry per case."""

    values_bytes: Any
    metadata_bytes: Any
    dense_operand_bytes: Any
    output_bytes: Any

    @property
    def total_bytes(self) -> Any:
        """All bytes moved."""
        return self.values_bytes + self.metadata_bytes + self.dense_operand_bytes + self.output_bytes


def where(condition: Any, yes: Any, no: Any) -> Any:
    """Choose as `numpy.where` does; a plain condition chooses at the cost of a plain choice.

    Examples
    --------
    >>> where(np.array([True, False]), 1, 2).tolist(), where(True, 1, 2)
    ([1, 2], 1)
    """
    return np.where(condition, yes, no) if isinstance(condition, np.ndarray) else yes if condition else no


class Stream(NamedTuple):
    """How the metadata of one (pattern, encoding, packing) adds up; numbers, or arrays of one entry per case.

    `codes_per_slot` codes share a slot of `slot_bits` bits, and each code covers `groups_per_code` groups.
    If codes differ in length `mean_bits_per_group` is the exact mean over uniform masks (assumption A15),
    else 0.
    """

    n: Any
    m: Any
    groups_per_code: Any
    codes_per_slot: Any
    slot_bits: Any
    mean_bits_per_group: Any


DENSE_STREAM = Stream(1, 1, 1, 1, 0, 0.0)
"""A dense operand: every element kept, no metadata."""


@functools.lru_cache(maxsize=4096)
def stream(format: SparseFormat | None) -> Stream:
    """Look up how the metadata of a format add up.

    Parameters
    ----------
    format : SparseFormat or None
        None for a dense operand.

    Returns
    -------
    Stream

    Raises
    ------
    EncodingError
        Codes that differ in length, under a policy other than `bitstream`.

    Examples
    --------
    >>> stream(SparseFormat.parse("8:16/combinatorial/no_straddle"))
    Stream(n=8, m=16, groups_per_code=1, codes_per_slot=2, slot_bits=32, mean_bits_per_group=0.0)
    """
    if format is None:
        return DENSE_STREAM
    pattern, how, parsed = format.pattern, format.encoding, format.packing
    groups_per_code, code_bits = how.groups_per_code(pattern), how.code_bits(pattern)
    mean = how.expected_bits_per_group(pattern)
    if mean != how.bits_per_group(pattern):
        if parsed.name != "bitstream":
            raise EncodingError(
                f"encoding {how.name!r} with pattern {pattern}: its codes differ in length; expected packing "
                f"'bitstream', got {str(parsed)!r}"
            )
        return Stream(pattern.n, pattern.m, groups_per_code, 1, 0, float(mean))
    slot_bits = packing.stream_bits(1, code_bits, parsed)
    codes_per_slot = 1
    while slot_bits and packing.stream_bits(codes_per_slot + 1, code_bits, parsed) == slot_bits:
        codes_per_slot += 1
    return Stream(pattern.n, pattern.m, groups_per_code, codes_per_slot, slot_bits, 0.0)


def metadata_bits(groups: Any, how: Stream) -> Any:
    """Count the bits of the code stream of `groups` groups, padding included.

    Parameters
    ----------
    groups : int or int64 array
    how : Stream

    Returns
    -------
    int or int64 array
        Bits, before they are rounded up to whole bytes. Rounded to the nearest bit if it is a mean.

    Source
    ------
    `nmsim.packing.stream_bits`.

    Examples
    --------
    >>> int(metadata_bits(1_048_576, stream(SparseFormat.parse("8:16/combinatorial")))) // 8
    1835008
    """
    codes = ceil_div(groups, how.groups_per_code)
    fixed = ceil_div(codes, how.codes_per_slot) * how.slot_bits
    return fixed + np.rint(groups * np.float64(how.mean_bits_per_group)).astype(np.int64)


def fetched_columns(K: Any, tokens: Any, how: Stream) -> Any:
    """Count the weight columns along K that at least one of the tokens needs, in expectation.

    Parameters
    ----------
    K, tokens : int or int64 array
        In features; tokens with sparse activations.
    how : Stream

    Returns
    -------
    int64
        K * (1 - (1 - N/M)^T) to the nearest column, the tail group counted with its own density.

    Source
    ------
    Assumption A7: the masks of different tokens are independent and uniform.

    Examples
    --------
    >>> how = stream(SparseFormat.parse("8:16/bitmask"))
    >>> [int(fetched_columns(4096, tokens, how)) for tokens in (1, 2, 16)]
    [2048, 3072, 4096]
    """
    tail = K % how.m
    missed_share = 1.0 - np.divide(how.n, how.m)
    missed_share_of_tail = 1.0 - np.divide(np.minimum(how.n, tail), np.maximum(tail, 1))
    missed = (K - tail) * np.power(missed_share, tokens) + tail * np.power(missed_share_of_tail, tokens)
    return np.rint(K - missed).astype(np.int64)


def traffic(
    M: Any, N: Any, K: Any, value_bits: Any, how: Stream, sparse_activations: Any, skip: bool
) -> Traffic:
    """Count the bytes one product moves between DRAM and the chip.

    Parameters
    ----------
    M, N, K : int or int64 array
        Tokens, out features, in features of Y[M, N] = X[M, K] W[N, K]^T, in elements.
    value_bits : int or int64 array
        Bits of a value of either operand.
    how : Stream
        Of the sparse operand; `DENSE_STREAM` for a dense product.
    sparse_activations : bool or bool array
        X is the sparse operand, pruned by its producer (assumption A16); else W is.
    skip : bool
        Weight columns that no token needs are not fetched (assumption A8).

    Returns
    -------
    Traffic
        int64 bytes.

    Source
    ------
    Formula, `docs/explanation/cost-model.md`.

    Examples
    --------
    >>> how = stream(SparseFormat.parse("8:16/combinatorial"))
    >>> moved = traffic(1, 4096, 4096, 16, how, False, True)
    >>> int(moved.values_bytes), int(moved.metadata_bytes), int(moved.total_bytes)
    (16777216, 1835008, 18628608)
    """
    sparse_rows = where(sparse_activations, M, N)
    dense_rows = where(sparse_activations, N, M)
    groups = sparse_rows * ceil_div(K, how.m)
    columns = K
    if skip and np.asarray(sparse_activations).any():
        columns = where(sparse_activations, fetched_columns(K, M, how), K)
    output_bits = where(value_bits == 32, 32, OUTPUT_BITS)
    return Traffic(
        values_bytes=ceil_div(groups * how.n * value_bits, 8),
        metadata_bytes=ceil_div(metadata_bits(groups, how), 8),
        dense_operand_bytes=ceil_div(dense_rows * columns * value_bits, 8),
        output_bytes=M * N * output_bits // 8,
    )
