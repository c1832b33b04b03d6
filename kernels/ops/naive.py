"""The operators of `kernels.ops` in plain loops of torch, written from the pages, to compare with.

It shares nothing with `kernels.cpu` or nmsim's codecs except the type `Pattern`. A format is text such as `8:16/index`. Slow:
for small tensors.
"""

from math import comb

import torch
from torch import Tensor

from nmsim.pattern import Pattern
from nmsim.reference import tiled


def prune(x: Tensor, pattern: Pattern, scores: Tensor | None = None) -> Tensor:
    """Keep the N greatest of every M along the last axis, of equals the first: x [..., K] -> bool [..., K].

    Scores [..., K] replace magnitudes. Magnitudes are bits without the sign, so NaN is above infinity.
    """
    if scores is None:
        integer = {2: torch.int16, 4: torch.int32}[x.element_size()]
        keys = x.detach().contiguous().view(integer) & torch.iinfo(integer).max
    else:
        keys = scores.detach()
    mask = torch.zeros(x.shape, dtype=torch.bool)
    for start in range(0, x.shape[-1], pattern.m):
        group = keys[..., start : start + pattern.m]  # [..., M], or fewer at the end
        best = group.sort(dim=-1, descending=True, stable=True).indices[..., : pattern.n]
        mask[..., start : start + pattern.m].scatter_(-1, best, True)
    return mask


