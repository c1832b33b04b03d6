"""The verbs calibrate and measure, as a user types them, on loops and products too small to mean anything."""

import contextlib
import json

import pytest

import hwmodels
from kernels.calibrate import cpu as calibration
from kernels.measure import campaign as campaigns
from kernels.measure import cpu as measure_cpu
from kernels.measure import run as campaign_run
from kernels.measure.run import Contender
from kernels.timing import cuda_device, host, libraries
from kernels.timing.gate import GateError, RefusedError
from kernels.timing.rounds import DeviceLostError
from nmsim import rows as row_files
from nmsim.case import Case

SMALL = """
seed = 0
repetitions = 5
warmup = 1
budget_s = 100

[[round]]
shapes = [[1, 32, 64]]
patterns = ["2:4", "8:16"]
encodings = ["bitmask"]
dtypes = ["fp32"]
l2_state = ["cold"]
"""
MOVED = """
[[round]]
kernels = ["gpu.pack", "gpu.unpack"]
shapes = [[1, 64, 32]]
patterns = ["8:16"]
encodings = ["bitmask"]
dtypes = ["bf16"]
l2_state = ["cold"]
"""
NOTE = "nmsim: note: kernels are compiled on the way\n"
HOST = host.Host("Pretended CPU", 2, 1 << 26, (host.Cache(1, 1 << 12, 2), host.Cache(2, 1 << 16, 1)))


@pytest.fixture
def campaign(tmp_path, monkeypatch):
    """A small campaign on a machine with small caches, without torch."""
    monkeypatch.setattr(host, "LEAST_BEYOND_BYTES", 1 << 16)
    monkeypatch.setattr(host, "this_machine", lambda: HOST)
    monkeypatch.setattr(libraries, "torch_if_installed", lambda: None)
    file = tmp_path / "small.toml"
    file.write_text(SMALL)
    return file


class Device(measure_cpu.CpuBackend):
    """A device that moves data too: a copy takes 2 ms, a kernel 1 ms for 3.2 MB."""

    def __init__(self, wrong="", kind=GateError):
        super().__init__(0, torch=False)
        self.wrong, self.kind = wrong, kind

    def prepare(self, planned, time_s, progress):
        return "kernels are compiled on the way"

    def tasks(self, of):
        if not of.kernels[0].startswith("gpu."):
            return super().tasks(of)
        cases = [Case(of.shape, stored, dtype=of.dtype) for stored in of.formats]
        return [(case, kernel) for kernel in of.kernels for case in cases]

    def contenders(self, of, tasks, warmup):
        return (
            self.moving(tasks) if of.kernels[0].startswith("gpu.") else super().contenders(of, tasks, warmup)
        )

    @contextlib.contextmanager
    def moving(self, tasks):
        def check(name):
            if name and name == self.wrong:
                raise self.kind("3 bytes differ")

        size = 3_200_000
        yield [
            *(
                Contender(
                    name, case, lambda name=name: check(name), lambda: 1e-3, {"moved_bytes": size}, size
                )
                for case, name in tasks
            ),
            Contender("torch.copy_", None, lambda: None, lambda: 2e-3, {}, size),
        ]


@pytest.fixture
def moving(campaign, monkeypatch):
    """A campaign with products and transfers, and a device that takes both; say which kernel is wrong."""
    campaign.write_text(SMALL + MOVED)
    monkeypatch.setattr(cuda_device, "problem", lambda: "")

    def with_wrong(wrong="", kind=GateError):
        device = Device(wrong, kind)
        monkeypatch.setattr("nmsim.cli.measure._backend", lambda name, seed: (device, "pretended-gpu"))
        return campaign

    return with_wrong


@pytest.fixture
def short(monkeypatch):
    """A calibration of a machine with small caches, and samples too short to mean anything."""
    monkeypatch.setattr(host, "LEAST_BEYOND_BYTES", 1 << 16)
    monkeypatch.setattr(host, "this_machine", lambda: HOST)
    whole = calibration.calibrate
    monkeypatch.setattr(calibration.Calibration, "doubts", ["somebody else was at work"])
    monkeypatch.setattr(
        calibration, "calibrate", lambda machine, progress: whole(machine, repetitions=2, sample_s=1e-5)
    )


