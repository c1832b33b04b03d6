"""The decode GEMV in the order of its weights: the reference's numbers, nothing else written."""

from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import pytest

from hwmodels import load_machine
from kernels.cpu import KernelError
from nmsim.pattern import Pattern

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernels.gpu import split  # noqa: E402
from kernels.gpu.products import gemv  # noqa: E402
from kernels.gpu.products.plan import LEAST_TURNS, Machine, cheapest_encoding, plan, programs_at_once, time_of  # noqa: E402
from kernels.ops import (  # noqa: E402
    NMWeight,
    compress,
    naive,
)
from kernels.ptx import emulated, ptx_of  # noqa: E402
from kernels.stored.rows import kernel_format  # noqa: E402
from kernels.stored.shuffled import PLANES, has_order, shuffle, unshuffle  # noqa: E402

ORDERED = sorted(PLANES, key=lambda format: (format.pattern.m, format.encoding.name))
NAMES = [f"{format.pattern} {format.encoding.name}" for format in ORDERED]
HALVES = (torch.float16, torch.bfloat16)
DTYPES = (torch.float32, *HALVES)
GUARD = 64
LAYERS = ((4096, 4096), (1024, 4096), (14336, 4096), (4096, 14336), (6144, 4096), (28672, 4096))
"""[N, K] of the products of Llama 3 8B, then of its fused ones."""


def made(*shape, dtype=torch.float32, seed=0):
    """Numbers without a single zero."""
    numbers = torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))
    return (numbers + numbers.sign()).to(dtype)


def whole(*shape, dtype=torch.float32, seed=0):
    """Whole numbers from 1 to 4 with signs: sums of some thousand products of two are exact in any order."""
    return made(*shape, seed=seed).clamp(-4, 4).round().to(dtype)


def guarded(part):
    """Put a tensor between NaN (codes between ones): what is read beyond its ends spoils the result."""
    bits = part.contiguous().view(torch.uint8).reshape(-1)
    room = torch.full((len(bits) + 2 * GUARD,), 0xFF, dtype=torch.uint8, device=part.device)
    room[GUARD:-GUARD] = bits
    return room[GUARD:-GUARD].view(part.dtype).view(part.shape)


def product(x, weight, device, dtype, *, bias=None, **how):
    """Run a kernel over poison."""
    shape = (len(x), weight.shape[0])
    room = torch.full((shape[0] * shape[1] + 2 * GUARD,), torch.nan, dtype=dtype, device=device)
    out = room[GUARD:-GUARD].view(shape)
    bias = None if bias is None else guarded(bias.to(device))
    x = guarded(x.to(device))
    ordered = shuffle(weight)
    values, metadata = guarded(ordered.values.to(device)), guarded(ordered.metadata.to(device))
    gemv.launch(x, replace(ordered, values=values, metadata=metadata), out, bias=bias, **how)
    assert room[:GUARD].isnan().all()
    assert room[-GUARD:].isnan().all()
    assert not out.isnan().any()
    return out.cpu()


@lru_cache
def dense_of(weight):
    return naive.decompress(
        weight.values, weight.metadata, f"{weight.pattern}/{weight.encoding}", weight.shape[1]
    ).float()


def wanted(x, weight, dtype, bias=None):
    y = x.float() @ dense_of(weight).T
    return (y if bias is None else y + bias.float()).to(dtype)


@pytest.mark.parametrize("format", ORDERED, ids=NAMES)
def test_the_order_is_a_bijection(format):
    for dtype, (n, k) in zip(HALVES, ((33, 75), (64, 128)), strict=True):
        weight = compress(made(n, k, dtype=dtype), format)
        ordered = shuffle(weight)
        assert ordered.values.shape[1] % 32 == 0
        elements = ordered.values[:, :n].numel() + ordered.values[:, n:].numel()
        assert elements == ordered.values.numel() >= weight.values.numel()
        assert (
            ordered.values.view(torch.int16).count_nonzero()
            == weight.values.view(torch.int16).count_nonzero()
        )
        assert (ordered.values[:, n:] == 0).all()
        back = unshuffle(ordered)
        assert torch.equal(back.values.view(torch.int16), weight.values.view(torch.int16))
        assert torch.equal(back.metadata, weight.metadata)
        assert (back.shape, back.format) == (weight.shape, format)
        if n % 32 == 0:
            assert (ordered.values.nbytes, ordered.metadata.nbytes) == (
                weight.values_bytes,
                weight.metadata_bytes,
            )


