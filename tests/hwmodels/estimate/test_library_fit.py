"""Properties of vendor libraries are read off rows: what made the rows is found again, and the file keeps its text."""

import numpy as np
import pandas as pd
import pytest

from hwmodels.estimate import constants, fit, library_fit
from hwmodels.machine.libraries import LIBRARIES_FILE, VALUE_TYPES, properties
from nmsim.support.sources import read_text

MADE_WITH = {"launch_ratio": 1.4, "dram_ratio": 1.2, "rate_share": 0.7, "sparse_latency_ratio": 1.6}


@pytest.fixture(scope="module")
def rows():
    """Rows of an H100 whose library is made up: the 16-bit dense one reaches less, the 2:4 one waits longer."""
    shapes = [(m, n, k) for m in (16, 256, 4096) for n in (2048, 8192) for k in (2048, 5120, 8192)]
    table = pd.DataFrame(
        [
            {"M": m, "N": n, "K": k, "dtype": dtype, "baseline_dtype": dtype, "kernel_family": "library"}
            | {"machine": "h100-pcie", "pattern": "2:4", "density": 0.5, "l2_state": "warm"}
            | {"sparse_products": 1, "dense_products_beside": 0, "row": 2}
            for dtype in ("bf16", "int8")
            for m, n, k in shapes
        ]
    ).assign(measured_dense_time_s=1.0, measured_sparse_time_s=1.0)
    made = library_fit._Generation("sm_90", table, properties(None))
    made.set(np.array([np.log(MADE_WITH.get(name, 1.0)) for _, name in made.cells]))
    dense, sparse = fit.Problem(table, {"sm_90": made.table}).errors(constants.prior())
    return table.assign(measured_dense_time_s=np.exp(dense), measured_sparse_time_s=np.exp(sparse))


def test_what_made_the_rows_is_found(rows, monkeypatch):
    monkeypatch.setattr(library_fit, "ROUNDS", 1)
    monkeypatch.setattr(library_fit, "EVERY_ROW", 1)
    monkeypatch.setattr(library_fit, "PRIOR_SHARE", 1e-4)
    monkeypatch.setattr(fit.Problem, "solve", lambda self, chosen, start: start)
    seen = []
    found = library_fit.fit_libraries(rows, lambda step, share: seen.append(share))
    assert seen == [0.0, 0.5]
    assert {section.split(".")[1] for section, _ in found} == {"sm_90"}
    for name in ("launch_ratio", "dram_ratio"):
        assert found["generation.sm_90", name] == pytest.approx(MADE_WITH[name], rel=0.05)
    for name in ("rate_share", "sparse_latency_ratio"):
        assert found["generation.sm_90.types.bf16", name] == pytest.approx(MADE_WITH[name], rel=0.05)


def test_a_type_moves_its_own_cells_only(rows):
    one = library_fit._Generation("sm_90", rows, properties(None))
    before = one.table.copy()
    one.set(
        np.array([np.log(2.0) * (key == ("generation.sm_90.types.bf16", "rate_share")) for key in one.cells])
    )
    changed = {VALUE_TYPES[place] for place in np.argwhere(one.table != before)[:, 0]}
    assert changed == {"bf16", "fp16"}


def test_the_file_keeps_all_but_values():
    old = read_text(LIBRARIES_FILE)
    values = library_fit.values_of(old)
    assert library_fit.libraries_text({}) == old
    key = ("generation.sm_80", "launch_ratio")
    new = library_fit.libraries_text({key: 0.12345})
    after = library_fit.values_of(new)
    assert after.pop(key) == 0.123
    # The assumed launch of sm_120 is the mean of those read off.
    assert after.pop(("generation.sm_120", "launch_ratio")) == 0.123
    assert after == {name: value for name, value in values.items() if name in after}
    differing = [line for line, was in zip(new.splitlines(), old.splitlines(), strict=True) if line != was]
    assert len(differing) == 2
    assert library_fit.libraries_text({key: values[key]}).splitlines()[:8] == old.splitlines()[:8]