def test_measure_writes_rows_and_shows_them(nmsim, campaign, tmp_path):
    rows = tmp_path / "rows.csv"
    code, text, err = nmsim("measure", campaign, "-o", rows)
    assert (code, err) == (0, "")
    found = row_files.read(rows)
    assert [(row.machine, row.pattern, row.gate, row.threads) for row in found] == [
        ("pretended-2core", "2:4", "pass", 1), ("pretended-2core", "8:16", "pass", 1),
    ]  # fmt: skip
    assert "Measured on pretended-2core (Pretended CPU, 2 cores); medians, speedup with p20-p80" in text
    assert text.endswith(f"2 rows appended to {rows}\n")
    code, text, _ = nmsim("measure", campaign, "-o", rows)
    assert (code, text) == (0, f"0 rows appended to {rows}; 2 were there already\n")


def test_measure_json_is_all_there_is_on_standard_output(nmsim, campaign, tmp_path):
    rows = tmp_path / "rows.csv"
    code, text, err = nmsim("measure", campaign, "-o", rows, "--machine", "epyc-2core", "--json")
    assert (code, err) == (0, "")
    found = json.loads(text)
    assert [row["machine"] for row in found["rows"]] == ["epyc-2core"] * 2
    assert (found["skipped"], found["left"], found["wrong"], found["file"]) == (0, 0, [], str(rows))
    assert found["provenance"]["command"]


def test_transfers_are_rows_beside_products(nmsim, moving, tmp_path):
    rows = tmp_path / "here.csv"
    code, text, err = nmsim("measure", moving(), "--device", "cuda", "-o", rows)
    assert (code, err) == (0, NOTE)
    assert [(row.machine, row.kernel, row.speedup_vs_dense) for row in row_files.read(rows)[2:]] == [
        ("pretended-gpu", "gpu.pack", 2.0), ("pretended-gpu", "gpu.unpack", 2.0),
    ]  # fmt: skip
    assert "GB/s" in text
    assert [line.split() for line in text.splitlines() if "gpu.unpack" in line] == [
        ["1,64,32", "8:16/bitmask", "gpu.unpack", "1000", "2.000x", "2.00-2.00", "3.2"],
    ]  # fmt: skip
    assert text.endswith(f"4 rows appended to {rows}\n")


SAID = "M=1 N=64 K=32 bf16 cold, 1 thread: gpu.pack 8:16/bitmask: 3 bytes differ"


def test_a_wrong_transfer_is_named_in_json_too_and_the_run_goes_on(nmsim, moving, tmp_path):
    rows = tmp_path / "rows.csv"
    arguments = ("measure", moving("gpu.pack"), "--device", "cuda", "-o", rows, "--json")
    code, text, err = nmsim(*arguments)
    assert code == 1
    assert err == f"nmsim: wrong result, no row: {SAID}\n{NOTE}"
    found = json.loads(text)
    assert [row["kernel"] for row in found["rows"][2:]] == ["gpu.unpack"]
    assert (found["file"], found["skipped"], found["left"], found["wrong"]) == (str(rows), 0, 0, [SAID])
    moving()
    code, text, _ = nmsim(*arguments)
    assert code == 0
    assert json.loads(text)["skipped"] == 3
    assert len(row_files.read(rows)) == 4


def test_what_is_refused_is_named_and_leaves_the_exit_code_alone(nmsim, moving, tmp_path):
    rows = tmp_path / "rows.csv"
    code, text, err = nmsim(
        "measure", moving("gpu.pack", RefusedError), "--device", "cuda", "-o", rows, "--json"
    )
    assert code == 0
    assert err == f"nmsim: refused, no row: {SAID}\n{NOTE}"
    found = json.loads(text)
    assert (found["refused"], found["wrong"], found["notes"]) == (
        [SAID],
        [],
        ["kernels are compiled on the way"],
    )


def test_a_device_that_is_lost_is_one_line_and_code_2(nmsim, moving, tmp_path):
    rows = tmp_path / "rows.csv"
    code, text, err = nmsim("measure", moving("gpu.unpack", DeviceLostError), "--device", "cuda", "-o", rows)
    said = (
        f"3 bytes differ; 2 rows of this run are in {rows}: run the same command again, with --skip for what it "
        "stopped at"
    )
    assert (code, text, err) == (2, "", f"nmsim: M=1 N=64 K=32 bf16 cold, 1 thread: {said}\n")
    assert len(row_files.read(rows)) == 2


