"""The CUDA backend of campaigns, on tensors in main memory with a pretended clock. Nothing is timed."""

import pytest
import torch

from kernels import campaign, cuda_calls, cuda_timing, measure
from kernels.cuda_calls import PRODUCTS, Call, Product
from kernels.measure_cuda import CudaBackend
from kernels.ops import sparse_linear
from nmsim import measurement_file
from nmsim.errors import SpecError
from nmsim.pattern import Pattern
from nmsim.records import Case, GemmShape

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
        self.asked = []

    def copies(self, operand_bytes, l2_state):
        self.asked.append(operand_bytes)
        return 3 if l2_state == "cold" else 1

    def sampler(self, actions, l2_state):
        def sample():
            for action in actions:
                action()
            return 1e-6 * len(actions)

        return sample, "pretended"


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
    rows = measurement_file.read(tmp_path / "rows.csv")
    assert len(rows) == len(found.rows) == 2 * 2 * 6
    first = rows[0]
    assert (first.machine, first.kernel, first.threads, first.gate) == ("pretended-gpu", "ours", None, "pass")
    assert first.baseline in ("F.linear", "torch.mm", "torch.mv")
    assert "3 copies" in first.note
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


def test_a_library_that_refuses_is_told_and_the_others_go_on(mine, tmp_path):
    def build(packed, dense, x):
        raise RuntimeError("not built for this device\nstack")

    theirs = backend(theirs=Product(lambda case: "", build))
    found = measure.run(
        mine(TEXT.replace('["ours"]', '["theirs", "ours"]')), theirs, tmp_path / "rows.csv", STAMP
    )
    assert len(found.rows) == 24
    assert found.wrong[0].endswith("theirs 2:4 bitmask: RuntimeError: not built for this device")


def test_the_shipped_campaign_is_what_the_device_takes():
    pytest.importorskip("triton")
    device = CudaBackend(device="cpu", clock=PretendedClock())
    rounds = campaign.load("cuda").rounds
    tasks = [task for each in rounds for task in device.tasks(each)]
    assert {kernel for _, kernel in tasks} == set(PRODUCTS)
    assert {case.shape.M for case, _ in tasks} == {1, 2, 4, 8, 16, 64, 2048, 8192}
    assert all((each.phase == "prefill") == (each.shape.M >= 2048) for each in rounds)


def test_cold_calls_go_through_copies_of_their_own():
    def build(packed, dense, x):
        place = object()
        return Call(lambda: place, packed.values_bytes)

    device = backend(ours=Product(lambda case: "", build))
    of = campaign.Round(
        GemmShape(1, 8, 16), "decode", "fp32", None, "cold", ((Pattern(2, 4), "index"),), ("ours",)
    )
    data, x = device._data(of), device._tokens(of)
    seen = []
    device._clock.sampler = lambda actions, state: (seen.append([action() for action in actions]), "")
    device._sparse(of, device.tasks(of)[0][0], "ours", data, x)
    assert len(set(map(id, seen[0]))) == 3


def test_weights_are_pruned_by_the_rule_of_nmsim(mine):
    from nmsim import prune

    device, of = backend(), mine().rounds[0]
    data = device._data(of)
    for pattern in map(Pattern.parse, ("2:4", "8:16", "16:32", "3:7")):
        pruned = device._pruned(data, pattern)
        assert ((pruned != 0).numpy() == prune(data.dense.numpy(), pattern)).all()
    assert data.dense.abs().min() >= 0.5
    assert torch.equal(device._data(of).dense, backend()._data(of).dense)


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
    one, many = (
        Case(GemmShape(tokens, 64, 64), dtype="bf16", pattern="8:16", encoding="index") for tokens in (1, 5)
    )
    assert PRODUCTS["gpu.gemv"].problem(one) == ""
    assert PRODUCTS["gpu.gemv"].problem(many) == "M=5, expected at most 4 tokens"
    assert PRODUCTS["torch.cutlass"].problem(one) == "8:16 index, expected 2:4 index"
    assert [cuda_calls.best_of(case) for case in (one, many)] == ["gpu.gemv", "gpu.gemm_small"]
    prompt = Case(GemmShape(8192, 64, 64), dtype="bf16", pattern="8:16", encoding="index", phase="prefill")
    assert cuda_calls.best_of(prompt) == "gpu.unpack_mm"


def test_copies_are_several_times_the_cache():
    for operand_bytes in (1 << 20, 30 << 20, 1 << 30):
        copies = cuda_timing.cold_copies(operand_bytes, 50 << 20)
        assert 2 <= copies <= cuda_timing.MOST_COPIES
        assert copies == cuda_timing.MOST_COPIES or copies * operand_bytes >= cuda_timing.L2_TIMES * (
            50 << 20
        )
