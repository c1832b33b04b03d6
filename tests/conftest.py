"""Settings that every test shares."""

import itertools
import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from nmsim.cli import main

# Workers of pytest-xdist share the cores. If threads of BLAS and OpenMP are more than cores, they wait for each other in loops.
WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // WORKERS)))

# Tests start hundreds of processes. Each of them would compile all sources anew if the user keeps no compiled ones.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

settings.register_profile(
    "nmsim",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("nmsim")


def pytest_addoption(parser):
    """Add the options of `make stress` and `make compiled-tests`."""
    group = parser.getgroup("stress", "stress tests")
    group.addoption("--stress", action="store_true", help="try many: minutes instead of seconds")
    group.addoption("--stress-seed", type=int, help="seed of the stress tests (default: drawn, and printed)")
    group.addoption("--stress-figures", metavar="FILE", help="write what the stress tests counted as JSON")
    group = parser.getgroup("compiled", "Triton kernels, compiled, on the emulator")
    group.addoption("--all-compiled", action="store_true", help="run all cases: minutes instead of seconds")
    group.addoption(
        "--capability", type=int, default=90, help="compile for this capability times ten (default: 90)"
    )


@pytest.fixture
def nmsim(capsys):
    """Run a command line; give back exit code, standard output and standard error."""

    def run(*arguments):
        code = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def blank_figures(monkeypatch):
    """Let a study write blank figures: for tests of what it says beside them. Drawing is most of the time of a small study.

    Figures whose names a test adds to this set are drawn. No two blank ones are alike, so that one that was replaced shows.
    """
    from validate.study import report

    drawn, named, numbers = report._drawn, set(), itertools.count()

    def blank(name, *arguments, **options):
        if name in named:
            return drawn(name, *arguments, **options)
        svg = f"<svg id='blank_{next(numbers)}'/>".encode()
        return report.Drawing(name, light_svg=svg, dark_svg=svg, png=svg)

    monkeypatch.setattr(report, "_drawn", blank)
    # This one keeps what it has drawn for the whole process, so a blank figure must not get there.
    monkeypatch.setattr(report, "_drawn_trust", blank)
    return named
