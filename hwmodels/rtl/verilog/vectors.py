"""What a unit must answer: inputs, and the outputs that `nmsim` gives for them.

Codes and masks come from `nmsim.encodings`, choices from `nmsim.mask`. So a unit is compared with code that knows no gates.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hwmodels.gates.record import UnitSpec
from nmsim import encodings
from nmsim.encodings.index import position_bits
from nmsim.errors import EncodingError, SpecError, brief
from nmsim.layouts.nibbles import MASK_OF_NIBBLE, NIBBLE_OF_MASK
from nmsim.mask import choose_rows
from nmsim.pattern import Pattern

EXHAUSTIVE_BITS: Final = 16
"""Inputs of at most as many bits are all tried."""
SAMPLES: Final = 2048
MOST_BITS: Final = 32
"""Of keys and of a lane's values."""
LANE_GROUPS: Final = 512
MOST_GROUPS_PER_ROW: Final = 6
SUM_BITS: Final = 32
SEED: Final = 18
NIBBLES: Final = "nibbles"
"""The variant whose codes are NVIDIA's four bits per group."""
NIBBLE_BITS: Final = 4
Ports = dict[str, int]
Vector = tuple[Ports, Ports]
"""Inputs, and outputs that are defined for them: an output that is not named may be anything."""


def vectors(spec: UnitSpec) -> Iterator[Vector]:
    """Inputs of a unit, and what it must answer.

    All codes and masks if there are at most 2^16 of them. Otherwise a sample, half of it illegal where anything is.

    Parameters
    ----------
    spec : UnitSpec

    Raises
    ------
    SpecError
        A kind of unit that has no vectors, or keys and values that are too wide to compute with.

    Examples
    --------
    >>> next(vectors(UnitSpec("decoder", 2, 4, "combinatorial", "serial")))
    ({'code': 0}, {'valid': 1, 'mask': 3})
    """
    made = {
        "decoder": _decoder,
        "position_decoder": _decoder,
        "encoder": _encoder,
        "select": _select,
        "selector": _selector,
        "lane": _lane,
    }.get(spec.unit)
    if made is None:
        raise SpecError(f"unit {brief(spec.unit)}: it has no test bench")
    if spec.unit != "select" and spec.width_bits > MOST_BITS:
        raise SpecError(f"{spec}: expected at most {MOST_BITS} bits for a test bench")
    return made(spec)


def positions(mask: int) -> list[int]:
    """Indices of the ones of a mask, lowest first."""
    return [at for at in range(mask.bit_length()) if mask >> at & 1]


def _masks(pattern: Pattern, rng: np.random.Generator) -> list[int]:
    """All masks, smallest first, or a sample."""
    if pattern.m <= EXHAUSTIVE_BITS:
        return [mask for mask in range(1 << pattern.m) if mask.bit_count() == pattern.n]
    return [
        sum(1 << int(at) for at in rng.choice(pattern.m, pattern.n, replace=False)) for _ in range(SAMPLES)
    ]