def compress(weight: Tensor, format: str, *, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Store what is kept: weight [N, K], mask bool [N, K] -> values [N, G * n], metadata uint8 [N, bytes of a row].

    A group that keeps too few is completed with its lowest free positions. Rows are completed with groups, up to whole steps.
    Zeros are stored for both.
    """
    pattern, _ = fields(format)
    mask = prune(weight, pattern) if mask is None else mask
    values, metadata = [], []
    for row, kept in zip(weight, mask, strict=True):
        k = len(row)
        row_values: list[Tensor] = []
        stream, width = 0, 0
        for start in range(0, pattern.m * groups_of_row(format, k), pattern.m):
            end = min(k, start + pattern.m)
            wanted = [i - start for i in range(start, end) if kept[i]]
            free = [i for i in range(pattern.m) if i not in wanted]
            positions = sorted(wanted + free[: pattern.n - len(wanted)])
            row_values += [row[start + i] if i in wanted else row.new_zeros(()) for i in positions]
            stream |= code(positions, format) << width
            width += slot_bits(format)
        values.append(torch.stack(row_values))
        metadata.append(torch.tensor(list(stream.to_bytes((width + 7) // 8, "little")), dtype=torch.uint8))
    return torch.stack(values), torch.stack(metadata)


def decompress(values: Tensor, metadata: Tensor, format: str, k: int) -> Tensor:
    """Put stored values back: values [N, G * n], metadata uint8 [N, bytes of a row] -> [N, K], zero elsewhere."""
    pattern, _ = fields(format)
    n_groups = groups_of_row(format, k)
    dense = values.new_zeros(len(values), n_groups * pattern.m)
    width = slot_bits(format)
    for r, row_bytes in enumerate(metadata.tolist()):
        stream = int.from_bytes(bytes(row_bytes), "little")
        for g in range(n_groups):
            positions = positions_of(stream >> (g * width) & ((1 << width) - 1), format)
            for i, position in enumerate(positions):
                dense[r, g * pattern.m + position] = values[r, g * pattern.n + i]
    return dense[:, :k].contiguous()


def sparse_linear(
    x: Tensor, values: Tensor, metadata: Tensor, format: str, bias: Tensor | None = None
) -> Tensor:
    """Decompress and multiply in float32: x [..., K], bias [N] -> [..., N] of the dtype of x."""
    dense = decompress(values, metadata, format, x.shape[-1])
    y = x.float() @ dense.float().T
    return (y if bias is None else y + bias.float()).to(x.dtype)


def grouped_linear(x: Tensor, weight: Tensor, experts: Tensor, bias: Tensor | None = None) -> Tensor:
    """Multiply tokens [T, K] with weights [E, N, K] of their experts [T, C] in float32: -> [T, C, N], zero without one."""
    y = x.new_zeros((*experts.shape, weight.shape[1]), dtype=torch.float32)
    for token, row in enumerate(experts.tolist()):
        for choice, expert in enumerate(row):
            if 0 <= expert < len(weight):
                y[token, choice] = weight[expert].float() @ x[token].float()
                y[token, choice] += 0 if bias is None else bias[expert].float()
    return y.to(x.dtype)


def token_shift(x: Tensor, statistic: str) -> Tensor:
    """Take the mean, or of two medians the lower one, of every token: x [T, K] -> float32 [T]; NaN if one is among it."""
    if statistic == "mean":
        return x.double().mean(-1).float()
    median = x.float().sort(dim=-1).values[:, (x.shape[-1] - 1) // 2]
    return median.masked_fill(x.isnan().any(-1), torch.nan)


def prune_tokens(
    x: Tensor, pattern: Pattern, eta: Tensor | None = None, vector: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Shift and choose: x [T, K] -> x - eta [T, K], mask [T, K].

    Eta, float32 [T, 1] or [K], is subtracted in float32. Scores are magnitudes in float32 of the difference, times float32
    `vector` [K]. All NaN are alike. With neither, x stays as it is and its bits decide. What is stored of a
    difference is rounded once, to the type of x.
    """
    if eta is None and vector is None:
        return x, prune(x, pattern)
    difference = x.float() if eta is None else x.float() - eta
    scores = difference if vector is None else difference * vector
    return difference, prune(scores.masked_fill(scores.isnan(), torch.nan), pattern)


def compress_tokens(
    x: Tensor, format: str, eta: Tensor | None = None, vector: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Prune as `prune_tokens` and store as `compress`: x [T, K] -> values [T, G * n], metadata uint8 [T, bytes of a row]."""
    difference, mask = prune_tokens(x, fields(format)[0], eta, vector)
    return compress(x if eta is None else difference.to(x.dtype), format, mask=mask)


def variance_factor(difference: Tensor, mask: Tensor) -> Tensor:
    """Root of the variance of all over that of what is kept, zeros included: [T, K], mask [T, K] -> float32 [T]."""
    before, after = difference.double().var(-1), difference.double().where(mask, 0).var(-1)
    return (before / after.clamp(min=1e-9)).sqrt().float()


def activations_linear(
    values: Tensor,
    metadata: Tensor,
    weight: Tensor,
    format: str,
    *,
    v: Tensor | None = None,
    eta: Tensor | None = None,
    row_sums: Tensor | None = None,
    scale: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Multiply packed tokens with weight [O, K] in float32: -> [T, O] of the type of values.

    y_io = (v_i sum_j xsp_ij w_oj + eta_i r_o) (1 + s_o) + b_o, with v, eta [T] and row sums r, scale s, bias b [O].
    """
    y = decompress(values, metadata, format, weight.shape[1]).float() @ weight.float().T
    if v is not None:
        y = v[:, None] * y
    if eta is not None and row_sums is not None:
        y = y + eta[:, None] * row_sums
    if scale is not None:
        y = y * (1 + scale)
    if bias is not None:
        y = y + bias
    return y.to(values.dtype)


def fields(format: str) -> tuple[Pattern, str]:
    """Text of a format -> its pattern and the name of its encoding; a packing after them is not looked at."""
    pattern, encoding, *_ = format.split("/")
    return Pattern.parse(pattern), encoding


def groups_of_row(format: str, k: int) -> int:
    """Groups stored of a row: those that cover K, and more up to a whole step.

    A step is 16 elements for 2:4, 4:8 and 8:16, 32 for 16:32, and for others as many groups as make whole bytes.
    """
    pattern, _ = fields(format)
    count = -(-k // pattern.m)
    step = {"2:4": 16, "4:8": 16, "8:16": 16, "16:32": 32}.get(str(pattern))
    while count * pattern.m % step if step else count * slot_bits(format) % 8:
        count += 1
    return count


def slot_bits(format: str) -> int:
    """Bits of a code as it is stored: `combinatorial` codes are rounded up to a power of two."""
    pattern, encoding = fields(format)
    if encoding == "bitmask":
        return pattern.m
    if encoding == "index":
        return pattern.n * position_bits(pattern)
    bits = (comb(pattern.m, pattern.n) - 1).bit_length()
    return bits and 1 << (bits - 1).bit_length()


def position_bits(pattern: Pattern) -> int:
    """Bits of a position of the `index` encoding."""
    return (pattern.m - 1).bit_length()


def code(positions: list[int], format: str) -> int:
    """Positions of a group, in ascending order -> its code.

    `bitmask` sets bit i for position i. `index` writes one position after the other. `combinatorial` counts the masks that
    are smaller, read as integers: for the i-th position p, C(p, i + 1) of them. `tiled` is that of `nmsim.reference`.
    """
    pattern, encoding = fields(format)
    if encoding == "bitmask":
        return sum(1 << p for p in positions)
    if encoding == "index":
        return sum(p << (i * position_bits(pattern)) for i, p in enumerate(positions))
    if encoding == "tiled":
        return tiled.encode([sum(1 << p for p in positions)], pattern)[0]
    return sum(comb(p, i + 1) for i, p in enumerate(positions))


def positions_of(number: int, format: str) -> list[int]:
    """Code of a group -> its positions, in ascending order."""
    pattern, encoding = fields(format)
    if encoding == "bitmask":
        return [p for p in range(pattern.m) if number >> p & 1]
    if encoding == "index":
        width = position_bits(pattern)
        return [number >> (i * width) & ((1 << width) - 1) for i in range(pattern.n)]
    if encoding == "tiled":
        mask = tiled.decode([number], pattern)[0]
        return [p for p in range(pattern.m) if mask >> p & 1]
    found = []
    for i in reversed(range(pattern.n)):
        p = max(p for p in range(pattern.m) if comb(p, i + 1) <= number)
        found.append(p)
        number -= comb(p, i + 1)
    return found[::-1]
