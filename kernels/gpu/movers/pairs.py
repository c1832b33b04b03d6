"""The greatest of a group's elements, chosen two at a time in words of 32 bits: from compute capability 9.0 on.

From there on, one instruction takes the greater of two pairs of 16-bit numbers (`max.u16x2`). Bits 0 to 14 of a stored 16-bit
float order magnitudes. So elements of even place are sorted in the low halves of words, those of odd place in the high halves.
The networks are those of `kernels.gpu.movers.choose`. Two falling rows of N give the N-th largest of a group.

Comparing it with all elements leaves a sign per element, and all signs make a mask. Of elements equal to the N-th largest
too many may be kept. Only threads that see this find out which are equal, and drop the last ones: a branch that others skip.
"""

from collections.abc import Sequence

import triton
import triton.language as tl
from triton.language.target_info import current_target
from triton.runtime.jit import constexpr_function

from kernels.gpu.movers.choose import lesser, merge_8, most, sorted_4, sorted_8

LEAST_CAPABILITY = 90
"""Compute capability times ten. `max.u16x2` needs it (PTX ISA, min and max)."""


@constexpr_function
def are_sorted() -> bool:
    """Say whether the target of this compilation sorts pairs. No inline assembly runs in Triton's interpreter."""
    if triton.knobs.runtime.interpret:
        return False
    target = current_target()
    return target is not None and target.backend == "cuda" and int(target.arch) >= LEAST_CAPABILITY


def _signs_text(words: Sequence[str], up: Sequence[str], into: str) -> list[str]:
    """Write PTX that sets all bits of a byte for each element not below its group's least one, four of them in a word.

    What is added is 0x8000 less the least one, in both halves of a word: no sum is more than 16 bits.
    """
    lines = []
    for i in range(0, len(words), 2):
        for word, more, place in zip(words[i : i + 2], up[i : i + 2], ("low", "high"), strict=True):
            lines.append(f"add.u32 {place}, {word}, {more};")
        lines.append(f"prmt.b32 {into}{i // 2}, low, high, 0xfdb9;")
    return lines


def _mask_text(signs: str, n_words: int, into: str) -> list[str]:
    """Write PTX that makes a mask of such bytes; 16 bits are written twice."""
    lines = []
    for i in range(0, n_words, 2):
        # Each byte leaves one bit, and a product adds up all four bytes in the highest one.
        lines += [
            f"and.b32 low, {signs}{i}, 0x08040201;",
            f"lop3.b32 low, {signs}{i + 1}, 0x80402010, low, 0xea;",
            f"mul.lo.u32 eighth{i // 2}, low, 0x01010101;",
        ]
    lines.append(f"prmt.b32 {into}, eighth0, eighth1, 0x7373;")
    if n_words == 8:
        lines += ["prmt.b32 high, eighth2, eighth3, 0x7373;", f"prmt.b32 {into}, {into}, high, 0x5410;"]
    return lines


