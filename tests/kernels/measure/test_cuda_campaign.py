"""The shipped GPU campaign: what it covers, and its books, by a clock that only pretended products move. Nothing is timed."""

import contextlib
import itertools
import re

import pytest

from nmsim.case import case_id

pytest.importorskip("torch")
pytest.importorskip("triton")

from hwmodels.models import load_model
from hwmodels.workload import cases
from kernels.measure import campaign
from kernels.measure import run as measure
from kernels.measure.cuda.backend import CudaBackend
from kernels.measure.cuda.calls import PRODUCTS, best_of
from kernels.measure.cuda.movers import KERNELS
from kernels.measure.round import shipped_campaign
from nmsim import rows as row_files

CUDA = campaign.load("cuda")
STAMP = measure.Stamp("pretended-gpu", "0123abc", False)
FEW, PREFILL = (1, 2, 4, 8, 16, 64), (2048, 8192)
PATTERNS, ENCODINGS = ("2:4", "4:8", "8:16", "16:32"), ("bitmask", "index", "combinatorial")
LARGE = [(14336, 4096), (4096, 14336), (4096, 4096)]
FUSED = {
    (28672, 4096), (6144, 4096), (22016, 4096), (12288, 4096), (37888, 3584), (4608, 3584), (20480, 2560), (4096, 2560),
}  # fmt: skip
"""Query, key and value fused, and gate and up, of these models."""
MEASURED = ("gemma-3-4b", "llama-2-7b", "llama-3.1-8b", "qwen2.5-7b")
"""Models whose layers the campaign times."""


class DryRun(CudaBackend):
    """The backend with its own books, but products that only move a clock."""

    def __init__(self):
        super().__init__(device="cpu", clock=object())
        self.now = 0.0

    @contextlib.contextmanager
    def contenders(self, of, tasks, warmup):
        size = 64 if tasks[0][1] in KERNELS else 0
        beside = [(None, "baseline"), (None, "other baseline")]
        yield [self.contender(name, case, size) for case, name in [*tasks, *beside]]

    def contender(self, name, case, size):
        def sample():
            self.now += 1e-3
            return 1e-3

        cells = {"moved_bytes": size} if size else {}
        return measure.Contender(name, case, lambda: 0.0, sample, cells, size)


@pytest.fixture(scope="module")
def tasks():
    """All cases and kernels of the campaign."""
    device = DryRun()
    return [task for each in CUDA.rounds for task in device.tasks(each)]


@pytest.fixture(scope="module")
def phases():
    """The phase of each of these tasks: that of its round."""
    device = DryRun()
    return [each.phase for each in CUDA.rounds for _ in device.tasks(each)]


def test_every_layer_of_the_shipped_models_is_covered(tasks, phases):
    wanted = set()
    for model in MEASURED:
        found = cases(
            model,
            formats=[f"{pattern}/{encoding}" for pattern in PATTERNS for encoding in ENCODINGS],
            decode_batches=FEW,
            prefill_lengths=PREFILL,
        )
        names = ("M", "N", "K", "phase", "dtype", "pattern", "encoding")
        wanted |= set(found[list(names)].itertuples(index=False, name=None))
    assert len(wanted) == 15 * 8 * 12
    timed = {
        (
            *(case.shape.M, case.shape.N, case.shape.K),
            phase,
            case.dtype,
            str(case.pattern),
            case.format.encoding.name,
        )
        for (case, kernel), phase in zip(tasks, phases, strict=True)
        if case.sparse_operand == "weights" and kernel == best_of(case)
    }
    assert wanted <= timed
    # What no model has: the other type, and fused layers, which no file of a model lists.
    assert {(row[1], row[2]) for row in timed - wanted if row[4] != "fp16"} == FUSED