def _numbers(width: int, rng: np.random.Generator) -> list[int]:
    """All numbers of a width, or a sample with both ends."""
    if width <= EXHAUSTIVE_BITS:
        return list(range(1 << width))
    top = (1 << width) - 1
    return [0, 1, top - 1, top, *(_drawn(width, rng) for _ in range(SAMPLES // 2))]


def _drawn(width: int, rng: np.random.Generator) -> int:
    return int.from_bytes(rng.bytes(width // 8 + 1), "little") & ((1 << width) - 1)


def _decoder(spec: UnitSpec) -> Iterator[Vector]:
    rng = np.random.default_rng(SEED)
    pattern, codec = spec.pattern, encodings.get(spec.encoding)
    groups = codec.groups_per_code(pattern)
    if spec.variant == NIBBLES:
        width, mask_of = NIBBLE_BITS, dict(MASK_OF_NIBBLE[pattern.m])
    else:
        width, mask_of = codec.code_bits(pattern), _mask_of_code(spec, groups, rng)
    for code in sorted({*_numbers(width, rng), *mask_of}):
        mask = mask_of.get(code)
        if mask is None and (width > EXHAUSTIVE_BITS or groups > 1):
            mask = _decoded(code, spec, groups)
        answer: Ports = {"valid": int(mask is not None)}
        if mask is not None and spec.unit == "decoder":
            answer["mask"] = mask
        elif mask is not None:
            kept = [at % pattern.m for at in positions(mask)]
            answer |= {f"position_{slot}": at for slot, at in enumerate(kept)}
        yield {"code": code}, answer


def _mask_of_code(spec: UnitSpec, groups: int, rng: np.random.Generator) -> dict[int, int]:
    """Legal codes and their masks: all, or a sample of them. A code of several groups has the first one's mask lowest."""
    masks = _masks(spec.pattern, rng)
    if groups > 1:
        masks = rng.choice(masks, groups * SAMPLES).tolist()
    codes = encodings.get(spec.encoding).encode(_words(masks), spec.pattern)
    return {
        int(code): _packed(masks[at * groups : (at + 1) * groups], spec.m) for at, code in enumerate(codes)
    }


def _words(values: list[int]) -> NDArray[Any]:
    return np.array(values, np.uint64 if max(values) < 1 << 64 else object)


def _decoded(code: int, spec: UnitSpec, groups: int) -> int | None:
    """The mask of a code; None if the code is illegal."""
    try:
        masks = encodings.get(spec.encoding).decode(_words([code]), spec.pattern, n_groups=groups)
    except EncodingError:
        return None
    return _packed([int(mask) for mask in masks], spec.m)


def _encoder(spec: UnitSpec) -> Iterator[Vector]:
    rng = np.random.default_rng(SEED)
    groups = encodings.get(spec.encoding).groups_per_code(spec.pattern)
    if spec.variant == NIBBLES:
        code_of = dict(NIBBLE_OF_MASK[spec.m])
    else:
        code_of = {mask: code for code, mask in _mask_of_code(spec, groups, rng).items()}
    width = groups * spec.m
    for mask in sorted({*_numbers(width, rng), *code_of}):
        parts = [mask >> (at * spec.m) & ((1 << spec.m) - 1) for at in range(groups)]
        if mask in code_of:
            yield {"mask": mask}, {"legal": 1, "code": code_of[mask]}
        elif any(part.bit_count() != spec.n for part in parts):
            yield {"mask": mask}, {"legal": 0}


def _select(spec: UnitSpec) -> Iterator[Vector]:
    rng = np.random.default_rng(SEED)
    pattern, width = spec.pattern, spec.width_bits
    masks = _masks(pattern, rng)
    for mask in masks if len(masks) <= SAMPLES else rng.choice(masks, SAMPLES, replace=False):
        x, kept = _drawn(pattern.m * width, rng), positions(int(mask))
        chosen = [x >> (at * width) & ((1 << width) - 1) for at in kept]
        yield {"x": x, **_settings(spec, int(mask))}, {"y": _packed(chosen, width)}


def _settings(spec: UnitSpec, mask: int) -> Ports:
    """What says which elements a select network takes."""
    pattern, kept = spec.pattern, positions(mask)
    if spec.variant == "butterfly":
        return {"mask": mask}
    if spec.variant in ("onehot", "crossbar"):
        # A line for each element that a slot can take: those from the slot's own on, or all.
        ordered = spec.variant == "onehot"
        lines = pattern.m - pattern.n + 1 if ordered else pattern.m
        return {"lines": _packed([1 << (at - slot * ordered) for slot, at in enumerate(kept)], lines)}
    return {"positions": _packed(kept, position_bits(pattern.m))}


def _lane(spec: UnitSpec) -> Iterator[Vector]:
    """Groups of rows. The last group of a row has the sum of its row; at the end is a row with an illegal code."""
    rng = np.random.default_rng(SEED)
    width, low = spec.width_bits, 1 << (spec.width_bits - 1)
    mask_of = _mask_of_code(spec, 1, rng)
    codes = list(mask_of)
    total, left = 0, 1
    for group in range(LANE_GROUPS):
        code = codes[int(rng.integers(len(codes)))]
        values, x = (rng.integers(-low, low, count).tolist() for count in (spec.n, spec.m))
        total += sum(value * x[at] for value, at in zip(values, positions(mask_of[code]), strict=True))
        left -= 1
        is_last = not left or group == LANE_GROUPS - 1
        given = {
            "in_last": int(is_last),
            "code": code,
            "values": _packed(values, width),
            "x": _packed(x, width),
        }
        yield given, ({"sum": total & ((1 << SUM_BITS) - 1), "bad": 0} if is_last else {})
        if is_last:
            total, left = 0, int(rng.integers(1, MOST_GROUPS_PER_ROW + 1))
    width = encodings.get(spec.encoding).code_bits(spec.pattern)
    for code in _numbers(width, rng):
        if code not in mask_of and _decoded(code, spec, 1) is None:
            yield {"in_last": 1, "code": code, "values": 0, "x": 0}, {"bad": 1}
            break


def _packed(values: list[int], width: int) -> int:
    return sum((value & ((1 << width) - 1)) << (at * width) for at, value in enumerate(values))


def _selector(spec: UnitSpec) -> Iterator[Vector]:
    rng = np.random.default_rng(SEED)
    pattern, width = spec.pattern, spec.width_bits
    # Few distinct keys give ties, and ties at both ends of the range.
    ranges = itertools.cycle([(0, 1 << width), (0, 3), ((1 << width) - 2, 1 << width), (0, pattern.m)])
    keys = np.stack(
        [
            rng.integers(low, min(high, 1 << width), pattern.m, np.uint32)
            for low, high in itertools.islice(ranges, SAMPLES)
        ]
    )
    for row, mask in zip(keys.tolist(), choose_rows(keys, pattern).astype(int).tolist(), strict=True):
        yield {"keys": _packed(row, width)}, {"mask": _packed(mask, 1)}
