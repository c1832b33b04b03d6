"""Sizes, seeds and figures of the stress tests: short in `make test`, long in `make stress`."""

import datetime
import json
import secrets
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from kernels.timing import host

SHORT_SEED = 20260701
SIZES = {
    "streams": (1_000, 1_000_000),
    "damaged files": (150, 10_000),
    "bit flips": (400, 40_000),
    "kills": (3, 50),
    "pairs of writers": (1, 20),
    "costly files": (1, 20),
    "tensors of a costly file": (4, 12),
    "memory tensor MiB": (0, 256),
}
"""What is tried, and how many: in the default suite, and with `--stress`."""


@dataclass
class Run:
    """One stress test: how many to try, the source of its numbers, and the figures it found."""

    stress: bool
    seed: int
    figures: dict[str, object]

    def size(self, what: str) -> int:
        """Say how many of `what` are tried."""
        return SIZES[what][self.stress]

    def rng(self) -> np.random.Generator:
        """Make the generator that all draws of the test come from."""
        return np.random.default_rng(self.seed)

    def tell(self, done: int, total: int) -> None:
        """Print how far the test is: only with `--stress`, some twenty times."""
        step = max(1, total // 20)
        if self.stress and (done % step == 0 or done == total):
            print(f"  {done:,} of {total:,}", file=sys.stderr, flush=True)


@pytest.fixture(scope="session")
def figures(request):
    """Collect what the tests counted; write it as JSON if `--stress-figures FILE` asks for it."""
    found: dict[str, object] = {}
    yield found
    target = request.config.getoption("--stress-figures")
    if target:
        here = host.this_machine()
        git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=10", "HEAD"]
        machine = {
            "cpu": here.processor,
            "cores": here.cores,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "commit": subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip(),
        }
        Path(target).write_text(json.dumps({"machine": machine} | found, indent=1) + "\n")


@pytest.fixture
def run(request, figures):
    """Give the sizes and the seed of a test; print the seed, so that a failure can be tried again."""
    stress = request.config.getoption("--stress")
    asked = request.config.getoption("--stress-seed")
    seed = asked if asked is not None else secrets.randbits(32) if stress else SHORT_SEED
    mine: dict[str, object] = {"seed": seed}
    figures[request.node.name.removeprefix("test_")] = mine
    print(f"{request.node.name}: seed {seed} (again with --stress-seed {seed})", file=sys.stderr)
    begin_s = time.monotonic()
    yield Run(stress, seed, mine)
    mine["took_s"] = round(time.monotonic() - begin_s)
