"""Calibrates the machine at hand and measures a campaign on it, both into one folder."""

from dataclasses import dataclass
from pathlib import Path

from nmsim.cli import calibrated_spec
from nmsim.cli.progress import Shares
from nmsim.errors import NmsimError
from nmsim.files import atomic

MACHINE = "this-machine"
CALIBRATION_SHARE = 0.25
"""Of the time that both take together, roughly."""


@dataclass(frozen=True)
class Here:
    """The files of one run, and what speaks against them."""

    hardware: Path
    rows: Path
    doubts: list[str]
    wrong: list[str]


def measure_here(folder: Path, campaign: str, progress: Shares) -> Here:
    """Calibrate, then run a campaign on the CPU at hand.

    Parameters
    ----------
    folder : Path
        Made where it is missing. `this-machine.toml` and `rows.csv` in it are replaced once both are complete.
    campaign : str
        As for `nmsim measure`.
    progress : callable
        Called with the present step and the share that is done.

    Raises
    ------
    NmsimError
        No case gave a row: every result was wrong, or the campaign has none.
    """
    from kernels.calibrate import cpu as calibration
    from kernels.measure import campaign as campaigns
    from kernels.measure import products as measuring
    from kernels.measure.cpu import CpuBackend
    from kernels.timing.host import this_machine
    from kernels.timing.rounds import Stamp
    from nmsim.support.schema import to_toml
    from validate.study import provenance

    chosen = campaigns.without_transfers(campaigns.load(campaign), "the CPU")
    about = provenance.collect(provenance.command_line(), [])
    folder.mkdir(parents=True, exist_ok=True)
    hardware, target = folder / f"{MACHINE}.toml", folder / "rows.csv"
    found = calibration.calibrate(
        this_machine(), progress=lambda share: progress("calibrating this machine", CALIBRATION_SHARE * share)
    )
    partial = atomic.partial_name(target)
    try:
        outcome = measuring.run(
            chosen,
            CpuBackend(chosen.seed),
            partial,
            Stamp(MACHINE, about.commit, about.dirty),
            progress=lambda text, share: progress(text, CALIBRATION_SHARE + (1 - CALIBRATION_SHARE) * share),
        )
        if not outcome.rows:
            raise NmsimError(f"campaign {campaign}: no row; {'; '.join(outcome.wrong) or 'it has no case'}")
        with atomic.new_file(hardware, force=True) as stream:
            spec = calibrated_spec.cpu_spec(found, MACHINE, about.timestamp_utc[:10])
            stream.write(
                to_toml(spec, comment=f"Written by {about.command} on {about.timestamp_utc}.").encode()
            )
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return Here(hardware, target, found.doubts, list(outcome.wrong))
