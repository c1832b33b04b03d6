"""Design spaces: what a file of one may say, and which points are drawn from it."""

import dataclasses
import itertools
import json
import math
import pickle

import numpy as np
import pytest

import hwmodels
from hwmodels.models import WORKLOAD_FOLDER
from hwmodels.sweeps import EXAMPLE_FILE, load_space
from hwmodels.tensorcore.record import load_core
from nmsim.errors import NmsimError, RowError, SpecError
from nmsim.support.toml import to_toml

BASE = {
    "core": {"base": "flexible-8x16"},
    "axes": {"pattern": ["2:4", "8:16"]},
    "workload": {"shapes": [[64, 128]]},
}


def changed(**sections):
    return {**BASE, **sections}


def axes(**values):
    return changed(axes={"pattern": ["2:4", "8:16"], **values})


def test_a_space_is_the_product_of_its_axes():
    space = load_space(axes(array_depth=[8, 16, 32], tokens=[1, 64], encoding=["bitmask", "index"]))
    assert space.points == 3 * 2 * 2 * 2
    assert [stored.cells["pattern"] for stored in space.stored] == ["2:4", "2:4", "8:16", "8:16"]


def test_a_dense_product_is_there_once_however_many_encodings_there_are():
    space = load_space(
        changed(axes={"pattern": ["dense", "2:4"], "encoding": ["bitmask", "index"], "packing": ["byte"]})
    )
    assert [(stored.cells["pattern"], stored.cells["encoding"]) for stored in space.stored] == [
        ("dense", "none"), ("2:4", "bitmask"), ("2:4", "index"),
    ]  # fmt: skip


def test_a_model_comes_layer_by_layer_or_added_up():
    by_layer = load_space(changed(workload={"model": "llama-3.1-8b"}))
    assert [(work.layer, work.count) for work in by_layer.works][:2] == [("q", 32), ("k", 32)]
    assert "lm_head" not in [work.layer for work in by_layer.works]
    (whole,) = load_space(changed(workload={"model": "llama-3.1-8b", "per": "model"})).works
    assert sum(product.count * product.N * product.K for product in whole.products) == sum(
        layer.count * layer.N * layer.K
        for layer in hwmodels.load_model("llama-3.1-8b").layers
        if layer.pruned
    )
    assert len(whole.products) == 4


def test_paths_are_relative_to_the_file(tmp_path):
    core = load_core("flexible-8x16")
    (tmp_path / "mine.toml").write_text(to_toml(core).replace('id = "flexible-8x16"', 'id = "mine"'))
    (tmp_path / "quality.csv").write_text("pattern,quality\n2:4,0.5\n8:16,0.75\n")
    file = tmp_path / "space.toml"
    file.write_text(
        '[core]\nbase = "mine.toml"\n[axes]\npattern = ["2:4", "8:16"]\n[workload]\nshapes = [[64, 128]]\n'
        '[quality]\nfile = "quality.csv"\n'
    )
    space = load_space(file)
    assert (space.cores[0].id, space.quality.values) == ("mine", (0.5, 0.75))
    assert load_space(space) is space


def test_the_example_is_a_space():
    assert load_space(EXAMPLE_FILE).points == 252


def test_a_space_travels():
    space = load_space(BASE)
    assert pickle.loads(pickle.dumps(space)) == space