def _ties_text(m: int, n_words: int) -> list[str]:
    """Write PTX that keeps the first of those equal to the least one: `kept` bytes not below it, `more` bytes above it."""
    lines = _mask_text("more", n_words, "above")
    for group in range(4 * n_words // m):
        lines += [
            f"and.b32 low, above, {((1 << m) - 1) << (m * group):#x};",
            "popc.b32 low, low;",
            f"sub.u32 low, {m // 2}, low;",
            f"mad.lo.u32 left{group}, low, 0x01010101, 0x80808080;",
        ]
    for i in range(n_words):
        lines.append(f"lop3.b32 low, kept{i}, more{i}, 0x01010101, 0x28;")
        if 4 * i % m == 0:
            lines.append("mul.lo.u32 count, low, 0x01010101;")
        else:
            lines += ["prmt.b32 count, count, count, 0x3333;", "mad.lo.u32 count, low, 0x01010101, count;"]
        # Now each byte counts the equal ones up to its own, and its sign stays set if they are not too many.
        lines += [
            f"sub.u32 low, left{4 * i // m}, count;",
            "prmt.b32 low, low, low, 0xba98;",
            f"lop3.b32 more{i}, more{i}, kept{i}, low, 0xf8;",
        ]
    return lines


def _choice_text(m: int, unit: int) -> str:
    """Write PTX that keeps half of each group of M in a unit: words of pairs, the least one of each group -> a mask."""
    n_pairs, n_words, groups = unit // 2, unit // 4, unit // m
    words = [f"${1 + i}" for i in range(n_pairs)]
    bounds = [f"${1 + n_pairs + group}" for group in range(groups)]
    return "\n".join([
        "{",
        ".reg .pred none;",
        f".reg .b32 kept<{n_words}>, more<{n_words}>, eighth<{n_words // 2}>, up<{groups}>, left<{groups}>;",
        ".reg .b32 low, high, above, count, mask;",
        *(f"sub.u32 up{group}, 0x80008000, {bounds[group]};" for group in range(groups)),
        *_signs_text(words, [f"up{2 * i // m}" for i in range(n_pairs)], "kept"),
        *_mask_text("kept", n_words, "mask"),
        "popc.b32 count, mask;",
        "setp.eq.u32 none, count, 16;",  # half of 32, or 8 of 16 bits that are there twice
        "@none bra CHOSEN;",
        *(f"sub.u32 up{group}, up{group}, 0x00010001;" for group in range(groups)),
        *_signs_text(words, [f"up{2 * i // m}" for i in range(n_pairs)], "more"),
        *_ties_text(m, n_words),
        *_mask_text("more", n_words, "mask"),
        "CHOSEN:",
        "mov.b32 $0, mask;",
        "}",
    ])  # fmt: skip


_CHOICE_4 = tl.constexpr(_choice_text(4, 16))
_CHOICE_8 = tl.constexpr(_choice_text(8, 16))
_CHOICE_16 = tl.constexpr(_choice_text(16, 16))
_CHOICE_32 = tl.constexpr(_choice_text(32, 32))


@triton.jit
def magnitudes(pairs: tl.tuple) -> tuple[tl.tensor, ...]:
    """Clear the signs of four pairs."""
    return (
        pairs[0] & 0x7FFF7FFF, pairs[1] & 0x7FFF7FFF, pairs[2] & 0x7FFF7FFF, pairs[3] & 0x7FFF7FFF,
    )  # fmt: skip


@triton.jit
def _crossed(word: tl.tensor) -> tl.tensor:
    """Swap the elements of a pair."""
    return (word << 16) | (word >> 16)


@triton.jit
def _nth(row: tl.tuple, N: tl.constexpr) -> tl.tensor:
    """Find the N-th largest of two falling rows of N, one in each half of N words: in both halves."""
    least = most(row[0], _crossed(row[N - 1]))
    for i in tl.static_range(1, N // 2):
        least = lesser(least, most(row[i], _crossed(row[N - 1 - i])))
    return lesser(least, _crossed(least))


@triton.jit
def chosen_pairs_16(a: tl.tuple, b: tl.tuple, M: tl.constexpr) -> tl.tensor:
    """Choose half of each group of a unit of 16, twice four pairs of magnitudes: uint32 [L], 16 bits that are there twice."""
    if M == 16:
        least = _nth(sorted_8(a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3]), 8)
        word = tl.inline_asm_elementwise(
            _CHOICE_16, "=r,r,r,r,r,r,r,r,r,r", [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], least],
            dtype=tl.uint32, is_pure=True, pack=1,
        )  # fmt: skip
    elif M == 8:
        low = _nth(sorted_4(a[0], a[1], a[2], a[3]), 4)
        high = _nth(sorted_4(b[0], b[1], b[2], b[3]), 4)
        word = tl.inline_asm_elementwise(
            _CHOICE_8, "=r,r,r,r,r,r,r,r,r,r,r", [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], low, high],
            dtype=tl.uint32, is_pure=True, pack=1,
        )  # fmt: skip
    else:
        tl.static_assert(M == 4)
        first = _nth((most(a[0], a[1]), lesser(a[0], a[1])), 2)
        second = _nth((most(a[2], a[3]), lesser(a[2], a[3])), 2)
        third = _nth((most(b[0], b[1]), lesser(b[0], b[1])), 2)
        last = _nth((most(b[2], b[3]), lesser(b[2], b[3])), 2)
        word = tl.inline_asm_elementwise(
            _CHOICE_4, "=r,r,r,r,r,r,r,r,r,r,r,r,r",
            [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], first, second, third, last],
            dtype=tl.uint32, is_pure=True, pack=1,
        )  # fmt: skip
    return word


@triton.jit
def chosen_pairs_32(a: tl.tuple, b: tl.tuple, c: tl.tuple, d: tl.tuple) -> tl.tensor:
    """Choose half of a group of 32, four times four pairs of magnitudes: uint32 [L], a bit each."""
    low = sorted_8(a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3])
    high = sorted_8(c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3])
    least = _nth(merge_8(low, high), 16)
    return tl.inline_asm_elementwise(
        _CHOICE_32, "=r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r,r",
        [
            a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3],
            least,
        ],
        dtype=tl.uint32, is_pure=True, pack=1,
    )  # fmt: skip
