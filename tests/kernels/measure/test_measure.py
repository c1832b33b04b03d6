"""Campaigns: what a file may say, the gate, and runs on a pretended device with a pretended clock. Nothing is timed."""

import contextlib
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from kernels.cpu import isa
from kernels.measure import campaign
from kernels.measure import cpu as measure_cpu
from kernels.measure import run as measure
from kernels.measure.cuda import calls, movers
from kernels.timing import gate, host, rounds
from kernels.timing import interleaved as timing
from nmsim import rows as row_files
from nmsim.case import Case, GemmShape
from nmsim.errors import RowError, SpecError
from nmsim.format import sparse_format
from nmsim.pattern import Pattern

TEXT = """
seed = 0
repetitions = 9
warmup = 1
budget_s = 60

[[round]]
shapes = [[1, 32, 64], [4, 32, 64]]
patterns = ["2:4", "8:16"]
encodings = ["bitmask"]
dtypes = ["fp32"]
threads = [1, "all"]
l2_state = ["cold", "warm"]
"""
STAMP = measure.Stamp("mine", "0123abc", False)
KERNEL = "pretended.kernel"


@pytest.fixture
def load(tmp_path):
    """Read a campaign from text."""

    def read(text=TEXT):
        file = tmp_path / "mine.toml"
        file.write_text(text)
        return campaign.load(file)

    return read


# campaigns


def test_rounds_are_every_combination_in_order(load):
    found = load()
    assert (found.name, found.repetitions, found.budget_s, len(found.rounds)) == ("mine", 9, 60, 8)
    assert [(r.shape.M, r.threads, r.l2_state) for r in found.rounds[:5]] == [
        (1, 1, "cold"), (1, 1, "warm"), (1, None, "cold"), (1, None, "warm"), (4, 1, "cold"),
    ]  # fmt: skip
    assert [str(stored) for stored in found.rounds[0].formats] == [
        "2:4/bitmask/bitstream",
        "8:16/bitmask/bitstream",
    ]
    assert found.rounds[0].kernels == (campaign.BEST,)
    assert str(found.rounds[2]) == "M=1 N=32 K=64 fp32 cold, all cores"


@pytest.mark.parametrize("name", campaign.shipped())
def test_shipped_campaigns_are_what_the_cpu_takes(name):
    found = campaign.load(name)
    assert found.rounds
    for each in found.rounds:
        assert each.dtype in measure_cpu.DTYPES
        assert each.threads in (1, None)
        if each.l2_state == "warm":
            assert each.shape.N * each.shape.K * 4 <= 512 << 10


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 0", "sede = 0", r"mine.toml: sede: unknown key \(did you mean seed\?\)"),
        ("seed = 0\n", "", r"mine.toml: seed: missing"),
        ("repetitions = 9", "repetitions = 0", r"repetitions=0: expected at least 1 repetitions"),
        ("[[round]]", "[round]", r"mine.toml: round=.*: expected an array of tables, \[\[round\]\]"),
        ('dtypes = ["fp32"]', 'dtypes = ["fp33"]', r"round\[0\].dtypes\[0\]='fp33': expected one of fp32"),
        ('"2:4"', '"4:2"', r"round\[0\].patterns\[0\]='4:2': pattern 4:2: expected 1 <= N <= M"),
        ('["bitmask"]', '["csr"]', r"round\[0\].encodings\[0\]='csr': encoding 'csr'"),
        ('["bitmask"]', "[]", r"round\[0\].encodings: empty, expected a list of at least one"),
        ("[4, 32, 64]", "[4, 32]", r"round\[0\].shapes\[1\]=.*shapes are \[M, N, K\]"),
        ("[4, 32, 64]", "[0, 32, 64]", r"GEMM dimension M=0"),
        (
            '"all"',
            '"both"',
            r"round\[0\].threads\[1\]='both': expected a whole number of at least 1, or 'all'",
        ),
        ('"cold"', '"tepid"', r"round\[0\].l2_state\[0\]='tepid': expected one of cold, warm"),
        (
            'dtypes = ["fp32"]',
            'dtypes = ["fp32"]\nsparse_operand = "both"',
            r"round\[0\].sparse_operand='both': expected one of weights, activations",
        ),
        (
            'dtypes = ["fp32"]',
            'dtypes = ["fp32"]\nsparse_operands = "weights"',
            r"round\[0\].sparse_operands: unknown key \(did you mean sparse_operand\?\)",
        ),
        ("seed = 0", "seed = ", r"mine.toml: cannot be read as TOML"),
    ],
)
def test_a_broken_campaign_is_refused_by_key(load, old, new, message):
    assert old in TEXT
    with pytest.raises(SpecError, match=message):
        load(TEXT.replace(old, new, 1))


