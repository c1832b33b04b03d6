"""The CUDA backend of campaigns, on tensors in main memory with a pretended clock. Nothing is timed."""

import gc
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.cpu import KernelError
from kernels.measure import campaign
from kernels.measure import run as measure
from kernels.measure.cuda import backend as measure_cuda
from kernels.measure.cuda import calls as cuda_calls
from kernels.measure.cuda import clock as cuda_timing
from kernels.measure.cuda.backend import CudaBackend
from kernels.measure.cuda.calls import PRODUCTS, Call, DenseCall, Product
from kernels.measure.cuda.clock import Timed
from kernels.ops import sparse_linear
from kernels.timing import gate, rounds
from nmsim import rows as row_files
from nmsim.case import Case, GemmShape
from nmsim.errors import SpecError
from nmsim.format import sparse_format
from nmsim.pattern import Pattern

TEXT = """
seed = 3
repetitions = 5
warmup = 1
budget_s = 60

[[round]]
shapes = [[1, 24, 64], [5, 24, 64]]
patterns = ["2:4", "8:16", "3:7"]
encodings = ["bitmask", "index"]
dtypes = ["fp32", "bf16"]
kernels = ["ours"]
l2_state = ["cold"]
"""
STAMP = measure.Stamp("pretended-gpu", "0123abc", False)


class PretendedClock:
    """Runs the work once a sample and says how long it would have taken."""

    def __init__(self):
        self.asked, self.sampled, self.lost = [], 0, False

    def synchronize(self):
        if self.lost:
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nstack")

    def copies(self, operand_bytes, l2_state):
        self.asked.append(operand_bytes)
        return 3 if l2_state == "cold" else 1

    def timed(self, actions, l2_state):
        def replay():
            return [action() for action in actions]

        def sample():
            self.sampled += 1
            replay()
            return 1e-6 * len(actions)

        return Timed(replay, sample, "graph")


def built(spoil=lambda y: y):
    """A kernel that runs on the CPU, into a result of its own."""

    def build(packed, dense, x):
        out = x.new_empty(len(x), packed.shape[0])

        def run():
            out.copy_(spoil(sparse_linear(x, packed)))
            return out

        return Call(run, packed.values_bytes + packed.metadata_bytes)

    return build


def backend(**products):
    ours = {"ours": Product(lambda case: "", built())} | products
    return CudaBackend(3, device="cpu", clock=PretendedClock(), products=ours)


@pytest.fixture
def mine(tmp_path):
    def load(text=TEXT):
        (tmp_path / "mine.toml").write_text(text)
        return campaign.load(tmp_path / "mine.toml")

    return load


def test_a_campaign_becomes_gated_rows_and_goes_on(mine, tmp_path):
    found = measure.run(mine(), backend(), tmp_path / "rows.csv", STAMP)
    assert not found.wrong
    rows = row_files.read(tmp_path / "rows.csv")
    assert len(rows) == len(found.rows) == 2 * 2 * 6
    first = rows[0]
    assert (first.machine, first.kernel, first.threads, first.gate) == ("pretended-gpu", "ours", None, "pass")
    assert first.baseline in ("F.linear", "torch.mm", "torch.mv")
    assert (first.timing, first.operand_copies) == ("graph", 3)
    again = measure.run(mine(), backend(), tmp_path / "rows.csv", STAMP)
    assert (len(again.rows), again.skipped) == (0, 24)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda y: y + 0.5,
        lambda y: torch.where(y == y.max(), 0, y),
        lambda y: y * float("nan"),
        lambda y: y.flip(-1),
    ],
)
def test_a_wrong_result_makes_no_row(mine, tmp_path, spoil):
    wrong = backend(ours=Product(lambda case: "", built(spoil)))
    found = measure.run(mine(), wrong, tmp_path / "rows.csv", STAMP)
    assert not found.rows
    assert len(found.wrong) == 24
    assert not (tmp_path / "rows.csv").exists()


def test_a_result_that_is_not_written_is_seen(mine, tmp_path):
    def build(packed, dense, x):
        out = x.new_empty(len(x), packed.shape[0])
        left = [1]

        def run():
            if left:
                left.pop()
                out.copy_(sparse_linear(x, packed))
            return out

        return Call(run, packed.values_bytes)

    found = measure.run(mine(), backend(ours=Product(lambda case: "", build)), tmp_path / "rows.csv", STAMP)
    assert not found.rows
    assert "relative error inf" in found.wrong[0]


