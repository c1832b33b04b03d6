"""Products of sparse tokens on the CUDA backend, by the kernels themselves, on the emulator. Nothing is timed."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from kernels.measure import campaign  # noqa: E402
from kernels.measure import run as measure  # noqa: E402
from kernels.measure.cuda.backend import CudaBackend  # noqa: E402
from kernels.measure.cuda.calls import PRODUCTS, best_of, dense_calls  # noqa: E402
from kernels.measure.cuda.clock import Timed  # noqa: E402
from kernels.ops import dispatch  # noqa: E402
from nmsim.case import Case, GemmShape  # noqa: E402
from nmsim.errors import SpecError  # noqa: E402
from nmsim.format import sparse_format  # noqa: E402

TEXT = """
seed = 3
repetitions = 5
warmup = 1
budget_s = 600

[[round]]
shapes = [[1, 24, 55]]
sparse_operand = "activations"
kernels = ["best", "gpu.skip_gemv", "gpu.activations_mm"]
patterns = ["2:4", "8:16", "3:7"]
encodings = ["bitmask", "index"]
dtypes = ["fp16"]
l2_state = ["cold"]

[[round]]
shapes = [[5, 24, 64]]
sparse_operand = "activations"
kernels = ["best", "gpu.activations_mm"]
patterns = ["4:8"]
encodings = ["combinatorial"]
dtypes = ["fp16"]
l2_state = ["cold"]
"""
STAMP = measure.Stamp("pretended-gpu", "0123abc", False)


class IdleClock:
    """Has three copies of everything and runs none of it; remembers the bytes it was told of."""

    def __init__(self):
        self.asked = []

    def copies(self, operand_bytes, l2_state):
        self.asked.append(operand_bytes)
        return 3

    def synchronize(self):
        pass

    def timed(self, actions, l2_state):
        def replay():
            return [action() for action in actions]

        return Timed(replay, lambda: 1e-6, "graph")


@pytest.fixture
def run(triton_device, tmp_path):
    """Measure a campaign on a device; give back what the run did and the clock."""

    def go(text=TEXT):
        (tmp_path / "mine.toml").write_text(text)
        clock = IdleClock()
        device = CudaBackend(3, device=triton_device.type, clock=clock)
        found = measure.run(campaign.load(tmp_path / "mine.toml"), device, tmp_path / "rows.csv", STAMP)
        return found, clock

    return go


def test_rows_of_sparse_tokens_are_gated_and_say_whether_pruning_is_in_the_time(run):
    found, clock = run()
    assert not found.wrong
    rows = found.rows
    assert [row.kernel for row in rows[::6]][:3] == [
        "gpu.prune_skip_gemv",
        "gpu.skip_gemv",
        "gpu.activations_mm",
    ]
    assert [row.kernel for row in rows[18:]] == ["gpu.prune_activations_mm", "gpu.activations_mm"]
    assert {row.sparse_operand for row in rows} == {"activations"}
    assert len({row.key for row in rows}) == len(rows) == 20
    online = [row for row in rows if "prune" in row.kernel]
    before = [row for row in rows if "prune" not in row.kernel]
    assert all("this time holds pruning and packing the tokens" in row.note for row in online)
    assert {row.mark for row in online} == {""}
    assert {row.mark for row in before} == {"pruned beforehand"}
    skips = {row.pattern: row for row in rows if row.kernel == "gpu.skip_gemv"}
    # Of 55 features 2:4 keeps 26 of 52 and two of the last three, 8:16 24 of 48 and all of the last seven; each meets 24
    # outputs of two bytes.
    for pattern, kept in (("2:4", 28), ("8:16", 31)):
        assert skips[pattern].weights_bytes == kept * 24 * 2
        assert kept * 24 * 2 in clock.asked
    assert 55 * 24 * 2 in clock.asked
    index = next(row for row in rows if row.pattern == "8:16" and row.encoding == "index")
    # Four groups of eight values of two bytes, and of eight positions of four bits.
    assert index.tokens_bytes == 4 * (8 * 2 + 4)


def test_one_token_has_a_dense_call_on_k_major_weights():
    x, weight = torch.randn(1, 50), torch.randn(24, 50)
    right = torch.nn.functional.linear(x, weight)
    found = dense_calls(torch, x)
    assert {name for name, call in found.items() if call.k_major} == {"torch.mm K-major"}
    for call in found.values():
        stored = weight.T.contiguous() if call.k_major else weight
        assert torch.allclose(call.build(stored)().reshape(1, -1), right, atol=1e-5)
    assert not any(call.k_major for call in dense_calls(torch, x.expand(2, -1)).values())


def test_each_call_has_weights_of_its_own_in_the_order_it_wants(triton_device):
    seen = []
    device = CudaBackend(device=triton_device.type, clock=IdleClock())
    for name, k_major in (("gpu.skip_gemv", True), ("gpu.activations_mm", False)):
        product = PRODUCTS[name]

        def build(packed, weight, x, product=product):
            seen.append(weight)
            return product.build(packed, weight, x)

        device._products = {name: replace(product, build=build)}
        seen.clear()
        each = campaign.Round(
            GemmShape(1, 24, 32), "decode", "fp16", None, "cold", (sparse_format("2:4/index"),), (name,), "activations"
        )  # fmt: skip
        weights, tokens = device._operands(each)
        device._sparse(each, device.tasks(each)[0][0], name, weights, tokens, 0)
        assert len({weight.data_ptr() for weight in seen}) == 3
        assert all(weight.is_contiguous() for weight in seen)
        right = weights.dense.T if k_major else weights.dense
        assert all(torch.equal(weight, right) for weight in seen)


ONE = (
    TEXT[: TEXT.index("[[round]]\nshapes = [[5")]
    .replace('"best", "gpu.skip_gemv", "gpu.activations_mm"', '"best"')
    .replace('"2:4", "8:16", "3:7"', '"2:4"')
    .replace('"bitmask", "index"', '"bitmask"')
)


@pytest.mark.parametrize("broken", ["a value", "a code", "nothing is stored"])
def test_tokens_that_are_stored_wrongly_make_no_row(run, monkeypatch, broken):
    module = dispatch.module("movers.prune")
    real, calls = module.launch, []

    def launch(x, format, out, *, shift):
        # Each call stores once, so that it never reads memory that nobody wrote.
        if broken == "nothing is stored" and out[0].data_ptr() in calls:
            return
        calls.append(out[0].data_ptr())
        real(x, format, out, shift=shift)
        if broken == "a value":
            out[0][0, 1] *= 1.25
        elif broken == "a code":
            out[1][0, 0] ^= 0b11

    monkeypatch.setattr(module, "launch", launch)
    found, _ = run(ONE)
    assert not found.rows
    assert len(found.wrong) == 1
    assert "gpu.prune_skip_gemv 2:4/bitmask: relative error" in found.wrong[0]


def test_a_product_that_prunes_nothing_makes_no_row(run, monkeypatch):
    seen = []

    def multiply(values, metadata, weight, format, out):
        out.copy_(seen[-1] @ weight)

    monkeypatch.setattr(dispatch.module("movers.prune"), "launch", lambda x, *rest, shift: seen.append(x))
    monkeypatch.setattr(dispatch.module("products.skip_gemv"), "launch", multiply)
    found, _ = run(ONE)
    assert not found.rows
    assert len(found.wrong) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[[1, 24, 55]]", "[[2, 24, 50]]"), "kernel gpu.skip_gemv: M=2, expected one token"),
        (
            ('"gpu.skip_gemv"', '"gpu.gemv"'),
            "gpu.gemv: it takes sparse weights, expected one for sparse activations",
        ),
        (
            (
                'sparse_operand = "activations"\nkernels = ["best", "gpu.skip_gemv"',
                'kernels = ["best", "gpu.skip_gemv"',
            ),
            "gpu.skip_gemv: it takes sparse activations, expected one for sparse weights",
        ),
    ],
)
def test_a_kernel_for_the_other_operand_or_for_other_tokens_is_refused(run, change, message):
    assert change[0] in TEXT
    with pytest.raises(SpecError, match=message):
        run(TEXT.replace(*change, 1))


def test_the_best_kernel_for_sparse_tokens_prunes_them_in_its_time():
    names = [
        best_of(Case(GemmShape(tokens, 64, 64), "8:16", sparse_operand="activations"))
        for tokens in (1, 2, 64)
    ]
    assert names == ["gpu.prune_skip_gemv", "gpu.prune_activations_mm", "gpu.prune_activations_mm"]
