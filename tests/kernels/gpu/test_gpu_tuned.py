"""Configurations that a tuning campaign measured: found in rows, written, read by launchers, and refused if they do not fit."""

import json

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
from importlib import metadata  # noqa: E402

from kernels.gpu import tuned  # noqa: E402
from kernels.gpu.products import gemm, gemv  # noqa: E402
from kernels.measure.cuda import tuned as writer  # noqa: E402
from kernels.ops import compress, for_decode  # noqa: E402
from kernels.stored.errors import KernelError  # noqa: E402
from kernels.timing.sources import digest_of  # noqa: E402
from nmsim import rows  # noqa: E402
from nmsim.case import Case, GemmShape, case_id  # noqa: E402
from nmsim.format import sparse_format  # noqa: E402

DEVICE = "Fake GPU 3000"
FORMAT = sparse_format("8:16/bitmask")


def row(kernel, time_s, tokens=1, **changes):
    shape = GemmShape(tokens, 96, 64)
    case = Case(shape, format="8:16/bitmask", dtype="fp16")
    spread = {
        f"{name}{end}": time_s for name in ("sparse_time_s", "dense_time_s") for end in ("", "_p20", "_p80")
    }
    spread |= {f"speedup_vs_dense{end}": 1.0 for end in ("", "_p20", "_p80")}
    base = kernel.partition("[")[0]
    module = tuned.KERNELS[base][0] if base in tuned.KERNELS else "kernels.gpu.products.gemm"
    about = {
        "machine": "fake", "device": DEVICE, "kernel": kernel, "case_id": case_id(case), "M": tokens, "N": 96, "K": 64,
        "phase": "decode", "dtype": "fp16", "pattern": "8:16", "sparse_operand": "weights", "encoding": "bitmask",
        "packing": "bitstream", "baseline": "gpu.dense", "l2_state": "cold", "reps": 15, "warmup": 3, "gate": "pass",
        "kernel_sources": digest_of(module), "triton": metadata.version("triton"),
    }  # fmt: skip
    return rows.Measurement(**{**about, **spread, **changes})


MEASURED = (
    ("gpu.gemv", 3e-6, 1), ("gpu.gemv[warps=4,n_parts=1]", 2e-6, 1), ("gpu.gemv[warps=8,n_parts=2]", 1e-6, 1),
    ("gpu.gemv", 1e-6, 2), ("gpu.gemv[warps=4,n_parts=1]", 2e-6, 2),
    ("gpu.gemm_small[tile_outputs=32]", 4e-6, 16), ("gpu.unpack_mm", 5e-6, 16),
    ("gpu.gemm_small", 9e-6, 64), ("gpu.gemm_small[warps=8]", 8e-6, 64), ("gpu.unpack_mm", 5e-6, 64),
    ("gpu.gemm_small", 19e-6, 96), ("gpu.unpack_mm", 6e-6, 96),
)  # fmt: skip


@pytest.fixture
def device(monkeypatch, tmp_path):
    """Tensors in main memory lie on a fake device, whose file is in a folder of this test."""
    monkeypatch.setenv(tuned.PATH_VARIABLE, str(tmp_path))
    monkeypatch.setattr(tuned, "device_name", lambda device: DEVICE)
    tuned._of_device.cache_clear()
    yield torch.device("cpu")
    tuned._of_device.cache_clear()


def fill(tmp_path, measured=MEASURED, **changes):
    file = tmp_path / "rows.csv"
    rows.write(file, [row(kernel, time_s, tokens, **changes) for kernel, time_s, tokens in measured])
    assert writer.main([str(file)]) == 0
    return tmp_path / "fake-gpu-3000.json"


def test_launchers_find_what_was_measured_to_be_fastest(device, tmp_path, capsys):
    path = fill(tmp_path)
    assert capsys.readouterr().out == f"{path}: 4 configurations of {DEVICE}\n"
    for kernel, tokens, want in (
        ("gpu.gemv", 1, {"warps": 8, "n_parts": 2}),
        ("gpu.gemv", 2, {}),
        ("gpu.gemm_small", 16, {"tile_outputs": 32}),
        ("gpu.gemm_small", 64, {"warps": 8}),
        ("gpu.gemm", 1, {"dense_tokens": 64}),
    ):
        assert tuned.chosen(device, kernel, FORMAT, torch.float16, (tokens, 96, 64)) == want
    assert not tuned.chosen(device, "gpu.gemv", FORMAT, torch.bfloat16, (1, 96, 64))
    assert not tuned.chosen(device, "gpu.gemv", FORMAT, torch.float16, (1, 97, 64))
    # A second campaign replaces the file as a whole.
    fill(tmp_path, [("gpu.gemv[warps=4,n_parts=2]", 1e-6, 1)])
    assert list(tuned.load(path).options.values()) == [{"warps": 4, "n_parts": 2}]


class _Launched(Exception):
    """Stands for a launch: what it was asked for."""


def _launches(monkeypatch, module, name):
    class Kernel:
        def __getitem__(self, grid):
            def launch(*args, **options):
                raise _Launched(grid, options)

            return launch

    monkeypatch.setattr(module, name, Kernel())


