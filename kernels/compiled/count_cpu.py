"""`python -m kernels.compiled.count_cpu`: instructions of every compiled CPU kernel as CSV, for `hwmodels/data`."""

import sys

from kernels.cpu.inspect import COUNT_COLUMNS, count_table

if __name__ == "__main__":
    for row in (COUNT_COLUMNS, *count_table()):
        sys.stdout.write(",".join(map(str, row)) + "\n")
