"""What the gate allows: right results pass with room to spare, and one group in a wrong place is seen."""

import numpy as np
import pytest

from kernels.timing import gate

torch = pytest.importorskip("torch")

TYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
ROWS = 400


def drawn(rows, columns, dtype, rng):
    """Numbers that a type holds exactly: float64 [rows, columns]."""
    return torch.from_numpy(gate.operands((rows, columns), rng)).to(TYPES[dtype]).double()


def pruned(w, n, m):
    """Zero all but the n greatest of every m."""
    groups = w.reshape(len(w), -1, m)
    order = groups.abs().argsort(dim=-1, descending=True)[..., n:]
    return groups.scatter(-1, order, 0.0).reshape(w.shape)


def rounded(sums, dtype):
    """What a kernel stores of a sum: float32, then its type."""
    return sums.float().to(TYPES[dtype]).double()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("k", [256, 4096, 14336])
def test_right_results_pass_and_leave_the_share_for_sums_nearly_untouched(dtype, k):
    rng = np.random.default_rng(k)
    x, w = drawn(16, k, dtype, rng), drawn(64, k, dtype, rng)
    of = gate.multiplied(x, w, "once")
    limit = gate.allowed(of, k, dtype, "once")
    in_float32 = x.float() @ w.float().T
    found = gate.deviation(rounded(in_float32, dtype), of, limit)
    assert found.checked() < gate.tolerance(k, dtype)
    sums = gate.deviation(in_float32.double(), of, limit)
    assert sums.of_allowed < 0.05
    for looser in ("parts", "library"):
        more = gate.allowed(of, k, dtype, looser)
        assert bool((more >= limit).all())
        assert gate.deviation(rounded(in_float32, dtype), of, more).of_allowed <= found.of_allowed
    assert found.of_allowed < (1.0 if dtype != "fp32" else 0.05)


def caught(dtype, k, rounding, n=8, m=16, misplaced="group"):
    """Rows of which the gate sees that the kept values of one group meet the tokens of the next."""
    rng = np.random.default_rng(1)
    x, w = drawn(1, k, dtype, rng), pruned(drawn(ROWS, k, dtype, rng), n, m)
    of = gate.multiplied(x, w, rounding)
    limit = gate.allowed(of, k * n // m, dtype, rounding)
    seen = 0
    for row in range(ROWS):
        first = int(rng.integers(k // m - 1)) * m
        places = first + w[row, first : first + m].nonzero()[:, 0]
        if misplaced == "element":
            places = places[:1]
        step = m if misplaced == "group" else 1
        wrong = of.product[:, row] + (w[row, places] * (x[0, places + step] - x[0, places])).sum()
        result = rounded(of.product, dtype)
        result[:, row] = rounded(wrong, dtype)
        found = gate.deviation(result, of, limit)
        seen += found.of_allowed > 1
    return seen / ROWS


@pytest.mark.parametrize("k", [4096, 14336])
@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_a_group_in_a_wrong_place_is_seen_in_most_rows(dtype, k):
    assert caught(dtype, k, "once") >= 0.85


def test_one_misplaced_element_is_mostly_seen():
    assert caught("bf16", 4096, "once", misplaced="element") >= 0.75
    assert caught("fp16", 14336, "once", misplaced="element") >= 0.75


def test_of_a_library_such_a_group_is_mostly_not_seen_and_with_parts_often():
    assert caught("bf16", 14336, "library") < 0.05
    assert 0.4 < caught("bf16", 14336, "parts") < caught("bf16", 14336, "once")


def test_a_library_that_rounds_parts_of_its_sums_passes():
    rng = np.random.default_rng(3)
    x, w = drawn(64, 8192, "bf16", rng), drawn(256, 8192, "bf16", rng)
    of = gate.multiplied(x, w, "once")
    for n_parts in (2, 8, 32):
        parts = [
            rounded(a @ b.T, "bf16") for a, b in zip(x.chunk(n_parts, 1), w.chunk(n_parts, 1), strict=True)
        ]
        result = rounded(sum(parts), "bf16")
        shares = [
            gate.deviation(result, of, gate.allowed(of, 8192, "bf16", kind)).of_allowed
            for kind in ("once", "parts", "library")
        ]
        assert shares[0] > 1
        assert max(shares[1:]) < 0.6


def test_an_output_is_held_to_its_own_size():
    """Terms 1 and 3 of squares 10, and u = 2^-8: an output of 4, and one that cancels to -2."""
    of = gate.multiplied(np.array([[1.0, 1.0]]), np.array([[1.0, 3.0], [1.0, -3.0]]), "once")
    found = gate.allowed(of, 2, "bf16", "once") - gate.tolerance(2) * 4
    assert found[0] * 2**8 == pytest.approx([4, 10**0.5], rel=1e-6)
    parts = gate.allowed(of, 2, "bf16", "parts") - gate.tolerance(2) * 4
    assert parts[0] * 2**8 == pytest.approx([4 + 6 * 10**0.5, 2 + 6 * 10**0.5], rel=1e-6)
    library = gate.allowed(of, 2, "bf16", "library") - gate.tolerance(2) * 4
    assert library[0] * 2**8 == pytest.approx([4, 4], rel=1e-6)
    assert gate.allowed(of, 2, "fp32", "once")[0] == pytest.approx(gate.tolerance(2) * 4)


def test_the_worse_of_two_is_told():
    assert gate.Deviation(0.1, 5.0).or_worse(gate.Deviation(0.2, 3.0)) == gate.Deviation(0.2, 5.0)
    assert gate.Deviation(0.1, 1.0).checked() == 0.1
