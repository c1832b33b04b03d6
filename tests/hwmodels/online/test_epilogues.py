"""Criteria and mitigations: each run in its cheap form on numbers that count; the result is that of the golden model."""

import itertools
import math

import numpy as np
import pytest

from hwmodels.online.mitigations import CRITERIA, MITIGATIONS, OF_WEIGHTS, Settings
from hwmodels.online.overheads import (
    mitigation_names,
    mitigation_table,
    model_table,
    stage_costs,
    strongest_wait,
    sum_layers,
)
from hwmodels.silicon.units import network
from nmsim import compress
from nmsim import criteria as golden_criteria
from nmsim.case import GemmShape
from nmsim.errors import NmsimError, RowError
from nmsim.mitigation import Recipe, golden, split, split_columns, split_unstructured
from nmsim.pattern import Pattern

SHAPES = [(1, 3, 8), (2, 5, 24), (3, 4, 37)]
PATTERNS = [Pattern(2, 4), Pattern(5, 8), Pattern(8, 16)]
COUNTED = ("multiplies", "adds", "compares", "specials", "macs")
BITS = 8


class Tally:
    """Counts what numbers of its making go through."""

    def __init__(self):
        self.multiplies = self.adds = self.compares = self.specials = self.macs = 0

    def row(self, values):
        return [Number(value, self) for value in values]

    def greatest(self, values):
        found = values[0]
        for value in values[1:]:
            found = value if value > found else found
        return found

    def sqrt(self, number):
        self.specials += 1
        return Number(math.sqrt(number.value), self)

    def mac(self, total, a, b):
        self.macs += 1
        return total + a * b


class Number:
    """A number that tells its tally of every operation."""

    def __init__(self, value, tally):
        self.value, self.tally = float(value), tally

    def _made(self, value):
        return Number(value, self.tally)

    def __mul__(self, other):
        self.tally.multiplies += 1
        return self._made(self.value * plain(other))

    def __add__(self, other):
        self.tally.adds += 1
        return self._made(self.value + plain(other))

    def __sub__(self, other):
        self.tally.adds += 1
        return self._made(self.value - plain(other))

    def __truediv__(self, other):
        self.tally.specials += 1
        return self._made(self.value / plain(other))

    def __gt__(self, other):
        self.tally.compares += 1
        return self.value > plain(other)

    def __ge__(self, other):
        self.tally.compares += 1
        return self.value >= plain(other)

    def __lt__(self, other):
        self.tally.compares += 1
        return self.value < plain(other)

    def __eq__(self, other):
        self.tally.compares += 1
        return self.value == plain(other)

    __hash__ = None


def plain(number):
    return number.value if isinstance(number, Number) else float(number)


def plains(rows):
    return np.array([[plain(number) for number in row] for row in rows])


def total(numbers):
    found = numbers[0] if numbers else 0.0
    for number in numbers[1:]:
        found = found + number
    return found


def keep(scores, pattern):
    """Which elements of a row of plain scores are kept: the N greatest of every M, the first of equals."""
    kept = np.zeros(len(scores), bool)
    for start in range(0, len(scores), pattern.m):
        group = sorted(range(start, min(start + pattern.m, len(scores))), key=lambda j: (-scores[j], j))
        kept[group[: pattern.n]] = True
    return kept


def masks(scores, pattern):
    return np.array([keep(row, pattern) for row in np.abs(scores)])


def drawn(shape, seed=0):
    rng = np.random.default_rng(seed)
    M, N, K = shape
    # Whole values of int8, all different within a token: a tie would leave the choice open.
    X = np.array(
        [rng.permutation(np.arange(-100, 101)[np.arange(-100, 101) != 0])[: 2 * K] for _ in range(M)]
    )
    X = np.array([row[np.unique(np.abs(row), return_index=True)[1]] for row in X], dtype=object)
    X = np.array([rng.permutation(row)[:K] for row in X], dtype=float)
    return X, rng.normal(size=(N, K)), rng


def bisected(t, numbers, at_least, bits=BITS):
    """Largest whole t with count(numbers >= t) >= at_least, and the count of those above it."""
    found, above = 0, 0
    for bit in reversed(range(bits)):
        candidate = found + 2**bit
        count = Number(0, t)
        for number in numbers:
            count = count + (number >= candidate)
        if count >= at_least:
            found = candidate
        else:
            above = count.value
    return found, above