def test_a_thread_finds_its_row_where_the_page_says():
    weight = compress(made(40, 64, dtype=torch.float16), "16:32/index")
    ordered = shuffle(weight)
    assert torch.equal(ordered.values[3, 37], weight.values[37, 24:32])  # the second half of the second unit
    codes = ordered.metadata
    stored = int.from_bytes(bytes(weight.metadata[37, 10:].tolist()), "little")
    positions = [stored >> 5 * i & 31 for i in range(16)]
    low = bytes(codes[(64 + 37) * 8 :][:8].tolist())
    high = bytes(codes[2 * 64 * 8 + (64 + 37) * 2 :][:2].tolist())
    assert int.from_bytes(low, "little") == sum((p & 15) << 4 * i for i, p in enumerate(positions))
    assert int.from_bytes(high, "little") == sum((p >> 4) << i for i, p in enumerate(positions))


@pytest.mark.parametrize("format", ORDERED, ids=NAMES)
def test_whole_numbers_give_the_numbers_of_the_reference(format, triton_device):
    turn = ORDERED.index(format)
    elems = max(16, format.pattern.m)
    # Turns of the loop and some units more, the last one cut.
    for tokens, n, k in ((1, 33 if turn < 2 else 7, 18 * elems + 7), (turn % 7 + 2, 6, 8 * elems + 3)):
        dtype, x_dtype = HALVES[(turn + tokens) % 2], DTYPES[(turn + tokens) % 3]
        weight = compress(whole(n, k, dtype=dtype), format)
        x = whole(tokens, k, dtype=x_dtype, seed=1)
        y = product(x, weight, triton_device, torch.float32, warps=4)
        assert torch.equal(y, wanted(x, weight, torch.float32))
        assert y.any(dim=1).all()