@pytest.mark.parametrize(
    "kind", [lambda: RuntimeError, lambda: KernelError, lambda: pytest.importorskip("triton").TritonError]
)
def test_a_library_that_refuses_is_told_and_the_others_go_on(mine, tmp_path, kind):
    kind = kind()

    def build(packed, dense, x):
        raise kind("not built for this device\nstack")

    # Errors of libraries have lines, of which the first is told. Our own are one line each, with escapes for line ends.
    said = "not built for this device" + (r"\nstack" if kind is KernelError else "")
    theirs = backend(theirs=Product(lambda case: "", build))
    found = measure.run(
        mine(TEXT.replace('["ours"]', '["theirs", "ours"]')), theirs, tmp_path / "rows.csv", STAMP
    )
    assert (len(found.rows), len(found.refused), found.wrong) == (24, 24, [])
    assert found.refused[0].endswith(f"theirs 2:4/bitmask: {kind.__name__}: {said}")


def test_cold_calls_go_through_copies_of_their_own():
    def build(packed, dense, x):
        place = object()
        return Call(lambda: place, packed.values_bytes)

    device = backend(ours=Product(lambda case: "", build))
    seen = []
    whole = device._clock.timed
    device._clock.timed = lambda actions, state: (
        seen.append([action() for action in actions]) or whole(actions, state)
    )
    device._sparse(ONE, device.tasks(ONE)[0][0], "ours", *device._operands(ONE), 0)
    assert len(set(map(id, seen[0]))) == 3


ONE = campaign.Round(
    GemmShape(1, 8, 16), "decode", "fp32", None, "cold", (sparse_format("2:4/index"),), ("ours",)
)


def only(device, warmup=0):
    """The one sparse contender of a small round."""
    with device.contenders(ONE, device.tasks(ONE), warmup) as contenders:
        assert contenders[0].name == "ours"
        yield contenders[0]


def test_each_contender_is_warmed_up_by_samples_as_often_as_rows_say():
    for warmup in (0, 4):
        device = backend()
        with device.contenders(ONE, device.tasks(ONE), warmup) as contenders:
            assert device._clock.sampled == warmup * len(contenders)
    assert len(contenders) == 6


def test_work_that_cannot_be_captured_is_refused_not_timed_otherwise(mine, tmp_path):
    device = backend()
    whole = device._clock.timed

    def timed(actions, state):
        if actions[0].__qualname__.startswith("built"):
            raise cuda_timing.CaptureError("cannot be captured as a CUDA graph: RuntimeError: no")
        return whole(actions, state)

    device._clock.timed = timed
    found = measure.run(mine(), device, tmp_path / "rows.csv", STAMP)
    assert (found.rows, found.wrong, len(found.refused)) == ([], [], 24)
    assert "CaptureError: cannot be captured as a CUDA graph: RuntimeError: no" in found.refused[0]


def test_what_is_refused_keeps_no_tensor_alive():
    made = []

    def build(packed, dense, x):
        room = x.new_empty(1000)
        made.append(weakref.ref(room))
        raise RuntimeError("not built for this device")

    device = backend(ours=Product(lambda case: "", build))
    with device.contenders(ONE, device.tasks(ONE), 0) as contenders:
        gc.collect()
        assert made[0]() is None
        with pytest.raises(gate.RefusedError, match="^RuntimeError: not built for this device$"):
            contenders[0].error()


