"""The mask of N:M pruning, computed on the device of the tensor. Rules and results are those of
`nmsim.prune` with `bit_order`.

Importing this module registers `nmsim::prune`. On CUDA tensors the mask comes from the codes of the pruning kernel, or from
ranks in plain torch.
"""

import functools

import torch
from torch import Tensor

import nmsim
from kernels.ops import checks, dispatch
from kernels.stored.errors import KernelError
from kernels.stored.nm_weight import as_array, checked_tensor, checked_type, empty_rows
from kernels.stored.rows import MAX_M, kernel_format
from nmsim import mask as masks
from nmsim.errors import PatternError
from nmsim.pattern import Pattern

INTEGERS = {2: torch.int16, 4: torch.int32}
"""Types of stored bits, by bytes."""


def prune(x: Tensor, pattern: Pattern | str, *, scores: Tensor | None = None) -> Tensor:
    """Choose the N elements to keep in every M consecutive ones of the last axis, such as those of activations.

    The rules are those of `nmsim.prune` with `bit_order`: greatest magnitude or score first, of equals the lower index. An
    element that is NaN or infinite is not refused: infinity is above every finite number, and NaN above infinity. A tail of t
    elements keeps min(N, t). `x.where(prune(x, pattern), 0)` is the pruned tensor, and passes gradients to what is
    kept.

    Parameters
    ----------
    x : Tensor [..., K] of float32, float16 or bfloat16
        In any memory order, with at least one axis.
    pattern : Pattern or str
    scores : Tensor like x, optional
        Numbers to rank by instead of magnitudes, of any of the three types; -inf is allowed, NaN is not. On a CUDA device the
        call waits until they are checked, so it cannot be captured in a CUDA graph. While it works, it takes some 30 bytes of
        memory per element, as does an M above 32.

    Returns
    -------
    bool Tensor like x
        True where an element is kept.

    Raises
    ------
    KernelError
        Tensors of another type or device.
    PatternError
        A scalar, scores of another shape, or a score that is NaN.

    Examples
    --------
    >>> x = torch.tensor([1.0, -4.0, 3.0, 2.0])
    >>> x.where(prune(x, "2:4"), 0).tolist()
    [0.0, -4.0, 3.0, 0.0]
    """
    checked_type("x", x)
    if scores is not None:
        checked_type("scores", scores)
    found: Tensor = torch.ops.nmsim.prune(x, pattern if isinstance(pattern, str) else str(pattern), scores)
    return found


@torch.library.custom_op("nmsim::prune", mutates_args=())
def _prune(x: Tensor, pattern: str, scores: Tensor | None) -> Tensor:
    parsed = _checked(x, pattern, scores)
    if dispatch.serves(x):
        checks.check_dense(x=x, scores=scores)
        return prune_on_device(x.detach(), parsed, None if scores is None else scores.detach())
    ranked = None if scores is None else as_array(scores)
    return torch.from_numpy(nmsim.prune(as_array(x), parsed, scores=ranked, bit_order=True))


@_prune.register_fake
def _(x: Tensor, pattern: str, scores: Tensor | None) -> Tensor:
    _checked(x, pattern, scores)
    return x.new_empty(x.shape, dtype=torch.bool)


def _checked(x: Tensor, pattern: str, scores: Tensor | None) -> Pattern:
    """Refuse scores that do not fit x, and parse the pattern."""
    checked_tensor("x", x)
    parsed = _pattern(pattern)
    masks.checked_axis(tuple(x.shape), -1)
    if scores is not None:
        checked_tensor("scores", scores)
        if scores.shape != x.shape or scores.device != x.device:
            raise KernelError(
                f"scores are {tuple(scores.shape)} on {scores.device}: expected {tuple(x.shape)} on {x.device}, like x"
            )
    return parsed


@functools.lru_cache
def _pattern(text: str) -> Pattern:
    return Pattern.parse(text)


def prune_on_device(x: Tensor, pattern: Pattern, scores: Tensor | None) -> Tensor:
    """Choose what to keep of x [..., K], by magnitudes or by scores [..., K]: -> bool [..., K].

    Magnitudes go through the kernel up to M of 32. All else is ranked by torch, which takes some 30 bytes of memory for each
    element while it works. Looking for NaN among scores waits for the device.

    Raises
    ------
    PatternError
        A score that is NaN.
    """
    if x.numel() == 0:
        return x.new_empty(x.shape, dtype=torch.bool)
    rows = x.reshape(-1, x.shape[-1])
    if scores is not None:
        return by_rank(_ordered(_without_nan(scores).reshape(rows.shape)), pattern).reshape(x.shape)
    if pattern.m > MAX_M:
        return by_rank(_magnitudes(rows), pattern).reshape(x.shape)
    return _by_codes(rows.contiguous(), pattern).reshape(x.shape)


def by_rank(keys: Tensor, pattern: Pattern) -> Tensor:
    """Keep the N greatest int32 keys of every M in a row, of equals the first: [R, K] -> bool [R, K].

    A key and its place make one number, so that no two are equal and the order in which torch meets them does not matter.

    Examples
    --------
    >>> by_rank(torch.tensor([[1, 3, 3, 2, 5]], dtype=torch.int32), Pattern(1, 4)).tolist()
    [[False, True, False, False, True]]
    """
    rows, k = keys.shape
    n_groups, m = pattern.groups(k), pattern.m
    below_all = torch.iinfo(torch.int32).min - 1
    whole = torch.nn.functional.pad(keys.long(), (0, n_groups * m - k), value=below_all)
    from_last = torch.arange(m - 1, -1, -1, device=keys.device)
    ranks = whole.view(rows, n_groups, m) * m + from_last
    least = ranks.topk(pattern.n, dim=-1).values[..., -1:]
    return (ranks >= least).view(rows, n_groups * m)[:, :k].contiguous()


def _by_codes(x: Tensor, pattern: Pattern) -> Tensor:
    """Let the kernel prune and pack tokens [T, K], and read the bits of its codes: -> bool [T, K]."""
    tokens, k = x.shape
    format = kernel_format(f"{pattern}/bitmask")
    values, metadata = empty_rows(x, format)
    unused = x.new_empty((2, tokens), dtype=torch.float32)
    dispatch.module("movers.prune").launch(x, format, (values, metadata, *unused), shift="none")
    bit = (1 << torch.arange(8, device=x.device)).to(torch.uint8)
    return ((metadata[:, :, None] & bit) != 0).view(tokens, -1)[:, :k].contiguous()


def _magnitudes(x: Tensor) -> Tensor:
    """Take stored bits without the sign: int32, NaN above infinity."""
    integer = INTEGERS[x.element_size()]
    return (x.view(integer) & torch.iinfo(integer).max).int()


def _ordered(scores: Tensor) -> Tensor:
    """Turn numbers into integers of the same order, -0.0 and 0.0 into one: int32."""
    bits = scores.float().view(torch.int32)
    bits = bits.masked_fill(bits == torch.iinfo(torch.int32).min, 0)
    return bits ^ ((bits >> 31) & torch.iinfo(torch.int32).max)


def _without_nan(scores: Tensor) -> Tensor:
    """Refuse a score that is NaN, the first one named."""
    odd = scores.isnan()
    if odd.any():
        where = ", ".join(str(int(place)) for place in odd.nonzero()[0])
        raise PatternError(f"scores[{where}] is NaN: expected numbers that have an order")
    return scores