def test_masks_of_all_kinds_are_decoded(triton_device):
    """One-sided, alternating and every split between the halves; each row is such a mask in every group."""
    for m, encoding in (
        (16, "bitmask"),
        (16, "combinatorial"),
        (16, "tiled"),
        (32, "bitmask"),
        (32, "index"),
    ):
        n = m // 2
        masks = [[i < kept or m // 2 <= i < m - kept for i in range(m)] for kept in range(n + 1)]
        masks += [[i % 2 == side for i in range(m)] for side in range(2)]
        masks += [[i // 4 % 2 == side for i in range(m)] for side in range(2)]
        keep = torch.tensor(masks).repeat(1, 128 // m)
        weight = compress(
            whole(len(keep), 128, dtype=torch.float16), f"{Pattern(n, m)}/{encoding}", mask=keep
        )
        x = torch.arange(1, 129, dtype=torch.float16).repeat(2, 1)
        x[1] *= 2
        for tokens in (1, 2):
            y = product(x[:tokens], weight, triton_device, torch.float32, warps=4)
            assert torch.equal(y, wanted(x[:tokens], weight, torch.float32))


def test_parts_of_k_and_warps(triton_device):
    """The last unit of a row, cut to fewer elements than are stored of it, would make a turn of the loop whole."""
    weight = compress(whole(5, 501, dtype=torch.float16), "8:16/bitmask")
    bias = whole(5, seed=5)
    for tokens, how in ((1, {"warps": 8, "n_parts": 3}), (3, {"warps": 4, "n_parts": 2}), (1, {"warps": 16})):
        x = whole(tokens, 501, dtype=torch.bfloat16, seed=tokens)
        y = product(x, weight, triton_device, torch.float32, bias=bias, **how)
        assert torch.equal(y, wanted(x, weight, torch.float32, bias))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_result_is_rounded_once(dtype, triton_device):
    weight = compress(made(20, 75, dtype=torch.bfloat16), "8:16/index")
    x, bias = made(2, 75, dtype=dtype, seed=1), made(20, seed=2)
    for n_parts in (1, 2):
        y = product(x, weight, triton_device, dtype, bias=bias.to(dtype), warps=4, n_parts=n_parts)
        want = wanted(x, weight, torch.float32, bias.to(dtype)).to(dtype)
        # Float32 sums of 75 terms below 20, then at most one step of the type.
        step = {torch.float32: 0, torch.float16: 2**-10, torch.bfloat16: 2**-7}[dtype]
        assert torch.allclose(y.float(), want.float(), rtol=step + 1e-6, atol=3e-5)
    assert product(x[:1], weight, triton_device, torch.float32).isfinite().all()


def test_an_infinity_has_no_effect_where_a_weight_was_dropped(triton_device):
    for pattern, encoding in (("8:16", "index"), ("16:32", "bitmask")):
        weight = compress(whole(9, 100, dtype=torch.float16), f"{pattern}/{encoding}")
        dense = dense_of(weight)
        column = int((dense[0] == 0).nonzero()[0])
        x = whole(2, 100, dtype=torch.float16)
        x[:, column] = torch.inf
        out = torch.full((2, 9), torch.nan, device=triton_device)
        ordered = shuffle(weight)
        parts = {name: getattr(ordered, name).to(triton_device) for name in ("values", "metadata")}
        gemv.launch(x.to(triton_device), replace(ordered, **parts), out)
        finite = x.clone()
        finite[:, column] = 0
        assert torch.equal(out.cpu()[:, 0], wanted(finite, weight, torch.float32)[:, 0])
        assert not out.isfinite().all()


def test_x_may_begin_anywhere(triton_device):
    for encoding, dtype in (("index", torch.float16), ("bitmask", torch.float32)):
        weight = compress(whole(5, 64, dtype=torch.float16), f"16:32/{encoding}")
        ordered = shuffle(weight)
        values, metadata = ordered.values.to(triton_device), ordered.metadata.to(triton_device)
        longer = whole(1, 70, dtype=dtype).to(triton_device)
        for start in range(3):
            x = longer[:, start : start + 64]
            out = torch.full((1, 5), torch.nan, device=triton_device)
            gemv.launch(x, replace(ordered, values=values, metadata=metadata), out)
            assert torch.equal(out.cpu(), wanted(x.cpu(), weight, torch.float32))


def test_what_no_kernel_takes_is_refused(triton_device):
    weight = compress(whole(5, 64, dtype=torch.float16), "8:16/index")
    x, out = whole(9, 64, dtype=torch.float16), torch.empty(9, 5)
    for tokens in (0, 9):
        with pytest.raises(KernelError, match=f"x has {tokens} tokens: expected 1 to 8"):
            gemv.launch(x[:tokens], shuffle(weight), out[:tokens])
    assert not has_order(kernel_format("16:32/combinatorial"), torch.float16)
    for refused in (
        compress(whole(5, 64), "8:16/index"),
        compress(whole(5, 64, dtype=torch.float16), "16:32/combinatorial"),
        compress(whole(5, 64, dtype=torch.float16), "3:7/index"),
    ):
        assert isinstance(refused, NMWeight)
        with pytest.raises(KernelError, match=f"weights are {refused.format.short} of {refused.dtype}"):
            shuffle(refused)


@pytest.mark.parametrize("dtype", HALVES)
def test_parts_are_added_up_in_one_order_whichever_program_ends_last(dtype, triton_device):
    """Numbers whose sums depend on their order; programs run in another order each time; the counters stay zero."""
    weight = compress(made(40, 16 * 8 * 5 + 9, dtype=dtype), "8:16/bitmask")
    x, bias = made(2, weight.shape[1], dtype=dtype, seed=1), made(40, seed=2)
    results, on_emulator = [], triton_device.type == "cpu" and not triton.knobs.runtime.interpret
    for seed in range(3):
        with emulated(seed=seed) if on_emulator else nullcontext():
            results.append(product(x, weight, triton_device, torch.float32, bias=bias, warps=4, n_parts=5))
        assert not split.counters(2, triton_device).any()
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])
    assert torch.allclose(results[0], wanted(x, weight, torch.float32, bias), rtol=1e-5, atol=1e-3)


def test_a_plan_has_no_short_last_wave():
    """The layers of an 8B model, alone and fused, on an H200, with registers as counted, and with many more."""
    h200 = Machine()
    for n, k in LAYERS:
        for tokens, needed in ((1, 40), (1, 48), (2, 48), (4, 64), (8, 76), (4, 102)):
            registers = {4: needed, 8: needed, 16: needed}
            warps, n_parts = plan(n, k // 16, tokens=tokens, registers=registers, turn_bytes=1280)
            at_once = programs_at_once(needed, warps, h200)
            programs = n // 32 * n_parts
            waves = programs / (at_once * h200.processors)
            assert waves <= 1 or waves % 1 == 0 or waves % 1 > 0.5 or waves > 2, (n, k, tokens, needed)
            # Every multiprocessor has work, and enough loads are under way if the layer is not small.
            assert programs >= 0.9 * h200.processors
            if n * k > 2e7:
                assert min(programs / h200.processors, at_once) * warps >= 11, (n, k, tokens, needed)


def test_a_plan_knows_registers_and_tokens():
    wide = {"units": 256, "tokens": 1, "turn_bytes": 1280}
    assert plan(14336, registers={4: 40, 8: 40, 16: 40}, **wide) == (8, 1)
    # With 16 warps three programs would fit a multiprocessor: 448 on 396 places.
    assert programs_at_once(40, 16, Machine()) * 132 < 14336 // 32
    # A kernel that does not fit at all is never chosen.
    assert plan(4096, registers={8: 40, 16: 255}, **wide)[0] == 8
    assert plan(1024, registers={16: 48}, **wide)[1] > 1
    assert plan(1024, registers={16: 48}, machine=Machine(processors=16), **wide)[1] == 1
    for rows, units in ((32, 1), (32, 60), (1024, 128), (128256, 128), (4096, 1)):
        warps, n_parts = plan(rows, units, tokens=1, registers=gemv.REGISTERS, turn_bytes=1280)
        assert warps in gemv.REGISTERS
        assert 1 <= n_parts <= max(1, units // (LEAST_TURNS * 2 * warps))


def test_the_encoding_to_decode_with_is_found_by_counts():
    """Four tokens: `index` if memory brings more bytes in a cycle than L1 has passes for the look-ups of `bitmask`."""
    found = {}
    for name in ("h200", "b200", "h100", "a100", "rtx4090"):
        machine = load_machine(name)
        found[name] = cheapest_encoding(
            bytes_per_s=0.92 * machine.dram_bandwidth_bytes_per_s.value,
            clock_hz=machine.clock_hz.value,
            processors=int(machine.cores.value),
        )
    assert [name for name, encoding in found.items() if encoding == "index"] == ["h200", "b200"]
    assert {found[name] for name in ("h100", "a100", "rtx4090")} == {"bitmask"}
    # What is packed without a word, as the goals are set for an H200.
    assert compress(made(2, 16, dtype=torch.float16), "8:16").format.encoding.name == found["h200"]


def test_the_time_of_a_plan_by_hand():
    """One wave of 128 programs of 16 warps: too few to hide latency, which a turn then takes."""
    about = {"n_parts": 1, "warps": 16, "at_once": 3, "tokens": 1, "turn_bytes": 1024, "machine": Machine()}
    latency = 24  # 24 KB by 1024 bytes
    assert time_of(128, 8, **about) == 8 * latency + 2 * latency
    # 448 programs are a full wave of 396, then one of 52.
    full, rest = 3 * 16, max(latency, 52 * 16 / 132)
    assert time_of(448, 8, **about) == pytest.approx(8 * full + 8 * rest + 4 * latency)
    assert time_of(128, 4, **{**about, "n_parts": 2}) == pytest.approx(4 * 256 * 16 / 132 + (2 + 3) * latency)


class Recorder:
    """Stands in for a kernel and keeps what it is compiled with, and what it is launched with."""

    n_regs, run = 40, "loaded"

    def warmup(self, *args, grid, **options):
        self.compiled = args, options
        return self

    def __getitem__(self, grid):
        return lambda *args, **options: setattr(self, "launched", (args, options))


def tensor_of(arg):
    """Give an aligned tensor for a type, as Triton takes it to be."""
    return torch.empty(64, dtype=arg) if isinstance(arg, torch.dtype) else arg


def test_the_kernel_whose_registers_count_is_the_one_that_is_launched(monkeypatch):
    """Its code is compared: what it is compiled with has types in place of tensors."""
    if triton.knobs.runtime.interpret:
        pytest.skip("nothing is compiled in a process that interprets")
    kernel, seen = gemv.gemv_kernel, Recorder()
    monkeypatch.setattr(gemv, "gemv_kernel", seen)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    x, bias = made(2, 512, dtype=torch.float16), made(64, dtype=torch.bfloat16)
    for text, about, n_parts in (("8:16/bitmask", {"bias": bias}, 2), ("16:32/index", {}, 1)):
        weight = shuffle(compress(made(64, 512, dtype=torch.float16), text))
        out = torch.empty(2, 64)
        gemv.launch(x, weight, out, warps=4, n_parts=n_parts, **about)
        args, options = seen.launched
        launched = ptx_of(kernel, args, options=options)
        known = {
            name: options[name] for name in gemv.constants(weight.format, x.dtype, x.dtype, 2, out.dtype)
        }
        known["BIAS_KIND"] = options["BIAS_KIND"]
        assert gemv._registers.__wrapped__(torch.device("cpu"), tuple(known.items()), n_parts > 1, 4) == 40
        args, options = seen.compiled
        assert ptx_of(kernel, [tensor_of(arg) for arg in args], options=options) == launched


def test_each_stream_and_each_launch_of_a_graph_has_counters_of_its_own(monkeypatch):
    device, zeros = torch.device("cuda", 0), torch.zeros
    state = SimpleNamespace(cuda_stream=1, capturing=False)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: state)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.capturing)
    monkeypatch.setattr(torch, "zeros", lambda count, dtype, device: zeros(count, dtype=dtype))
    monkeypatch.setattr(split, "_zeros", {})
    monkeypatch.setattr(split, "_captured", {})
    state.capturing = True  # nothing is there yet: a graph that clears its own
    assert split.counters(5, device).shape == (5,)
    state.capturing = False
    first = split.counters(5, device)
    assert split.counters(7, device).data_ptr() == first.data_ptr()
    state.cuda_stream = 2
    assert split.counters(5, device).data_ptr() != first.data_ptr()
    state.capturing = True
    one, two = split.counters(5, device), split.counters(5, device)
    assert two.data_ptr() == one.data_ptr() + one.nbytes
    assert len(split.counters(split.GRAPH_COUNTERS, device)) == split.GRAPH_COUNTERS  # more than are left
    state.capturing = False
    assert len(split.counters(10_000, device)) >= 10_000


def test_the_cut_is_made_again_by_the_registers_of_the_compiled_kernel(monkeypatch):
    """A device is not there; what it would say of each compiled kernel is."""
    asked = []

    def registers(device, about, is_split, warps):
        asked.append((warps, is_split))
        return {4: 40, 8: 40, 16: 40}[warps] if costly else gemv.REGISTERS[warps]

    monkeypatch.setattr(gemv, "_registers", registers)
    monkeypatch.setattr(gemv, "machine_of", lambda device: Machine())
    cut = gemv._cut.__wrapped__
    about = (("TOKENS", 1),)
    for costly in (False, True):
        asked.clear()
        found = cut(torch.device("cuda"), 14336, 256, 2, 20, about)
        known = dict(gemv.REGISTERS)
        if costly:
            known |= {warps: 40 for warps, _ in asked}
        assert found == plan(14336, 256, tokens=1, registers=known, turn_bytes=1280)
        assert asked[-1] == (found[0], found[1] > 1)
        assert len(asked) <= 4