def test_all_problems_of_a_campaign_are_named_in_one_run(load):
    text = TEXT.replace("[4, 32, 64]", "[4, 32]").replace('"8:16"', '"16:8"').replace("bitmask", "bitmsk")
    with pytest.raises(SpecError) as caught:
        load(
            text.replace("[[round]]", '[[round]]\nkernels = ["cpu.portabl"]').replace(
                "seed = 0", "seed = 0.5"
            )
        )
    lines = str(caught.value).splitlines()
    problems = (
        "seed=0.5: expected a whole number",
        "round[0].shapes[1]=[4, 32]: expected three positive whole numbers; shapes are [M, N, K]",
        "round[0].patterns[1]='16:8': pattern 16:8: expected 1 <= N <= M",
        "round[0].encodings[0]='bitmsk': encoding 'bitmsk': expected one of",
        "round[0].kernels[0]='cpu.portabl': expected best or one of",
    )
    assert len(lines) == len(problems)
    for line, problem in zip(lines, problems, strict=True):
        assert f"mine.toml: {problem}" in line
    assert lines[0].endswith("a whole number")
    assert lines[3].endswith("did you mean 'bitmask'?")
    assert lines[4].endswith("did you mean 'cpu.portable'?")


def test_the_kernels_of_campaigns_are_those_of_the_backends():
    cpu = (f"{measure_cpu.PREFIX}{name}" for name in isa.ALL)
    assert (*cpu, *calls.PRODUCTS, *movers.KERNELS) == campaign.KERNELS


def test_a_round_says_which_operand_is_sparse(load):
    assert {each.sparse_operand for each in load().rounds} == {"weights"}
    found = load(TEXT.replace("[[round]]", '[[round]]\nsparse_operand = "activations"')).rounds
    assert {each.sparse_operand for each in found} == {"activations"}
    assert str(found[2]) == "M=1 N=32 K=64 fp32 cold, all cores, sparse activations"


def test_an_unknown_campaign_lists_the_known_ones():
    with pytest.raises(
        SpecError, match=r"campaign 'gpu': expected one of cpu, cpu-quick, cuda, cuda-tuning, or the path"
    ):
        campaign.load("gpu")
    with pytest.raises(SpecError, match="'cpu-quik'.*did you mean 'cpu-quick'"):
        campaign.load("cpu-quik")


# the gate


def test_operands_are_nowhere_near_zero():
    drawn = gate.operands((100, 100), np.random.default_rng(0))
    assert drawn.dtype == np.float32
    assert np.abs(drawn).min() >= 0.5
    assert np.abs(drawn).max() <= 1.5
    assert 0.4 < (drawn > 0).mean() < 0.6


@pytest.mark.parametrize("m", [1, 3])
def test_the_reference_is_a_plain_product(m, monkeypatch):
    monkeypatch.setattr(gate, "BLOCK_ELEMS", 200)
    rng = np.random.default_rng(0)
    x, w, keep = gate.operands((m, 48), rng), gate.operands((37, 48), rng), rng.random((37, 48)) < 0.5
    found = gate.reference(x, w, keep)
    expected = [[sum(float(a) * float(b) for a, b, k in zip(t, r, ks, strict=True) if k)
                 for r, ks in zip(w, keep, strict=True)] for t in x]  # fmt: skip
    assert found.product == pytest.approx(np.array(expected), rel=1e-12)
    magnitudes = gate.reference(np.abs(x), np.abs(w), keep).product
    assert found.magnitudes == pytest.approx(magnitudes, rel=1e-12)


