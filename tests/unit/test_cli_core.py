import json

import numpy as np
import pytest
import safetensors.numpy

from hwmodels import core_names, load_core


def test_cores_are_listed(nmsim):
    code, out, _ = nmsim("core", "--list", "--json")
    assert code == 0
    assert [core["id"] for core in json.loads(out)] == core_names()


def test_one_case_names_its_limit_and_the_next_stage(nmsim):
    code, out, _ = nmsim("core", "4096,4096,4096", "-p", "8:16", "-e", "combinatorial")
    assert code == 0
    assert "shared memory to registers works" in out
    assert "next is multiplying" in out


def test_json_has_stages_traffic_and_a_range_of_energy(nmsim):
    code, out, _ = nmsim("core", "1,4096,4096", "-p", "dense,8:16", "--json")
    dense, sparse = json.loads(out)
    assert code == 0
    assert (dense["pattern"], dense["speedup_vs_dense"]) == ("dense", 1.0)
    assert sparse["cycles"] < dense["cycles"] == sparse["dense_cycles"]
    assert sparse["stage_cycles"]["dram"] <= sparse["cycles"]
    assert sparse["energy_joules_low"] < sparse["energy_joules"] < sparse["energy_joules_high"]
    assert sparse["traffic_bytes"]["dram_read_bytes"] < dense["traffic_bytes"]["dram_read_bytes"]


def test_what_a_core_does_not_take_is_left_out_aloud(nmsim):
    code, out, err = nmsim(
        "core", "64,512,512", "-c", "dense,flexible-8x16", "-p", "8:16", "-e", "index", "--json"
    )
    assert code == 0
    assert [row["core"] for row in json.loads(out)] == ["flexible-8x16"]
    assert "left out: encoding 'index': dense decodes bitmask" in err
    code, _, err = nmsim("core", "64,512,512", "-c", "dense", "-p", "2:4,8:16", "-e", "index")
    assert code == 2
    assert "nothing left to predict" in err


def test_a_simulation_on_the_mask_of_a_checkpoint(nmsim, tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"up": rng.standard_normal((256, 512)).astype(np.float32)}, path)
    code, out, _ = nmsim(
        "core", "64,256,512", "-p", "8:16", "--simulate", "--weights", path, "--tensor", "up", "--json"
    )  # fmt: skip
    (row,) = json.loads(out)
    assert code == 0
    assert row["simulated_cycles"] >= row["cycles"]
    assert row["simulated_effectual_macs"] == 64 * 256 * 512 // 2


def test_two_sparse_operands(nmsim):
    code, out, _ = nmsim(
        "core", "64,128,512", "-c", "dual-sided-8x16", "-p", "8:16", "--other", "8:16", "--simulate", "--json"
    )  # fmt: skip
    (row,) = json.loads(out)
    assert code == 0
    assert row["simulated_effectual_macs"] == pytest.approx(64 * 128 * 512 / 4, rel=0.02)


def test_a_core_is_written_to_be_edited(nmsim, tmp_path):
    path = tmp_path / "mine.toml"
    code, _, _ = nmsim("core", "-c", "flexible-8x16", "--write", path)
    assert code == 0
    assert load_core(path) == load_core("flexible-8x16")
    code, _, err = nmsim("core", "--write", path)
    assert code == 2
    assert "exists already" in err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ((), "no shape given: expected M,N,K"),
        (("1,2",), "shape '1,2': expected M,N,K"),
        (("1,2,3", "-c", "flexible-8x17"), "Did you mean flexible-8x16?"),
        (("1,2,3", "-p", ","), "no pattern given"),
        (("1,2,3", "-w", "x.safetensors"), "expected --simulate as well"),
        (("1,2,3", "--simulate", "-t", "up"), "--tensor up: expected --weights"),
        (("1,2,3", "-p", "8:16", "--other", "8:16"), "second pattern 8:16: flexible-8x16 does not skip"),
        (("--write", "mine.txt"), "expected a name that ends in .toml"),
        (("-c", "dense,flexible-8x16", "--write", "x.toml"), "expected one core, got 2"),
    ],
)  # fmt: skip
def test_bad_input(nmsim, arguments, problem):
    code, _, err = nmsim("core", *arguments)
    assert code == 2
    assert problem in err


def test_a_tensor_that_is_not_there_or_no_matrix(nmsim, tmp_path):
    path = tmp_path / "w.safetensors"
    safetensors.numpy.save_file({"bias": np.zeros(8, np.float32)}, path)
    for tensor, problem in (("up", "not in"), ("bias", "expected a matrix of numbers [N, K]")):
        code, _, err = nmsim("core", "1,8,8", "-p", "2:4", "--simulate", "-w", path, "-t", tensor)
        assert code == 2
        assert problem in err
