"""What distinguishes one compiled kernel from another, and how the bytes it reads are laid out."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from kernels.stored.rows import CACHE_LINE_BYTES, DTYPES, STEP_ELEMS
from nmsim.format import SparseFormat
from nmsim.pattern import Pattern

ROW_TOKENS = (1, 2, 3, 4)
"""Numbers of tokens for which lanes run along K, whatever the instruction set; x is [tokens, K]."""
COLUMN_TOKENS = (8, 16)
"""Numbers of tokens that AVX2 holds side by side in lanes; x is then [K, tokens]."""
DENSE_STEP_ELEMS = 16
PANEL_BYTES = {"avx2": 1 << 17, "avx512": 1 << 14, "generic": 1 << 14}
"""Bytes of x that rows share before the next ones are read: a quarter of a second-level cache, or half a first-level one."""
EVERY_STEP = 1 << 62


class Ahead(NamedTuple):
    """Bytes between what a row reads and what it asks for.

    `values` into the second-level cache, `values_soon` into the first (0: never), `metadata` into the second.
    """

    values: int
    values_soon: int
    metadata: int


@dataclass(frozen=True)
class Recipe:
    """One kernel.

    Parameters
    ----------
    format : SparseFormat or None
        As `kernel_format` gives it, its pattern one of `STEP_ELEMS`; not 16:32 as one of `TABLED`. None for a dense matrix.
    dtype : str
        Of the stored values: `"float32"`, `"float16"` or `"bfloat16"`.
    tokens : int
        One of `ROW_TOKENS` or `COLUMN_TOKENS`.
    isa : str
        `"avx2"`, `"avx512"`, or `"generic"`: what avx512 does, in instructions that LLVM can lower for any x86 CPU.
    """

    format: SparseFormat | None
    dtype: str
    tokens: int
    isa: str

    @cached_property
    def pattern(self) -> Pattern | None:
        """The pattern of the format."""
        return self.format.pattern if self.format else None

    @cached_property
    def encoding(self) -> str:
        """Name of the encoding of the format; empty for a dense matrix."""
        return self.format.encoding.name if self.format else ""

    @cached_property
    def by_columns(self) -> bool:
        """Whether lanes hold tokens. Then a dropped element costs no multiplication, and x is read by position."""
        return self.tokens in COLUMN_TOKENS

    @property
    def value_bytes(self) -> int:
        """Bytes of a stored value."""
        return int(DTYPES[self.dtype].itemsize)

    @property
    def lanes(self) -> int:
        """Float32 lanes of the registers that hold sums."""
        if self.isa == "avx2":
            return 8
        if self.by_columns:
            return self.tokens
        return 8 if self.encoding == "index" and self.m < 32 else 16

    @property
    def rows_abreast(self) -> int:
        """Rows that go through K side by side."""
        if self.x_in_planes:
            return 4 if self.m == 16 else 2
        if self.isa == "avx2":
            return 2 if self.pattern is None and self.tokens in (3, 4) else 4
        return 4

    @property
    def prefetches(self) -> bool:
        """Whether memory is asked for ahead of its use. On Zen 3, where AVX2 was measured, it had no effect."""
        return self.isa != "avx2"

    @property
    def unrolled_steps(self) -> int:
        """Steps per round of the innermost loop of lanes along K: as many as read half a cache line of values."""
        if not self.prefetches or self.by_columns:
            return 1
        return max(1, CACHE_LINE_BYTES // 2 // (self.value_bytes * self.step_kept))

    @property
    def ahead_bytes(self) -> Ahead:
        """How far ahead few tokens' kernels ask for memory. Tried on Zen 4, each kind from 8192 x 8192 in DRAM.

        A kernel that reads half a cache line of values per round gains from a second request. Dense float32 rows are
        as fast as the memory without it.
        """
        step_bytes = self.value_bytes * self.step_kept * self.unrolled_steps
        again = step_bytes == CACHE_LINE_BYTES // 2 or (
            step_bytes == CACHE_LINE_BYTES and self.pattern is not None
        )
        return Ahead(6144, 512, 1024) if again else Ahead(3072, 0, 768)

    @property
    def panel_steps(self) -> int:
        """Steps after which other rows have their turn with the same x.

        Few tokens let rows be read to their end, which suits memory. The x of many tokens is large, and must be used
        by several rows before it leaves the cache.
        """
        if not self.by_columns:
            return EVERY_STEP
        return max(1, PANEL_BYTES[self.isa] // (4 * self.tokens * self.step_elems))

    @cached_property
    def m(self) -> int:
        """Elements of a group."""
        assert self.pattern is not None
        return self.pattern.m

    @cached_property
    def x_in_planes(self) -> bool:
        """Whether every 16 elements of x stand as their 16 first bytes, then their 16 second bytes, and so on."""
        return self.isa == "avx2" and self.pattern is not None and self.m >= 16 and not self.by_columns

    @cached_property
    def step_elems(self) -> int:
        """Dense elements per step."""
        return STEP_ELEMS[self.pattern] if self.pattern else DENSE_STEP_ELEMS

    @cached_property
    def step_kept(self) -> int:
        """Stored values of a step."""
        return self.step_elems // 2 if self.pattern else self.step_elems

    @cached_property
    def step_metadata_bytes(self) -> int:
        """Bytes of the codes of a step."""
        return self.format.stream_bytes(self.step_elems // self.m) if self.format else 0


def recipe_for(format: SparseFormat | None, dtype: str, n_tokens: int, isa: str) -> Recipe:
    """The kernel that serves `n_tokens` tokens, 1 to 16, of which it may take more.

    With AVX2 and 8:16 or 16:32, picking x for each of three tokens takes more instructions than columns take for eight.
    """
    by_rows: tuple[int, ...] = ROW_TOKENS
    if isa == "avx2" and format is not None and format.pattern.m >= 16:
        by_rows = ROW_TOKENS[:2]
    if n_tokens in by_rows:
        return Recipe(format, dtype, n_tokens, isa)
    return Recipe(format, dtype, next(count for count in COLUMN_TOKENS if count >= n_tokens), isa)
