"""Tensors that begin at an odd place: refused by name wherever a kernel cannot read them, before any kernel is asked for."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
from triton_tensors import made, same_bits  # noqa: E402

from kernels import ops  # noqa: E402
from kernels.cpu import KernelError  # noqa: E402
from kernels.ops import (  # noqa: E402
    NMLinear,
    activations_linear,
    checks,
    decode_linear,
    dispatch,
    for_decode,
    prune_activations,
    skip_linear,
)
from kernels.stored.shuffled import PLANES  # noqa: E402
from nmsim.pattern import Pattern  # noqa: E402

W = made(3, 48, dtype=torch.float16)
X = made(2, 48, dtype=torch.float16)
BIAS = made(3, dtype=torch.float16)
WEIGHTS = ops.compress(W, "8:16/bitmask")
ROWS = ops.compress(W, "3:7/bitmask")
DECODE = for_decode(WEIGHTS)
KEPT = prune_activations(X, "8:16")
OF_ROWS = prune_activations(X, "3:7")
ONE = prune_activations(X[0], "8:16")


def off(part, off_bytes):
    """Copy to memory that begins so many bytes behind a multiple of 64."""
    room = torch.zeros(part.nbytes + 128, dtype=torch.uint8).numpy()
    start = -room.ctypes.data % 64 + off_bytes
    raw = torch.frombuffer(room, dtype=torch.uint8, offset=start, count=part.nbytes)
    raw.copy_(part.contiguous().view(torch.uint8).reshape(-1))
    moved = torch.frombuffer(room, dtype=part.dtype, offset=start, count=part.numel()).view(part.shape)
    assert moved.data_ptr() % 64 == off_bytes
    return moved


@pytest.fixture
def on_gpu(monkeypatch):
    """Have tensors in main memory counted as a GPU's, and no kernel at hand."""
    monkeypatch.setattr(dispatch, "serves", lambda tensor: tensor.device.type == "cpu")
    monkeypatch.setattr(dispatch, "module", lambda name: pytest.fail(f"{name} was reached"))


def packed(weights, **parts):
    """Give weights other parts, codes unread."""
    new = object.__new__(ops.NMWeight)
    for name in ("values", "metadata", "format", "shape", "format_text"):
        object.__setattr__(new, name, parts.get(name, getattr(weights, name)))
    return new


STORED = {
    "sparse_linear metadata": (
        lambda off_bytes: ops.sparse_linear(X, packed(WEIGHTS, metadata=off(WEIGHTS.metadata, off_bytes))),
        (1, 2, 3), 4,
    ),
    "unpack metadata": (
        lambda off_bytes: ops.decompress(packed(WEIGHTS, metadata=off(WEIGHTS.metadata, off_bytes))), (1, 2), 4,
    ),
    "unpack values": (lambda off_bytes: ops.decompress(packed(ROWS, values=off(ROWS.values, off_bytes))), (1, 3), 2),
    "decode_linear values": (
        lambda off_bytes: decode_linear(X, replace(DECODE, values=off(DECODE.values, off_bytes))), (1, 2, 4), 8,
    ),
    "decode_linear metadata": (
        lambda off_bytes: decode_linear(X, replace(DECODE, metadata=off(DECODE.metadata, off_bytes))), (1,), 2,
    ),
    "skip_linear metadata": (
        lambda off_bytes: skip_linear(ONE._replace(metadata=off(ONE.metadata, off_bytes)), W.T.contiguous()), (1, 2), 4,
    ),
    "skip_linear values": (
        lambda off_bytes: skip_linear(ONE._replace(values=off(ONE.values, off_bytes)), W.T.contiguous()), (1,), 2,
    ),
    "activations_linear metadata": (
        lambda off_bytes: activations_linear(KEPT._replace(metadata=off(KEPT.metadata, off_bytes)), W), (1, 2), 4,
    ),
    "activations_linear values": (
        lambda off_bytes: activations_linear(OF_ROWS._replace(values=off(OF_ROWS.values, off_bytes)), W), (1,), 2,
    ),
}  # fmt: skip


def refused(call, name, off_bytes, needed):
    with pytest.raises(
        KernelError,
        match=rf"memory of {name} begins at address 0x\w+, {off_bytes % needed} modulo {needed}: expected a multiple of "
        rf"{needed} bytes \(clone\(\) gives one\)",
    ):
        call()


@pytest.mark.parametrize("what", STORED)
def test_stored_parts_are_refused_on_the_cpu(what):
    call, places, needed = STORED[what]
    for off_bytes in places:
        refused(lambda off_bytes=off_bytes: call(off_bytes), what.split()[1], off_bytes, needed)
    call(8)


