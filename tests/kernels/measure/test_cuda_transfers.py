"""The CUDA backend of transfers, on tensors in main memory through Triton's interpreter, with a pretended clock."""

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
triton = pytest.importorskip("triton")

from kernels.gpu import compress, controls, decompress, prune  # noqa: E402
from kernels.measure import campaign  # noqa: E402
from kernels.measure import transfers as measure_transfers  # noqa: E402
from kernels.measure.cuda import clock as cuda_timing  # noqa: E402
from kernels.measure.cuda import movers as cuda_movers  # noqa: E402
from kernels.measure.cuda import transfers as cuda_transfers  # noqa: E402
from kernels.measure.cuda.movers import KERNELS, Call, Pruning  # noqa: E402
from kernels.measure.cuda.transfers import CudaTransfers  # noqa: E402
from kernels.measure.transfers import Task, copy_bytes  # noqa: E402
from kernels.timing import rounds  # noqa: E402
from nmsim.errors import SpecError  # noqa: E402
from nmsim.pattern import Pattern  # noqa: E402
from nmsim.rows import measurement_file  # noqa: E402
from nmsim.rows.transfer import Transfer  # noqa: E402

pytestmark = pytest.mark.skipif(
    not triton.knobs.runtime.interpret, reason="Triton compiles in this process: it cannot interpret too"
)

