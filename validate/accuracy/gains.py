"""What each mitigation and each criterion changes: its loss minus that without it, paired by window."""

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from nmsim.quality.way import NONE, Way
from nmsim.rows.loss import OPERANDS, LossRow
from validate.accuracy.losses import DENSE, LossTable, ends, loss_tables, with_way
from validate.accuracy.statistics import (
    FEWEST_WINDOWS,
    UNDECIDED,
    UNKNOWN,
    Interval,
    paired_difference,
    ratio_of_means,
)

GAIN_COLUMNS = (
    "model", "text", "windows", "operand", "pattern", "criterion", "mitigation", "against",
    "change", "change_low", "change_high", "share", "share_low", "share_high", "verdict",
)  # fmt: skip
"""Columns of `gain_table`.

`change` is in nats per token, below zero if the way loses less than `against`. `share` is the change over the loss increase of
`against`. With fewer than 8 windows the verdict is "cannot be decided".
"""
HELPS, HURTS = "helps", "hurts"
MAGNITUDE, WANDA = "magnitude", "channel_vector"


def gain_table(rows: Iterable[LossRow]) -> pd.DataFrame:
    """Compare each way with the same way less one thing: without mitigation, or by a plainer criterion.

    Parameters
    ----------
    rows : iterable of LossRow
        Those that prune one operand of all layers count.

    Returns
    -------
    DataFrame
        `GAIN_COLUMNS`: one row per way and what it is compared with. Mitigations are compared with `none` under the same
        criterion. Criteria without mitigation are compared with `magnitude`, and those of weights with `channel_vector` too.

    Raises
    ------
    RowError
        As `loss_tables`.
    """
    found = [record for table in loss_tables(rows) for record in _records(table)]
    return pd.DataFrame(found, columns=list(GAIN_COLUMNS))


def _records(table: LossTable) -> Iterator[dict[str, Any]]:
    for operand in OPERANDS:
        ways = table.ways(operand)
        for way, configuration in ways.items():
            for against, plainer in _plainer(way):
                if plainer not in ways:
                    continue
                ours, theirs = table.losses(configuration, with_way(DENSE, plainer))
                change = paired_difference(ours, theirs)
                yield {
                    "model": table.setting.model,
                    "text": table.setting.text,
                    "windows": len(ours),
                    "operand": operand,
                    "pattern": str(way.pattern),
                    "criterion": way.criterion,
                    "mitigation": way.mitigation_text,
                    "against": against,
                    **ends("change", change),
                    **ends("share", _share(table, way, plainer)),
                    "verdict": (UNDECIDED, HURTS, HELPS)[change.sign if len(ours) >= FEWEST_WINDOWS else 0],
                }


def _share(table: LossTable, way: Way, plainer: Way) -> Interval:
    one, other = with_way(DENSE, way), with_way(DENSE, plainer)
    if not table.has(DENSE):
        return UNKNOWN
    dense, ours, theirs = table.losses(DENSE, one, other)
    return ratio_of_means(ours - theirs, theirs - dense)


def _plainer(way: Way) -> Iterator[tuple[str, Way]]:
    """What a way is compared with, by the name of what differs."""
    if way.mitigation:
        yield NONE, way._replace(mitigation=())
        return
    like = {"unstructured_channel_vector": "unstructured"}.get(way.criterion, MAGNITUDE)
    names = [like, WANDA] if way.operand == "weights" and like == MAGNITUDE else [like]
    if way.criterion not in (MAGNITUDE, "unstructured"):
        yield from ((name, way._replace(criterion=name)) for name in names if name != way.criterion)
