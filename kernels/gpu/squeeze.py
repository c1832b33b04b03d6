"""Dense 16-bit elements to the values that are kept, in registers, where half are: the way back of `kernels.gpu.spread`.

A thread takes a unit, 16 or 32 elements. Two elements at a time enter a queue of 32-bit words from above, which moves on by
as many values as are kept of the two; as half of all are, the queue is full when the unit is through. Positions, fields of
fewer bits, go through a queue of their own.
"""

from typing import Any

import triton
import triton.language as tl

from kernels.gpu.spread import moved_on


@triton.jit
def four_pairs(raw: tl.tensor, LINES: tl.constexpr) -> tuple[tl.tensor, ...]:
    """Take eight 16-bit columns apart by twos: int16 [L, 8] -> four of uint32 [L]."""
    even, odd = tl.split(tl.reshape(raw, [LINES, 4, 2]))
    both = (even.to(tl.uint32) & 0xFFFF) | (odd.to(tl.uint32) << 16)
    even, odd = tl.split(tl.reshape(both, [LINES, 2, 2]))
    a, c = tl.split(even)
    b, d = tl.split(odd)
    return a, b, c, d


@triton.jit
def _two(pair: tl.tensor, kept: tl.tensor, queue: tl.tuple, BITS: tl.constexpr) -> Any:
    """Let two fields of so many bits in, of which the lowest bits of `kept` say which."""
    first = kept & 1
    by = (first + ((kept >> 1) & 1)) * BITS
    new = pair >> ((first ^ 1) * BITS)
    return moved_on(queue, new, by)


@triton.jit
def _eight(pairs: tl.tuple, word: tl.tensor, queue: tl.tuple) -> Any:
    """Let eight values in, of which the lowest bits of a word say which."""
    queue = _two(pairs[0], word, queue, 16)
    queue = _two(pairs[1], word >> 2, queue, 16)
    queue = _two(pairs[2], word >> 4, queue, 16)
    return _two(pairs[3], word >> 6, queue, 16)


@triton.jit
def squeezed_16(a: tl.tuple, b: tl.tuple, word: tl.tensor, LINES: tl.constexpr) -> tl.tensor:
    """Keep the values of set bits, 8 of 16: twice four pairs and uint32 [L] -> pairs of values uint32 [L, 4]."""
    none = word * 0
    queue = (none, none, none, none, none, none, none, none)
    queue = _eight(b, word >> 8, _eight(a, word, queue))
    return tl.reshape(tl.join(tl.join(queue[4], queue[6]), tl.join(queue[5], queue[7])), [LINES, 4])


@triton.jit
def squeezed_32(
    a: tl.tuple, b: tl.tuple, c: tl.tuple, d: tl.tuple, word: tl.tensor, LINES: tl.constexpr
) -> tl.tensor:
    """Keep the values of set bits, 16 of 32: four times four pairs and uint32 [L] -> pairs of values uint32 [L, 8]."""
    none = word * 0
    queue = (none, none, none, none, none, none, none, none)
    queue = _eight(b, word >> 8, _eight(a, word, queue))
    queue = _eight(d, word >> 24, _eight(c, word >> 16, queue))
    even = tl.join(tl.join(queue[0], queue[4]), tl.join(queue[2], queue[6]))
    odd = tl.join(tl.join(queue[1], queue[5]), tl.join(queue[3], queue[7]))
    return tl.reshape(tl.join(even, odd), [LINES, 8])


@triton.jit
def squeezed_positions(
    word: tl.tensor, M: tl.constexpr, UNIT: tl.constexpr, BITS: tl.constexpr
) -> tuple[tl.tensor, ...]:
    """Find where in its group each kept element of a unit is: fields of so many bits, the first lowest, in three words.

    The fields end with the last word: of three words, those of `UNIT // 2 * BITS` bits are the highest.
    """
    none = word * 0
    queue = (none, none, none, none, none, none, none, none)
    for i in tl.static_range(UNIT // 2):
        queue = _two(none + (2 * i % M + ((2 * i % M + 1) << BITS)), word >> (2 * i), queue, BITS)
    return queue[5], queue[6], queue[7]
