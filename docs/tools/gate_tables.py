"""Tables of hardware units that the gallery draws, and the table of the page on gates."""

from pathlib import Path

import pandas as pd

from hwmodels.gates.table import Gates, table
from hwmodels.plots.gates import best_rows
from hwmodels.silicon import technology
from nmsim import encodings
from nmsim.pattern import Pattern

PAGE = Path(__file__).parents[1] / "explanation" / "gates.md"
BEGIN, END = "<!-- units: made by `make docs` -->\n", "<!-- end of units -->\n"
PATTERNS = ("1:4", "2:4", "2:8", "4:8", "4:16", "8:16", "16:32")
MAIN = ("2:4", "4:8", "8:16", "16:32")
NODE_NM = 5.0
COLUMNS = (
    "unit", "pattern", "encoding", "variant", "width_bits", "goal", "nand2", "levels", "fo4", "comparators",
)  # fmt: skip
CODES = ("bitmask", "index", "gap", "combinatorial", "tiled")
DRAM = "hbm3"
BEFORE = {
    ("position_decoder", "2:4", "combinatorial"): (53, "and 24 bits of ROM"),
    ("position_decoder", "4:8", "combinatorial"): (240, "and 560 bits of ROM"),
    ("position_decoder", "8:16", "combinatorial"): (3693, "and 585 bits of ROM"),
    ("position_decoder", "16:32", "combinatorial"): (14438, "and 5,038 bits of ROM"),
    ("position_decoder", "2:4", "bitmask"): (53, ""),
    ("position_decoder", "4:8", "bitmask"): (240, ""),
    ("position_decoder", "8:16", "bitmask"): (980, ""),
    ("position_decoder", "16:32", "bitmask"): (3939, ""),
    ("encoder", "8:16", "index"): (980, ""),
    ("encoder", "4:8", "combinatorial"): (320, ""),
    ("encoder", "8:16", "combinatorial"): (1332, "and 362 bits of ROM"),
    ("encoder", "16:32", "combinatorial"): (5486, "and 3,090 bits of ROM"),
}
"""Unit -> NAND2 that the model counted by hand before there was a table; of combinatorial decoders with their registers."""
BEFORE_SELECT = {"mux": 4474, "ordered_mux": 2386, "crossbar": 5277, "butterfly": 4175}
"""Of 8:16, 16 bits."""
BEFORE_SELECTOR = {"all_pairs": 5372, "half": 6701}
"""Of 8:16, keys of 8 bits."""


def units() -> pd.DataFrame:
    """Combinational units of the patterns shown, as the table of synthesis has them."""
    rows = [row for row in table() if row.pattern in PATTERNS and not row.stages]
    return pd.DataFrame([{name: getattr(row, name) for name in COLUMNS} for row in rows])


def codes() -> pd.DataFrame:
    """Bits of each code, and gates of its decoder to positions."""
    decoders = units()
    decoders = decoders[(decoders["unit"] == "position_decoder") & decoders["pattern"].isin(MAIN)]
    least = best_rows(decoders, "area").set_index(["pattern", "encoding"])
    shortest = best_rows(decoders, "delay").set_index(["pattern", "encoding"])
    # Positions are the code itself, and take no gate.
    found = {*least.index, *((name, "index") for name in decoders["pattern"])}
    order = [(name, code) for name in MAIN for code in CODES if (name, code) in found]
    rows = []
    for name, code in order:
        pattern, is_index = Pattern.parse(name), code == "index"
        rows.append(
            {
                "pattern": name,
                "encoding": code,
                "bits_per_group": float(encodings.get(code).bits_per_group(pattern)),
                "bits_per_element": float(encodings.get(code).bits_per_group(pattern)) / pattern.m,
                "entropy_bits_per_element": pattern.entropy_bits / pattern.m,
                "nand2": 0.0 if is_index else least.loc[(name, code), "nand2"],
                "nand2_shallow": 0.0 if is_index else shortest.loc[(name, code), "nand2"],
                "fo4_shallow": 0.0 if is_index else shortest.loc[(name, code), "fo4"],
            }
        )
    return pd.DataFrame(rows)


def pays() -> pd.DataFrame:
    """Codes shorter than a bitmask: what they save, and what their decoders take more."""
    found = codes().set_index(["pattern", "encoding"])
    costs = technology.load(NODE_NM)
    dram = costs.cost("dram_joules_per_bit", DRAM).spread
    rows = []
    for name, code in found.index:
        own, bitmask = found.loc[(name, code)], found.loc[(name, "bitmask")]
        saved = bitmask["bits_per_group"] - own["bits_per_group"]
        more = own["nand2"] - bitmask["nand2"]
        if saved <= 0 or more <= 0:
            continue
        joules = costs.joules(Gates(nand2=more))
        rows.append(
            {
                "pattern": name,
                "encoding": code,
                "saved_bits_per_group": saved,
                "further_nand2": more,
                "saved_bits_per_knand2": 1000 * saved / more,
                "decodes_low": dram.low * saved / joules.high,
                "decodes_nominal": dram.nominal * saved / joules.nominal,
                "decodes_high": dram.high * saved / joules.low,
            }
        )
    return pd.DataFrame(rows)


def page() -> str:
    """The page as it stands, its table made anew."""
    before, rest = PAGE.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + measured() + END + after


def measured() -> str:
    """A line for each unit: before, and as synthesised for few gates and for a short path."""
    rows = units()
    keys = ["unit", "pattern", "encoding", "width_bits"]
    least, shortest = (best_rows(rows, goal).set_index(keys) for goal in ("area", "delay"))
    mapped_for_delay = set(map(tuple, rows.loc[rows["goal"] == "delay", keys].itertuples(index=False)))
    lines = ["| unit | pattern | code or network | before | fewest gates | shortest path |", f"|{'---|' * 6}"]
    for unit in ("decoder", "position_decoder", "encoder"):
        for name in MAIN:
            for code in CODES:
                if (key := (unit, name, code, 0)) in least.index:
                    old, remark = BEFORE.get((unit, name, code), ("", ""))
                    before = f"{_whole(old)} {remark}".strip()
                    # Some large units are mapped for few gates only: nothing is known of their shortest path.
                    quick = shortest.loc[key] if key in mapped_for_delay else None
                    lines.append(_line(unit, name, code, before, least.loc[key], quick))
    for unit, width, olds in (("select", 16, BEFORE_SELECT), ("selector", 8, BEFORE_SELECTOR)):
        own = rows[(rows["unit"] == unit) & (rows["pattern"] == "8:16") & (rows["width_bits"] == width)]
        for variant in dict.fromkeys(own["variant"]):
            both = own[own["variant"] == variant]
            lines.append(
                _line(unit, "8:16", f"`{variant}`, {width} bits", _whole(olds.get(variant, "")),
                      both.loc[both["nand2"].idxmin()], both.loc[both["fo4"].idxmin()])
            )  # fmt: skip
    return "\n" + "\n".join(lines) + "\n\n"


def _line(unit: str, name: str, code: str, old: str, least: pd.Series, shortest: pd.Series | None) -> str:
    shown = [
        "not mapped" if row is None else f"{_whole(row['nand2'])} NAND2, {row['fo4']:.0f} FO4"
        for row in (least, shortest)
    ]
    return f"| {unit.replace('_', ' ')} | {name} | {code} | {old} | {' | '.join(shown)} |"


def _whole(number: object) -> str:
    return f"{number:,.0f}" if isinstance(number, int | float) else str(number)