def test_an_error_that_stays_on_the_device_ends_the_run(mine, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a short path, so that the line is told whole
    device = None

    def build(packed, dense, x):
        if len(x) == 5:
            device._clock.lost = True
        return built()(packed, dense, x)

    device = backend(ours=Product(lambda case: "", build))
    with pytest.raises(rounds.DeviceLostError) as caught:
        measure.run(mine(), device, Path("rows.csv"), STAMP)
    kind = "RuntimeError: CUDA error: an illegal memory access was encountered"
    assert str(caught.value) == (
        f"M=5 N=24 K=64 fp32 cold, 1 thread: ours 2:4/bitmask: {kind}; the CUDA context of this process is lost; "
        "12 rows of this run are in rows.csv: run the same command again, with --skip for what it stopped at"
    )
    assert len(row_files.read(tmp_path / "rows.csv")) == 12


@pytest.mark.parametrize(("fault", "kind"), [(RuntimeError, gate.RefusedError), (KernelError, KernelError)])
def test_a_fault_in_the_gate_is_told_from_a_wrong_result(fault, kind):
    def build(packed, dense, x):
        calls = []

        def run():
            calls.append(1)
            if len(calls) > 1:
                raise fault("out of memory")
            return x.new_zeros(1, 8)

        return Call(run, 8)

    device = backend(ours=Product(lambda case: "", build))
    for contender in only(device):
        with pytest.raises(kind, match="out of memory"):
            contender.error()


def test_a_dense_call_that_is_refused_leaves_the_others(mine, tmp_path, monkeypatch):
    whole = cuda_calls.dense_calls

    def refuse(weight):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(
        measure_cuda, "dense_calls", lambda *given: {"theirs": DenseCall(refuse), **whole(*given)}
    )
    found = measure.run(mine(), backend(), tmp_path / "rows.csv", STAMP)
    assert len(found.rows) == 24
    assert [line.split(": ", 1)[1] for line in found.refused] == ["theirs: RuntimeError: no such kernel"] * 4


@pytest.mark.parametrize("place", [0, 2])
def test_a_replay_that_is_wrong_is_seen_on_every_copy(place):
    device = backend()
    whole = device._clock.timed

    def timed(actions, state):
        real = whole(actions, state)
        calls = []

        def replay():
            results = real.replay()
            calls.append(1)
            if len(calls) > 1:
                results[place][0, 3] += 1e-2
            return results

        return replace(real, replay=replay)

    for contender in only(device):
        assert contender.error() < 1e-6
    device._clock.timed = timed
    for contender in only(device):
        with pytest.raises(gate.GateError, match="times as far off as its roundings allow"):
            contender.error()


@pytest.mark.parametrize("where", [(0, 0), (4, 23), (4, 0)])
def test_the_reference_goes_through_all_blocks(mine, monkeypatch, where):
    def spoil(y):
        y = y.clone()
        if y.shape[0] == 5:
            y[where] += 1e-2
        return y

    of = mine().rounds[2]
    assert of.shape.M == 5
    for block in (64, 3 * 64, 1 << 20):
        monkeypatch.setattr(measure_cuda, "BLOCK_ELEMS", block)
        for device, right in (
            (backend(), True),
            (backend(ours=Product(lambda case: "", built(spoil))), False),
        ):
            with device.contenders(of, device.tasks(of)[:1], 0) as contenders:
                if right:
                    assert max(contender.error() or 0 for contender in contenders) < 1e-6
                    continue
                with pytest.raises(gate.GateError):
                    contenders[0].error()


def test_products_are_run_once_beforehand_and_what_raises_is_passed_over(mine):
    ran = []

    def build(packed, dense, x):
        if packed.pattern == Pattern(2, 4):
            raise RuntimeError("no")
        call = built()(packed, dense, x)
        return replace(call, run=lambda: ran.append((str(packed.pattern), len(x))) or call.run())

    device = backend(ours=Product(lambda case: "", build))
    of = mine().rounds[0]
    device.run_once(of, device.tasks(of))
    assert ran == [("8:16", 1)] * 2 + [("3:7", 1)] * 2
    assert device._clock.sampled == 0


def test_where_kernels_are_compiled_they_are_compiled_ahead(monkeypatch):
    asked = []
    monkeypatch.setattr(measure_cuda.precompile, "ahead", lambda *given: asked.append(given) or "said")
    planned = rounds.Plan([], 0)
    assert backend().prepare(planned, 5.0, print) == ""
    assert CudaBackend(7, device="cuda:9", clock=PretendedClock()).prepare(planned, 5.0, print) == "said"
    ((make, *rest),) = asked
    assert rest == [planned, 5.0, print]
    assert (make.func, make.args, make.keywords) == (CudaBackend, (7,), {"device": "cuda:9"})


def test_each_product_is_held_to_the_roundings_it_has():
    kinds = {name: product.rounding for name, product in PRODUCTS.items()}
    assert {name for name, kind in kinds.items() if kind == "library"} == {
        "torch.cutlass",
        "torch.cusparselt",
        "torch.cusparselt_search",
        "torch.fp8",
    }
    assert {name for name, kind in kinds.items() if kind == "parts"} == {"gpu.unpack_mm"}
    dense = cuda_calls.dense_calls(torch, torch.zeros(1, 8))
    assert {call.rounding for call in dense.values()} == {"library"}


def test_the_driver_is_asked_once_a_run(mine, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(measure_cuda.host, "versions", lambda names: asked.append(names) or {"triton": "9.9"})
    found = measure.run(mine(), backend(), tmp_path / "rows.csv", STAMP)
    assert {row.triton for row in found.rows} == {"9.9"}
    assert len(asked) == 1


def test_operands_are_pruned_by_the_rule_of_nmsim(mine):
    from nmsim import prune

    device, of = backend(), mine().rounds[0]
    operands = device._operands(of)
    for operand, again in zip(operands, backend()._operands(of), strict=True):
        for pattern in map(Pattern.parse, ("2:4", "8:16", "16:32", "3:7")):
            kept = (operand.pruned(pattern) != 0).numpy()
            assert (kept == prune(operand.dense.numpy(), pattern)).all()
        assert operand.dense.abs().min() >= 0.5
        assert torch.equal(operand.dense, again.dense)
    assert not torch.equal(operands[0].dense[:1], operands[1].dense)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ours", "theirs"), "kernel theirs: expected one of ours"),
        (('"bf16"', '"int8"'), "expected a dtype that CUDA kernels take, one of fp16, bf16, fp32"),
    ],
)
def test_what_the_device_does_not_have_is_refused_before_any_work(mine, tmp_path, change, message):
    with pytest.raises(SpecError, match=message):
        measure.run(mine(TEXT.replace(*change)), backend(), tmp_path / "rows.csv", STAMP)