def test_the_digest_tells_spaces_apart():
    spaces = [BASE, axes(tokens=[2]), axes(array_depth=[8]), changed(sample={"points": 1})]
    assert len({load_space(space).digest for space in spaces}) == len(spaces)
    assert load_space(BASE).digest == load_space(dict(BASE)).digest


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (changed(colour={}), "colour: unknown key"),
        ({"axes": {}}, "workload: missing"),
        (changed(axes=3), "axes=3: expected a table"),
        (changed(axes={}), "axes.pattern: missing"),
        (axes(precision=["bf16"]), "axes.precision: unknown key (did you mean dtype?)"),
        (axes(array_dept=[8]), "axes.array_dept: unknown key (did you mean array_depth?)"),
        (axes(batch=[8]), "did you mean tokens?"),
        (axes(array_depth=8), "axes.array_depth=8: expected a list"),
        (axes(array_depth=[]), "axes.array_depth: expected a list of at least one value"),
        (axes(array_depth=[8, 8]), "axes.array_depth: 8 comes twice"),
        (axes(encoding=["bitmask", "bitmask"]), "axes.encoding: 'bitmask' comes twice"),
        (axes(packing=["no_straddle", "no_straddle:32"]), "comes twice"),
        (axes(encoding=["bitmap"]), "axes.encoding[0]='bitmap': "),
        (axes(dtype=["bf17"]), "axes.dtype[0]='bf17'"),
        (axes(tokens=[0]), "axes.tokens[0]=0: expected at least 1 tokens"),
        (axes(tokens=[True]), "axes.tokens[0]=True: expected a whole number"),
        (axes(l2_bytes=[0, 10]), "axes.l2_bytes[0]=0: expected at least 1000 bytes"),
        (axes(l2_bytes=["many"]), "axes.l2_bytes[0]='many': expected a whole number"),
        (axes(l2_bytes=[True]), "axes.l2_bytes[0]=True"),
        (changed(axes={"pattern": ["2;4"]}), "axes.pattern[0]='2;4': pattern '2;4'"),
        (axes(core=["dense"]), "core: expected either core.base, one core, or axes.core"),
        ({"axes": BASE["axes"], "workload": BASE["workload"]}, "core: expected either core.base"),
        (changed(core={"base": "flexible"}), "Did you mean flexible-"),
        (changed(workload={}), "workload: expected either model or shapes"),
        (changed(workload={"shapes": [[1, 2, 3, 4]]}), "workload.shapes[0]=[1, 2, 3, 4]: expected [N, K]"),
        (changed(workload={"shapes": [[1, 2]], "layers": ["q"]}), "workload.layers: belongs to a model"),
        (changed(workload={"model": "lama"}), "lama"),
        (changed(workload={"model": "llama-3.1-8b", "layers": ["qq"]}), "workload.layers: 'qq': expected one"),
        (changed(workload={"model": "llama-3.1-8b", "per": "head"}), "workload.per='head': expected one of layer, model"),
        (changed(sample={"points": 3}), "sample.points=3: the space has 2 points"),
        (changed(sample={"points": 0}), "sample.points=0: expected at least 1 points"),
        (changed(sample={"points": 1, "seed": -1}), "sample.seed=-1"),
        (changed(quality={"file": 3}), "quality.file=3"),
        (axes(tokens=[10**20]), "00: expected at most 2.68435e+08 tokens"),
        (axes(tokens=[(1 << 28) + 1]), "axes.tokens[0]=268435457: expected at most 2.68435e+08 tokens"),
        (changed(workload={"shapes": [[1, 1 << 40]]}), "[1, 1099511627776]: 1099511627776: expected a positive whole"),
        (axes(l2_bytes=[10**30]), "000: expected at most 1e+15 bytes"),
        (changed(sample={"points": 1, "seed": 1 << 64}), "sample.seed=18446744073709551616: expected at most"),
        (None, "space=None (type NoneType): expected the path of a TOML file, a mapping or a Space"),
        (3, "space=3 (type int): expected the path of a TOML file"),
    ],
)  # fmt: skip
def test_bad_entries_are_named(document, text):
    with pytest.raises(NmsimError) as caught:
        load_space(document)
    assert text in str(caught.value)


def test_a_file_says_which_one_it_is(tmp_path):
    file = tmp_path / "space.toml"
    with pytest.raises(SpecError, match="space.toml: cannot be read"):
        load_space(file)
    file.write_text("[axes\n")
    with pytest.raises(SpecError, match="space.toml: cannot be read as TOML"):
        load_space(file)
    file.write_text("[axes]\n[workload]\n")
    with pytest.raises(
        SpecError, match=r"space.toml: axes.pattern: missing(?s:.*)space.toml: workload: expected"
    ):
        load_space(file)


