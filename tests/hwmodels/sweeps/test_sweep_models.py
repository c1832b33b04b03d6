"""Sweeps over models with experts, over shapes with counts, and with other outputs: against single cores, added up here."""

import dataclasses

import pytest

import hwmodels
from hwmodels.models import Layer
from hwmodels.steps.experts import grouped
from hwmodels.steps.fusion import fused
from hwmodels.sweeps.products import Work, products_of
from hwmodels.sweeps.space import Space, SweptFormat, load_space
from hwmodels.tensorcore.record import load_core
from nmsim.case import Case, GemmShape
from nmsim.errors import SpecError
from nmsim.format import sparse_format

CORE = {"base": "flexible-8x16"}
AXES = {"pattern": ["dense", "8:16"], "tokens": [1, 6, 300]}
EXPERTS = Layer("expert_up", 32, 256, 512, role="expert", experts=16, active_experts=4)
PLAIN = Layer("q", 2, 512, 512, role="attention")


def swept(works) -> "object":
    space = Space(
        cores=(load_core("flexible-8x16"),), axes=(), dtypes=("bf16",), tokens=(1, 6, 300), works=tuple(works),
        stored=(SweptFormat(), SweptFormat(sparse_format("8:16"))),
    )  # fmt: skip
    return hwmodels.sweep(space)


def cycles(tokens, layer, pattern):
    return hwmodels.predict_core(Case(GemmShape(tokens, layer.N, layer.K), pattern), "flexible-8x16").cycles


@pytest.mark.parametrize("whole", [True, False], ids=["model", "layers"])
def test_experts_that_the_tokens_reach_are_added_up(whole):
    launches = fused([PLAIN, EXPERTS])
    works = [Work("m", "", 1, products_of(launches))]
    if not whole:
        works = [
            Work("m", each.layer.name, each.layer.places, products_of([each], count=1)) for each in launches
        ]
    found = swept(works)
    for row in found.to_dict("records"):
        pattern = None if row["pattern"] == "dense" else row["pattern"]
        group = grouped(16, 4, tokens=row["tokens"])
        experts = group.products * sum(
            weight * cycles(each, EXPERTS, pattern) for each, weight in group.parts
        )
        plain = cycles(row["tokens"], PLAIN, pattern)
        expected = 2 * (experts + plain) if whole else {"q": plain, "expert_up": experts}[row["layer"]]
        assert row["cycles"] == pytest.approx(expected, rel=1e-12)
        if not whole:
            assert (row["count"], row["N"]) == (2, 512 if row["layer"] == "q" else 256)


def test_one_expert_is_a_plain_layer():
    one = dataclasses.replace(PLAIN, name="one", role="expert", experts=1, active_experts=1)
    first, second = (swept([Work("m", "", 1, products_of(fused([layer])))]) for layer in (PLAIN, one))
    assert first["cycles"].tolist() == second["cycles"].tolist()
    assert first["energy_joules"].tolist() == second["energy_joules"].tolist()


def test_shapes_have_counts_and_a_total():
    workload = {"shapes": [[512, 256, 3], [64, 128]]}
    rows = hwmodels.sweep({"core": CORE, "axes": AXES, "workload": workload})
    total = hwmodels.sweep({"core": CORE, "axes": AXES, "workload": workload | {"per": "model"}})
    assert dict(zip(rows["layer"], rows["count"], strict=True)) == {"512x256": 3, "64x128": 1}
    assert "layer" not in total
    sums = (rows["cycles"] * rows["count"]).groupby([rows["tokens"], rows["pattern"]], observed=True).sum()
    for row in total.to_dict("records"):
        assert row["cycles"] == pytest.approx(sums[row["tokens"], row["pattern"]])


def test_narrow_outputs_and_fused_layers_write_less():
    base = {"core": CORE, "axes": {"pattern": ["dense"], "tokens": [512]}}
    model = {"model": "llama-3.1-8b", "per": "model"}
    plain, narrow, joined = (
        hwmodels.sweep({**base, "workload": model | more})["dram_write_bytes"].item()
        for more in ({}, {"output_dtype": "int8"}, {"fuse": ["gate_up"]})
    )
    assert narrow == plain / 2
    assert plain - joined == 32 * 512 * 14336 * 2
    named = load_space({**base, "workload": {"model": "llama-3.1-8b", "fuse": ["qkv", "gate_up"]}})
    assert [work.layer for work in named.works] == ["qkv", "o", "gate_up", "down"]


@pytest.mark.parametrize(
    ("workload", "problem"),
    [
        ({"shapes": [[4, 4, 0]]}, "0"),
        ({"shapes": [[4, 4]], "fuse": ["qkv"]}, "belongs to a model"),
        ({"model": "llama-3.1-8b", "fuse": ["mlp"]}, "fuse"),
        ({"model": "llama-3.1-8b", "fuse": ["qkv"], "layers": ["q"]}, "'q': expected one of qkv"),
        ({"model": "llama-3.1-8b", "output_dtype": "int7"}, "output_dtype"),
    ],
)
def test_bad_workloads_are_refused(workload, problem):
    with pytest.raises(SpecError, match=problem):
        load_space({"core": CORE, "axes": AXES, "workload": workload})