def test_kernels_say_what_they_do_not_take():
    pytest.importorskip("triton")
    one, many = (Case(GemmShape(tokens, 64, 64), "8:16/index", dtype="bf16") for tokens in (1, 9))
    assert PRODUCTS["gpu.gemv"].problem(one) == ""
    assert PRODUCTS["gpu.gemv"].problem(many) == "M=9, expected at most 8 tokens"
    assert PRODUCTS["torch.cutlass"].problem(one) == "8:16/index/bitstream, expected 2:4/index"
    assert [cuda_calls.best_of(case) for case in (one, many)] == ["gpu.gemv", "gpu.mma"]
    prompt = Case(GemmShape(8192, 64, 64), "8:16/index", dtype="bf16")
    assert cuda_calls.best_of(prompt) == "gpu.unpack_mm"


def test_copies_are_several_times_the_cache():
    for operand_bytes in (1 << 20, 30 << 20, 1 << 30):
        copies = cuda_timing.cold_copies(operand_bytes, 50 << 20)
        assert 2 <= copies <= cuda_timing.MOST_COPIES
        assert copies == cuda_timing.MOST_COPIES or copies * operand_bytes >= cuda_timing.L2_TIMES * (
            50 << 20
        )


def slowed(dense_s, copy_s):
    """A device whose dense calls and copies take so many seconds."""
    device = backend()
    whole = device._contender

    def contender(of, name, case, *rest):
        found = whole(of, name, case, *rest)
        if case is not None:
            return found
        return replace(found, sample=lambda: copy_s if name == "torch.copy_" else dense_s)

    device._contender = contender
    return device


@pytest.mark.parametrize(
    ("dense_s", "mark"), [(1e-6, ""), (1.17e-6, ""), (1.18e-6, "slow dense call"), (9e-6, "slow dense call")]
)
def test_a_row_whose_dense_call_is_far_slower_than_a_copy_is_void(mine, tmp_path, dense_s, mark):
    found = measure.run(mine(), slowed(dense_s, 1e-6), tmp_path / "rows.csv", STAMP)
    assert {(row.copy_time_s, row.mark) for row in found.rows} == {(1e-6, mark)}
    # The copy is a yardstick, no dense call: a row is never compared with it.
    assert {row.baseline for row in found.rows} <= {"F.linear", "torch.mm", "torch.mv", "torch.mm K-major"}
    assert not any("copy" in row.other_baselines for row in found.rows)


def test_many_tokens_are_not_bound_by_memory_and_so_have_no_yardstick(mine, tmp_path):
    many = mine(TEXT.replace("[1, ", "[17, ").replace("[5, ", "[64, "))
    found = measure.run(many, slowed(9e-6, 1e-6), tmp_path / "rows.csv", STAMP)
    assert {(row.copy_time_s, row.mark) for row in found.rows} == {(None, "")}


def test_the_copy_moves_as_many_bytes_as_the_dense_weights_have():
    for dtype, n_bytes in (("bf16", 2), ("fp32", 4)):
        of = replace(ONE, dtype=dtype)
        assert measure_cuda.yardstick_bytes(of) == of.shape.N * of.shape.K * n_bytes


FP8_TEXT = """
seed = 3
repetitions = 5
warmup = 1
budget_s = 60

[[round]]
shapes = [[3, 32, 64]]
kernels = ["torch.fp8"]
patterns = ["dense"]
dtypes = ["bf16"]
l2_state = ["cold"]
"""


