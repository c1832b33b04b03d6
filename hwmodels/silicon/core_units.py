"""What the units of a core are built of: cells of one decoder, selector, encoder, and of the select network of one cell."""

import functools
from collections.abc import Iterable
from dataclasses import replace

from hwmodels.silicon import codecs
from hwmodels.silicon.selector import selector_cells
from hwmodels.silicon.structures import Cells, mask_to_positions, operand_select
from hwmodels.silicon.technology import load
from hwmodels.tensorcore.record import Network, SelectorKind, SparseTensorCore
from nmsim.format import SparseFormat, sparse_format
from nmsim.pattern import Pattern


def select_cells(core: SparseTensorCore) -> Cells:
    """Count the cells that feed one cell of the array, `array_depth` multiply-adds, whatever native pattern runs.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> select_cells(load_core("flexible-8x16")).mux2 == 16 * 15 * 16
    True
    """
    network = core.select_network
    needs = (
        select_one(pattern, core.lane_bits, core.array_depth, network, core.dual_sided)
        for pattern in core.patterns
    )
    return functools.reduce(Cells.shared_with, needs, Cells())


@functools.lru_cache(maxsize=1024)
def select_one(pattern: Pattern, value_bits: int, lanes: int, network: Network, dual_sided: bool) -> Cells:
    """Count the cells that feed the lanes of one cell of the array with elements of operand B, for one pattern.

    Where zeros of both operands are skipped, both are selected, by positions of the ones that two masks share. What lets
    lanes run ahead of each other is not counted (assumption A54).

    Examples
    --------
    >>> select_one(Pattern(2, 4), 16, 4, "mux", False).mux2
    192
    """
    cells = operand_select([pattern], value_bits, lanes, network)
    if not dual_sided:
        return cells
    return cells.times(2) + mask_to_positions(pattern) + Cells(and2=pattern.m)


def pass_cells(core: SparseTensorCore) -> Cells:
    """Count the cells on the way of one element of operand B through the network when nothing is selected.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> pass_cells(load_core("flexible-8x16")).mux2, pass_cells(load_core("dense")).mux2
    (64, 0)
    """
    levels = max(((pattern.m - 1).bit_length() for pattern in core.patterns), default=0)
    return Cells(mux2=levels * core.lane_bits)


def decoder_cells(core: SparseTensorCore) -> Cells:
    """Count the cells of one decoder of all encodings and native patterns.

    One pattern in one encoding at a time: logic is as large as the largest need. Tables of different content are all there.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> decoder_cells(load_core("flexible-8x16")).rom_bits
    1169
    """
    return _decoder_of(core.patterns, core.encodings, core.node_nm)


@functools.lru_cache(maxsize=256)
def _decoder_of(patterns: tuple[Pattern, ...], known: tuple[str, ...], node_nm: float) -> Cells:
    return _any_of(
        decoder(sparse_format(pattern, encoding=encoding), node_nm)
        for pattern in patterns
        for encoding in known
    )


def encoder_cells(core: SparseTensorCore) -> Cells:
    """Count the cells of one encoder, shared as in `decoder_cells`; none without a selector.

    A selector in the producer writes codes. One in the consumer hands positions to the array.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> encoder_cells(load_core("nvidia-like-2x4")) == Cells()
    True
    """
    if not core.selector_groups_per_cycle:
        return Cells()
    written = core.encodings if core.selector_placement == "producer" else ("index",)
    return _encoder_of(core.patterns, written)


@functools.lru_cache(maxsize=256)
def _encoder_of(patterns: tuple[Pattern, ...], written: tuple[str, ...]) -> Cells:
    return _any_of(
        encoder(sparse_format(pattern, encoding=encoding)) for pattern in patterns for encoding in written
    )


def pruner_cells(core: SparseTensorCore, latency_cycles: int = 0) -> Cells:
    """Count the cells of one selector that prunes to any native pattern, in any value type.

    Examples
    --------
    >>> from hwmodels.tensorcore.record import load_core
    >>> pruner_cells(load_core("flexible-8x16")).comparator_bit
    1064
    """
    return _pruner_of(core.patterns, core.selector_kind, core.dtypes, latency_cycles)


@functools.lru_cache(maxsize=256)
def _pruner_of(
    patterns: tuple[Pattern, ...], kind: SelectorKind, dtypes: tuple[str, ...], latency_cycles: int
) -> Cells:
    needs = (pruner(pattern, kind, dtype, latency_cycles) for pattern in patterns for dtype in dtypes)
    return functools.reduce(Cells.shared_with, needs, Cells())


@functools.lru_cache(maxsize=1024)
def decoder(format: SparseFormat, node_nm: float) -> Cells:
    """Count the cells of a decoder at a technology node: `hwmodels.silicon.codecs.decoder`, remembered."""
    return codecs.decoder(format, load(node_nm))


encoder = functools.lru_cache(maxsize=1024)(codecs.encoder)
pruner = functools.lru_cache(maxsize=1024)(selector_cells)


def _any_of(needs: Iterable[Cells]) -> Cells:
    parts = list(needs)
    logic = functools.reduce(Cells.shared_with, (replace(cells, rom_bits=0) for cells in parts), Cells())
    return replace(logic, rom_bits=sum(cells.rom_bits for cells in parts))