def test_what_is_skipped_is_left_out(nmsim, moving, campaign, tmp_path):
    rows = tmp_path / "rows.csv"
    given = ("measure", moving(), "--device", "cuda", "-o", rows, "--skip", "*2:4*", "--skip", "gpu.pack*")
    code, _, _ = nmsim(*given)
    assert code == 0
    measured = row_files.read(rows)
    assert {row.pattern for row in measured} == {"8:16"}
    assert [row.kernel for row in measured if row.is_transfer] == ["gpu.unpack"]
    code, _, err = nmsim(
        "measure", campaign, "--device", "cuda", "-o", tmp_path / "no.csv", "--skip", "gpu.gemm*"
    )
    assert code == 2
    assert "skip 'gpu.gemm*': nothing in campaign small fits; expected a glob of kernel and format, " in err
    assert not (tmp_path / "no.csv").exists()


def test_without_a_device_a_wrong_campaign_is_told_first(nmsim, campaign, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(cuda_device, "problem", lambda: "no CUDA device found")
    text = (campaigns.CAMPAIGN_FOLDER / "cuda-tuning.toml").read_text()
    campaign.write_text(text)
    code, _, err = nmsim("measure", campaign, "--device", "cuda", "-o", tmp_path / "rows.csv")
    assert (code, err) == (3, "nmsim: --device cuda: no CUDA device found\n")
    campaign.write_text(text.replace("warps=16,", "warp=16,", 1))
    code, _, err = nmsim("measure", campaign, "--device", "cuda", "-o", tmp_path / "rows.csv")
    assert code == 2
    assert "kernel gpu.gemv[warp=16,n_parts=1]: 'warp=16': expected whole numbers" in err
    assert not (tmp_path / "rows.csv").exists()


def test_who_stops_it_is_told_where_the_rows_are(nmsim, campaign, tmp_path, monkeypatch):
    def stopped(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign_run, "run", stopped)
    _, _, err = nmsim("measure", campaign, "-o", tmp_path / "rows.csv")
    assert (
        f"nmsim: stopped; rows of finished rounds are in {tmp_path / 'rows.csv'}: run the same command" in err
    )


def test_what_memory_does_not_hold_is_refused_and_the_rest_goes_on(nmsim, campaign, tmp_path):
    campaign.write_text(SMALL.replace("shapes = [", "shapes = [[1, 8000000, 8000000], ", 1))
    code, _, err = nmsim("measure", campaign, "-o", tmp_path / "rows.csv")
    assert code == 0
    assert "refused, no row: M=1 N=8000000 K=8000000 fp32 cold, 1 thread: more than memory holds: " in err
    assert len(row_files.read(tmp_path / "rows.csv")) == 2


def test_the_cpu_takes_no_transfers(nmsim, campaign, tmp_path):
    campaign.write_text(SMALL + MOVED)
    code, _, err = nmsim("measure", campaign, "-o", tmp_path / "rows.csv")
    assert code == 2
    assert "M=1 N=64 K=32 bf16 cold, 1 thread: kernel gpu.pack: this CPU has " in err
    assert "; kernels of a GPU need --device cuda" in err
    assert not (tmp_path / "rows.csv").exists()


def test_no_time_at_all_leaves_everything(nmsim, campaign, tmp_path):
    code, text, _ = nmsim("measure", campaign, "-o", tmp_path / "rows.csv", "--budget-s", "0")
    assert code == 0
    assert text.endswith("2 left for want of time: run the same command again\n")
    assert not (tmp_path / "rows.csv").exists()


def test_a_wrong_result_is_named_and_ends_with_code_1(nmsim, campaign, tmp_path, monkeypatch):
    from kernels.timing import gate

    monkeypatch.setattr(gate, "deviation", lambda *arguments: gate.Deviation(0.5, 37.0))
    code, _, err = nmsim("measure", campaign, "-o", tmp_path / "rows.csv", "--json")
    assert code == 1
    assert err.splitlines()[0].startswith(
        "nmsim: wrong result, no row: M=1 N=32 K=64 fp32 cold, 1 thread: cpu."
    )
    assert "2:4/bitmask: relative error 0.5; an output is 37 times as far off as its roundings allow" in err
    assert not (tmp_path / "rows.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["nowhere"],
            "nmsim: campaign 'nowhere': expected one of cpu, cpu-quick, cuda, cuda-tuning, or the path of a .toml file\n",
        ),
        (["nowhere.toml"], "nmsim: nowhere.toml: cannot be read: No such file"),
        (["cpu", "--device", "tpu"], "nmsim: --device 'tpu': expected one of cpu, cuda\n"),
    ],
)
def test_bad_input_is_one_line_and_code_2(nmsim, arguments, message):
    code, text, err = nmsim("measure", *arguments)
    assert (code, text, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)