def test_one_misplaced_or_missing_element_of_thousands_is_seen():
    rng = np.random.default_rng(0)
    k = 8192
    x, w = gate.operands((1, k), rng), gate.operands((4, k), rng)
    of = gate.reference(x, w)
    limit = gate.allowed(of, k, "fp32", "once")
    right = (x @ w.T).astype(np.float32)
    assert gate.deviation(right, of, limit).checked() < gate.tolerance(k)
    for place in range(0, k, 97):
        missing = right.copy()
        missing[0, 2] -= x[0, place] * w[2, place]
        assert gate.deviation(missing, of, limit).of_allowed > 1


@pytest.mark.parametrize("spoil", [np.nan, np.inf])
def test_a_result_that_is_no_number_or_of_another_shape(spoil):
    one = np.ones((1, 2))
    of = gate.Reference(one, one)
    found = gate.deviation(np.array([[1, spoil]]), of, one)
    assert found == gate.Deviation(np.inf, np.inf)
    with pytest.raises(gate.GateError, match="relative error inf; an output is inf times as far off"):
        found.checked()
    with pytest.raises(gate.GateError, match=r"result of shape \(2,\): expected \(1, 2\)"):
        gate.deviation(np.ones(2), of, one)


# runs


class Pretended:
    """A device whose products take the seconds it is told, by a clock that only they move."""

    about = {"device": "pretended", "numpy": "2.4"}  # noqa: RUF012

    def __init__(self, sparse_s=1.0, dense_s=(3.0, 2.0), wrong=(), kind=gate.GateError):
        self.now, self.sparse_s, self.dense_s = 0.0, sparse_s, dense_s
        self.wrong = dict.fromkeys(wrong, kind)
        self.built, self.sampled, self.prepared = [], [], []
        self.prepare_s, self.trouble = 0.0, ""

    def sources(self, kernel):
        return ""

    def threads(self, of):
        return of.threads or 2

    def tasks(self, of):
        return [(Case(of.shape, stored, dtype=of.dtype), KERNEL) for stored in of.formats]

    def prepare(self, planned, time_s, progress):
        self.prepared.append((len(planned.rounds), time_s))
        self.now += self.prepare_s
        return self.trouble

    @contextlib.contextmanager
    def contenders(self, of, tasks, warmup):
        self.built.append((of, tasks))
        found = [self.contender(KERNEL, case, self.sparse_s) for case, _ in tasks]
        yield found + [self.contender(f"dense {i}", None, s) for i, s in enumerate(self.dense_s)]

    def contender(self, name, case, seconds):
        def sample():
            self.now += seconds
            self.sampled.append(name)
            return seconds

        def error():
            kind = self.wrong.get(name if case is None else str(case.pattern))
            if kind:
                raise kind("said so")
            return 1e-7

        return measure.Contender(name, case, error, sample, {"note": "a note"})


@pytest.fixture
def run(load, tmp_path):
    """Run a campaign on a pretended device; give back the outcome."""

    def go(device, text=TEXT, file="rows.csv", **options):
        return measure.run(load(text), device, tmp_path / file, STAMP, clock=lambda: device.now, **options)

    return go


def test_rows_say_what_was_measured(run, tmp_path):
    outcome = run(Pretended(), budget_s=1e6)
    assert (len(outcome.rows), outcome.skipped, outcome.left, outcome.wrong) == (16, 0, 0, [])
    assert row_files.read(tmp_path / "rows.csv") == outcome.rows
    row = outcome.rows[1]
    assert (row.machine, row.device, row.kernel, row.commit, row.dirty) == (
        "mine",
        "pretended",
        KERNEL,
        "0123abc",
        False,
    )
    assert (row.baseline, row.sparse_time_s, row.dense_time_s, row.speedup_vs_dense) == (
        "dense 1",
        1.0,
        2.0,
        2.0,
    )
    assert (row.reps, row.warmup, row.gate, row.max_rel_err) == (9, 1, "pass", 1e-7)
    assert (row.threads, row.l2_state, row.pattern) == (1, "cold", "8:16")
    assert row.case == Case(GemmShape(1, 32, 64), "8:16", dtype="fp32")
    assert (row.note, row.other_baselines) == ("a note", "dense 0 3e+06 us")
    assert (row.sparse_outliers, row.dense_outliers, row.is_transfer) == (0, 0, False)


