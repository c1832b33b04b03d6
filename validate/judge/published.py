"""Makes `data/published.csv`, the literature's rows in our schema: `python -m validate.judge.published`.

`python -m validate.judge.published COLLECTED -o validate/data/published_more.parquet` makes the large table of published rows
from a table as collected, CSV or Parquet. Its sources stand in `validate/data/published_more.toml`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from nmsim import rows
from nmsim.errors import NmsimError
from validate.judge.names import Machines
from validate.judge.row_table import SUFFIX, write_row_table
from validate.judge.rows import DATA_FOLDER, PUBLISHED_FILE, read_literature, with_facts_of_note

SOURCE_FILE = DATA_FOLDER / "published_source.csv"


def main(arguments: Sequence[str] | None = None) -> None:
    """Turn a literature table into rows of our schema."""
    parser = argparse.ArgumentParser(prog="python -m validate.judge.published", description=__doc__)
    parser.add_argument("source", nargs="?", type=Path, default=SOURCE_FILE, help="literature table")
    parser.add_argument("-o", "--output", type=Path, default=PUBLISHED_FILE)
    parser.add_argument(
        "--older", type=Path, help="instead, give a file of rows of an older version all columns"
    )
    options = parser.parse_args(arguments)
    try:
        if options.older is not None:
            rows.write(options.older, [with_facts_of_note(row) for row in rows.read(options.older)])
            return
        published, _ = read_literature(options.source, Machines())
        if options.output.suffix == SUFFIX:
            write_row_table(options.output, published)
        else:
            rows.write(options.output, published)
    except NmsimError as error:
        sys.exit(f"validate.judge.published: {error}")
    print(f"{options.output}: {len(published)} rows")


if __name__ == "__main__":
    main()