def test_a_file_of_something_else_is_refused_untouched(nmsim, campaign, tmp_path):
    rows = tmp_path / "rows.csv"
    rows.write_text("a,b\n")
    code, _, err = nmsim("measure", campaign, "-o", rows)
    assert code == 2
    assert err.startswith(f"nmsim: {rows}: header: missing 'machine'")
    assert rows.read_text() == "a,b\n"


@pytest.mark.parametrize("verb", ["measure", "calibrate"])
def test_no_cuda_device_is_code_3_and_nothing_written(nmsim, tmp_path, monkeypatch, verb):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cuda_device, "problem", lambda: "no CUDA device found")
    code, text, err = nmsim(verb, "--device", "cuda")
    assert (code, text, err) == (3, "", "nmsim: --device cuda: no CUDA device found\n")
    assert list(tmp_path.iterdir()) == []


def test_calibrate_writes_a_machine_that_loads(nmsim, short, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, text, err = nmsim("calibrate")
    assert (code, err) == (0, "in doubt: somebody else was at work\n")
    assert "\n# In doubt: somebody else was at work.\n" in (tmp_path / "pretended-2core.toml").read_text()
    assert "read DRAM" in text
    assert text.endswith("written: pretended-2core.toml; use it as --hardware pretended-2core.toml\n")
    spec = hwmodels.load_machine(tmp_path / "pretended-2core.toml")
    assert (spec.id, spec.family, spec.cores.value) == ("pretended-2core", "cpu", 2)
    assert [(level.level, level.shared, level.bytes.value) for level in spec.cache] == [
        ("L1", False, 1 << 12), ("L2", True, 1 << 16),
    ]  # fmt: skip
    for quantity in (
        spec.clock_hz,
        spec.dram_bandwidth_bytes_per_s,
        spec.thread_wake_s,
        spec.call_overhead_s,
    ):
        assert quantity.kind == "measured"
        assert "nmsim calibrate" in quantity.source
        assert "Pretended CPU, 2 cores, 20" in quantity.source
        assert "p20-p80" in quantity.source
    assert spec.dense_peak_flop_per_s["bf16"].kind == "assumed"


def test_calibrate_refuses_what_is_there_but_for_force(nmsim, short, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("mine")
    code, _, err = nmsim("calibrate", "-o", file)
    assert code == 2
    assert err.startswith(f"nmsim: {file}: exists already")
    assert file.read_text() == "mine"
    code, text, _ = nmsim("calibrate", "-o", file, "--force", "--json")
    assert code == 0
    found = json.loads(text)
    assert (found["id"], found["file"], found["doubts"]) == ("mine", str(file), ["somebody else was at work"])
    assert {"name", "p50", "p20", "p80", "unit", "cores", "repetitions", "how"} == set(found["figures"][0])
    assert hwmodels.load_machine(file).id == "mine"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.txt", "expected a name that ends in .toml"),
        ("My machine.toml", "expected lower case, and an id: letters, digits"),
    ],
)
def test_calibrate_refuses_names_that_are_no_ids(nmsim, short, tmp_path, name, message):
    code, _, err = nmsim("calibrate", "-o", tmp_path / name)
    assert code == 2
    assert message in err
    assert list(tmp_path.iterdir()) == []


def test_a_cuda_calibration_as_a_machine():
    from hwmodels.machine.calibrated import cuda_spec
    from kernels.calibrate.cuda import PEAKS, CudaCalibration
    from kernels.timing.interleaved import Figure
    from nmsim.support.names import machine_id
    from nmsim.support.toml import to_toml

    rate = Figure(4e12, 3e12, 5e12, "bytes_per_s", 1, 15, "a read")
    peaks = {dtype: Figure(7e14, 6e14, 8e14, "flop_per_s", 1, 15, "a product") for dtype in PEAKS}
    launch = Figure(3e-6, 2e-6, 4e-6, "s", 1, 15, "a launch")
    found = CudaCalibration("NVIDIA H200", (9, 0), 132, 1 << 37, 50 << 20, 1.98e9, rate, rate, peaks, launch)
    spec = cuda_spec(found, machine_id(found.device), "2026-01-31")
    assert (spec.id, spec.family, spec.issue_lanes_per_core_per_cycle.value) == ("nvidia-h200", "gpu", 128)
    assert spec.dense_peak_flop_per_s["fp16"].value == 7e14
    assert 'id = "nvidia-h200"' in to_toml(spec)
