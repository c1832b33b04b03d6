"""Start-up times of the package and its command line, beside what they stand on: `python docs/tools/figures/startup.py`.

Every command runs in a process of its own, nine times, one after the other in turn. The median is printed.
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    'python -c "import typer"': ("-c", "import typer"),
    "nmsim --version": ("-m", "nmsim", "--version"),
    "nmsim --help": ("-m", "nmsim", "--help"),
    'python -c "import nmsim"': ("-c", "import nmsim"),
    'python -c "from nmsim import compress"': ("-c", "from nmsim import compress"),
}
REPETITIONS = 9


def main() -> None:
    """Time the commands and print a table."""
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(REPETITIONS):
        for name, arguments in COMMANDS.items():
            start_s = time.perf_counter()
            subprocess.run([sys.executable, *arguments], capture_output=True, check=True)
            seconds[name].append(time.perf_counter() - start_s)
    for name, times in seconds.items():
        print(f"{name:40} {1e3 * statistics.median(times):6.0f} ms")


if __name__ == "__main__":
    main()
