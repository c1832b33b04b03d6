"""The first minutes on a GPU in one command: `python3 -m kernels.measure.cuda.minute -o FOLDER`.

It needs a checkout, torch, Triton, numpy and ml_dtypes. The work is done by other processes, one after the other
(`kernels.measure.cuda.stages`). An error such as an invalid memory access stays on the device until its process ends. What
such a process was at is left out of the next one. What is in the files already is not measured again.
"""

import argparse
import datetime
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kernels.measure.cuda import compile_cache, dry, stages
from kernels.measure.cuda.backend import CudaBackend
from kernels.measure.cuda.stages import Fault, add_fault, read_faults, read_json, write_json
from kernels.timing import cuda_device, host
from kernels.timing.rounds import DeviceLostError, Stamp
from nmsim.errors import NmsimError, brief
from nmsim.support.checkout import Checkout, checkout
from nmsim.support.names import machine_id

ROOT = Path(__file__).resolve().parents[3]
BUDGET_S = 480.0
"""Leaves two of ten minutes to what comes before and after."""
HANG_S = 150.0
"""A process that has said nothing for so long hangs: compiling all kernels of a part takes less."""
CACHE_FILE = "compiled.tar.xz"
GRACE_S = 45.0
"""A process may take so much longer than its time, to finish its round."""
POLL_S = 0.1
MOST_PROCESSES = 20
RIGHT, WRONG, LOST, NO_DEVICE = range(4)
"""Exit codes: all is right, if not complete; wrong results; the device was lost, and not all could be done; no device."""
STATE = (
    *("clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "clocks_event_reasons.active", "pstate"),
    *("power.draw", "power.limit", "temperature.gpu", "temperature.memory", "utilization.gpu", "memory.used"),
    *("name", "driver_version", "vbios_version", "ecc.mode.current", "mig.mode.current", "compute_mode"),
)
"""What nvidia-smi is asked for: clocks in MHz, power in W, temperatures in degrees Celsius, memory in MiB."""
PACKAGES = (
    *("torch", "triton", "numpy", "numba", "nvidia-cublas", "nvidia-cuda-runtime", "nvidia-cusparselt-cu13"),
    *("nvidia-cudnn-cu13", "nvidia-cusparselt-cu12", "nvidia-cublas-cu12"),
)
"""Packages whose versions are recorded, if they are here."""


def device_state() -> dict[str, str]:
    """Ask nvidia-smi for clocks, power, temperature and modes, one after the other: an old one does not know all of them."""
    return {name: cuda_device.told(name) for name in STATE}


def record_state(folder: Path, when: str, ask: Callable[[], Mapping[str, str]] = device_state) -> None:
    """Add the state of the device and the versions of its libraries to `machine.json`."""
    path = folder / "machine.json"
    now = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    versions = {name: version for name, version in host.versions(PACKAGES).items() if version}
    about = {"when": when, "timestamp_utc": now, "python": sys.version.split()[0]}
    known = read_json(path, [])
    write_json(path, [*known, {**about, "packages": versions, "device": dict(ask())}])


def supervise(
    folder: Path,
    child: Sequence[str],
    *,
    budget_s: float,
    environment: Mapping[str, str] | None = None,
    hang_s: float = HANG_S,
    grace_s: float = GRACE_S,
    ask: Callable[[], Mapping[str, str]] = device_state,
    tell: Callable[[str], object] = print,
) -> int:
    """Start a process, and another one after a fault, until all is done or the time is used up.

    Parameters
    ----------
    folder : Path
        Where the processes write. It gets `machine.json` as well.
    child : sequence of str
        Command of a process, without `--budget-s`.
    budget_s : float
        Seconds for all of them.
    environment : mapping, optional
        Variables of the processes.
    hang_s, grace_s : float
        Seconds without a sign of life, and beyond its time, after which a process is ended.
    ask : callable
        Asks for the state of the device.
    tell : callable
        Gets a line for the user.

    Returns
    -------
    int
        `RIGHT`, `WRONG`, `LOST` or `NO_DEVICE`.
    """
    end = time.monotonic() + budget_s
    code = LOST
    record_state(folder, "before", ask)
    for _ in range(MOST_PROCESSES):
        left_s = end - time.monotonic()
        known = len(read_faults(folder))
        code, why = _run(
            [*child, "--budget-s", f"{left_s:.1f}"], folder, environment, left_s + grace_s, hang_s
        )
        if code in (RIGHT, WRONG, NO_DEVICE):
            break
        if len(read_faults(folder)) == known:
            # The process could not say what it was at: the file of what is under way does.
            at = read_json(folder / "under-way.json", {"stage": "", "round": ""})
            add_fault(folder, Fault("", at["round"], why))
        fault = read_faults(folder)[-1]
        tell(f"lost: {fault.label or 'unknown'} in {fault.round_name or 'no round'}: {fault.said}")
        repeated = any(fault == earlier for earlier in read_faults(folder)[:-1])
        if repeated or end - time.monotonic() < stages.LEAST_S:
            break
        record_state(folder, "after a fault", ask)
    record_state(folder, "after", ask)
    return code


def _run(
    command: Sequence[str], folder: Path, environment: Mapping[str, str] | None, most_s: float, hang_s: float
) -> tuple[int, str]:
    """Exit code of a process, and why it was ended. A process that died by a signal has the code `LOST`."""
    beat = folder / "under-way.json"
    begun = time.monotonic()
    last, last_at = _stamp(beat), begun
    process = subprocess.Popen(command, cwd=ROOT, env=dict(environment or os.environ))
    try:
        while process.poll() is None:
            time.sleep(POLL_S)
            now = time.monotonic()
            if (stamp := _stamp(beat)) != last:
                last, last_at = stamp, now
            if now - begun > most_s:
                return LOST, f"it took more than {most_s:.0f} s"
            if now - last_at > hang_s:
                return LOST, f"it said nothing for {hang_s:.0f} s"
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    code = process.returncode
    return (code, "") if code in (RIGHT, WRONG, LOST, NO_DEVICE) else (LOST, f"the process ended with {code}")


def _stamp(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def work(options: argparse.Namespace) -> int:
    """Run the stages in this process, and print what they did."""
    folder = options.output
    stamp = Stamp(options.machine, options.commit, {"yes": True, "no": False}.get(options.dirty))
    try:
        if options.dry_run:
            with dry.emulated_device():
                backend = dry.backend(options.seed)
                planned = [stages.Stage("campaign", dry.campaign(), "rows.csv", 1.0)]
                report = stages.go(backend, planned, folder, stamp, budget_s=options.budget_s)
        else:
            backend = CudaBackend(options.seed)
            report = stages.go(backend, stages.stages(backend), folder, stamp, budget_s=options.budget_s)
    except DeviceLostError as lost:
        print(f"lost: {lost}", file=sys.stderr)
        return LOST
    print(f"{report.rows} rows written; {report.left} left", flush=True)
    write_json(folder / "report.json", vars(report))
    return WRONG if report.wrong else RIGHT


def _seconds(text: str) -> float:
    """Read a positive number of seconds."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{brief(text)}: expected a positive number of seconds")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m kernels.measure.cuda.minute", description=__doc__)
    add: Callable[..., Any] = parser.add_argument
    add("-o", "--output", type=Path, required=True, help="folder of the results; made if it is not there")
    add(
        "-m",
        "--machine",
        default="",
        help="id of the hardware spec of this machine, such as h200. Default: the device's name",
    )
    add("--budget-s", type=_seconds, default=BUDGET_S, help=f"seconds for all. Default: {BUDGET_S:.0f}")
    add(
        "--cache",
        type=Path,
        help="archive of compiled kernels, as kernels.measure.cuda.compile_cache packs it",
    )
    add("--seed", type=int, default=0, help="seed of the data. Default: 0")
    add(
        "--dry-run",
        action="store_true",
        help="rehearse on the emulator, with small shapes and times that nobody measured",
    )
    add("--process", action="store_true", help=argparse.SUPPRESS)
    add("--commit", default="", help=argparse.SUPPRESS)
    add("--dirty", default="", help=argparse.SUPPRESS)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit code."""
    options = _parser().parse_args(arguments)
    if options.process:
        return work(options)
    try:
        return _begin(options)
    except NmsimError as error:
        print(f"kernels.measure.cuda.minute: {error}", file=sys.stderr)
        return LOST


def _begin(options: argparse.Namespace) -> int:
    folder: Path = options.output.resolve()
    if not options.dry_run and (problem := cuda_device.problem()):
        print(f"kernels.measure.cuda.minute: {problem}", file=sys.stderr)
        return NO_DEVICE
    folder.mkdir(parents=True, exist_ok=True)
    at = checkout(ROOT)
    if options.cache is not None:
        found = compile_cache.unpack(options.cache)
        print(f"{found.files} compiled files unpacked")
        # An archive that was packed from the same sources knows the commit that a copy without .git does not.
        at = at if at.commit else found.checkout
    machine = dry.MACHINE if options.dry_run else options.machine or machine_id(cuda_device.name())
    child = [
        sys.executable,
        "-m",
        "kernels.measure.cuda.minute",
        "--process",
        "-o",
        str(folder),
        "--machine",
        machine,
    ]
    child += ["--seed", str(options.seed), *(["--dry-run"] if options.dry_run else []), *_told(at)]
    (folder / "report.json").unlink(missing_ok=True)
    code = supervise(folder, child, budget_s=options.budget_s)
    if not options.dry_run:
        packed = compile_cache.pack(folder / CACHE_FILE, at)
        print(f"{packed} compiled files packed; carry {CACHE_FILE} to the next machine, as --cache")
    left = read_json(folder / "report.json", {"left": None})["left"]
    if left:
        print(f"{left} rows are left: run the same command again")
    return code


def _told(at: Checkout) -> list[str]:
    dirty = {True: "yes", False: "no", None: ""}[at.dirty]
    return ["--commit", at.commit, "--dirty", dirty]


if __name__ == "__main__":
    sys.exit(main())
