"""Kernels compiled ahead of time in a process of their own, in which Triton does not interpret."""

import os
import subprocess
import sys


def lines_of(code, folder):
    """What a program prints, line by line; its compiled kernels go to a folder."""
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    answer = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=env | {"TRITON_CACHE_DIR": str(folder)},
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.splitlines()
