"""The first minutes on a GPU, rehearsed: compiled kernels on the emulator, faults and short budgets that are planted."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("triton")

import torch
import triton
from triton.runtime.jit import JITFunction

from kernels.measure.cuda import compile_cache, dry, fill, minute, stages
from kernels.measure.cuda.backend import CudaBackend
from kernels.measure.cuda.calls import PRODUCTS
from kernels.measure.cuda.movers import KERNELS
from kernels.measure.round import combined, shipped_campaign
from kernels.timing.rounds import Stamp
from nmsim import rows as row_files
from nmsim.case import GemmShape
from nmsim.errors import NmsimError
from nmsim.support.checkout import Checkout

ROOT = Path(__file__).parents[3]
CLEAN = Checkout("0123abc", False)
STAMP = Stamp("dry-run", "0123abc", False)
INDEX = "gpu.gemv 8:16/index"
ALL = ["gpu.gemv bitmask", "gpu.gemv index", "torch.fp8 ", "gpu.gemv bitmask", "gpu.read "]


@pytest.fixture
def script(tmp_path, monkeypatch, triton_device):
    """Run the whole script on the emulator, its processes in this one; give the exit code."""
    if triton_device.type != "cpu":
        pytest.skip("the rehearsal is for machines without a GPU")
    folder = tmp_path / "out"

    def run_here(command, folder, environment, most_s, hang_s):
        return minute.main(command[3:]), ""

    monkeypatch.setattr(minute, "_run", run_here)

    def go(*options):
        return minute.main(["-o", str(folder), "--dry-run", *options])

    return folder, go


def measured(folder):
    return [f"{row.kernel} {row.encoding}" for row in row_files.read(folder / "rows.csv")]


def lose_the_device(monkeypatch, label):
    """Plant an error that stays on the device until its process ends, in one kernel on one format."""

    class Clock(dry.DryClock):
        lost = False

        def synchronize(self):
            if self.lost:
                raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def backend(seed):
        clock = Clock()
        whole = PRODUCTS["gpu.gemv"]

        def build(packed, *operands, **options):
            if f"gpu.gemv {packed.format.pattern}/{packed.format.encoding.name}" == label:
                clock.lost = True
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            return whole.build(packed, *operands, **options)

        products = {**PRODUCTS, "gpu.gemv": replace(whole, build=build)}
        return CudaBackend(seed, device="cpu", clock=clock, products=products)

    monkeypatch.setattr(dry, "backend", backend)


def test_the_whole_script_goes_on_after_a_fault_and_is_not_done_twice(script, monkeypatch, capsys):
    folder, go = script
    lose_the_device(monkeypatch, INDEX)
    assert go() == minute.RIGHT
    assert measured(folder) == [each for each in ALL if each != "gpu.gemv index"]
    (fault,) = json.loads((folder / "faults.json").read_text())
    assert (fault["label"], fault["round_name"]) == (INDEX, "M=1 N=32 K=64 bf16 cold, 1 thread")
    assert "illegal memory access" in fault["said"]
    states = json.loads((folder / "machine.json").read_text())
    assert [state["when"] for state in states] == ["before", "after a fault", "after"]
    assert states[0]["packages"]["triton"]
    rows = row_files.read(folder / "rows.csv")
    assert {row.machine for row in rows} == {"dry-run"}
    assert all(row.kernel_sources for row in rows if row.kernel.startswith("gpu."))
    # What the device was lost in stays left out; all else is there already.
    assert go() == minute.RIGHT
    assert row_files.read(folder / "rows.csv") == rows
    assert "0 rows written; 0 left" in capsys.readouterr().out


def test_a_short_budget_leaves_rows_for_the_next_call_and_slow_dense_calls_make_them_void(
    tmp_path, triton_device
):
    if triton_device.type != "cpu":
        pytest.skip("the rehearsal is for machines without a GPU")
    device = dry.backend(0)
    whole, now = device._contender, [0.0]

    def contender(of, name, case, *rest):
        def sample():
            now[0] += 1.0
            return 0.8e-6 if name == "torch.copy_" else 1e-6

        return replace(whole(of, name, case, *rest), sample=sample)

    device._contender = contender
    planned = [stages.Stage("campaign", dry.campaign(), "rows.csv", 1.0)]

    def go(budget_s):
        return stages.go(device, planned, tmp_path, STAMP, budget_s=budget_s, clock=lambda: now[0])

    first = go(stages.LEAST_S + 1)
    assert (first.rows, first.left) == (2, 3)
    assert measured(tmp_path) == ALL[:2]
    assert {row.mark for row in row_files.read(tmp_path / "rows.csv")} == {"slow dense call"}
    assert go(1.0).left == 5  # no part is begun; what is there already is not looked up
    second = go(1000.0)
    assert (second.rows, second.left) == (3, 0)
    assert measured(tmp_path) == ALL


def test_a_fault_of_a_dense_call_leaves_its_round_out(tmp_path):
    device, whole = dry.backend(0), dry.campaign()
    names = [str(each) for each in whole.rounds]
    fault = stages.Fault("F.linear", names[0], "lost")
    left = stages._without(whole, device, ["F.linear"], [fault])
    assert str(left.rounds[0]) == names[2]
    assert left.skip == ()
    kept = stages._without(whole, device, [INDEX], [stages.Fault(INDEX, names[0], "lost")])
    assert (len(kept.rounds), kept.skip) == (4, (INDEX,))


def test_a_name_with_brackets_is_skipped_as_it_is_written():
    device, tuning = dry.backend(0), shipped_campaign("cuda-tuning")
    label = "gpu.gemv[warps=4,n_parts=2] 8:16/index"
    left = stages._without(tuning, device, [label], [stages.Fault(label, "", "lost")])
    assert left.skips(label)
    assert not left.skips("gpu.gemv[warps=4,n_parts=4] 8:16/index")


def test_the_smoke_test_tries_every_kernel_there_is():
    device = CudaBackend(device="cpu", clock=object())
    tasks = [task for each in stages.smoke(device).rounds for task in device.tasks(each)]
    assert {kernel for _, kernel in tasks} == {*PRODUCTS, *KERNELS}
    assert len(tasks) < 150


def test_parts_are_whole_campaigns_in_order():
    cuda = shipped_campaign("cuda")
    found = list(stages.parts(cuda))
    assert [each for part in found for each in part.rounds] == list(cuda.rounds)
    assert max(len(part.rounds) for part in found) == stages.ROUNDS_AT_ONCE


# processes that only pretend


BEHAVIOURS = {
    "right": "sys.exit(0)",
    "wrong": "sys.exit(1)",
    "lost once": "if n == 0: fault('gpu.gemv 8:16/index'); sys.exit(2)\nsys.exit(0)",
    "lost always": "fault('gpu.gemv 8:16/index'); sys.exit(2)",
    "dies once": "if n == 0: os.kill(os.getpid(), 9)\nsys.exit(0)",
    "hangs once": "if n == 0: time.sleep(60)\nsys.exit(0)",
    "no device": "sys.exit(3)",
}


@pytest.mark.parametrize(
    ("behaviour", "code", "runs", "fault"),
    [
        ("right", minute.RIGHT, 1, None),
        ("wrong", minute.WRONG, 1, None),
        ("lost once", minute.RIGHT, 2, (INDEX, "R1", "lost")),
        ("lost always", minute.LOST, 2, (INDEX, "R1", "lost")),
        ("dies once", minute.RIGHT, 2, ("", "R0", f"the process ended with {-signal.SIGKILL}")),
        ("hangs once", minute.RIGHT, 2, ("", "R0", "it said nothing for 1 s")),
        ("no device", minute.NO_DEVICE, 1, None),
    ],
)
def test_another_process_follows_one_that_was_lost(tmp_path, behaviour, code, runs, fault):
    program = f"""
        import json, os, pathlib, sys, time
        folder = pathlib.Path({str(tmp_path)!r})
        runs = folder / "runs"
        n = len(runs.read_text()) if runs.exists() else 0
        runs.write_text("x" * (n + 1))
        (folder / "under-way.json").write_text(json.dumps({{"stage": "campaign", "round": f"R{{n}}"}}))
        def fault(label):
            known = json.loads((folder / "faults.json").read_text()) if n else []
            known.append({{"label": label, "round_name": "R1", "said": "lost"}})
            (folder / "faults.json").write_text(json.dumps(known))
        """
    child = tmp_path / "child.py"
    child.write_text(textwrap.dedent(program) + BEHAVIOURS[behaviour])
    said = []
    found = minute.supervise(
        tmp_path, [sys.executable, str(child)], budget_s=60, hang_s=1, ask=lambda: {"power.draw": "90"}, tell=said.append
    )  # fmt: skip
    assert (found, len((tmp_path / "runs").read_text())) == (code, runs)
    faults = stages.read_faults(tmp_path)
    assert [vars(each) for each in faults][:1] == (
        [] if fault is None else [dict(zip(("label", "round_name", "said"), fault, strict=True))]
    )
    assert len(said) == len(faults)
    states = json.loads((tmp_path / "machine.json").read_text())
    assert (states[0]["when"], states[-1]["when"]) == ("before", "after")
    assert states[0]["device"] == {"power.draw": "90"}


def test_a_process_that_outlives_its_time_is_ended(tmp_path):
    child = [sys.executable, "-c", "import time; time.sleep(60)"]
    assert minute.supervise(tmp_path, child, budget_s=0.5, grace_s=0.5, ask=dict, tell=print) == minute.LOST


def test_without_a_device_it_says_so_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(minute.cuda_device, "problem", lambda: "no CUDA device found")
    assert minute.main(["-o", str(tmp_path / "out")]) == minute.NO_DEVICE
    assert "no CUDA device found" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_of_faults_is_named(tmp_path):
    (tmp_path / "faults.json").write_text("[{")
    with pytest.raises(
        minute.NmsimError, match=r"faults.json: no JSON .*expected a file of an earlier run; remove it"
    ):
        stages.read_faults(tmp_path)


ALONE = """
import sys
missing = {names}
class Refuses:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in missing:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuses())
from kernels.measure.cuda import minute, stages
from kernels.measure.cuda.backend import CudaBackend
device = CudaBackend(device="cpu", clock=object())
print(sum(len(device.tasks(each)) for stage in stages.stages(device) for each in stage.campaign.rounds))
if {whole}:
    sys.exit(minute.main(["--process", "-o", {folder!r}, "--machine", "dry-run", "--dry-run", "--budget-s", "300"]))
