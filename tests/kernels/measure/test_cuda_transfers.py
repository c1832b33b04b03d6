"""Transfers on the CUDA backend, on tensors in main memory on the emulator, with a pretended clock."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernels.gpu import controls  # noqa: E402
from kernels.gpu.movers import compress, decompress, prune  # noqa: E402
from kernels.measure import campaign  # noqa: E402
from kernels.measure import run as measure  # noqa: E402
from kernels.measure.cuda import backend as measure_cuda  # noqa: E402
from kernels.measure.cuda import clock as cuda_timing  # noqa: E402
from kernels.measure.cuda import movers as cuda_movers  # noqa: E402
from kernels.measure.cuda.backend import CudaBackend  # noqa: E402
from kernels.measure.cuda.calls import Call  # noqa: E402
from kernels.measure.cuda.movers import KERNELS, Pruning  # noqa: E402
from kernels.measure.run import copy_bytes, label_of  # noqa: E402
from kernels.timing import rounds  # noqa: E402
from nmsim import rows as row_files  # noqa: E402
from nmsim.case import GemmShape  # noqa: E402
from nmsim.errors import SpecError  # noqa: E402
from nmsim.format import sparse_format  # noqa: E402
from nmsim.pattern import Pattern  # noqa: E402

TEXT = """
seed = 3
repetitions = 5
warmup = 1
budget_s = 60

