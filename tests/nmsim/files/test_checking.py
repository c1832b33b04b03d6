"""Is this checkpoint N:M? The counts against a plain loop, the verb's exit codes, and what `exact` refuses."""

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nmsim import save_file
from nmsim.errors import ContainerError, PatternError
from nmsim.files.checking import check_checkpoint
from nmsim.files.checkpoint import pack_checkpoint
from nmsim.files.fitting import fit
from nmsim.pattern import Pattern

UP = "model.layers.0.mlp.up_proj.weight"


def plain_fit(x, axis, pattern):
    """Violations with their positions and the most that a group holds, one group at a time."""
    turned = np.moveaxis(x, axis, -1)
    bad, most = [], 0
    for row in np.ndindex(turned.shape[:-1]):
        for start in range(0, turned.shape[-1], pattern.m):
            count = sum(value != 0 for value in turned[row][start : start + pattern.m])
            most = max(most, count)
            if count > pattern.n:
                bad.append((*row[:axis], start, *row[axis:]))
    return bad, most


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_fit_is_that_of_a_plain_loop(data):
    shape = data.draw(hnp.array_shapes(min_dims=1, max_dims=3, max_side=9))
    dtype = data.draw(st.sampled_from([np.float32, np.int8, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn]))
    numbers = data.draw(hnp.arrays(np.int8, shape, elements=st.integers(-1, 1)))
    x = numbers.astype(dtype)
    if dtype != np.int8:
        x = np.where(numbers == 0, np.array(-0.0, dtype), x)
    axis = data.draw(st.integers(0, len(shape) - 1))
    m = data.draw(st.integers(2, 5))
    pattern = Pattern(data.draw(st.integers(1, m - 1)), m)
    found = fit(x, axis, pattern, shown=3)
    bad, most = plain_fit(x.astype(np.float32), axis, pattern)
    assert (found.violations, found.first, found.most) == (len(bad), tuple(bad[:3]), most)
    assert found.fits == (not bad)
    assert found.nonzeros_elems == np.count_nonzero(numbers)


@pytest.fixture
def nearly():
    x = np.zeros((256, 512), np.float32)
    x.reshape(-1, 4)[:, 1:3] = 1, -0.0
    for group in (5, 777, 30000):
        x.reshape(-1, 4)[group] = [1, 2, 3, 0]
    return x


def test_the_verb_answers_in_its_exit_code(nmsim, tmp_path, nearly):
    path = tmp_path / "x.safetensors"
    save_file({UP: nearly, "model.embed_tokens.weight": np.ones((8, 8), np.float32)}, path)
    code, out, err = nmsim("check", path, "-p", "2:4", "--json")
    found = json.loads(out)
    assert (code, err, found["fits"], found["violating_groups"]) == (1, "", False, 3)
    (one,) = found["tensors"]
    assert one["first_violations"] == [[0, 20], [6, 36], [234, 192]]
    assert (one["smallest_pattern"], one["groups"]) == ("3:4", 32768)
    assert found["left_out"][0]["why"] == "embedding"
    code, out, _ = nmsim("check", path, "-p", "2:4")
    assert code == 1
    assert out.startswith("2:4: no, 3 of 32768 groups (0.01 %) hold more than N; 1 tensors compared")
    code, out, _ = nmsim("check", path, "-p", "3:4")
    assert (code, out.splitlines()[0]) == (0, "3:4: yes; 1 tensors compared")
    assert nmsim("check", path, "-p", "2:4", "--include", "*embed*")[0] == 1
    code, out, err = nmsim("check", tmp_path / "none", "-p", "2:4")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert nmsim("check", path, "-p", "4")[0] == 2


def test_shards_and_packed_files_are_checked(tmp_path, nearly):
    for number in (1, 2):
        save_file({f"model.layers.{number}.mlp.up_proj.weight": nearly}, tmp_path / f"m-{number}.safetensors")
    index = {f"model.layers.{n}.mlp.up_proj.weight": f"m-{n}.safetensors" for n in (1, 2)}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    report = check_checkpoint(tmp_path, "2:4")
    assert [tensor.fit.violations for tensor in report.tensors] == [3, 3]
    packed = tmp_path / "packed"
    pack_checkpoint(tmp_path, packed, "2:4")
    assert check_checkpoint(packed, "2:4").fits
    assert not check_checkpoint(packed, "1:4").fits


def test_exact_packing_drops_nothing(nmsim, tmp_path, nearly):
    path, packed = tmp_path / "x.safetensors", tmp_path / "packed.safetensors"
    save_file({UP: nearly}, path)
    with pytest.raises(
        PatternError,
        match=rf"^{path}: tensor '{UP}', data at byte \d+: 3 of 32768 groups hold more than 2 elements other than zero, the "
        r"first at \[0, 20\]; expected 2:4 weights \(3:4 fits",
    ):
        pack_checkpoint(path, packed, "2:4", exact=True)
    assert list(tmp_path.iterdir()) == [path]
    assert nmsim("pack", path, "-p", "2:4", "--exact", "-o", packed)[0] == 2
    assert nmsim("pack", path, "-p", "3:4", "--exact", "-o", packed)[0] == 0


@pytest.mark.parametrize(
    ("bad", "verb"),
    [
        (np.nan, ("pack", "-p", "2:4", "-o", "new")),
        (np.inf, ("pack", "-p", "2:4", "-o", "new", "--exact")),
        (-np.inf, ("inspect", "-p", "2:4")),
        (np.nan, ("check", "-p", "2:4")),
        (np.inf, ("quality", "-p", "2:4", "-o", "new.csv")),
        (np.nan, ("quality", "-p", "2:4", "--operand", "weights", "-o", "new.csv")),
        (np.nan, ("study", "-p", "2:4", "-o", "new")),
    ],
    ids=str,
)
def test_every_verb_refuses_what_is_not_finite_alike(nmsim, tmp_path, monkeypatch, bad, verb):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.safetensors"
    x = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    x[3, 5] = x[7, 9] = bad
    save_file({UP: x}, path)
    name, *options = verb
    given = ["--weights", path] if name == "study" else [path]
    code, out, err = nmsim(name, *given, *options)
    assert (code, out) == (2, "")
    assert f"tensor '{UP}', data at byte" in err
    assert (
        f"value[3, 5] is {bad}, the first of 2 of 4096 elements that are NaN or infinite; expected finite"
        in err
    )
    assert len([line for line in err.splitlines() if line.startswith("nmsim: ")]) == 1
    assert [found.name for found in tmp_path.iterdir()] == [path.name]


def test_nothing_to_compare_is_no_yes(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"model.norm.weight": np.ones(8, np.float32)}, path)
    with pytest.raises(ContainerError, match="none of its 1 tensors"):
        check_checkpoint(path, "2:4")