"""
NEEDED = {"numpy", "ml_dtypes", "filelock"}
"""The last comes with torch."""


def test_it_needs_torch_triton_numpy_and_ml_dtypes_alone(tmp_path, request):
    text = (ROOT / "pyproject.toml").read_text()
    listed = text[text.index("dependencies = [") :].partition("]")[0]
    names = {
        line.strip().strip('",').partition(">")[0].lower() for line in listed.splitlines()[1:] if line.strip()
    }
    names = {{"pyyaml": "yaml"}.get(name, name) for name in names} - NEEDED
    assert {"pydantic", "numba", "typer"} <= names
    whole = request.config.getoption("--all-compiled")
    program = ALONE.format(names=names | {"pydantic_core"}, whole=whole, folder=str(tmp_path))
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert int(run.stdout.splitlines()[0]) > 2000
    if whole:
        # In main memory the host packs, which takes numba; on a GPU kernels do. Such rows are refused, and no more.
        assert measured(tmp_path) == ["torch.fp8 ", "gpu.read "]
        assert "refused: " in run.stdout
        assert "needs numba" in run.stdout


# what was compiled travels


@pytest.fixture
def compiled(tmp_path):
    """A folder as Triton keeps it: machine code, steps on the way, and a list of absolute paths."""
    folder = tmp_path / "there" / "KEY"
    folder.mkdir(parents=True)
    names = ("k.cubin", "k.json", "k.ptx")
    for name in names:
        (folder / name).write_text(f"{name} as compiled")
    group = {"child_paths": {name: str(folder / name) for name in names}}
    (folder / "__grp__k.json").write_text(json.dumps(group))
    return folder.parent


def test_what_was_compiled_is_found_in_another_folder(compiled, tmp_path):
    archive, here = tmp_path / "c.tar.xz", tmp_path / "here"
    assert compile_cache.pack(archive, CLEAN, compiled) == 3
    assert compile_cache.unpack(archive, here) == compile_cache.Unpacked(3, CLEAN)
    assert {path.name for path in (here / "KEY").iterdir()} == {"k.cubin", "k.json", "__grp__k.json"}
    paths = json.loads((here / "KEY" / "__grp__k.json").read_text())["child_paths"]
    assert {name: Path(path).read_text() for name, path in paths.items()} == {
        name: f"{name} as compiled" for name in ("k.cubin", "k.json")
    }
    assert compile_cache.unpack(archive, here).files == 0  # what is there stays


def test_the_commit_of_an_archive_is_taken_for_the_same_kernels_only(compiled, tmp_path, monkeypatch):
    archive = tmp_path / "c.tar.xz"
    compile_cache.pack(archive, CLEAN, compiled)
    monkeypatch.setattr(compile_cache, "sources_digest", lambda: "others")
    assert compile_cache.unpack(archive, tmp_path / "here").checkout == Checkout("", None)


@pytest.mark.parametrize("name", ["../KEY/k.cubin", "/etc/k.cubin", "k.cubin", "a/b/c.cubin", "../k.cubin"])
def test_a_file_that_would_lie_elsewhere_is_refused(tmp_path, name):
    archive = tmp_path / "c.tar.xz"
    with tarfile.open(archive, "w:xz") as tar:
        compile_cache._add(tar, name, b"x")
    with pytest.raises(
        NmsimError, match=r"c.tar.xz: cannot be unpacked: .*: expected FOLDER/FILE; expected an archive"
    ):
        compile_cache.unpack(archive, tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_what_is_no_archive_is_refused(tmp_path):
    (tmp_path / "c.tar.xz").write_text("no archive")
    with pytest.raises(NmsimError, match="cannot be unpacked"):
        compile_cache.unpack(tmp_path / "c.tar.xz", tmp_path / "here")


def test_the_folder_is_the_one_of_triton(monkeypatch):
    for name in ("TRITON_CACHE_DIR", "TRITON_HOME"):
        monkeypatch.delenv(name, raising=False)
        assert str(compile_cache.cache_folder()) == triton.knobs.cache.dir
    monkeypatch.setenv("TRITON_HOME", "/somewhere")
    assert str(compile_cache.cache_folder()) == triton.knobs.cache.dir
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    assert str(compile_cache.cache_folder()) == triton.knobs.cache.dir == "/elsewhere"


SMALL = {"shapes": [GemmShape(1, 32, 64)], "patterns": ["8:16"], "dtypes": ["bf16"], "l2_state": ["cold"]}


def test_what_is_compiled_without_a_device_is_what_a_launch_looks_for(tmp_path, monkeypatch, triton_device):
    if triton_device.type != "cpu":
        pytest.skip("a launch loads what it compiles")
    from kernels.gpu.products import gemv

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    (of,) = combined(**SMALL, encodings=["index"], kernels=["gpu.gemv[warps=4,n_parts=1]"])
    gemv.gemv_kernel.device_caches.clear()
    hollow = fill.HollowBackend()
    with fill.pretended_device(fill.H200, 90) as launched:
        hollow.compile(of, hollow.tasks(of))
    # The dense rival of the round is compiled with it.
    assert (dict(launched), hollow.refused) == ({"gemv_kernel": 1, "dense_kernel": 1}, {})
    compiled_ahead = {path.name for path in tmp_path.glob("*/*.cubin")}
    folders = {path.name for path in tmp_path.iterdir()}
    assert compiled_ahead
    # A real launch, of real tensors, finds all of it.
    gemv.gemv_kernel.device_caches.clear()
    device = dry.backend(0)
    ((case, kernel),) = device.tasks(of)
    weights, tokens = device._operands(of)
    found = device._builder(case, kernel, weights, tokens)(0).run()
    want = tokens.dense.float() @ weights.pruned(case.pattern).float().T
    assert (found.float() - want).abs().max() < 0.1
    assert {path.name for path in tmp_path.iterdir()} == folders


def test_every_product_can_be_compiled_ahead(monkeypatch):
    device, launched = fill.HollowBackend(), []

    def run(kernel, *args, grid, warmup=False, **options):
        launched.append(kernel.__name__)
        return fill.Compiled(b"")

    monkeypatch.setattr(fill.Compiled, "n_regs", 64)
    with fill.pretended_device(fill.H200, 90):
        monkeypatch.setattr(JITFunction, "run", run)
        for of in (each for each in stages.smoke(device).rounds if each.shape.M in (1, 16)):
            device.compile(replace(of, formats=of.formats[:1]), device.tasks(of)[:1])
    assert not device.refused
    assert {
        "gemv_kernel",
        "mma_kernel",
        "gemm_kernel",
        "product_kernel",
        "skip_gemv_kernel",
        "dense_kernel",
    } <= {*launched}


def test_plans_are_those_of_the_pretended_device_and_end_with_it():
    from kernels.gpu.products import gemm, plan

    cuda = torch.device("cuda", 0)
    before = gemm.split
    with fill.pretended_device({**fill.H200, "multi_processor_count": 20}, 90):
        assert plan.machine_of(cuda).processors == 20
        assert gemm.split(1 << 16, 64, 1, torch.device("meta"))[0] in (79, 80)
    assert gemm.split is before
    assert before(1 << 16, 64, 1, torch.device("meta"))[0] == 1
    with fill.pretended_device(fill.H200, 90):
        assert plan.machine_of(cuda).processors == 132


def test_the_key_is_that_of_the_wheel_named(tmp_path):
    from triton.runtime import cache

    (tmp_path / "triton").symlink_to(Path(triton.__file__).parent)
    (tmp_path / f"triton-{triton.__version__}.dist-info").mkdir()
    own = cache.triton_key()
    with fill.key_of(tmp_path):
        assert cache.triton_key() == own
    copy = tmp_path / "other"
    (copy / f"triton-{triton.__version__}.dist-info").mkdir(parents=True)
    for name in ("runtime", "compiler", "backends", "language", "_C"):
        (copy / "triton" / name).mkdir(parents=True)
    shutil.copy(Path(cache.__file__), copy / "triton" / "runtime")
    (copy / "triton" / "_C" / "libtriton.so").write_bytes(b"for another Python")
    with fill.key_of(copy):
        assert cache.triton_key() != own
    assert cache.triton_key() == own


def test_a_folder_that_is_no_wheel_of_this_version_is_refused(tmp_path, capsys):
    assert fill.main(["-o", str(tmp_path / "c.tar.xz"), "--triton", str(tmp_path)]) == 2
    assert f"{tmp_path}: expected an unpacked wheel of Triton {triton.__version__}" in capsys.readouterr().err
    assert not (tmp_path / "c.tar.xz").exists()


def test_filling_ends_with_its_time(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    assert fill.main(["-o", str(tmp_path / "c.tar.xz"), "--budget-s", "0"]) == 0
    assert "rounds are left: run the same command again" in capsys.readouterr().out


def test_commands_of_the_page_are_understood():
    page = (ROOT / "docs" / "how-to" / "measure.md").read_text()
    parsers = {"minute": minute._parser(), "fill": fill._parser()}
    found = re.findall(r"^python3? -m kernels\.measure\.cuda\.(\w+) ([^#\n]+)", page, re.M)
    assert {name for name, _ in found} == set(parsers)
    for name, arguments in found:
        parsers[name].parse_args(shlex.split(arguments))


def test_the_smoke_test_is_right_on_the_emulator(tmp_path, triton_device, request, monkeypatch):
    if triton_device.type != "cpu" or not request.config.getoption("--all-compiled"):
        pytest.skip("compiles every kernel: some minutes, with --all-compiled")
    monkeypatch.setattr(stages, "SMOKE_SHAPE", (32, 64))
    device = dry.backend(0)
    planned = [stages.Stage("smoke", stages.smoke(device), "smoke.csv", 1.0)]
    report = stages.go(device, planned, tmp_path, STAMP, budget_s=1e9)
    assert (report.wrong, report.left) == ([], 0)
    # Libraries of a GPU are refused here, and nothing else is.
    assert all("torch.cu" in line for line in report.refused), report.refused
    assert {row.kernel for row in row_files.read(tmp_path / "smoke.csv")} >= {
        name for name in PRODUCTS if "gpu." in name
    }
