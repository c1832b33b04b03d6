"""Work on several cores, interrupted. In processes of their own: a lock that stays locked would hang the tests."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nmsim

ROOT = Path(nmsim.__file__).parents[1]
PROGRAM = """
import os, signal, sys
from nmsim.support import parallel

number, ended, held = int(sys.argv[1]), [], []

def work(item):
    held.append(signal.getsignal(number) is not leave)
    if item == 0:
        os.kill(os.getpid(), number)
    ended.append(item)
    return item

def leave(number, frame):
    raise SystemExit(128 + number)

signal.signal(number, leave)
try:
    parallel.run(work, range(40), threads=3)
except SystemExit as stop:
    assert stop.code == 128 + number
else:
    raise AssertionError("the signal was lost")
assert all(held)
assert sorted(ended) == list(range(40))
assert signal.getsignal(number) is leave
assert parallel.run(abs, range(40), threads=3) == list(range(40))
print("all as expected")
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_waits_until_no_lock_of_the_pool_can_stay_locked(name):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(int(signal.Signals[name]))],
        capture_output=True,
        text=True,
        timeout=60,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert (done.returncode, done.stdout) == (0, "all as expected\n"), done.stderr