def test_a_wrong_result_makes_no_row_and_is_named(run):
    outcome = run(Pretended(wrong=("8:16",)), budget_s=1e6)
    assert {row.pattern for row in outcome.rows} == {"2:4"}
    assert len(outcome.wrong) == 8
    assert outcome.wrong[0] == ("M=1 N=32 K=64 fp32 cold, 1 thread: pretended.kernel 8:16/bitmask: said so")
    assert outcome.refused == []


def test_what_is_refused_is_not_wrong(run):
    outcome = run(Pretended(wrong=("8:16",), kind=gate.RefusedError), budget_s=1e6)
    assert ({row.pattern for row in outcome.rows}, outcome.wrong) == ({"2:4"}, [])
    assert len(outcome.refused) == 8
    assert outcome.refused[0] == ("M=1 N=32 K=64 fp32 cold, 1 thread: pretended.kernel 8:16/bitmask: said so")


def test_a_device_that_is_lost_ends_the_run_and_says_where_the_rows_are(run, tmp_path):
    device = Pretended()
    whole = device.contender

    def contender(name, case, seconds):
        if len(device.built) == 3:
            device.wrong = {"8:16": rounds.DeviceLostError}
        return whole(name, case, seconds)

    device.contender = contender
    file = tmp_path / "rows.csv"
    with pytest.raises(
        rounds.DeviceLostError,
        match=rf"^M=1 N=32 K=64 fp32 cold, all cores: said so; 4 rows of this run are in {file}: run the same",
    ):
        run(device, budget_s=1e6)
    assert len(row_files.read(file)) == 4


def test_what_is_done_beforehand_counts_against_the_budget(run):
    device = Pretended()
    device.prepare_s, device.trouble = 30.0, "no process could be started"
    outcome = run(device, budget_s=60)
    assert device.prepared == [(8, 60)]
    assert outcome.notes == ["no process could be started"]
    assert len(outcome.rows) < len(run(Pretended(), budget_s=60, file="other.csv").rows)


def test_a_wrong_dense_call_is_no_baseline(run):
    outcome = run(Pretended(wrong=("dense 1",)), budget_s=1e6)
    assert {row.baseline for row in outcome.rows} == {"dense 0"}
    assert len(outcome.wrong) == 8


def test_without_a_dense_call_there_is_no_row(run, tmp_path):
    outcome = run(Pretended(wrong=("dense 0", "dense 1")), budget_s=1e6)
    assert outcome.rows == []
    assert not (tmp_path / "rows.csv").exists()


def test_a_dense_call_far_behind_is_dropped_after_a_few_samples(run):
    device = Pretended(dense_s=(2.0, 7.0))
    outcome = run(device, budget_s=1e6)
    assert device.sampled.count("dense 1") == measure.SLOW_SAMPLES * len(device.built) == 24
    assert outcome.rows[0].other_baselines == "dense 1 7e+06 us"


def test_a_run_that_was_stopped_goes_on(run, tmp_path):
    first = run(Pretended(), budget_s=50)
    assert 0 < len(first.rows) < 16
    assert first.left == 16 - len(first.rows)
    device = Pretended()
    second = run(device, budget_s=1e6)
    assert second.skipped == len(first.rows)
    assert len(second.rows) == first.left
    rows = row_files.read(tmp_path / "rows.csv")
    assert rows == first.rows + second.rows
    assert len({row.key for row in rows}) == 16
    assert run(device, budget_s=1e6).skipped == 16


def test_a_kill_within_a_round_loses_the_rest_of_that_round_only(run, tmp_path):
    run(Pretended(), budget_s=1e6)
    file = tmp_path / "rows.csv"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:4]))
    device = Pretended()
    assert len(run(device, budget_s=1e6).rows) == 13
    assert len(device.built[0][1]) == 1
    file.write_text("".join(lines[:4])[:-20])
    with pytest.raises(RowError, match="ends in its middle"):
        run(device)


def test_a_short_budget_means_fewer_repetitions_never_too_few(run):
    outcome = run(Pretended(), budget_s=1e-3)
    assert {row.reps for row in outcome.rows} == {rounds.LEAST_REPETITIONS}
    assert outcome.left == 14


def test_the_time_left_is_shared_among_the_rounds_left(run):
    """A round takes 5 s to warm up the dense calls, and 7 s a repetition; 8 rounds share 400 s."""
    outcome = run(Pretended(), budget_s=400)
    assert outcome.left == 0
    assert {row.reps for row in outcome.rows} <= set(range(5, 10))
    assert min(row.reps for row in outcome.rows) < 9