def test_all_problems_of_a_space_are_named_in_one_run(tmp_path):
    file = tmp_path / "space.toml"
    file.write_text(
        '[core]\nbase = "flexible"\n[axes]\npattern = ["2:4", "4;8"]\n[workload]\nmodel = "lama"\n'
        '[quality]\nfile = "none.csv"\n[sample]\npoints = 9\n'
    )
    with pytest.raises(SpecError) as caught:
        load_space(file)
    problems = (
        "axes.pattern[1]='4;8'",
        "workload.model[0]='lama'",
        "core.base='flexible'",
        "quality.file='none.csv'",
    )
    lines = str(caught.value).splitlines()
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(f"{file}: {problem}: ")
    file.write_text(
        '[core]\nbase = "flexible"\n[axes]\npattern = ["2:4"]\n[workload]\nshapes = [[8, 8]]\n[sample]\npoints = 9\n'
    )
    with pytest.raises(SpecError, match=r"core\.base(?s:.*)sample\.points=9: the space has 1 points"):
        load_space(file)
    file.write_text(
        '[core]\nbase = "flexible"\n[axes]\npattern = ["2:4"]\n[workload]\nmodel = "llama-3.1-8b"\nlayers = ["upp"]\n'
    )
    with pytest.raises(SpecError, match=r"workload\.layers: 'upp': .* did you mean 'up'(?s:.*)core\.base"):
        load_space(file)


def test_a_core_comes_once(tmp_path):
    (tmp_path / "twin.toml").write_text(to_toml(load_core("dense")))
    with pytest.raises(SpecError, match="'dense' comes twice, expected cores with ids of their own"):
        load_space(
            {
                "axes": {"core": ["dense", str(tmp_path / "twin.toml")], "pattern": ["2:4"]},
                "workload": BASE["workload"],
            }
        )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("pattern,accuracy\n2:4,1\n", "columns pattern, accuracy: expected quality"),
        ("pattern,colour,quality\n2:4,red,1\n", "expected quality and one or more of pattern"),
        ("quality\n1\n", "expected quality and one or more of"),
        ("", "columns none"),
        ("pattern,quality\n2:4,1\n", "no row for pattern=8:16"),
        ("pattern,quality\n2:4,1\n8:16,1\n4:8,1\n", "pattern=4:8: matches no point"),
        ("pattern,quality\n2:4,1\n2:4,1\n", "line 3: 2:4 comes twice"),
        ("pattern,quality\n2:4,good\n", "line 2: quality='good': expected a number"),
        ("pattern,quality\n2:4,nan\n", "line 2: quality='nan': expected a number"),
        ("pattern,quality\n2:4\n", "line 2: 1 cells: expected 2"),
        ("pattern, quality\n2:4,1\n", "column ' quality': expected a name without spaces around it"),
    ],
)
def test_a_quality_file_has_to_match(tmp_path, text, problem):
    file = tmp_path / "quality.csv"
    file.write_text(text)
    with pytest.raises(RowError) as caught:
        load_space(changed(quality={"file": str(file)}))
    assert problem in str(caught.value)


def test_all_problems_of_a_quality_file_are_named_in_one_run(tmp_path):
    file = tmp_path / "quality.csv"
    file.write_text("pattern,quality\n2:4,good\n2:4,1\n4:8,1\n16:32\n")
    with pytest.raises(RowError) as caught:
        load_space(changed(quality={"file": str(file)}))
    problems = [line.removeprefix(f"{file}: ") for line in str(caught.value).splitlines()]
    assert [problem[:20] for problem in problems] == [
        "line 2: quality='goo", "line 3: 2:4 comes tw", "line 5: 1 cells: exp", "no row for pattern=8", "pattern=4:8: matches",
    ]  # fmt: skip


