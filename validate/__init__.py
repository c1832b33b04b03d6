"""The judge: bits measured on real tensors, predictions of whole models, and rows beside predictions.

>>> import tempfile
>>> from pathlib import Path
>>> from validate import run_study
>>> out = Path(tempfile.mkdtemp()) / "study"
>>> result = run_study(hardware=["h200"], formats=["8:16/index"], batches=[1], prefill=[], out_dir=out, losses="")
>>> sorted(path.name for path in out.iterdir() if path.suffix == ".csv")
['bits.csv', 'cores.csv', 'model.csv', 'study.csv']

`run_study` writes a report for a checkpoint and a model. `judge_files` joins measured or published rows with predictions and
gives their errors. `measure_quality` prunes the layers of a checkpoint in many ways. `paired_difference` compares losses of
whole models. This package reads files and predictions; it never runs a kernel.
"""

from typing import TYPE_CHECKING

from nmsim.support.lazy import lazy_exports

if TYPE_CHECKING:
    from validate.accuracy.beside_cost import Qualities, read_qualities
    from validate.accuracy.claims import Claim, answer_claims
    from validate.accuracy.gains import gain_table
    from validate.accuracy.losses import LossTable, loss_frame, loss_tables, read_losses
    from validate.accuracy.proxies import beside_quality, proxy_table
    from validate.accuracy.sensitivity import (
        read_sensitivity,
        sensitivity_table,
        sums_of_singles,
        write_sensitivity,
    )
    from validate.accuracy.statistics import (
        Interval,
        difference_of_differences,
        mean_interval,
        paired_difference,
    )
    from validate.judge.judge import Judgement, judge_files
    from validate.quality.measure import QualityRun, measure_quality
    from validate.study.example_checkpoint import write_example
    from validate.study.study import StudyResult, run_study
    from validate.whole_models.errors import WholeModels, judge_whole_models
else:
    __getattr__, __dir__ = lazy_exports(
        __name__,
        {
            "validate.accuracy.claims": "Claim answer_claims",
            "validate.accuracy.gains": "gain_table",
            "validate.accuracy.losses": "LossTable loss_frame loss_tables read_losses",
            "validate.accuracy.proxies": "beside_quality proxy_table",
            "validate.accuracy.sensitivity": "read_sensitivity sensitivity_table sums_of_singles write_sensitivity",
            "validate.accuracy.beside_cost": "Qualities read_qualities",
            "validate.accuracy.statistics": "Interval difference_of_differences mean_interval paired_difference",
            "validate.judge.judge": "Judgement judge_files",
            "validate.quality.measure": "QualityRun measure_quality",
            "validate.study.example_checkpoint": "write_example",
            "validate.study.study": "StudyResult run_study",
            "validate.whole_models.errors": "WholeModels judge_whole_models",
        },
    )

__all__ = [
    "Claim",
    "Interval",
    "Judgement",
    "LossTable",
    "Qualities",
    "QualityRun",
    "StudyResult",
    "WholeModels",
    "answer_claims",
    "beside_quality",
    "difference_of_differences",
    "gain_table",
    "judge_files",
    "judge_whole_models",
    "loss_frame",
    "loss_tables",
    "mean_interval",
    "measure_quality",
    "paired_difference",
    "proxy_table",
    "read_losses",
    "read_qualities",
    "read_sensitivity",
    "run_study",
    "sensitivity_table",
    "sums_of_singles",
    "write_example",
    "write_sensitivity",
]