[[round]]
kernels = ["gpu.pack"]
shapes = [[1, 2, 32]]
patterns = ["8:16", "3:7"]
encodings = ["bitmask"]
dtypes = ["bf16"]
l2_state = ["cold"]
"""
STAMP = rounds.Stamp("pretended-gpu", "0123abc", False)
PATTERNED = [name for name, kernel in KERNELS.items() if kernel.of_patterns]


class PretendedClock:
    """Says how long the work would have taken, and runs none of it."""

    def __init__(self):
        self.asked, self.given = [], []

    def copies(self, operand_bytes, l2_state):
        self.asked.append(operand_bytes)
        return 2 if l2_state == "cold" else 1

    def synchronize(self):
        pass

    def timed(self, actions, l2_state):
        self.given.append(list(actions))

        def replay():
            return [action() for action in actions]

        return cuda_timing.Timed(replay, lambda: 1e-6 * len(actions), "graph")


def backend(**kernels):
    return CudaBackend(3, device="cpu", clock=PretendedClock(), movers={**KERNELS, **kernels})


@pytest.fixture
def load(tmp_path):
    def read(text=TEXT):
        (tmp_path / "mine.toml").write_text(text)
        return campaign.load(tmp_path / "mine.toml")

    return read


@pytest.fixture
def run(load, tmp_path):
    def go(device, text=TEXT):
        return measure.run(load(text), device, tmp_path / "moved.csv", STAMP)

    return go


def of(kernel, pattern="8:16", encoding="bitmask", columns=32, dtype="bf16", state="cold", rows=2):
    """A round of a matrix of two rows and one task."""
    moves = KERNELS[kernel].sparse_operand if kernel in KERNELS else "weights"
    shape = GemmShape(1, rows, columns) if moves == "weights" else GemmShape(rows, 1, columns)
    formats = (sparse_format(f"{pattern}/{encoding}") if pattern and kernel != "gpu.read" else None,)
    return campaign.Round(shape, "decode", dtype, 1, state, formats, (kernel,), moves)


def whole_matrix(device, each):
    """The matrix of a round of two rows."""
    return device._drawn_matrix(2, each.shape.K, each.dtype)


def right(kernel, matrix, case):
    """What a kernel has to give, without running it."""
    if kernel == "gpu.read":
        total = int(matrix.dense.view(torch.int32).sum(dtype=torch.int64))
        return (torch.tensor([(total + 2**31) % 2**32 - 2**31], dtype=torch.int32),)
    if kernel == "gpu.unpack":
        return (matrix.dense.where(matrix.mask(case), 0),)
    if kernel == "gpu.pack":
        values, metadata, *_ = matrix.stored(case, Pruning())
        return values.clone(), metadata.clone(), torch.zeros(2, 1, dtype=torch.int8)
    how = {
        "gpu.prune": Pruning(),
        "gpu.prune_vector": Pruning(by_vector=True),
        "gpu.prune_mitigated": Pruning("mean", variance=True),
    }
    return tuple(part.clone() for part in matrix.stored(case, how[kernel]))


def faked(kernel, spoil):
    """A kernel that writes what is right, and then something is done to it."""

    def build(matrix, case):
        want = right(kernel, matrix, case)
        results = tuple(map(torch.empty_like, want))

        def run():
            for result, part in zip(results, want, strict=True):
                result.copy_(part)
            spoil(results)
            return results

        return Call(run, 1000)

    return replace(KERNELS[kernel], build=build)


def test_a_campaign_becomes_gated_rows_and_goes_on(run, tmp_path):
    read = (
        '[[round]]\nkernels = ["gpu.read"]\nshapes = [[1, 2, 32]]\npatterns = ["dense"]\ndtypes = ["fp32"]\n'
        'l2_state = ["warm"]\n'
    )  # fmt: skip
    found = run(backend(), TEXT + read)
    assert not found.wrong
    rows = row_files.read(tmp_path / "moved.csv")
    assert rows == found.rows
    assert [(row.kernel, row.pattern, row.packing) for row in rows] == [
        ("gpu.pack", "8:16", "bitstream"), ("gpu.pack", "3:7", "bitstream"), ("gpu.read", "", ""),
    ]  # fmt: skip
    first = rows[0]
    assert (first.machine, first.device, first.gate, first.reps, first.max_rel_err) == (
        "pretended-gpu", "cpu", "pass", 5, None,
    )  # fmt: skip
    assert first.numba
    assert (first.is_transfer, first.copy_bytes) == (True, copy_bytes(first.moved_bytes))
    assert first.baseline in ("torch.copy_", "gpu.copy")
    assert (first.timing, first.operand_copies, first.weights_bytes) == ("graph", 2, None)
    again = run(backend(), TEXT + read)
    assert (len(again.rows), again.skipped) == (0, 3)


@pytest.mark.parametrize("kernel", PATTERNED)
@pytest.mark.parametrize("turn", [0, 2])
def test_every_kernel_is_right(kernel, turn):
    kinds = [
        ("8:16", "bitmask", 48, "bf16"),
        ("2:4", "index", 24, "fp16"),
        ("16:32", "combinatorial", 40, "bf16"),
        ("3:7", "index", 45, "fp32"),
    ]
    pattern, encoding, columns, dtype = kinds[(PATTERNED.index(kernel) + turn) % len(kinds)]
    device, each = backend(), of(kernel, pattern, encoding, columns, dtype, "warm")
    with device.contenders(each, device.tasks(each), 0) as movers:
        assert [mover.label for mover in movers[:1]] == [f"{kernel} {pattern}/{encoding}"]
        assert [mover.name for mover in movers[1:]] == ["torch.copy_", "gpu.copy"]
        for mover in movers:
            mover.error()
        assert {mover.copy_bytes for mover in movers} == {copy_bytes(movers[0].cells["moved_bytes"])}


def test_bytes_are_those_of_operands_and_results():
    rows, columns = 2, 32
    dense, kept, codes, of_tokens = rows * columns * 2, rows * 16 * 2, rows * 4, rows * 2 * 4
    for kernel, expected in {
        "gpu.prune": dense + kept + codes + of_tokens,
        "gpu.prune_vector": dense + kept + codes + of_tokens + columns * 4,
        "gpu.prune_mitigated": dense + kept + codes + of_tokens,
        "gpu.pack": dense + rows * columns + kept + codes + rows,
        "gpu.unpack": dense + kept + codes,
        "gpu.read": dense + 4,
    }.items():
        device, each = backend(), of(kernel)
        ((case, _),) = device.tasks(each)
        call = KERNELS[kernel].build(whole_matrix(device, each), case)
        assert call.used_bytes == expected, kernel


def test_copies_of_operands_are_counted_by_all_that_is_moved():
    device, each = backend(), of("gpu.unpack")
    with device.contenders(each, device.tasks(each), 0) as movers:
        moved_bytes = movers[0].cells["moved_bytes"]
        assert device._clock.asked == [moved_bytes, *[copy_bytes(moved_bytes)] * 2]
        assert len(movers) == 3


def flip(part, place=7):
    part.view(torch.uint8).view(-1)[place] ^= 1


@pytest.mark.parametrize(
    ("kernel", "spoil", "message"),
    [
        ("gpu.prune", lambda r: flip(r[0]), "values: 1 of 64 bytes differ, expected none"),
        ("gpu.prune", lambda r: flip(r[1]), "metadata: 1 of 8 bytes differ"),
        ("gpu.prune", lambda r: r[2].fill_(1e-9), "eta: "),
        ("gpu.prune", lambda r: r[3].zero_(), "v: "),
        ("gpu.prune_vector", lambda r: flip(r[1]), "metadata: 1 of 8 bytes differ"),
        ("gpu.prune_mitigated", lambda r: r[2].mul_(1.01), "eta: relative error "),
        ("gpu.prune_mitigated", lambda r: r[2][1:].fill_(torch.nan), "eta: relative error inf, expected at most "),
        ("gpu.prune_mitigated", lambda r: r[3].mul_(1.001), "v: relative error 0.00"),
        ("gpu.prune_mitigated", lambda r: r[0][1].mul_(1.1), "of the elements differ, expected at most 0.0001"),
        ("gpu.prune_mitigated", lambda r: r[0][:, :2].copy_(r[0][:, :2].flip(1)), "of the elements differ"),
        ("gpu.prune_mitigated", lambda r: r[1].fill_(0xFF), "code"),
        ("gpu.pack", lambda r: flip(r[0], -1), "values: 1 of 64 bytes differ"),
        ("gpu.pack", lambda r: flip(r[1], -1), "metadata: 1 of 8 bytes differ"),
        ("gpu.pack", lambda r: r[2][1:].fill_(1), "a tile is said to keep too many, expected none"),
        ("gpu.unpack", lambda r: flip(r[0]), "result: 1 of 128 bytes differ"),
        ("gpu.read", lambda r: r[0][:1].add_(1), "words add up to "),
    ],
)  # fmt: skip
def test_a_wrong_result_is_seen(kernel, spoil, message):
    for spoiling in (lambda results: None, spoil):
        device, each = backend(**{kernel: faked(kernel, spoiling)}), of(kernel)
        with device.contenders(each, device.tasks(each), 0) as movers:
            if spoiling is not spoil:
                movers[0].error()
                continue
            with pytest.raises(ValueError, match=message):
                movers[0].error()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("part", [0, -1])
def test_what_is_left_unwritten_is_seen(kernel, part):
    """A kernel that writes a part of its results when it is built and then no more."""

    def build(matrix, case):
        want = right(kernel, matrix, case)
        results, unwritten = tuple(part.clone() for part in want), part % len(want)

        def run():
            for place, (result, written) in enumerate(zip(results, want, strict=True)):
                if place != unwritten:
                    result.copy_(written)
            return results

        return Call(run, 1000)

    device, each = backend(**{kernel: replace(KERNELS[kernel], build=build)}), of(kernel)
    with (
        device.contenders(each, device.tasks(each), 0) as movers,
        pytest.raises(ValueError, match=r"differ|error|keep|add up"),
    ):
        movers[0].error()


def test_few_elements_may_be_swapped_where_means_differ_and_no_more(monkeypatch):
    monkeypatch.setattr(cuda_movers, "SWAPPED_SHARE", 1 / 64)
    for rows, wrong in ((slice(0, 1), False), (slice(0, 2), True)):
        kernel = faked("gpu.prune_mitigated", lambda r, rows=rows: r[0][rows, :1].mul_(1.1))
        device, each = backend(**{"gpu.prune_mitigated": kernel}), of("gpu.prune_mitigated")
        with device.contenders(each, device.tasks(each), 0) as movers:
            if not wrong:
                movers[0].error()
                continue
            with pytest.raises(ValueError, match=r"0.0312 of the elements differ, expected at most 0.015"):
                movers[0].error()


def test_a_wrong_copy_is_seen(monkeypatch):
    whole = cuda_movers.copies

    def short(source):
        calls = whole(source)
        calls["gpu.copy"] = Call(lambda: (source.new_zeros(source.shape),), calls["gpu.copy"].used_bytes)
        return calls

    monkeypatch.setattr(measure_cuda, "copies", short)
    device, each = backend(), of("gpu.read")
    with device.contenders(each, device.tasks(each), 0) as movers:
        movers[1].error()
        with pytest.raises(ValueError, match=r"copy: \d+ of \d+ bytes differ"):
            movers[2].error()


def test_a_wrong_result_makes_no_row(run, tmp_path):
    found = run(backend(**{"gpu.pack": faked("gpu.pack", lambda r: flip(r[0]))}))
    assert (found.rows, len(found.wrong)) == ([], 2)
    assert found.wrong[0] == (
        "M=1 N=2 K=32 bf16 cold, 1 thread: gpu.pack 8:16/bitmask: values: 1 of 64 bytes differ, expected none"
    )
    assert not (tmp_path / "moved.csv").exists()


@pytest.mark.parametrize(
    "problem", [RuntimeError("not built for this\nstack"), triton.TritonError("not built for this")]
)
def test_a_kernel_that_cannot_be_made_is_told_and_the_others_go_on(run, problem):
    whole = KERNELS["gpu.pack"]

    def build(matrix, case):
        if case.pattern == Pattern(3, 7):
            raise problem
        return whole.build(matrix, case)

    found = run(backend(**{"gpu.pack": replace(whole, build=build)}))
    assert [row.pattern for row in found.rows] == ["8:16"]
    name = type(problem).__name__
    assert found.wrong == []
    assert found.refused == [
        f"M=1 N=2 K=32 bf16 cold, 1 thread: gpu.pack 3:7/bitmask: {name}: not built for this"
    ]


def test_calls_go_through_operands_and_results_of_their_own_and_wait_for_nothing(monkeypatch):
    """What reads a result back would end the capture of a graph."""
    for kernel in KERNELS:
        device, each = backend(), of(kernel, encoding="combinatorial")
        with device.contenders(each, device.tasks(each), 0), monkeypatch.context() as patch:
            for name in ("any", "all", "item", "__bool__", "tolist", "cpu", "nonzero"):
                patch.setattr(
                    torch.Tensor, name, lambda *args, name=name: pytest.fail(f"{name} in a timed call")
                )
            for actions in device._clock.given if kernel == "gpu.read" else device._clock.given[:1]:
                made = [action() for action in actions]
                places = {part.data_ptr() for results in made for part in results}
                assert len(places) == len(made) * len(made[0]) == 2 * len(made[0])


def test_no_two_calls_read_the_same_operands(monkeypatch):
    read = []

    def note(*arguments, **options):
        tensors = [part for part in (*arguments, *options.values()) if isinstance(part, torch.Tensor)]
        read.append({part.data_ptr() for part in tensors})
        return torch.zeros(1)

    for module, name in (
        (prune, "launch"),
        (compress, "enqueue"),
        (decompress, "launch"),
        (controls, "read"),
    ):
        monkeypatch.setattr(module, name, note)
    monkeypatch.setattr(controls, "copy", note)
    for kernel in KERNELS:
        device, each = backend(), of(kernel)
        with device.contenders(each, device.tasks(each), 0):
            for actions in (device._clock.given[0], device._clock.given[2]):
                read.clear()
                for action in actions:
                    action()
                assert len(read) == 2
                assert not read[0] & read[1]


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (
            of("gpu.prnue"),
            r"M=1 N=2 K=32 bf16 cold, 1 thread: kernel gpu.prnue: expected one of gpu.gemv, .*; did you mean 'gpu.prune'\?$",
        ),
        (of("gpu.prune", dtype="int8"), "expected a dtype that CUDA kernels take, one of fp16, bf16, fp32"),
        (of("gpu.prune", ""), "kernel gpu.prune: expected patterns and encodings"),
        (replace(of("gpu.pack"), kernels=("gpu.read",)), "kernel gpu.read: expected the pattern dense"),
        (of("gpu.pack", encoding="joint"), "M=1 N=2 K=32 bf16 cold, 1 thread: encoding 'joint'"),
        (of("gpu.pack", "8:64"), "M=1 N=2 K=32 bf16 cold, 1 thread: pattern 8:64"),
        (
            replace(of("gpu.pack"), shape=GemmShape(3, 2, 32)),
            "gpu.pack: M=3: it moves one matrix of weights, expected M=1",
        ),
        (
            replace(of("gpu.prune"), shape=GemmShape(2, 3, 32)),
            "N=3: it moves one matrix of activations, expected N=1",
        ),
        (
            replace(of("gpu.prune"), sparse_operand="weights"),
            "it moves activations, expected sparse_operand activations",
        ),
        (replace(of("gpu.read"), kernels=("best",)), "it multiplies, expected patterns N:M and not dense"),
    ],
)
def test_what_the_device_does_not_have_is_refused(each, message):
    with pytest.raises(SpecError, match=message):
        backend().tasks(each)


def test_the_shipped_campaign_is_what_the_device_takes():
    device = backend()
    tasks = [
        (case, kernel)
        for each in campaign.load("cuda").rounds
        for case, kernel in device.tasks(each)
        if kernel in KERNELS
    ]
    assert len(tasks) == 89
    assert {kernel for _, kernel in tasks} == set(KERNELS)
    in_l2 = 50 << 20  # of an H200
    for case, kernel in tasks:
        rows, columns = KERNELS[kernel].matrix_shape(case)
        assert rows * columns * 2 > 2 * in_l2
    for name in ("gpu.prune", "gpu.pack", "gpu.unpack"):
        patterns = {
            (str(case.pattern), case.format.encoding.name) for case, kernel in tasks if kernel == name
        }
        assert {("8:16", "bitmask"), ("8:16", "index"), ("8:16", "combinatorial")} <= patterns


def test_the_matrix_of_a_shape_is_drawn_once_and_seeded():
    device = backend()
    first = whole_matrix(device, of("gpu.prune"))
    assert whole_matrix(device, of("gpu.pack")) is first
    assert whole_matrix(device, of("gpu.pack", columns=64)) is not first
    assert torch.equal(whole_matrix(backend(), of("gpu.prune")).dense, first.dense)
    assert first.dense.abs().min() >= 0.5


def test_products_and_transfers_of_one_round_each_have_their_own_baselines(run):
    text = (
        TEXT.replace('["gpu.pack"]', '["gpu.gemm_small", "gpu.pack"]')
        .replace('["8:16", "3:7"]', '["8:16"]')
        .replace("bf16", "fp32")
    )
    found = run(backend(), text)
    assert (found.wrong, found.refused) == ([], [])
    product, moved = found.rows
    assert (product.is_transfer, moved.is_transfer) == (False, True)
    assert product.baseline in ("F.linear", "torch.mm", "torch.mv", "torch.mm K-major")
    assert moved.baseline in ("torch.copy_", "gpu.copy")
    assert len(product.other_baselines.split(", ")) == 3
    assert len(moved.other_baselines.split(", ")) == 1


def test_two_cold_copies_of_a_matrix_larger_than_the_cache():
    assert cuda_timing.cold_copies(209846272, 50 << 20) == 2
    ((case, kernel),) = backend().tasks(of("gpu.read"))
    assert label_of((case, kernel)) == "gpu.read"


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_that_repeat_are_checked_all(kernel, monkeypatch):
    """Three rows of which the third is the first again: right ones pass, and a wrong third row is seen."""
    monkeypatch.setattr(measure_cuda, "REPEATED_ROWS", 2)
    each = of(kernel, rows=3)
    with backend().contenders(each, backend().tasks(each), 0) as movers:
        movers[0].error()
    for part in {0, 1 if kernel in PATTERNED and kernel != "gpu.unpack" else 0}:

        def build(matrix, case, part=part):
            call = KERNELS[kernel].build(matrix, case)

            def run():
                results = call.run()
                flip(results[part], -1)
                return results

            return replace(call, run=run)

        device = backend(**{kernel: replace(KERNELS[kernel], build=build)})
        with (
            device.contenders(each, device.tasks(each), 0) as movers,
            pytest.raises(ValueError, match="differ|add up"),
        ):
            movers[0].error()