def test_a_quality_file_may_begin_with_a_byte_order_mark(tmp_path):
    file = tmp_path / "quality.csv"
    file.write_text("pattern,quality\n2:4,1\n8:16,2\n", encoding="utf-8-sig")
    assert load_space(changed(quality={"file": str(file)})).quality.values == (1.0, 2.0)


def test_a_layer_too_large_to_count_is_named(tmp_path):
    shipped = json.loads((WORKLOAD_FOLDER / "llama-3.1-8b.json").read_text())
    file = tmp_path / "config.json"
    file.write_text(json.dumps(shipped["config"] | {"intermediate_size": 1 << 40}))
    with pytest.raises(SpecError, match="layer gate: N=1099511627776: expected at most 268435456"):
        load_space(changed(workload={"model": str(file)}))


def test_quality_may_depend_on_all_that_is_stored_and_on_the_layer(tmp_path):
    keys = list(itertools.product(["2:4", "8:16"], ["fp8", "bf16"], ["64x128", "32x32"]))
    file = tmp_path / "quality.csv"
    file.write_text(
        "layer,pattern,dtype,quality\n"
        + "".join(f"{layer},{pattern},{dtype},{n}\n" for n, (pattern, dtype, layer) in enumerate(keys))
    )
    document = axes(dtype=["bf16", "fp8"]) | {
        "workload": {"shapes": [[64, 128], [32, 32]]},
        "quality": {"file": str(file)},
    }
    found = hwmodels.sweep(document)
    for row in found.itertuples():
        assert row.quality == keys.index((row.pattern, row.dtype, row.layer))


def sampled(points, of, seed=0):
    depths = list(range(1, of + 1))
    return load_space(
        {
            "core": {"base": "flexible-8x16"},
            "axes": {"pattern": ["2:4"], "fragment_rows": depths},
            "workload": {"shapes": [[64, 128]]},
            "sample": {"points": points, "seed": seed},
        }
    )


@pytest.mark.parametrize(("points", "of"), [(1, 1), (7, 7), (3, 100), (33, 100), (99, 100), (500, 1000)])
def test_a_sample_has_every_point_once_at_most(points, of):
    drawn = sampled(points, of).indices(0, points)
    assert len(set(drawn.tolist())) == points
    assert (np.diff(drawn) > 0).all()
    assert 0 <= drawn.min() <= drawn.max() < of


@pytest.mark.parametrize(("points", "of"), [(7, 10), (99, 100), (3, 11)])
def test_every_point_is_drawn_by_some_seed(points, of):
    space = sampled(points, of)
    draws = [dataclasses.replace(space, seed=seed).indices(0, points) for seed in range(300)]
    assert set(np.concatenate(draws).tolist()) == set(range(of))
    assert all(len(set(drawn.tolist())) == points for drawn in draws)


def test_any_part_of_a_sample_is_that_of_the_whole():
    space = sampled(333, 1000, seed=5)
    whole = space.indices(0, 333)
    for start, stop in ((0, 1), (1, 2), (3, 50), (97, 333), (332, 333)):
        assert np.array_equal(space.indices(start, stop), whole[start:stop])


def test_a_seed_draws_its_own_sample():
    first, second = (sampled(300, 1000, seed).indices(0, 300) for seed in (0, 1))
    assert (first != second).mean() > 0.5
    assert np.array_equal(first, sampled(300, 1000, 0).indices(0, 300))


def test_a_sample_is_even():
    space = sampled(200, 1000)
    drawn = np.concatenate([dataclasses.replace(space, seed=seed).indices(0, 200) for seed in range(100)])
    counts = np.bincount(drawn % 5, minlength=5)
    assert np.abs(counts / len(drawn) - 0.2).max() < 4 * math.sqrt(0.16 / len(drawn))