def test_rounds_that_mean_the_same_are_measured_once(run):
    device = Pretended()
    device.threads = lambda of: 1
    assert len(run(device, budget_s=1e6).rows) == 8


def test_progress_never_goes_back(run):
    told = []
    run(Pretended(), budget_s=1e6, progress=lambda text, share: told.append(share))
    assert told == sorted(told)
    assert 0 <= told[0] <= told[-1] <= 1


# the CPU


HOST = host.Host("pretended", 2, 1 << 26, (host.Cache(1, 1 << 12, 2), host.Cache(2, 1 << 16, 1)))


@pytest.fixture
def small_caches(monkeypatch):
    """Let a machine with small caches have small buffers."""
    monkeypatch.setattr(host, "LEAST_BEYOND_BYTES", 1 << 16)


@pytest.fixture
def backend(small_caches):
    """Kernels of this machine, their tasks, and small buffers."""
    return measure_cpu.CpuBackend(machine=HOST, torch=False)


def a_round(**changes):
    formats = (sparse_format("8:16/bitmask"), sparse_format("2:4/combinatorial"))
    whole = campaign.Round(GemmShape(1, 32, 64), "decode", "fp32", 1, "cold", formats, (campaign.BEST,))
    return replace(whole, **changes)


def is_wrong(contender):
    try:
        contender.error()
    except gate.GateError:
        return True
    return False


@pytest.mark.parametrize("dtype", measure_cpu.DTYPES)
@pytest.mark.parametrize("m", [1, 4])
def test_every_contender_is_right(backend, dtype, m):
    each = a_round(dtype=dtype, shape=GemmShape(m, 40, 96))
    with backend.contenders(each, backend.tasks(each), 1) as contenders:
        assert max(contender.error() for contender in contenders) < 2.0**-8
        assert all(contender.sample() > 0 for contender in contenders)
    assert [c.name for c in contenders if c.case is None] == (
        ["cpu.dense_matmul", "numpy @"] if dtype == "fp32" else ["cpu.dense_matmul"]
    )


@pytest.mark.parametrize("dtype", measure_cpu.DTYPES)
@pytest.mark.parametrize("m", [1, 4])
def test_the_dense_products_of_torch_are_right(small_caches, dtype, m):
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    each = a_round(dtype=dtype, shape=GemmShape(m, 40, 96), threads=1)
    backend = measure_cpu.CpuBackend(machine=HOST)
    try:
        torch.set_num_threads(3)
        with backend.contenders(each, [], 0) as contenders:
            assert torch.get_num_threads() == 1
            names = [c.name for c in contenders]
            assert names[-1] == ("torch.mv" if m == 1 else "F.linear")
            assert all(c.error() < 2.0**-8 for c in contenders)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert backend.about["torch"] == torch.__version__


def test_a_kernel_that_drops_an_element_is_caught(backend):
    from kernels import cpu

    class Broken:
        instruction_sets, compress = staticmethod(cpu.instruction_sets), staticmethod(cpu.compress)
        dense_matmul = staticmethod(cpu.dense_matmul)

        @staticmethod
        def matmul(x, w, **options):
            return cpu.matmul(np.where(np.arange(x.shape[-1]) == 5, 0, x).astype(np.float32), w, **options)

    backend._products = Broken
    each = a_round()
    with backend.contenders(each, backend.tasks(each), 0) as contenders:
        wrong = [c.name for c in contenders if is_wrong(c)]
    assert wrong == [backend.tasks(each)[0][1]] * 2


def test_cases_carry_the_packing_that_kernels_read(backend):
    cases = [case for case, _ in backend.tasks(a_round())]
    assert [str(case.format.packing) for case in cases] == ["bitstream", "power_of_two"]
    assert {kernel for _, kernel in backend.tasks(a_round(kernels=("cpu.portable",)))} == {"cpu.portable"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": "fp8"}, "expected a dtype that CPU kernels take, one of fp32, fp16, bf16"),
        ({"kernels": ("cpu.mmx",)}, r"kernel cpu.mmx: this CPU has .*cpu.portable \(or best\)"),
        ({"threads": 3}, "expected at most 2 threads, the cores of this machine"),
        ({"formats": (sparse_format("2:4/joint"),)}, "encoding 'joint'"),
        (
            {"sparse_operand": "activations"},
            "sparse activations: expected sparse_operand weights: there are no CPU kernels",
        ),
    ],
)
def test_what_the_cpu_cannot_do_is_refused(backend, change, message):
    each = a_round(**change)
    with pytest.raises(ValueError, match=message):
        backend.threads(each), backend.tasks(each)


