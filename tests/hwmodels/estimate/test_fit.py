"""The fit finds constants and properties of libraries that made the rows, gives the same answer twice, and does not see what it
leaves out."""

import numpy as np
import pandas as pd
import pytest

import hwmodels
from hwmodels.estimate import constants, fit, intervals, library_fit
from hwmodels.estimate.families import FAMILIES, Rows
from hwmodels.estimate.fit import FIT_COLUMNS
from hwmodels.machine.libraries import LIBRARIES_FILE, VALUE_TYPES, properties
from hwmodels.machine.spec import group_of
from nmsim.support.sources import read_text

MADE_WITH = constants.prior()._replace(
    library_launch_s=4e-6,
    sparse_library_launch_s=8e-6,
    dram_share=0.7,
    sparse_dram_share=0.82,
    fused_dram_share=0.75,
    stream_dram_share=0.88,
    matrix_share=0.9,
    tensor_energy_joules_per_flop=1.2e-12,
)
"""What the synthetic rows were made with: eight constants off their priors by up to a third."""
MACHINES = ("a100-pcie", "a100-sxm", "rtx4090", "gb10")


def measured(values=MADE_WITH, machines=MACHINES):
    """Rows as if somebody had measured exactly what the estimate says under these constants."""
    shapes = [(M, N, K) for M in (16, 512, 16384) for N, K in ((1024, 1024), (8192, 8192), (28672, 4096))]
    parts = []
    for machine in machines:
        for family, sizes in (("library", shapes), ("delta-gemv", [(1, N, K) for _, N, K in shapes[:3]])):
            rows = pd.DataFrame(sizes, columns=["M", "N", "K"]).assign(
                machine=machine,
                kernel_family=family,
                dtype="fp16",
                baseline_dtype="fp16",
                pattern="2:4" if family == "library" else None,
                density=0.5,
                l2_state="",
                sparse_products=1,
                dense_products_beside=0,
            )
            asked = Rows(rows, hwmodels.load_machine(machine), values)
            parts.append(
                rows.assign(
                    measured_dense_time_s=asked.dense_s(),
                    measured_sparse_time_s=FAMILIES[family](asked).time_s,
                )
            )
    table = pd.concat(parts, ignore_index=True)
    return table.assign(row=range(1, len(table) + 1))


@pytest.fixture(autouse=True)
def few_evaluations(monkeypatch):
    monkeypatch.setattr(fit, "EVALUATIONS", 12)


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fit, "EVALUATIONS", 12)
        patch.setattr(fit, "PRIOR_WEIGHT", 0.01)
        return fit.fit(measured())


def test_recovers_the_constants_that_made_the_rows(found):
    for name, value in MADE_WITH._asdict().items():
        if value != constants.PRIORS[name].value:
            assert getattr(found.values, name) == pytest.approx(value, rel=0.03), name


def test_constants_of_other_families_stay_where_their_reasons_put_them(found):
    for name in ("csr_share", "vector_sparse_share", "byte_value_energy_ratio", "timed_alone_s"):
        assert getattr(found.values, name) == pytest.approx(constants.PRIORS[name].value, rel=1e-6)


def test_residuals_of_exact_rows_vanish(found):
    table = found.residuals
    assert table["row"].tolist() == list(range(1, len(table) + 1))
    assert table["log_speedup_error"].abs().max() < 0.03
    assert set(table["family"]) == {"library", "delta-gemv"}
    assert table.loc[table["family"] == "delta-gemv", "regime"].eq("decode").all()
    assert table["width"].eq("16-bit").all()


def test_each_die_is_left_out_once(found):
    """Both A100 boards carry the same die."""
    assert list(found.held_out) == ["a100", "rtx4090", "gb10"]
    assert found.source.startswith("48 rows of 4 machines, digest ")
    assert found.source.endswith(fit.digest(measured()))


def test_the_same_rows_give_the_same_constants():
    rows = measured(machines=("a100-pcie", "rtx4090"))
    first, second = fit.fit(rows), fit.fit(rows)
    assert first.values == second.values
    assert first.held_out == second.held_out
    pd.testing.assert_frame_equal(first.residuals, second.residuals)


def test_the_index_of_the_rows_does_not_matter():
    rows = measured(machines=("a100-pcie", "rtx4090"))
    moved = rows.set_axis(np.arange(len(rows))[::-1] + 7)
    assert fit.fit(moved).values == fit.fit(rows).values


def test_what_is_left_out_is_not_seen():
    """Rows of one machine, ten times too slow: its own held-out constants do not move, all others do."""
    rows = measured(machines=("a100-pcie", "rtx4090"))
    doctored = rows.copy()
    own = doctored["machine"] == "rtx4090"
    doctored.loc[own, ["measured_dense_time_s", "measured_sparse_time_s"]] *= 10
    before, after = fit.fit(rows), fit.fit(doctored)
    # A search that begins elsewhere ends at the same place, to what the search is good for.
    assert tuple(after.held_out["rtx4090"]) == pytest.approx(tuple(before.held_out["rtx4090"]), rel=0.02)
    assert after.held_out["a100"] != before.held_out["a100"]
    assert after.values != before.values
    shift = before.residuals["log_dense_time_error"] - after.residuals["log_dense_time_error"]
    assert shift[own].to_numpy() == pytest.approx(np.log(10), abs=0.02)


