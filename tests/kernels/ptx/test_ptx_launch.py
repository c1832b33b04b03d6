"""Triton kernels through `run_compiled` and `emulated`: right numbers, and faults planted in Triton code."""

import re

import numpy as np
import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from kernels.ptx import OutOfBounds, PtxError, emulated, ptx_of, run_compiled  # noqa: E402
from kernels.ptx.memory import Traffic, traffic_of  # noqa: E402

pytestmark = pytest.mark.skipif(
    bool(triton.knobs.runtime.interpret), reason="Triton interprets in this process: it cannot compile too"
)
PLAIN = {"enable_fp_fusion": False, "num_warps": 4}


@triton.jit
def softmax_kernel(x, y, columns, stride, BLOCK: tl.constexpr):
    """Divide exponentials of a row by their sum."""
    row, column = tl.program_id(0), tl.arange(0, BLOCK)
    number = tl.load(x + row * stride + column, mask=column < columns, other=-float("inf"))
    number = tl.exp(number - tl.max(number, axis=0))
    tl.store(y + row * columns + column, number / tl.sum(number, axis=0), mask=column < columns)


@triton.jit
def matmul_kernel(
    a, b, c, k, KIND: tl.constexpr, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, TURNED: tl.constexpr
):
    """Multiply one tile, in steps of K."""
    m, n, i = tl.arange(0, M)[:, None], tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros([M, N], KIND)
    for first in range(0, k, K):
        left = tl.load(a + m * k + first + i[None, :])
        if TURNED:
            right = tl.load(b + n[None, :] * k + first + i[:, None])
        else:
            right = tl.load(b + (first + i[:, None]) * N + n[None, :])
        total = tl.dot(left, right, total, out_dtype=KIND)
    tl.store(c + m * N + n[None, :], total)


@triton.jit
def last_adds_kernel(x, parts, tickets, out, N: tl.constexpr, BLOCK: tl.constexpr):
    """Each program writes a sum; the last one adds all sums, in order."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    number = tl.load(x + program * BLOCK + tl.arange(0, BLOCK))
    tl.store(parts + program, tl.sum(number, axis=0))
    if tl.atomic_add(tickets, 1, sem="acq_rel") == programs - 1:
        place = tl.arange(0, N)
        total = tl.load(parts + place, mask=place < programs, other=0.0)
        tl.store(out, tl.sum(total, axis=0))
        tl.store(out + 1, program.to(tl.float32))


@triton.jit
def unguarded_kernel(x, y, BLOCK: tl.constexpr):
    """Copy a block, and forget the mask."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i), mask=i < 100)