def test_cold_means_four_times_the_caches_read_since_the_last_use(monkeypatch, small_caches):
    read = []
    monkeypatch.setattr(measure_cpu.microbench, "read", lambda piece: read.append(piece.nbytes))
    caches = measure_cpu.ColdCache(HOST, lambda: 0.0)
    far = HOST.beyond_caches_bytes
    assert far == 4 * (1 << 16)
    needed = []
    for operand, size in (("a", 1000), ("b", far // 2), ("a", 1000), ("b", far // 2), ("a", 1000)):
        read.clear()
        caches.chill(operand)
        needed.append(sum(read))
        caches.note_use(operand, size)
    assert needed == [far, far, 0, far - 1000, 0]


def test_what_is_read_in_between_is_never_read_twice_in_a_row(monkeypatch, small_caches):
    read = []
    monkeypatch.setattr(
        measure_cpu.microbench, "read", lambda piece: read.append((piece.ctypes.data, piece.nbytes))
    )
    caches = measure_cpu.ColdCache(HOST, lambda: 0.0)
    start, size = caches._buffer.ctypes.data, len(caches._buffer)
    caches.read(size // 2)
    caches.read(size)
    assert sorted((address - start, count) for address, count in read) == sorted(
        (place * size // 4, size // 4) for place in (0, 1, 2, 3, 0, 1)
    )
    caches.read(0)
    caches.read(-5)
    assert len(read) == 6


def test_a_warm_sample_calls_once_untimed(backend, monkeypatch):
    calls = []
    monkeypatch.setattr(timing, "calls_to_fill", lambda action, least_s, clock: 7)
    monkeypatch.setattr(timing, "seconds_per_call", lambda action, count, clock: calls.append(count) or 1.0)
    call = measure_cpu._Call("cpu.x", lambda: calls.append("call"), 8)
    assert backend._warm(a_round(l2_state="warm"), call)() == 1.0
    assert calls == ["call", 7]


def test_threads_of_a_library_are_waited_for(backend, monkeypatch):
    now = [0.0]
    backend._clock = backend._caches._clock = lambda: now[0]
    monkeypatch.setattr(backend._caches, "read", lambda count: now.__setitem__(0, now[0] + 0.02))
    for threads, waited in ((1, 0.0), (None, 0.08)):
        backend._note_use(
            a_round(threads=threads), measure_cpu._Call("numpy @", lambda: None, 8, library="numpy")
        )
        backend._caches.wait(backend._quiet_at)
        assert now[0] == pytest.approx(waited)


def test_what_a_kernel_leaves_unwritten_is_seen(backend):
    from kernels import cpu

    class Lazy:
        instruction_sets, compress = staticmethod(cpu.instruction_sets), staticmethod(cpu.compress)
        dense_matmul = staticmethod(cpu.dense_matmul)

        @staticmethod
        def matmul(x, w, out, **options):
            if np.isnan(out).all():
                out[:, 1:] = cpu.matmul(x, w, **options)[:, 1:]
            return out

    backend._products = Lazy
    each = a_round()
    with backend.contenders(each, backend.tasks(each), 0) as contenders:
        assert [is_wrong(c) for c in contenders] == [True, True, False, False]


def test_data_are_seeded_and_exact_in_their_type(backend):
    each = a_round(dtype="bf16")
    weights = backend._data(each).weights
    assert weights.dtype == ml_dtypes.bfloat16
    x = backend._tokens(each)
    assert (x.astype(ml_dtypes.bfloat16).astype(np.float32) == x).all()
    again = measure_cpu.CpuBackend(machine=HOST, torch=False)
    assert (again._data(each).weights == weights).all()
    assert (again._tokens(each) == x).all()
    keep = backend._mask(backend._data(each), Pattern(8, 16))
    assert (keep.reshape(-1, 16).sum(axis=1) == 8).all()
