"""Run a whole campaign within its budget: its products first, then its transfers, for which some of the time is kept."""

import time
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from kernels.measure import products as measure
from kernels.measure import transfers as measure_transfers
from kernels.measure.campaign import Campaign
from kernels.measure.products import Backend
from kernels.measure.transfers import TransferBackend
from kernels.timing.rounds import Clock, Outcome, Progress, Stamp
from nmsim.errors import SpecError
from nmsim.rows.measurement import Measurement
from nmsim.rows.transfer import Transfer

TRANSFERS_SHARE = 0.25
"""So much of the budget is kept for transfers while some are to be measured; what they leave unused is not given back."""


@dataclass(frozen=True)
class Files:
    """Where rows go: CSV files of products and of transfers."""

    products: Path
    transfers: Path


def run(
    campaign: Campaign,
    products: Backend,
    transfers: TransferBackend | None,
    files: Files,
    stamp: Stamp,
    *,
    budget_s: float | None = None,
    progress: Progress = lambda text, share: None,
    clock: Clock = time.monotonic,
) -> tuple[Outcome[Measurement], Outcome[Transfer]]:
    """Measure what two files do not hold yet.

    Parameters
    ----------
    campaign : Campaign
    products : Backend
    transfers : TransferBackend or None
        None where a device takes none, for a campaign without any.
    files : Files
        Both are looked at before anything is measured.
    stamp, budget_s, progress, clock
        As for `measure.run`; the budget is that of both.

    Raises
    ------
    RowError
        A file is none of such rows, or ends in half a line.
    SpecError
        The device does not take a round, or what is to be skipped is in none.
    """
    check(campaign, products, transfers)
    if transfers is None:
        assert not campaign.transfers
        return measure.run(
            campaign, products, files.products, stamp, budget_s=budget_s, progress=progress, clock=clock
        ), Outcome()
    budget_s = campaign.budget_s if budget_s is None else budget_s
    n_products = len(measure.plan(campaign, products, files.products, stamp).rounds)
    n_transfers = len(measure_transfers.plan(campaign, transfers, files.transfers, stamp).rounds)
    first = n_products / max(1, n_products + n_transfers)
    end = clock() + budget_s
    multiplied = measure.run(
        campaign, products, files.products, stamp,
        budget_s=budget_s * (1 - TRANSFERS_SHARE) if n_transfers else budget_s,
        progress=lambda text, share: progress(text, first * share),
        clock=clock,
    )  # fmt: skip
    moved = measure_transfers.run(
        campaign, transfers, files.transfers, stamp,
        budget_s=end - clock(),
        progress=lambda text, share: progress(text, first + (1 - first) * share),
        clock=clock,
    )  # fmt: skip
    return multiplied, moved


def check(campaign: Campaign, products: Backend, transfers: TransferBackend | None) -> None:
    """Refuse a campaign that a device does not take, or with a glob of what is to be skipped that fits nothing.

    Nothing is measured, and a device that is not there can be asked too.

    Raises
    ------
    SpecError
        What is wrong, and where.
    """
    labels = {measure.label_of(task) for each in campaign.rounds for task in products.tasks(each)}
    if transfers is not None:
        labels |= {str(task) for each in campaign.transfers for task in transfers.tasks(each)}
    for glob in campaign.skip:
        if not any(fnmatchcase(label, glob) for label in labels):
            raise SpecError(
                f"skip {glob!r}: nothing in campaign {campaign.name} fits; expected a glob of kernel, pattern and "
                f"encoding, such as {min(labels)!r}"
            )