TEXT = """
seed = 3
repetitions = 5
warmup = 1
budget_s = 60

[[transfer]]
kernels = ["gpu.pack"]
shapes = [[2, 32]]
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

        return cuda_timing.Timed(replay, lambda: 1e-6 * len(actions), "pretended")


def backend(**kernels):
    return CudaTransfers(
        3,
        {"device": "cpu", "torch": "2"},
        device="cpu",
        clock=PretendedClock(),
        kernels={**KERNELS, **kernels},
    )


@pytest.fixture
def load(tmp_path):
    def read(text=TEXT):
        (tmp_path / "mine.toml").write_text(text)
        return campaign.load(tmp_path / "mine.toml")

    return read


@pytest.fixture
def run(load, tmp_path):
    def go(device, text=TEXT):
        return measure_transfers.run(load(text), device, tmp_path / "moved.csv", STAMP)

    return go


def of(kernel, pattern="8:16", encoding="bitmask", columns=32, dtype="bf16", state="cold"):
    """A round of two rows and one task."""
    variants = ((Pattern.parse(pattern), encoding),) if pattern and kernel != "gpu.read" else ()
    return campaign.TransferRound(kernel, 2, columns, dtype, state, variants)


def right(kernel, matrix, task):
    """What a kernel has to give, without running it."""
    if kernel == "gpu.read":
        total = int(matrix.dense.view(torch.int32).sum(dtype=torch.int64))
        return (torch.tensor([(total + 2**31) % 2**32 - 2**31], dtype=torch.int32),)
    if kernel == "gpu.unpack":
        return (matrix.dense.where(matrix.mask(task), 0),)
    if kernel == "gpu.pack":
        values, metadata, *_ = matrix.stored(task, Pruning())
        return values.clone(), metadata.clone(), torch.zeros(2, 1, dtype=torch.int8)
    how = {
        "gpu.prune": Pruning(),
        "gpu.prune_vector": Pruning(by_vector=True),
        "gpu.prune_mitigated": Pruning("mean", variance=True),
    }
    return tuple(part.clone() for part in matrix.stored(task, how[kernel]))


def faked(kernel, spoil):
    """A kernel that writes what is right, and then something is done to it."""

    def build(matrix, task):
        want = right(kernel, matrix, task)
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
        '[[transfer]]\nkernels = ["gpu.read"]\nshapes = [[2, 32]]\ndtypes = ["fp32"]\nl2_state = ["warm"]\n'
    )
    found = run(backend(), TEXT + read)
    assert not found.wrong
    rows = measurement_file.read(tmp_path / "moved.csv", Transfer)
    assert rows == found.rows
    assert [(row.kernel, row.pattern, row.packing) for row in rows] == [
        ("gpu.pack", "8:16", "bitstream"), ("gpu.pack", "3:7", "bitstream"), ("gpu.read", "", ""),
    ]  # fmt: skip
    first = rows[0]
    assert (first.machine, first.device, first.torch, first.gate, first.reps) == (
        "pretended-gpu", "cpu", "2", "pass", 5,
    )  # fmt: skip
    assert first.numba
    assert first.baseline in ("torch.copy_", "gpu.copy")
    assert first.note.startswith("pretended of 2 copies; ")
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
    with device.movers(each, device.tasks(each)) as movers:
        assert [str(mover) for mover in movers[:1]] == [f"{kernel} {pattern} {encoding}"]
        assert [mover.name for mover in movers[1:]] == ["torch.copy_", "gpu.copy"]
        for mover in movers:
            mover.check()
        assert {mover.moved_bytes for mover in movers[1:]} == {copy_bytes(movers[0].moved_bytes)}


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
        (task,) = device.tasks(each)
        call = KERNELS[kernel].build(device._drawn(each), task)
        assert call.moved_bytes == expected, kernel


def test_copies_of_operands_are_counted_by_all_that_is_moved():
    device, each = backend(), of("gpu.unpack")
    with device.movers(each, device.tasks(each)) as movers:
        moved_bytes = movers[0].moved_bytes
        assert device._clock.asked == [moved_bytes, copy_bytes(moved_bytes)]
        assert [mover.moved_bytes for mover in movers[1:]] == [copy_bytes(moved_bytes)] * 2


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
        with device.movers(each, device.tasks(each)) as movers:
            if spoiling is not spoil:
                movers[0].check()
                continue
            with pytest.raises(ValueError, match=message):
                movers[0].check()


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("part", [0, -1])
def test_what_is_left_unwritten_is_seen(kernel, part):
    """A kernel that writes a part of its results when it is built and then no more."""

    def build(matrix, task):
        want = right(kernel, matrix, task)
        results, unwritten = tuple(part.clone() for part in want), part % len(want)

        def run():
            for place, (result, written) in enumerate(zip(results, want, strict=True)):
                if place != unwritten:
                    result.copy_(written)
            return results

        return Call(run, 1000)

    device, each = backend(**{kernel: replace(KERNELS[kernel], build=build)}), of(kernel)
    with (
        device.movers(each, device.tasks(each)) as movers,
        pytest.raises(ValueError, match=r"differ|error|keep|add up"),
    ):
        movers[0].check()


def test_few_elements_may_be_swapped_where_means_differ_and_no_more(monkeypatch):
    monkeypatch.setattr(cuda_movers, "SWAPPED_SHARE", 1 / 64)
    for rows, wrong in ((slice(0, 1), False), (slice(0, 2), True)):
        kernel = faked("gpu.prune_mitigated", lambda r, rows=rows: r[0][rows, :1].mul_(1.1))
        device, each = backend(**{"gpu.prune_mitigated": kernel}), of("gpu.prune_mitigated")
        with device.movers(each, device.tasks(each)) as movers:
            if not wrong:
                movers[0].check()
                continue
            with pytest.raises(ValueError, match=r"0.0312 of the elements differ, expected at most 0.015"):
                movers[0].check()


def test_a_wrong_copy_is_seen(monkeypatch):
    whole = cuda_movers.copies

    def short(source):
        calls = whole(source)
        calls["gpu.copy"] = Call(lambda: (source.new_zeros(source.shape),), calls["gpu.copy"].moved_bytes)
        return calls

    monkeypatch.setattr(cuda_transfers, "copies", short)
    device, each = backend(), of("gpu.read")
    with device.movers(each, device.tasks(each)) as movers:
        movers[1].check()
        with pytest.raises(ValueError, match=r"copy: \d+ of \d+ bytes differ"):
            movers[2].check()


def test_a_wrong_result_makes_no_row(run, tmp_path):
    found = run(backend(**{"gpu.pack": faked("gpu.pack", lambda r: flip(r[0]))}))
    assert (found.rows, len(found.wrong)) == ([], 2)
    assert found.wrong[0] == (
        "gpu.pack 2x32 bf16 cold: gpu.pack 8:16 bitmask: values: 1 of 64 bytes differ, expected none"
    )
    assert not (tmp_path / "moved.csv").exists()


@pytest.mark.parametrize(
    "problem", [RuntimeError("not built for this\nstack"), triton.TritonError("not built for this")]
)
def test_a_kernel_that_cannot_be_made_is_told_and_the_others_go_on(run, problem):
    whole = KERNELS["gpu.pack"]

    def build(matrix, task):
        if task.pattern == Pattern(3, 7):
            raise problem
        return whole.build(matrix, task)

    found = run(backend(**{"gpu.pack": replace(whole, build=build)}))
    assert [row.pattern for row in found.rows] == ["8:16"]
    name = type(problem).__name__
    assert found.wrong == []
    assert found.refused == [f"gpu.pack 2x32 bf16 cold: gpu.pack 3:7 bitmask: {name}: not built for this"]


def test_calls_go_through_operands_and_results_of_their_own_and_wait_for_nothing(monkeypatch):
    """What reads a result back would end the capture of a graph."""
    for kernel in KERNELS:
        device, each = backend(), of(kernel, encoding="combinatorial")
        with device.movers(each, device.tasks(each)), monkeypatch.context() as patch:
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
        with device.movers(each, device.tasks(each)):
            for actions in (device._clock.given[0], device._clock.given[2]):
                read.clear()
                for action in actions:
                    action()
                assert len(read) == 2
                assert not read[0] & read[1]


@pytest.mark.parametrize(
    ("each", "message"),
    [
        (of("gpu.prnue"), r"gpu.prnue 2x32 bf16 cold: expected a kernel that moves data, one of gpu.prune, "),
        (of("gpu.prune", dtype="int8"), "expected a dtype that CUDA kernels take, one of fp16, bf16, fp32"),
        (of("gpu.prune", ""), "expected a table with patterns and encodings"),
        (
            replace(of("gpu.pack"), kernel="gpu.read"),
            "expected a table of its own without patterns and encodings",
        ),
        (of("gpu.pack", encoding="joint"), "gpu.pack 2x32 bf16 cold: encoding 'joint'"),
        (of("gpu.pack", "8:64"), "gpu.pack 2x32 bf16 cold: pattern 8:64"),
    ],
)
def test_what_the_device_does_not_have_is_refused(each, message):
    with pytest.raises(SpecError, match=message):
        backend().tasks(each)


def test_the_shipped_campaign_is_what_the_device_takes():
    device = backend()
    found = campaign.load("cuda").transfers
    tasks = [task for each in found for task in device.tasks(each)]
    assert len(tasks) == 89
    assert {task.kernel for task in tasks} == set(KERNELS)
    in_l2 = 50 << 20  # of an H200
    assert all(each.rows * each.columns * 2 > 2 * in_l2 for each in found)
    for kernel in ("gpu.prune", "gpu.pack", "gpu.unpack"):
        patterns = {(str(task.pattern), task.encoding) for task in tasks if task.kernel == kernel}
        assert {("8:16", "bitmask"), ("8:16", "index"), ("8:16", "combinatorial")} <= patterns


def test_the_matrix_of_a_shape_is_drawn_once_and_seeded():
    device = backend()
    first = device._drawn(of("gpu.prune"))
    assert device._drawn(of("gpu.pack")) is first
    assert device._drawn(of("gpu.pack", columns=64)) is not first
    assert torch.equal(backend()._drawn(of("gpu.prune")).dense, first.dense)
    assert first.dense.abs().min() >= 0.5


def test_two_cold_copies_of_a_matrix_larger_than_the_cache():
    assert cuda_timing.cold_copies(209846272, 50 << 20) == 2
    assert str(Task("gpu.read")) == "gpu.read"


@pytest.mark.parametrize("kernel", KERNELS)
def test_rows_that_repeat_are_checked_all(kernel, monkeypatch):
    """Three rows of which the third is the first again: right ones pass, and a wrong third row is seen."""
    monkeypatch.setattr(cuda_transfers, "REPEATED_ROWS", 2)
    each = replace(of(kernel), rows=3)
    with backend().movers(each, backend().tasks(each)) as movers:
        movers[0].check()
    for part in {0, 1 if kernel in PATTERNED and kernel != "gpu.unpack" else 0}:

        def build(matrix, task, part=part):
            call = KERNELS[kernel].build(matrix, task)

            def run():
                results = call.run()
                flip(results[part], -1)
                return results

            return replace(call, run=run)

        device = backend(**{kernel: replace(KERNELS[kernel], build=build)})
        with (
            device.movers(each, device.tasks(each)) as movers,
            pytest.raises(ValueError, match="differ|add up"),
        ):
            movers[0].check()