def test_rows_of_several_products_and_a_dense_remainder():
    """Times of 3 sparse and 2 dense products are 3 and 2 times those of one."""
    rows = measured(machines=("a100-pcie",))
    several = rows.assign(
        sparse_products=3,
        dense_products_beside=2,
        measured_sparse_time_s=3 * rows["measured_sparse_time_s"] + 2 * rows["measured_dense_time_s"],
        measured_dense_time_s=5 * rows["measured_dense_time_s"],
    )
    dense, sparse = fit.Problem(several).errors(MADE_WITH)
    assert dense == pytest.approx(0, abs=1e-12)
    assert sparse == pytest.approx(0, abs=1e-12)


def test_an_outlier_pulls_with_constant_force():
    errors = np.array([-1.0, -0.01, 0.0, 0.01, 1.0, 2.0])
    loss = fit.soften(errors) ** 2
    assert np.sign(fit.soften(errors)).tolist() == np.sign(errors).tolist()
    assert loss[3] == pytest.approx(0.01**2, rel=0.01)
    assert loss[5] - loss[4] == pytest.approx(2 * fit.OUTLIER_ERROR, rel=0.01)


def test_constants_stay_within_their_priors(monkeypatch):
    """Rows ten times too fast push shares as far as their priors allow, and no further."""
    monkeypatch.setattr(fit, "PRIOR_WEIGHT", 0.01)
    rows = measured(machines=("a100-pcie",))
    rows[["measured_dense_time_s", "measured_sparse_time_s"]] /= 10
    problem = fit.Problem(rows)
    values = problem.solve(np.ones(len(rows), bool))
    for name, value in values._asdict().items():
        assert constants.PRIORS[name].low * (1 - 1e-9) <= value <= constants.PRIORS[name].high * (1 + 1e-9)
    assert values.dram_share == pytest.approx(constants.PRIORS["dram_share"].high, rel=1e-3)


def test_the_digest_names_what_the_fit_reads():
    rows = measured(machines=("a100-pcie",))
    assert fit.digest(rows.assign(note="x", row=0)) == fit.digest(rows)
    for name in FIT_COLUMNS:
        other = rows.copy()
        other[name] = other[name].iloc[::-1].to_numpy() if other[name].nunique() > 1 else "2"
        assert fit.digest(other) != fit.digest(rows), name


def test_what_is_written_is_what_is_read(found, tmp_path, monkeypatch):
    fit.write(found, tmp_path)
    monkeypatch.setattr(constants, "FITTED_FILE", tmp_path / "fitted.toml")
    constants._document.cache_clear()
    try:
        for group, values in ((None, found.values), *found.held_out.items()):
            assert constants.load.__wrapped__(group) == pytest.approx(values, rel=1e-5)
        assert {one.source for one in constants.quantities().values()} == {found.source}
    finally:
        constants._document.cache_clear()
    pd.testing.assert_frame_equal(
        pd.read_csv(tmp_path / "residuals.csv"), intervals.spread(found.residuals), check_dtype=False
    )


def test_written_twice_is_the_same_file(found, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        fit.write(found, tmp_path / name)
    for name in (constants.FITTED_FILE.name, intervals.RESIDUALS_FILE.name):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    ("machine", "group"),
    [
        ("a100-pcie", "a100"), ("a100-sxm", "a100"), ("h200", "h100"), ("h200-8x16", "h100"), ("gb10", "gb10"),
        ("a30", "a100"), ("h20", "h100"), ("gb200", "b200"), ("rtx4070-super", "l4"), ("rtx3090-ti", "rtx3090"),
        ("rtx6000-ada", "rtx4090"), ("rtx4070-ti-super", "rtx4070-ti-super"), ("mine", "mine"),
    ],
)  # fmt: skip
def test_groups(machine, group):
    assert group_of(machine) == group


LIBRARY_MADE_WITH = {"launch_ratio": 1.4, "dram_ratio": 1.2, "rate_share": 0.7, "sparse_latency_ratio": 1.6}
"""Properties of a library that a fit has to find again, as ratios."""


@pytest.fixture(scope="module")
def made_rows():
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
    made.set(np.array([np.log(LIBRARY_MADE_WITH.get(name, 1.0)) for _, name in made.cells]))
    dense, sparse = fit.Problem(table, {"sm_90": made.table}).errors(constants.prior())
    return table.assign(measured_dense_time_s=np.exp(dense), measured_sparse_time_s=np.exp(sparse))


def test_what_made_the_rows_is_found(made_rows, monkeypatch):
    monkeypatch.setattr(library_fit, "ROUNDS", 1)
    monkeypatch.setattr(library_fit, "EVERY_ROW", 1)
    monkeypatch.setattr(library_fit, "PRIOR_SHARE", 1e-4)
    monkeypatch.setattr(fit.Problem, "solve", lambda self, chosen, start: start)
    seen = []
    found = library_fit.fit_libraries(made_rows, lambda step, share: seen.append(share))
    assert seen == [0.0, 0.5]
    assert {section.split(".")[1] for section, _ in found} == {"sm_90"}
    for name in ("launch_ratio", "dram_ratio"):
        assert found["generation.sm_90", name] == pytest.approx(LIBRARY_MADE_WITH[name], rel=0.05)
    for name in ("rate_share", "sparse_latency_ratio"):
        assert found["generation.sm_90.types.bf16", name] == pytest.approx(LIBRARY_MADE_WITH[name], rel=0.05)


def test_a_type_moves_its_own_cells_only(made_rows):
    one = library_fit._Generation("sm_90", made_rows, properties(None))
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