def scaled_mm(tokens, weights, *, scale_a, scale_b, out_dtype, use_fast_accum):
    assert tokens.dtype == weights.dtype == torch.float8_e4m3fn
    return ((tokens.double() * scale_a) @ (weights.double() * scale_b)).to(out_dtype)


def rival():
    return CudaBackend(3, device="cpu", clock=PretendedClock(), products=PRODUCTS)


def test_the_dense_product_in_fp8_is_a_row_of_its_own(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    found = measure.run(mine(FP8_TEXT), rival(), tmp_path / "rows.csv", STAMP)
    assert (found.wrong, found.refused) == ([], [])
    (row,) = row_files.read(tmp_path / "rows.csv")
    assert (row.kernel, row.pattern, row.dtype, row.baseline_dtype) == ("torch.fp8", "dense", "fp8", "bf16")
    assert (row.weights_bytes, row.case) == (32 * 64, None)
    again = measure.run(mine(FP8_TEXT), rival(), tmp_path / "rows.csv", STAMP)
    assert (len(again.rows), again.skipped) == (0, 1)


def test_a_wrong_product_in_fp8_makes_no_row(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "_scaled_mm", lambda *given, **named: scaled_mm(*given, **named) * 1.5)
    found = measure.run(mine(FP8_TEXT), rival(), tmp_path / "rows.csv", STAMP)
    assert (len(found.rows), len(found.wrong)) == (0, 1)
    sparse = mine(FP8_TEXT.replace('["dense"]', '["8:16"]\nencodings = ["index"]'))
    with pytest.raises(SpecError, match="kernel torch.fp8: it is dense, expected the pattern dense"):
        measure.run(sparse, rival(), tmp_path / "rows.csv", STAMP)


@pytest.mark.parametrize(("kernel", "dtype"), [("gpu.gemv_e4m3", "fp8"), ("gpu.gemv_int8", "int8")])
def test_rows_of_values_of_eight_bits_say_so_and_are_held_to_the_rounded_weights(
    mine, tmp_path, monkeypatch, kernel, dtype
):
    from kernels.ops import decompress
    from kernels.stored.shuffled import unshuffle

    factor = [1.0]

    def launch(x, weight, out):
        out.copy_(x.double() @ decompress(unshuffle(weight)).double().T * factor[0])

    monkeypatch.setattr("kernels.gpu.products.gemv.launch", launch)
    text = FP8_TEXT.replace("torch.fp8", kernel).replace('["dense"]', '["8:16"]\nencodings = ["index"]')
    text = text.replace("bf16", "fp16")
    found = measure.run(mine(text), rival(), tmp_path / "rows.csv", STAMP)
    assert (found.wrong, found.refused) == ([], [])
    (row,) = row_files.read(tmp_path / "rows.csv")
    assert (row.kernel, row.dtype, row.baseline_dtype, row.case.dtype) == (kernel, dtype, "fp16", dtype)
    again = measure.run(mine(text), rival(), tmp_path / "rows.csv", STAMP)
    assert (len(again.rows), again.skipped) == (0, 1)
    factor[0] = 1.02
    wrong = measure.run(mine(text), rival(), tmp_path / "other.csv", STAMP)
    assert (len(wrong.rows), len(wrong.wrong)) == (0, 1)


def test_the_search_of_cusparselt_is_done_once_per_shape_and_its_algorithm_used(monkeypatch):
    asked, used = [], []

    def search(stored, tokens, transpose_result):
        asked.append(tuple(tokens.shape))
        return 7

    def product(stored, tokens, transpose_result, alg_id):
        used.append(alg_id)
        return (stored.float() @ tokens.float()).T.to(stored.dtype)

    monkeypatch.setattr(torch, "_cslt_compress", lambda dense: dense.clone(), raising=False)
    monkeypatch.setattr(torch, "_cslt_sparse_mm_search", search, raising=False)
    monkeypatch.setattr(torch, "_cslt_sparse_mm", product, raising=False)
    weight = torch.randn(16, 32, dtype=torch.bfloat16)
    build = cuda_calls._searching_semi_structured()
    for tokens in (3, 3, 9):
        x = torch.randn(tokens, 32, dtype=torch.bfloat16)
        call = build(None, weight, x)
        assert torch.allclose(call.run().float(), x.float() @ weight.float().T, rtol=1e-2, atol=1e-1)
        assert call.cells["note"].startswith("algorithm 7;")
    assert (asked, used) == ([(32, 8), (32, 16)], [7, 7, 7])
