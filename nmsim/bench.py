"""How fast the codecs are on this machine, as ratios to a plain copy of the decoded masks in the same run.

Machines differ and are busy. So each repetition times the copy, then every operation, one after the other, on the same
data. A ratio is taken per repetition. Its median and its 20th and 80th percentiles are reported. Data stays
within the last-level cache, as it does when a codec works on a tensor chunk by chunk.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from nmsim import encodings, words
from nmsim.errors import PatternError
from nmsim.pattern import Pattern

DEFAULT_ELEMS = 1 << 22
DEFAULT_REPETITIONS = 31
COPY = "copy of masks"

Work = dict[tuple[str, str, int], Callable[[], object]]
"""Encoding, operation and cores -> what to time."""


@dataclass(frozen=True)
class Speed:
    """One operation: elements of the dense tensor per second, against a copy, and against itself on one core."""

    pattern: str
    encoding: str
    operation: str
    threads: int
    p50_elems_per_s: float
    p20_elems_per_s: float
    p80_elems_per_s: float
    p50_share_of_copy: float
    p20_share_of_copy: float
    p80_share_of_copy: float
    p50_times_one_core: float
    p20_times_one_core: float
    p80_times_one_core: float
    repetitions: int


def measure(
    pattern: Pattern,
    names: list[str],
    *,
    elems: int = DEFAULT_ELEMS,
    repetitions: int = DEFAULT_REPETITIONS,
    threads: int = 1,
    seed: int = 0,
) -> Iterator[Speed]:
    """Time encoding and decoding, between masks and codes and between masks and the bit stream.

    Parameters
    ----------
    pattern : Pattern
        M at most 64.
    names : list of str
        Encodings.
    elems : int
        Elements of the dense tensor behind the masks.
    repetitions, seed : int
    threads : int
        Above 1, every operation is timed on one core too, in the same repetitions.

    Yields
    ------
    Speed
        `encode`, `decode` (codes in memory, output reused), `write_stream`, `read_stream` (with bit packing and
        fresh memory), and `copy` (the yardstick itself) under the encoding name `COPY`.
    """
    masks = random_masks(pattern, elems // pattern.m, seed)
    target = np.empty_like(masks)
    work: Work = {(COPY, "copy", 1): lambda: np.copyto(target, masks)}
    for name in names:
        for cores in sorted({1, threads}):
            work |= _operations(name, pattern, masks, target, cores)
    # A first run that is not timed compiles the functions and touches their memory.
    for action in work.values():
        action()
    times = {key: np.empty(repetitions) for key in work}
    # Interleaved, so that a change of the machine's speed reaches all operations of a repetition alike.
    for repetition in range(repetitions):
        for key, action in work.items():
            started = time.perf_counter()
            action()
            times[key][repetition] = time.perf_counter() - started
    n_elems = len(masks) * pattern.m
    for (name, operation, cores), taken in times.items():
        rate = np.percentile(n_elems / taken, [20, 50, 80])
        share = np.percentile(times[COPY, "copy", 1] / taken, [20, 50, 80])
        gain = np.percentile(times[name, operation, 1] / taken, [20, 50, 80])
        yield Speed(
            pattern=str(pattern),
            encoding=name,
            operation=operation,
            threads=cores,
            p20_times_one_core=float(gain[0]),
            p50_times_one_core=float(gain[1]),
            p80_times_one_core=float(gain[2]),
            p20_elems_per_s=float(rate[0]),
            p50_elems_per_s=float(rate[1]),
            p80_elems_per_s=float(rate[2]),
            p20_share_of_copy=float(share[0]),
            p50_share_of_copy=float(share[1]),
            p80_share_of_copy=float(share[2]),
            repetitions=repetitions,
        )


def refuse_wide(pattern: Pattern) -> None:
    """Refuse a pattern whose masks take more than a machine word.

    Raises
    ------
    PatternError
        M is above 64.
    """
    if pattern.m > words.WORD_BITS:
        raise PatternError(f"pattern {pattern}: expected M of at most {words.WORD_BITS} to be timed")


def random_masks(pattern: Pattern, n_groups: int, seed: int) -> words.Words:
    """Masks drawn evenly from all legal ones, M at most 64."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, pattern.configurations, n_groups, dtype=np.uint64)
    codec = encodings.get("combinatorial")
    return codec.decode_words(codes.astype(words.word_dtype(codec.code_bits(pattern))), pattern)


def _operations(name: str, pattern: Pattern, masks: words.Words, target: words.Words, threads: int) -> Work:
    codec = encodings.get(name)
    codes = codec.encode_words(masks, pattern)
    stream, _ = codec.write_stream(masks, pattern)
    count = len(masks)
    return {
        (name, "encode", threads): lambda: codec.encode_words(masks, pattern, out=codes, threads=threads),
        (name, "decode", threads): lambda: codec.decode_words(
            codes, pattern, count, out=target, threads=threads
        ),
        (name, "write_stream", threads): lambda: codec.write_stream(masks, pattern, threads=threads),
        (name, "read_stream", threads): lambda: codec.read_stream(stream, pattern, count, threads=threads),
    }