def on_a_line(count):
    """Make random numbers that begin at a multiple of 128 bytes."""
    room = torch.randn(count + 32)
    return room[-room.data_ptr() % 128 // 4 :][:count]


@triton.jit
def strided_kernel(x, y, STRIDE: tl.constexpr):
    """Copy every so manieth number."""
    i = tl.arange(0, 512)
    tl.store(y + i, tl.load(x + i * STRIDE))


@pytest.mark.parametrize(
    ("stride", "loaded"), [(1, Traffic(4, 16, 16, 64)), (32, Traffic(16, 16 * 32, 16 * 32, 16 * 32))]
)
def test_lines_banks_and_sectors_of_each_warp_are_counted(stride, loaded):
    x, y = on_a_line(512 * 32), on_a_line(512)
    asked = {"args": [x, y], "options": {"STRIDE": stride, **PLAIN}}
    counted = run_compiled(strided_kernel, (1,), count_traffic=True, **asked).counts.traffic
    assert torch.equal(y, x[: 512 * stride : stride])
    # Numbers in a row go by 16 bytes per thread, four lines per warp; others one by one, each from a line of its own.
    assert counted == {"load": loaded, "store": Traffic(4, 16, 16, 64)}
    assert run_compiled(strided_kernel, (1,), **asked).counts.traffic == {}


def test_wide_accesses_take_several_passes():
    warp = np.arange(32)
    assert traffic_of(warp, warp * 8, 8) == Traffic(1, 2, 2, 8)
    assert traffic_of(warp, warp * 16, 16) == Traffic(1, 4, 4, 16)
    # All threads read one word: one line, no conflict. Two warps are two requests.
    assert traffic_of(warp, warp * 0, 4) == Traffic(1, 1, 1, 1)
    assert traffic_of(np.arange(64), np.zeros(64, np.int64), 4) == Traffic(2, 2, 2, 2)
    # Sixteen words of one bank lie in as many lines.
    assert traffic_of(warp, warp // 2 * 128, 4) == Traffic(1, 16, 16, 16)
    assert traffic_of(warp[:0], warp[:0], 4) == Traffic()


@pytest.mark.parametrize("capability", [80, 90])
def test_a_softmax_of_rows_that_are_apart(capability):
    whole = torch.randn(3, 80, generator=torch.Generator().manual_seed(0))
    x, y = whole[:, :50], torch.full((3, 50), torch.nan)
    launch = run_compiled(
        softmax_kernel, (3,), args=[x, y, 50, 80], options={"BLOCK": 64, **PLAIN}, capability=capability
    )
    assert torch.allclose(y, x.softmax(dim=1), rtol=1e-6)
    assert (launch.kernel, launch.grid, launch.counts.programs) == ("softmax_kernel", (3, 1, 1), 3)


PRODUCTS = [
    (capability, dtype, shape, turned)
    for capability in (80, 90)
    for dtype, shape, turned in (
        (torch.float16, (64, 64, 64), True),
        (torch.bfloat16, (64, 128, 32), False),
        (torch.int8, (64, 32, 64), True),
    )
] + [(90, torch.float8_e4m3fn, (64, 64, 64), True), (80, torch.float16, (16, 16, 32), False)]


@pytest.mark.parametrize(("capability", "dtype", "shape", "turned"), PRODUCTS)
def test_products_of_tiles_are_exact_for_whole_numbers(capability, dtype, shape, turned):
    m, n, k_step = shape
    k = 3 * k_step
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randint(-3, 4, size, generator=generator).to(dtype) for size in ((m, k), (n, k)))
    kind = tl.int32 if dtype == torch.int8 else tl.float32
    c = torch.zeros(m, n, dtype=torch.int32 if dtype == torch.int8 else torch.float32)
    given = b if turned else b.T.contiguous()
    options = {"KIND": kind, "M": m, "N": n, "K": k_step, "TURNED": turned, **PLAIN}
    run_compiled(matmul_kernel, (1,), args=[a, given, c, k], options=options, capability=capability)
    assert torch.equal(c.double(), a.double() @ b.double().T)
    text = ptx_of(matmul_kernel, [a, given, c, k], options=options, capability=capability)
    assert ("wgmma" if capability == 90 else "mma.sync") in text


def test_the_last_program_adds_in_order_whoever_is_last():
    x = torch.randn(12, 256, generator=torch.Generator().manual_seed(2))
    found = set()
    for seed in range(4):
        parts, tickets, out = torch.full((12,), torch.nan), torch.zeros(1, dtype=torch.int32), torch.zeros(2)
        run_compiled(
            last_adds_kernel,
            (12,),
            args=[x, parts, tickets, out],
            options={"N": 16, "BLOCK": 256, **PLAIN},
            seed=seed,
        )
        assert out[0].item() == pytest.approx(float(x.double().sum()), abs=1e-3)
        found.add(tuple(out.tolist()))
    assert len({total for total, _ in found}) == 1
    assert len({last for _, last in found}) > 1


def test_a_forgotten_mask_is_found_and_named_by_the_line_of_triton():
    x, y = torch.randn(100), torch.zeros(128)
    with pytest.raises(OutOfBounds, match="outside the tensors") as caught:
        run_compiled(unguarded_kernel, (1,), args=[x, y], options={"BLOCK": 128, **PLAIN})
    assert re.match(r"test_ptx_launch.py:\d+:\d+$", caught.value.place.source)
    assert caught.value.place.thread == 100
    assert caught.value.place.address == 400
    run_compiled(unguarded_kernel, (1,), args=[torch.randn(128), y], options={"BLOCK": 128, **PLAIN})


def test_launches_go_to_the_emulator_while_the_context_lasts():
    before, x, y = JITFunction.run, torch.randn(128), torch.zeros(128)
    active = driver._active
    with emulated(capability=80) as launches:
        unguarded_kernel[lambda meta: (triton.cdiv(100, meta["BLOCK"]),)](x, y, BLOCK=64, **PLAIN)
        assert JITFunction.run is not before
    assert torch.equal(x[:100], y[:100])
    assert y[100:].tolist() == [0.0] * 28
    assert [(launch.kernel, launch.grid) for launch in launches] == [("unguarded_kernel", (2, 1, 1))]
    assert JITFunction.run is before
    assert driver._active is active


def test_tensors_that_overlap_stay_one():
    whole = torch.arange(192.0)
    run_compiled(unguarded_kernel, (1,), args=[whole[:128], whole[64:]], options={"BLOCK": 128, **PLAIN})
    assert whole.tolist() == [*range(64), *range(100), *range(164, 192)]


X = torch.zeros(128)
RUN = {"args": [X, X], "options": {"BLOCK": 128, **PLAIN}}


@pytest.mark.parametrize(
    ("grid", "more", "message"),
    [
        ((0,), {}, r"grid is \(0,\): expected one to three numbers of programs, of at least 1"),
        ((1, 1, 1, 1), {}, r"grid is \(1, 1, 1, 1\): expected one to three"),
        ((1, 70000), {}, r"grid is \(1, 70000\): expected .* at most 2147483647, 65535, 65535"),
        ("1", {}, "grid is '1': expected"),
        (True, {}, r"grid is \(True,\): expected"),
        (None, {}, "grid is None: expected"),
        ((1.0,), {}, r"grid is \(1.0,\): expected"),
        (lambda given: given["x"], {}, "grid gives .*tensor.*: expected one to three"),
        (1, {"args": X}, "args is a Tensor: expected a list of arguments of unguarded_kernel"),
        (1, {"args": 4}, "args is a int: expected a list"),
        (1, {"args": [X]}, "unguarded_kernel needs y too: expected in args or options"),
        (1, {"options": None}, "unguarded_kernel needs BLOCK too"),
        (1, {"args": [X] * 9}, r"args has 9 items: unguarded_kernel takes at most 3 \(x, y, BLOCK\)"),
        (1, {"args": [X, X, 128]}, "BLOCK: given in args and in options, expected once"),
        (1, {"args": [X, X.numpy()]}, "y is a ndarray: expected a torch tensor, a number or None"),
        (1, {"options": [("BLOCK", 128)]}, "options is a list: expected names with their values"),
        (
            1,
            {"options": {"BLOCK": 128, "warps": 4, **PLAIN}},
            "options: .*warps.*; expected arguments of unguarded_kernel",
        ),
        (1, {"capability": 9.0}, "capability is 9.0: expected ten times that of a GPU, from 80"),
        (1, {"capability": 70}, "capability is 70: expected"),
        (1, {"seed": -1}, "seed is -1: expected a number of at least 0"),
        (1, {"seed": "1"}, "seed is '1': expected"),
        (1, {"most_steps": 0}, "most_steps is 0: expected a number of at least 1"),
    ],
)
def test_each_invalid_argument_is_named(grid, more, message):
    with pytest.raises(PtxError, match=message):
        run_compiled(unguarded_kernel, grid, **RUN | more)


def test_a_number_is_a_grid_of_one_dimension():
    x, y = torch.randn(128), torch.zeros(128)
    launch = run_compiled(unguarded_kernel, 2, args=[x, y], options={"BLOCK": 64, **PLAIN})
    assert launch.grid == (2, 1, 1)
    assert torch.equal(x[:100], y[:100])
    with pytest.raises(PtxError, match="capability is 7"), emulated(capability=7):
        pass


def test_what_cannot_run_is_refused(monkeypatch):
    x = torch.randn(128)
    with pytest.raises(PtxError, match="expected main memory"):
        run_compiled(unguarded_kernel, (1,), args=[x.to("meta"), x], options={"BLOCK": 128, **PLAIN})
    with pytest.raises(PtxError, match=r"kernel is a function: expected a function with @triton.jit"):
        run_compiled(softmax_kernel.fn, (1,), args=[x, x, 1, 1])
    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    with pytest.raises(PtxError, match="expected TRITON_INTERPRET unset"):
        run_compiled(unguarded_kernel, (1,), args=[x, x], options={"BLOCK": 128, **PLAIN})
    with pytest.raises(PtxError, match="expected TRITON_INTERPRET unset"), emulated():
        pass