def run_clact(t, X, W, pattern, rng):
    if len(X) == 1:
        return X * masks(X, pattern) @ W.T, golden.linear(X, W, pattern, criterion="clact")
    rows = [t.row(row) for row in X]
    norms = [t.sqrt(total([row[j] * row[j] for row in rows])) for j in range(X.shape[1])]
    scores = plains([[x * norm for x, norm in zip(row, norms, strict=True)] for row in rows])
    return X * masks(scores, pattern) @ W.T, golden.linear(X, W, pattern, criterion="clact")


def run_vector(t, X, W, pattern, rng):
    f = W.var(axis=0)
    scores = plains([[x * fj for x, fj in zip(t.row(row), f, strict=True)] for row in X])
    return X * masks(scores, pattern) @ W.T, golden.linear(X, W, pattern, criterion="weight_variance")


def run_unstructured(t, X, W, pattern, rng):
    # Magnitudes that repeat, so that equals of the threshold have to be told apart.
    X = np.sign(X) * (np.abs(X) // 20)
    k = X.shape[1] * pattern.n // pattern.m
    kept = np.array([greatest(t, row, k) for row in np.abs(X)])
    return X * kept @ W.T, golden.linear(X, W, pattern, criterion="unstructured")


def run_ria(t, X, W, pattern, rng):
    f = rng.normal(size=X.shape[1])
    rows, g, one = [t.row(row) for row in np.abs(X)], np.sqrt(np.abs(f)), Number(1, t)
    of_rows = [one / total(row) for row in rows]
    of_columns = [one / total([row[j] for row in rows]) for j in range(X.shape[1])]
    scores = [
        [x * (r + c) * gj for x, c, gj in zip(row, of_columns, g, strict=True)]
        for row, r in zip(rows, of_rows, strict=True)
    ]
    ours = X * masks(plains(scores), pattern) @ W.T
    return ours, golden.linear(X, W, pattern, criterion="ria", vector=f)


def run_unstructured_channel_vector(t, X, W, pattern, rng):
    X, f = np.sign(X) * (np.abs(X) // 20), rng.integers(-9, 10, X.shape[1])
    scores = plains([[x * fj for x, fj in zip(t.row(row), np.abs(f), strict=True)] for row in np.abs(X)])
    kept = np.array([greatest(t, row, X.shape[1] * pattern.n // pattern.m) for row in scores])
    return X * kept @ W.T, golden.linear(X, W, pattern, criterion="unstructured_channel_vector", vector=f)


def run_unstructured_global(t, X, W, pattern, rng):
    X = np.sign(X) * (np.abs(X) // 20)
    k = X.size * pattern.n // pattern.m
    kept = greatest(t, np.abs(X).ravel(), k).reshape(X.shape)
    return X * kept @ W.T, golden.linear(X, W, pattern, criterion="unstructured_global")


def greatest(t, magnitudes, k):
    """The k greatest by a threshold that is found bit by bit."""
    keys = t.row(magnitudes)
    threshold, above = bisected(t, keys, k)
    missing, seen = Number(k, t) - above, Number(0, t)
    kept = np.zeros(len(keys), bool)
    for j, key in enumerate(keys):
        greater, equal, wanted = key > threshold, key == threshold, seen < missing
        seen = seen + equal
        kept[j] = greater or (equal and wanted)
    return kept


def _shift_and_restore(t, X, W, pattern, etas, rows):
    shifted = [[x - eta for x in row] for row, eta in zip(rows, etas, strict=True)]
    Xs = plains(shifted)
    Y = [t.row(row) for row in Xs * masks(Xs, pattern) @ W.T]
    r = W.sum(axis=1)
    return plains(
        [[y + eta * ro for y, ro in zip(row, r, strict=True)] for row, eta in zip(Y, etas, strict=True)]
    )


def run_dpts_mean(t, X, W, pattern, rng):
    rows = [t.row(row) for row in X]
    etas = [total(row) * (1 / len(row)) for row in rows]
    ours = _shift_and_restore(t, X, W, pattern, etas, rows)
    return ours, golden.linear(X, W, pattern, Recipe(shift="mean"))


def run_dpts_median(t, X, W, pattern, rng):
    K = X.shape[1]
    # Whole values with their order kept, as the bits of a float or an int8 can be given.
    ordered = [t.row(row + 128) for row in X]
    etas = [Number(bisected(t, row, K - (K - 1) // 2)[0] - 128, t) for row in ordered]
    ours = _shift_and_restore(t, X, W, pattern, etas, [t.row(row) for row in X])
    return ours, golden.linear(X, W, pattern, Recipe(shift="median"))


def _shift_and_bias(t, X, W, pattern, eta):
    Xs = plains([[x - e for x, e in zip(t.row(row), eta, strict=True)] for row in X])
    bias = W @ eta
    Y = [[y + b for y, b in zip(t.row(row), bias, strict=True)] for row in Xs * masks(Xs, pattern) @ W.T]
    return plains(Y)


def run_spts(t, X, W, pattern, rng):
    ours = _shift_and_bias(t, X, W, pattern, np.full(X.shape[1], 0.5))
    return ours, golden.linear(X, W, pattern, Recipe(shift=0.5))


def run_lpts(t, X, W, pattern, rng):
    eta = rng.normal(size=X.shape[1])
    return _shift_and_bias(t, X, W, pattern, eta), golden.linear(X, W, pattern, Recipe(shift=eta))


def run_var(t, X, W, pattern, rng):
    mask, K = masks(X, pattern), X.shape[1]
    Y = []
    for row, kept, y in zip(X, mask, (X * mask) @ W.T, strict=True):
        numbers = t.row(row)
        squares = [x * x for x in numbers]
        left, left_squares = zip(*itertools.compress(zip(numbers, squares, strict=True), kept), strict=True)
        sums = total(numbers), total(left)
        spread = total(squares) - (sums[0] * sums[0]) * (1 / K)
        spread_left = total(left_squares) - (sums[1] * sums[1]) * (1 / K)
        floor = Number(1e-9 * (K - 1), t)
        v = t.sqrt(spread / (spread_left if spread_left > floor else floor))
        Y.append([one * v for one in t.row(y)])
    return plains(Y), golden.linear(X, W, pattern, Recipe(variance=True))


def run_scale_shift(t, X, W, pattern, rng):
    s, b = rng.normal(size=(2, len(W)))
    dense = X * masks(X, pattern) @ W.T
    Y = [[y * (1 + so) + bo for y, so, bo in zip(t.row(row), s, b, strict=True)] for row in dense]
    return plains(Y), golden.linear(X, W, pattern, Recipe(scale=s, bias=b))


def _dot_and_add(t, X, W, pattern, b, chosen):
    Y = []
    for row, which, y in zip(X, chosen, X * masks(X, pattern) @ W.T, strict=True):
        terms = [x * bj for x, bj in itertools.compress(zip(t.row(row), b, strict=True), which)]
        dot = total(terms)
        Y.append([one + dot for one in t.row(y)])
    return plains(Y)


def run_bias1(t, X, W, pattern, rng):
    b = rng.normal(size=X.shape[1])
    ours = _dot_and_add(t, X, W, pattern, b, masks(X, pattern))
    return ours, golden.linear(X, W, pattern, Recipe(kept_bias=b))


def run_bias2(t, X, W, pattern, rng):
    b = rng.normal(size=X.shape[1])
    ours = _dot_and_add(t, X, W, pattern, b, ~masks(X, pattern))
    return ours, golden.linear(X, W, pattern, Recipe(dropped_bias=b))


def product(t, A, B):
    """A B^T with every multiply-add counted."""
    Y = np.zeros((len(A), len(B)))
    for i, o, j in itertools.product(range(len(A)), range(len(B)), range(A.shape[1])):
        Y[i, o] = t.mac(Y[i, o], A[i, j], B[o, j])
    return Y


def run_r_sparse(t, X, W, pattern, rng):
    A, B = rng.normal(size=(len(W), RANK)), rng.normal(size=(RANK, X.shape[1]))
    Xsp = X * masks(X, pattern)
    ours = Xsp @ W.T + product(t, product(t, X - Xsp, B), A)
    return ours, golden.linear(X, W, pattern, Recipe(low_rank=(A, B)))


def run_smooth_dynamic(t, X, W, pattern, rng):
    w = np.abs(W).max(axis=0)
    if len(X) == 1:
        scores = plains([[x * wj for x, wj in zip(t.row(np.abs(X[0])), w, strict=True)]])
    else:
        rows = [t.row(row) for row in np.abs(X)]
        inverse = [t.sqrt(Number(w[j], t) / t.greatest([row[j] for row in rows])) for j in range(X.shape[1])]
        scores = plains([[x * one for x, one in zip(row, inverse, strict=True)] for row in rows])
    return X * masks(scores, pattern) @ W.T, golden.linear(X, W, pattern, Recipe(equalise="dynamic"))


def run_rotation(t, X, W, pattern, rng):
    Q = np.linalg.qr(rng.normal(size=(X.shape[1],) * 2))[0]
    XQ = product(t, X, Q.T)
    return XQ * masks(XQ, pattern) @ (W @ Q).T, golden.linear(X, W, pattern, Recipe(rotation=Q))


def run_outliers(t, X, W, pattern, rng):
    mask = masks(X, pattern)
    rest = np.where(mask, 0, X)
    # Where a window has too little left, zeros fill it up, and are multiplied like the others.
    outlying = np.array([keep(row, Pattern(OUTLIERS, WINDOW)) for row in np.abs(rest)])
    Y = (X * mask) @ W.T
    for i, o in itertools.product(range(len(X)), range(len(W))):
        for j in np.flatnonzero(outlying[i]):
            Y[i, o] = t.mac(Y[i, o], rest[i, j], W[o, j])
    return Y, X * split(X, pattern, Pattern(OUTLIERS, WINDOW), first="pattern").kept @ W.T


def run_outliers_unstructured(t, X, W, pattern, rng):
    taken = np.array([greatest(t, row, X.shape[1] * OUTLIERS // WINDOW) for row in np.abs(X)])
    rest = np.where(taken, 0, X)
    Y = (rest * masks(rest, pattern)) @ W.T
    for i, o in itertools.product(range(len(X)), range(len(W))):
        for j in np.flatnonzero(taken[i]):
            Y[i, o] = t.mac(Y[i, o], X[i, j], W[o, j])
    return Y, X * split_unstructured(X, pattern, Pattern(OUTLIERS, WINDOW)).kept @ W.T


def run_salient_columns(t, X, W, pattern, rng):
    columns = np.sort(rng.permutation(X.shape[1])[:COLUMNS])
    rest = X.copy()
    rest[:, columns] = 0
    sparse = rest * masks(rest, pattern) @ W.T
    kept = split_columns(X, pattern, COLUMNS, saliency=np.isin(np.arange(X.shape[1]), columns)).kept
    return sparse + product(t, X[:, columns], W[:, columns]), X * kept @ W.T


def run_magnitude(t, X, W, pattern, rng):
    return X * masks(X, pattern) @ W.T, golden.linear(X, W, pattern)


RANK, OUTLIERS, WINDOW, COLUMNS = 3, 1, 4, 5
SETTINGS = Settings(rank=RANK, outliers=OUTLIERS, window=WINDOW, columns=COLUMNS)
VECTORS = dict.fromkeys(("amber", "weight_variance", "channel_vector"), run_vector)
ROADS = {name[4:]: run for name, run in globals().items() if name.startswith("run_")} | VECTORS
del ROADS["vector"]
OFFLINE_ONLY = {"smooth_static", "weight_correction"}


def costs_of(name, shape, pattern, **changes):
    criterion, mitigation = (name, "") if name in CRITERIA else (None, name)
    changes = {"dtype": "int8", "settings": SETTINGS} | changes
    return stage_costs(GemmShape(*shape), pattern, criterion=criterion, mitigation=mitigation, **changes)


def summed(stages, field):
    return sum(getattr(stage, field) for stage in stages)


def test_every_name_is_run():
    assert set(ROADS) | OFFLINE_ONLY == set(CRITERIA) | set(MITIGATIONS)


@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", sorted(ROADS))
def test_counts_are_those_of_running_it_and_the_result_is_that_of_the_papers_formula(name, shape, pattern):
    X, W, rng = drawn(shape)
    tally = Tally()
    ours, theirs = ROADS[name](tally, X, W, pattern, rng)
    assert np.allclose(ours, theirs)
    stages = costs_of(name, shape, pattern)
    assert {field: summed(stages, field) for field in COUNTED} == {
        field: getattr(tally, field) for field in COUNTED
    }


@pytest.mark.parametrize("name", sorted(OFFLINE_ONLY))
def test_what_is_folded_costs_nothing_at_run_time(name):
    (stage,) = costs_of(name, (4, 8, 16), Pattern(2, 4))
    assert (stage.part, stage.passes, stage.streams) == ("offline", 0, True)
    assert all(getattr(stage, field) == 0 for field in (*COUNTED, "parameter_bytes", "selector_compares"))


def test_static_smoothing_changes_nothing_but_the_choice():
    X, W, rng = drawn((3, 4, 32))
    s = rng.uniform(0.5, 2.0, size=32)
    mask = masks(X / s, Pattern(8, 16))
    assert np.allclose(golden.linear(X, W, "8:16", Recipe(equalise=s)), (X * mask) @ W.T)


@pytest.mark.parametrize("kind", ["half", "bitonic", "all_pairs"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=str)
def test_the_selection_is_counted_by_running_the_network(pattern, kind):
    tokens, K = 3, 37
    ran = 0
    for _ in range(tokens * math.ceil(K / pattern.m)):
        if kind == "all_pairs":
            ran += sum(1 for _ in itertools.combinations(range(pattern.m), 2))
        else:
            ran += sum(1 for stage in network(pattern, kind).stages for _ in stage)
    stages = costs_of("magnitude", (tokens, 5, K), pattern, settings=Settings(selector_kind=kind))
    assert summed(stages, "selector_compares") == ran


@pytest.mark.parametrize(("m", "comparators"), [(4, 4), (8, 16), (16, 56), (32, 176)])
def test_half_selection_by_hand(m, comparators):
    stages = costs_of("magnitude", (2, 8, 64), Pattern(m // 2, m))
    assert summed(stages, "selector_compares") == 2 * 64 // m * comparators


def test_side_path_of_rank_128_by_hand():
    # 128 (4096 + 4096) and 128 (4096 + 14336) multiply-adds a token, against half of 4096 x 4096 and 4096 x 14336.
    for N, K, share in ((4096, 4096, 0.125), (14336, 4096, 0.0803571), (4096, 14336, 0.0803571)):
        table = mitigation_table(GemmShape(64, N, K), "8:16")
        found = table[table.name == "r_sparse"].share_of_sparse_macs
        assert found.tolist() == pytest.approx([share, share], rel=1e-6)


@pytest.mark.parametrize(("n", "bits"), [(4, 0.359375), (8, 0.69140625), (16, 1.328125)])
@pytest.mark.parametrize("operand", ["activations", "weights"])
def test_bits_of_outliers_by_hand(n, bits, operand):
    shape = GemmShape(32, 64, 1024)
    stages = stage_costs(
        shape, "8:16", criterion=None, mitigation="outliers", operand=operand, settings=Settings(outliers=n)
    )
    elements = (shape.M if operand == "activations" else shape.N) * shape.K
    assert 8 * summed(stages, "l2_read_bytes") / elements == bits
    assert summed(stages, "parameter_bytes") == (0 if operand == "activations" else elements * bits / 8)


@pytest.mark.parametrize("operand", ["activations", "weights"])
def test_bits_of_unstructured_outliers_by_hand(operand):
    """32 of 1024 in a row at 8:256: each a value of 16 bits and an index of 10."""
    settings = Settings(outliers=8)
    stages = stage_costs(
        GemmShape(32, 64, 1024), "8:16", criterion=None, mitigation="outliers_unstructured", operand=operand, settings=settings
    )  # fmt: skip
    rows = 32 if operand == "activations" else 64
    assert summed(stages, "l2_read_bytes") == rows * 32 * (16 + 10) // 8
    assert summed(stages, "parameter_bytes") == (0 if operand == "activations" else rows * 32 * 26 // 8)
    assert summed(stages, "lane_macs") == 32 * 64 * 32


def test_bytes_are_those_of_arrays():
    M, N, K = 6, 20, 600
    W = np.random.default_rng(1).normal(size=(N, K)).astype(np.float16)
    packed = compress(W, "4:256/combinatorial")
    stages = stage_costs(GemmShape(M, N, K), "8:16", dtype="fp16", mitigation="outliers", operand="weights")
    assert summed(stages, "parameter_bytes") == packed.values.nbytes + packed.metadata.nbytes

    def parameter_bytes(name):
        return summed(
            costs_of(name, (M, N, K), Pattern(8, 16), dtype="fp16", settings=Settings()), "parameter_bytes"
        )

    of_x, of_y = np.zeros(K, np.float16).nbytes, np.zeros(N, np.float16).nbytes
    assert parameter_bytes("lpts") == of_x + of_y
    assert parameter_bytes("scale_shift") == 2 * of_y
    assert parameter_bytes("dpts_mean") == of_y
    assert parameter_bytes("bias1") == parameter_bytes("amber") == of_x
    assert parameter_bytes("r_sparse") == np.zeros((128, K + N), np.float16).nbytes
    assert parameter_bytes("rotation") == np.zeros((K, K), np.float16).nbytes
    assert parameter_bytes("salient_columns") == np.zeros((N, 128), np.float16).nbytes + 128 * 10 // 8


def test_what_waits_is_kept_and_read_again():
    shape, token = (16, 64, 4096), 2 * 4096
    for name, passes in (("dpts_mean", 2), ("dpts_median", 17), ("unstructured", 16)):
        stages = costs_of(name, shape, Pattern(8, 16), dtype="fp16")
        assert (strongest_wait(stages), max(stage.passes for stage in stages)) == ("token", passes)
        assert summed(stages, "shared_written_bytes") == 16 * token
        assert summed(stages, "shared_read_bytes") == (passes - 1) * 16 * token
        assert summed(stages, "held_bytes") == token
    of_parameters = {"clact": 0, "smooth_dynamic": token, "unstructured_global": 0}
    for name, passes in (("clact", 2), ("smooth_dynamic", 2), ("unstructured_global", 16)):
        stages = costs_of(name, shape, Pattern(8, 16), dtype="fp16")
        assert (strongest_wait(stages), max(stage.passes for stage in stages)) == ("sequence", passes)
        assert summed(stages, "l2_written_bytes") == summed(stages, "held_bytes") == 16 * token
        assert summed(stages, "l2_read_bytes") == (passes - 1) * 16 * token + of_parameters[name]


def test_what_streams():
    table = mitigation_table(GemmShape(4096, 4096, 4096), "8:16").set_index(["phase", "name"]).streams
    waiting = {"unstructured", "unstructured_channel_vector", "unstructured_global", "outliers_unstructured", "ria",
               "dpts_mean", "dpts_median", "rotation"}  # fmt: skip
    assert set(table["decode"].index[~table["decode"]]) == waiting
    assert set(table["prefill"].index[~table["prefill"]]) == waiting | {"clact", "smooth_dynamic"}


@pytest.mark.parametrize(("name", "same"), [("clact", "magnitude"), ("unstructured_global", "unstructured")])
def test_one_token_makes_the_choices_of_a_sequence_those_of_a_token(name, same):
    assert costs_of(name, (1, 8, 64), Pattern(8, 16)) == costs_of(same, (1, 8, 64), Pattern(8, 16))


def test_names_are_those_of_the_golden_models():
    assert set(CRITERIA) == set(golden_criteria.CRITERIA)


def test_more_never_costs_less():
    shape = (4, 32, 512)
    for name, field, sizes in (
        ("r_sparse", "rank", (1, 16, 128)),
        ("outliers", "outliers", (1, 4, 8, 16)),
        ("salient_columns", "columns", (1, 64, 512)),
    ):
        for operand in ("activations", "weights"):
            if operand == "weights" and name not in OF_WEIGHTS:
                continue
            found = [
                costs_of(name, shape, Pattern(8, 16), settings=Settings(**{field: size}), operand=operand)
                for size in sizes
            ]
            for count in ("macs", "selector_compares", "parameter_bytes", "l2_read_bytes"):
                counts = [summed(stages, count) for stages in found]
                assert counts == sorted(counts)
            macs = [summed(stages, "macs") for stages in found]
            assert macs == [macs[0] * size // sizes[0] for size in sizes]


def test_tables_have_a_row_for_each_name_and_phase():
    table = mitigation_table(GemmShape(256, 64, 128), "2:4", settings=Settings(columns=16))
    assert len(table) == 2 * (len(CRITERIA) + len(MITIGATIONS))
    assert set(table.tokens) == {1, 256}
    table = mitigation_table(GemmShape(256, 64, 128), "2:4", operand="weights", settings=Settings(columns=16))
    assert set(table.name) == set(OF_WEIGHTS)
    table = model_table("llama-3.1-8b", "8:16", tokens=128)
    o = table[(table.layer == "o") & (table.phase == "prefill") & (table.name == "var")]
    # Squares and four more a token, and a multiplication for each of 4096 outputs.
    assert o.multiplies_per_token.item() == 4096 + 4 + 4096
    assert o["count"].item() == 32
    of_weights = model_table("llama-3.1-8b", "8:16", tokens=128, operand="weights")
    assert set(of_weights.name) == set(OF_WEIGHTS)


def test_the_sum_over_a_model_is_that_of_its_layers():
    settings = Settings(rank=64)
    total = sum_layers(model_table("qwen2.5-7b", "8:16", tokens=64, settings=settings))
    assert len(total) == 2 * (len(CRITERIA) + len(MITIGATIONS))
    assert set(total["count"]) == {28 * 7}
    rows = total[total.phase == "prefill"].set_index("name")
    # q and o, k and v, gate and up, down: out and in features.
    shapes = [(3584, 3584)] * 2 + [(512, 3584)] * 2 + [(18944, 3584)] * 2 + [(3584, 18944)]
    macs = 28 * sum(64 * (N + K) for N, K in shapes)
    assert rows.macs_per_token["r_sparse"] == macs
    assert rows.share_of_sparse_macs["r_sparse"] == macs / (28 * sum(N * K // 2 for N, K in shapes))
    assert rows.parameter_bytes["r_sparse"] == 2 * macs
    assert rows.adds_per_token["spts"] == 28 * sum(N + K for N, K in shapes)
    assert rows.held_bytes["clact"] == 64 * 2 * 18944
    assert rows.l2_written_bytes["clact"] == 28 * 64 * 2 * sum(K for _, K in shapes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"criterion": "guess"}, "criterion='guess': expected one of magnitude, clact"),
        ({"mitigation": "pray"}, "mitigation='pray': expected some of dpts_mean"),
        ({"mitigation": "var+var"}, "a name twice"),
        (
            {"mitigation": "dpts_mean", "operand": "weights"},
            "of activations; with sparse weights: scale_shift",
        ),
        ({"mitigation": "salient_columns", "settings": Settings(columns=65)}, "65: expected at most K, 64"),
        ({"operand": "weight"}, "operand='weight': expected one of weights, activations"),
        ({"dtype": "fp7"}, "dtype='fp7': expected one of"),
        ({"pattern": "9:8"}, "9:8"),
    ],
)
def test_bad_questions_are_refused(changes, message):
    asked = {"pattern": "8:16"} | changes
    with pytest.raises(NmsimError, match=message):
        stage_costs(GemmShape(2, 32, 64), **asked)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rank": 0}, "rank=0: expected a positive whole number"),
        ({"columns": True}, "columns=True"),
        ({"outliers": 257}, "outliers=257: expected at most the window, 256"),
        ({"selector_kind": "bubble"}, "selector_kind='bubble': expected one of all_pairs"),
    ],
)
def test_bad_settings_are_refused(changes, message):
    with pytest.raises(RowError, match=message):
        Settings(**changes)


def test_names_are_split():
    assert mitigation_names("none") == mitigation_names(()) == ()
    assert mitigation_names(["var", "lpts"]) == mitigation_names("var+lpts") == ("var", "lpts")