@pytest.mark.parametrize("what", STORED)
def test_stored_parts_are_refused_on_a_gpu(what, on_gpu):
    call, places, needed = STORED[what]
    for off_bytes in places:
        refused(lambda off_bytes=off_bytes: call(off_bytes), what.split()[1], off_bytes, needed)
    with pytest.raises(pytest.fail.Exception, match="was reached"):
        call(8)


def test_pairs_of_values_are_asked_of_a_gpu_only(on_gpu):
    odd = packed(WEIGHTS, values=off(WEIGHTS.values, 2))
    kept = KEPT._replace(values=off(KEPT.values, 2))
    for call in (
        lambda: ops.sparse_linear(X, odd),
        lambda: ops.decompress(odd),
        lambda: activations_linear(kept, W),
    ):
        refused(call, "values", 2, 4)
    with pytest.raises(pytest.fail.Exception, match="decompress was reached"):
        ops.decompress(packed(ROWS, values=off(ROWS.values, 2)))


def test_the_cpu_takes_an_element_as_it_comes():
    assert same_bits(ops.decompress(packed(WEIGHTS, values=off(WEIGHTS.values, 2))), ops.decompress(WEIGHTS))
    assert torch.equal(ops.sparse_linear(off(X, 1), WEIGHTS), ops.sparse_linear(X, WEIGHTS))
    assert torch.equal(ops.prune(off(X, 1), "2:4"), ops.prune(X, "2:4"))


@pytest.mark.parametrize("format", sorted(PLANES, key=str), ids=str)
def test_codes_for_decoding_begin_where_their_widest_word_can(format):
    weights = for_decode(ops.compress(W, format))
    needed = max(PLANES[format]) // 8
    for off_bytes in range(1, 9):
        moved = replace(weights, metadata=off(weights.metadata, off_bytes))
        if off_bytes % needed:
            refused(lambda moved=moved: decode_linear(X, moved), "metadata", off_bytes, needed)
        else:
            assert torch.equal(decode_linear(X, moved), decode_linear(X, weights))


DENSE = {
    "x": (
        lambda odd: ops.sparse_linear(odd(X), WEIGHTS),
        lambda odd: decode_linear(odd(X), DECODE),
        lambda odd: prune_activations(odd(X), "8:16"),
        lambda odd: ops.prune(odd(X), "8:16"),
    ),
    "bias": (
        lambda odd: ops.sparse_linear(X, WEIGHTS, bias=odd(BIAS)),
        lambda odd: decode_linear(X, DECODE, bias=odd(BIAS)),
        lambda odd: skip_linear(ONE, W.T.contiguous(), bias=odd(BIAS)),
        lambda odd: activations_linear(KEPT, W, bias=odd(BIAS)),
    ),
    "weight": (
        lambda odd: skip_linear(ONE, odd(W.T.contiguous())),
        lambda odd: activations_linear(KEPT, odd(W)),
    ),
    "scores": (lambda odd: ops.prune(X, "8:16", scores=odd(X)),),
    "shift": (lambda odd: prune_activations(X, "8:16", shift=odd(X[0])),),
    "vector": (lambda odd: prune_activations(X, "8:16", vector=odd(X[0])),),
    "scale": (lambda odd: activations_linear(KEPT, W, scale=odd(BIAS)),),
    "dense_weight": (lambda odd: ops.compress(odd(W), "8:16"),),
}


@pytest.mark.parametrize("name", DENSE)
def test_dense_operands_are_refused_on_a_gpu(name, on_gpu):
    for call in DENSE[name]:
        refused(lambda call=call: call(lambda part: off(part, 1)), name, 1, 2)


@pytest.mark.parametrize("assign", [False, True])
def test_what_a_layer_takes_over_begins_where_every_kernel_reads_it(assign, on_gpu):
    layer = NMLinear(WEIGHTS)
    state = {
        name: part if name == "_extra_state" else off(part, 2) for name, part in layer.state_dict().items()
    }
    other = NMLinear(WEIGHTS)
    other.load_state_dict(state, assign=assign)
    for part, want in ((other.values, WEIGHTS.values), (other.metadata, WEIGHTS.metadata)):
        assert part.data_ptr() % checks.WORD_BYTES == 0
        assert same_bits(part, want)


def test_what_reads_pairs():
    for pattern in ("2:4", "4:8", "8:16", "16:32"):
        assert checks.reads_pairs(W, Pattern.parse(pattern))
        assert not checks.reads_pairs(W.float(), Pattern.parse(pattern))
    assert not checks.reads_pairs(W, Pattern(3, 7))