def test_the_launcher_of_the_decode_kernel_takes_them(device, tmp_path, monkeypatch):
    fill(tmp_path)
    _launches(monkeypatch, gemv, "gemv_kernel")
    weight = for_decode(compress(torch.ones(96, 64, dtype=torch.float16), FORMAT))
    x, out = torch.ones(1, 64, dtype=torch.float16), torch.empty(1, 96, dtype=torch.float16)
    with pytest.raises(_Launched) as caught:
        gemv.launch(x, weight, out)
    assert (caught.value.args[1]["WARPS"], caught.value.args[1]["num_warps"]) == (8, 8)
    with pytest.raises(_Launched) as caught:
        gemv.launch(x, weight, out, warps=4, n_parts=1)
    assert caught.value.args[1]["WARPS"] == 4


def test_the_launcher_of_the_tiles_takes_them(device, tmp_path, monkeypatch):
    fill(tmp_path)
    _launches(monkeypatch, gemm, "gemm_kernel")
    weight = compress(torch.ones(96, 64, dtype=torch.float16), FORMAT)
    asked = {}
    monkeypatch.setattr(gemm, "launch_large", lambda *args, **rest: asked.setdefault("large", True))
    for tokens, key, want in ((16, "OUTPUTS", 32), (63, "OUTPUTS", gemm.TILE_OUTPUTS), (64, None, None)):
        x, out = torch.ones(tokens, 64, dtype=torch.float16), torch.empty(tokens, 96, dtype=torch.float16)
        if key is None:
            gemm.launch(x, weight.values, weight.metadata, FORMAT, out)
            assert asked == {"large": True}
            continue
        with pytest.raises(_Launched) as caught:
            gemm.launch(x, weight.values, weight.metadata, FORMAT, out)
        assert caught.value.args[1][key] == want


def _change(path, change):
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda d: d.update(version=2), "version=2: expected 1"),
        (lambda d: d.update(device="Another"), "device is 'Another': expected 'Fake GPU 3000'"),
        (lambda d: d.update(triton="1.0"), "triton is '1.0': expected"),
        (
            lambda d: d["sources"].update({"gpu.gemv": "0" * 12}),
            "sources of gpu.gemv is '000000000000': expected",
        ),
        (
            lambda d: d["configurations"][0]["options"].update(warps=3),
            r"configurations\[0\]: warps=3: expected a power",
        ),
        (
            lambda d: d["configurations"][0]["options"].update(fast=1),
            "options=.*expected some of warps, n_parts",
        ),
        (lambda d: d["configurations"][0].update(M=0), "M=0: expected a whole number from 1 on"),
        (lambda d: d["configurations"][0].update(kernel="gpu.x"), "kernel='gpu.x': expected one of gpu.gemv"),
        (lambda d: d.update(configurations=3), "configurations=3: expected a list"),
        (lambda d: d["configurations"].append([1]), r"configurations\[4\]=\[1\]: expected kernel, format"),
    ],
)
def test_what_does_not_fit_is_refused(device, tmp_path, change, problem):
    _change(fill(tmp_path), change)
    with pytest.raises(KernelError, match=problem):
        tuned.chosen(device, "gpu.gemv", FORMAT, torch.float16, (1, 96, 64))


def test_a_damaged_file_is_an_error_if_it_was_asked_for_and_a_warning_if_not(device, tmp_path, monkeypatch):
    path = fill(tmp_path)
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(KernelError, match=r"fake-gpu-3000\.json: .*expected JSON"):
        tuned.chosen(device, "gpu.gemv", FORMAT, torch.float16, (1, 96, 64))
    monkeypatch.delenv(tuned.PATH_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = tmp_path / "nmsim" / "tuned"
    folder.mkdir(parents=True)
    path.rename(folder / path.name)
    with pytest.warns(UserWarning, match="kernels choose by themselves"):
        assert not tuned.chosen(device, "gpu.gemv", FORMAT, torch.float16, (1, 96, 64))
    monkeypatch.setenv(tuned.PATH_VARIABLE, str(tmp_path / "none.json"))
    tuned._of_device.cache_clear()
    with pytest.raises(KernelError, match="does not exist, and NMSIM_TUNED names it"):
        tuned.chosen(device, "gpu.gemv", FORMAT, torch.float16, (1, 96, 64))


def test_rows_that_are_no_ground_for_a_choice(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(tuned.PATH_VARIABLE, str(tmp_path))
    file = tmp_path / "rows.csv"
    rows.write(file, [row("gpu.dense", 1e-6)])
    assert writer.main([str(file)]) == 2
    rows.write(file, [row("gpu.gemv", 1e-6), row("gpu.gemv[warps=4]", 2e-6, triton="3.0.0")])
    assert writer.main([str(file)]) == 2
    assert "triton: rows name '3.0.0'" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))
    assert writer.from_rows([row("gpu.gemv[warps=4]", 1e-6, mark="slow dense call")]) == []