def test_the_libraries_and_sparse_activations_are_covered(tasks):
    def shapes(kernel):
        return {(case.shape.M, (case.shape.N, case.shape.K)) for case, name in tasks if name == kernel}

    for library in ("torch.cutlass", "torch.cusparselt", "torch.cusparselt_search"):
        assert shapes(library) == set(itertools.product((*FEW, *PREFILL), LARGE))
    one, many = shapes("gpu.skip_gemv"), shapes("gpu.activations_mm")
    assert one == shapes("gpu.prune_skip_gemv")
    assert many == shapes("gpu.prune_activations_mm")
    layers = {(layer.N, layer.K) for model in MEASURED for layer in load_model(model).layers if layer.pruned}
    assert one == {(1, layer) for layer in layers if layer[0] * layer[1] >= LARGE[-1][0] * LARGE[-1][1]}
    assert many == set(itertools.product((64, 2048), LARGE[:2]))
    stored = {
        (str(case.pattern), case.format.encoding.name)
        for case, kernel in tasks
        if case.sparse_operand == "activations" and kernel in PRODUCTS
    }
    assert stored == set(itertools.product(PATTERNS, ("bitmask", "index")))
    assert {kernel for _, kernel in tasks} == {*PRODUCTS, *KERNELS}


def part(each):
    """What a round belongs to."""
    first = "8:16 " if {str(stored.pattern) for stored in each.formats if stored} == {"8:16"} else ""
    if each.kernels[0] in KERNELS:
        return "transfers"
    if each.sparse_operand == "activations":
        return "sparse activations"
    if each.kernels[0].startswith("torch.cu"):
        return "libraries"
    if each.kernels[0] == "torch.fp8":
        return "rival"
    if each.dtype == "fp16":
        return "fp16"
    return first + ("prefill" if each.phase == "prefill" else "one token" if each.shape.M == 1 else "decode")


def test_what_matters_most_comes_first():
    assert [name for name, _ in itertools.groupby(CUDA.rounds, part)] == [
        "8:16 one token", "rival", "8:16 one token", "8:16 decode", "rival", "8:16 prefill", "rival", "transfers", "one token",
        "libraries", "decode", "prefill", "transfers", "sparse activations", "fp16", "8:16 decode", "8:16 prefill", "decode",
        "prefill",
    ]  # fmt: skip
    tokens = (each.shape.M for each in CUDA.rounds if part(each) == "8:16 decode")
    assert [number for number, _ in itertools.groupby(tokens)][:5] == [2, 4, 8, 16, 64]
    products = [each for each in CUDA.rounds if part(each) != "transfers"]
    assert all((each.phase == "prefill") == (each.shape.M in PREFILL) for each in products)


def test_the_first_rounds_are_the_layers_that_engines_run():
    layers = {layer.name: (layer.N, layer.K) for layer in load_model("llama-3.1-8b").layers}
    qkv, gate_up = (sum(layers[name][0] for name in names) for names in (("q", "k", "v"), ("gate", "up")))
    fused = [(gate_up, 4096), (qkv, 4096), layers["down"], layers["o"]]
    assert [(each.shape.N, each.shape.K) for each in CUDA.rounds[:4]] == fused


def test_the_campaign_is_read_alike_with_and_without_checks():
    for name in ("cpu", "cpu-quick", "cuda", "cuda-tuning"):
        assert shipped_campaign(name) == campaign.load(name)


def test_the_file_says_how_many_rounds_and_rows_it_has(tasks):
    text = (campaign.CAMPAIGN_FOLDER / "cuda.toml").read_text()
    found = re.search(r"(\d+) rounds, (\d+) rows", text)
    assert [int(number) for number in found.groups()] == [len(CUDA.rounds), len(tasks)]


def test_its_books_balance_over_runs_that_are_cut_short(tasks, phases, tmp_path):
    def run():
        device = DryRun()
        return measure.run(CUDA, device, tmp_path / "rows.csv", STAMP, budget_s=6.0, clock=lambda: device.now)

    left, runs = len(tasks), []
    while left:
        found = run()
        assert len(found.rows) > 0
        assert (found.skipped, found.left) == (len(tasks) - left, left - len(found.rows))
        assert not found.wrong
        left = found.left
        runs += found.rows
    rows = row_files.read(tmp_path / "rows.csv")
    assert rows == runs
    assert [(row.case_id, row.kernel) for row in rows] == [
        (case_id(case, phase), kernel) for (case, kernel), phase in zip(tasks, phases, strict=True)
    ]
    assert len({row.key for row in rows}) == len(tasks)
