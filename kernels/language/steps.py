"""Time steps of a whole model on this CPU: its linear layers packed, against the same weights as dense ones.

``python -m kernels.language.steps -o steps.csv`` appends rows to a file. All contenders of a step run interleaved: in each
repetition every one runs once. Weights that are not pruned, such as the embedding, are the same tensors in all of them.
"""

import argparse
import copy
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import nmsim
from kernels import cpu
from kernels.language.model import LanguageModel, load_model
from kernels.ops import NMLinear, sparsify_, stack_
from kernels.stored.nm_weight import as_array, as_sparse
from kernels.timing.host import this_machine, versions
from kernels.timing.interleaved import Spread, interleave, seconds_per_call
from kernels.timing.libraries import threads_of_libraries
from kernels.timing.rounds import Progress, Stamp, rounded, spread_cells
from nmsim import rows as row_files
from nmsim.case import Phase
from nmsim.errors import NmsimError
from nmsim.files.output import ROW_FILE, Output, claimed
from nmsim.format import sparse_format
from nmsim.rows.model_step import ModelStepRow
from nmsim.support.checkout import checkout
from nmsim.units import percent

TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
MOST_ERROR = {"fp32": 1e-4, "bf16": 0.06}
"""Largest difference of a logit that is rounding, over the largest logit: sums have another order through all blocks."""
FORMATS = ("8:16/index", "8:16/bitmask")
DENSE_CALLS = ("F.linear", "cpu.dense_matmul")
SPARSE_CALLS = ("ops.sparse_linear", "ops.sparse_linear stacked", "cpu.matmul")
REST = ("nothing", "dense")
"""The contender whose linear layers multiply nothing: what it takes is what a step takes beside them."""
WARM_UP = 2
Key = tuple[str, str]
"""A call and the format of its weights; `dense` for dense calls."""


@dataclass(frozen=True)
class StepPlan:
    """A step that is timed: `new_tokens` of one sequence, whose context is then `context_tokens`."""

    phase: Phase
    new_tokens: int
    context_tokens: int
    threads: int

    def __str__(self) -> str:
        return f"{self.phase}, context {self.context_tokens}, {self.threads} threads"


class DirectLinear(nn.Module):
    """A linear layer that calls a kernel of `kernels.cpu` without an operator of torch: x [..., K] -> [..., N]."""

    def __init__(self, multiply: Callable[[Any], Any]) -> None:
        super().__init__()
        self._multiply = multiply

    def forward(self, x: Tensor) -> Tensor:
        """Multiply in float32 and round to the type of x."""
        tokens = x.reshape(-1, x.shape[-1]).float().numpy()
        return torch.from_numpy(self._multiply(tokens)).to(x.dtype).reshape(*x.shape[:-1], -1)


class NoLinear(nn.Module):
    """Stands for a linear layer and multiplies nothing: zeros [..., N] that were made before."""

    def __init__(self, out_features: int) -> None:
        super().__init__()
        self._out_features = out_features
        self._zeros: dict[tuple[int, ...], Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        """Give the zeros of this shape."""
        shape = (*x.shape[:-1], self._out_features)
        if shape not in self._zeros:
            self._zeros[shape] = x.new_zeros(shape)
        return self._zeros[shape]


def contenders(model: LanguageModel, dtype: str, formats: Sequence[str]) -> dict[Key, nn.Module]:
    """Make a module per way to call the linear layers. What is not pruned is shared by all.

    Dense weights are those of the first format, with zeros at what it drops. Their values do not change their time.

    Parameters
    ----------
    model : LanguageModel
        Is not changed.
    dtype : str
        A key of `TYPES`.
    formats : sequence of str
    """
    # Copies of modules share what is not pruned, so that memory holds the embedding once.
    base = copy.deepcopy(model.module).to(TYPES[dtype])
    found: dict[Key, nn.Module] = {}
    for text in formats:
        packed = _shared_copy(base)
        sparsify_(packed, text, include=tuple(model.layers))
        stacked, direct = _shared_copy(packed), _shared_copy(packed)
        stack_(stacked)
        for name in model.layers:
            _replace(direct, name, _direct_sparse(packed.get_submodule(name)))
        found |= dict(zip(((call, text) for call in SPARSE_CALLS), (packed, stacked, direct), strict=True))
    linear = dense_twin(base, found[SPARSE_CALLS[0], formats[0]], tuple(model.layers))
    direct, rest = _shared_copy(linear), _shared_copy(linear)
    for name, layer in model.layers.items():
        _replace(direct, name, _direct_dense(linear.get_submodule(name)))
        _replace(rest, name, NoLinear(layer.out_features))
    found[REST] = rest
    return found | dict(zip(((call, "dense") for call in DENSE_CALLS), (linear, direct), strict=True))


def dense_twin(base: nn.Module, packed: nn.Module, names: Sequence[str]) -> nn.Module:
    """Make a model whose linear layers hold what a packed model stores, with zeros where it dropped."""
    twin = _shared_copy(base)
    for name in names:
        layer = packed.get_submodule(name)
        assert isinstance(layer, NMLinear), "sparsify_ put it there"
        linear = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
        linear.weight = nn.Parameter(layer.weight, requires_grad=False)
        linear.register_parameter("bias", layer.bias)
        _replace(twin, name, linear)
    return twin


def weight_bytes(module: nn.Module) -> int:
    """Bytes of all parameters and stored weights of a model, shared ones once."""
    tensors = [*module.parameters(), *(buffer for _, buffer in _stored(module))]
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in tensors}.values())


def _stored(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for part in module.modules():
        if isinstance(part, NMLinear):
            yield from part.named_buffers(recurse=False)


def _shared_copy(module: nn.Module) -> nn.Module:
    """Copy the modules of a model, and none of its tensors."""
    tensors = [*module.parameters(), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


def _replace(module: nn.Module, name: str, layer: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    module.get_submodule(parent)._modules[child] = layer


def _direct_sparse(layer: nn.Module) -> DirectLinear:
    assert isinstance(layer, NMLinear), "sparsify_ put it there"
    weights = as_sparse(layer.values, layer.metadata, layer.format, layer.in_features)
    return DirectLinear(lambda x: cpu.matmul(x, weights, threads=torch.get_num_threads()))


def _direct_dense(layer: nn.Module) -> DirectLinear:
    assert isinstance(layer, nn.Linear)
    weights = as_array(layer.weight.detach())
    return DirectLinear(lambda x: cpu.dense_matmul(x, weights, threads=torch.get_num_threads()))


class Stepper:
    """Runs a step of a model, again and again from the same state.

    Parameters
    ----------
    plan : StepPlan
    filled : nn.Module
        Model that fills the cache with the tokens before the step.
    vocabulary : int
    """

    def __init__(self, plan: StepPlan, filled: nn.Module, vocabulary: int) -> None:
        from transformers import DynamicCache

        ids = torch.arange(plan.context_tokens)[None].mul(7919).remainder(vocabulary)
        self.before = plan.context_tokens - plan.new_tokens
        self.ids, self.cache = ids[:, self.before :], DynamicCache()
        self._new_cache = DynamicCache
        if self.before:
            filled(input_ids=ids[:, : self.before], past_key_values=self.cache, use_cache=True)

    def __call__(self, module: nn.Module) -> Tensor:
        """Logits [vocabulary] after the last token."""
        if self.before:
            self.cache.crop(self.before)
        else:
            self.cache = self._new_cache()
        options = (
            {"logits_to_keep": 1} if "logits_to_keep" in inspect.signature(module.forward).parameters else {}
        )
        answer = module(input_ids=self.ids, past_key_values=self.cache, use_cache=True, **options)
        logits: Tensor = answer.logits[0, -1]
        return logits


def measure_step(
    modules: dict[Key, nn.Module],
    base: nn.Module,
    names: Sequence[str],
    plan: StepPlan,
    *,
    vocabulary: int,
    repetitions: int,
    most_error: float,
    cells: dict[str, Any],
) -> Iterator[ModelStepRow]:
    """Time one step of all contenders, interleaved, and give a row per sparse one.

    Raises
    ------
    NmsimError
        Logits of a sparse contender differ from those of the same weights as dense ones by more than rounding.
    """
    with torch.inference_mode(), threads_of_libraries(plan.threads, torch=torch):
        linear = modules[DENSE_CALLS[0], "dense"]
        stepper = Stepper(plan, linear, vocabulary)
        errors = {}
        # Before anything is timed: a time of wrong logits means nothing.
        for key in [key for key in modules if key[1] != "dense"]:
            twin = dense_twin(base, modules[SPARSE_CALLS[0], key[1]], names)
            want, got = stepper(twin).float(), stepper(modules[key]).float()
            errors[key] = float((got - want).abs().max() / want.abs().max())
            if not errors[key] <= most_error:
                raise NmsimError(
                    f"{plan}: {' '.join(key)}: logits differ by {errors[key]:.2g} of the largest, expected at most "
                    f"{most_error:.2g}"
                )
        for module in modules.values():
            for _ in range(WARM_UP):
                stepper(module)
        samples = interleave(
            {
                key: lambda module=module: seconds_per_call(lambda: stepper(module))  # type: ignore[misc]
                for key, module in modules.items()
            },
            repetitions,
        )
    dense = {key: Spread.of(samples[key]) for key in modules if key[0] in DENSE_CALLS}
    best = min(dense, key=lambda key: dense[key].p50)
    others = [f"{key[0]} {spread.p50 * 1e3:.4g} ms" for key, spread in dense.items() if key != best]
    for key, error in errors.items():
        spreads = {
            "sparse_time_s": Spread.of(samples[key]),
            "dense_time_s": dense[best],
            "speedup_vs_dense": Spread.of(samples[best] / samples[key]),
        }
        yield ModelStepRow(
            **cells, **spread_cells(spreads), format=str(sparse_format(key[1])), phase=plan.phase, batch=1,
            new_tokens=plan.new_tokens, context_tokens=plan.context_tokens, threads=plan.threads, sparse_call=key[0],
            dense_call=best[0], other_dense_calls=", ".join(others), max_rel_err=rounded(error), reps=len(samples[best]),
            rest_time_s=rounded(Spread.of(samples[REST]).p50),
            sparse_bytes=weight_bytes(modules[SPARSE_CALLS[0], key[1]]), dense_bytes=weight_bytes(linear),
        )  # fmt: skip


def measure_model(
    model: LanguageModel,
    path: Path,
    plans: Sequence[StepPlan],
    *,
    stamp: Stamp,
    dtypes: Sequence[str] = tuple(TYPES),
    formats: Sequence[str] = FORMATS,
    repetitions: int = 15,
    progress: Progress = lambda text, share: None,
) -> list[ModelStepRow]:
    """Time steps of a model and append rows to a file. Steps that the file holds for this commit are left out.

    Parameters
    ----------
    model : LanguageModel
        Is not changed.
    path : Path
        CSV file.
    plans : sequence of StepPlan
    stamp : Stamp
        The machine, and the commit of nmsim.
    dtypes, formats : sequence of str
        Keys of `TYPES`; formats that the CPU kernels read.
    repetitions : int
    progress : callable
        Called with the step that is next, and the share that is done.

    Returns
    -------
    list of ModelStepRow
        What was added.

    Raises
    ------
    RowError, BusyError, ContainerError
        The file is no file of such rows, or cannot be written.
    NmsimError
        As `measure_step`.
    """
    names, rows = tuple(model.layers), []
    packages = versions(["torch", "transformers", "numpy", "numba"])
    device = this_machine()
    # Held from the look at what is there to the last row: another run would time the same steps.
    with claimed(Output(path, "rows", ROW_FILE)):
        held = set() if row_files.check(path, ModelStepRow) else {
            (row.dtype, row.phase, row.context_tokens, row.threads)
            for row in row_files.read(path, ModelStepRow)
            if (row.commit, row.machine, row.model_digest) == (stamp.commit, stamp.machine, model.digest)
        }  # fmt: skip
        for place, dtype in enumerate(dtypes):
            fresh = [
                plan for plan in plans if (dtype, plan.phase, plan.context_tokens, plan.threads) not in held
            ]
            if not fresh:
                continue
            modules = contenders(model, dtype, formats)
            base = copy.deepcopy(model.module).to(TYPES[dtype])
            for number, plan in enumerate(fresh):
                progress(f"{dtype}, {plan}", (place + number / len(fresh)) / len(dtypes))
                cells = {
                    **stamp.cells(), **packages, "device": f"{device.processor}, {device.cores} cores",
                    "model": model.name, "model_digest": model.digest, "dtype": dtype,
                }  # fmt: skip
                for row in measure_step(
                    modules, base, names, plan, vocabulary=model.vocabulary, repetitions=repetitions,
                    most_error=MOST_ERROR[dtype], cells=cells,
                ):  # fmt: skip
                    row_files.append(path, row)
                    rows.append(row)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the command line says, and print a line per row."""
    parser = argparse.ArgumentParser(prog="python -m kernels.language.steps", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="CSV file that rows are appended to")
    parser.add_argument("--model", default="smollm2", help="as for nmsim perplexity")
    parser.add_argument(
        "--machine", default="", help="id of the machine; default: as nmsim calibrate names it"
    )
    parser.add_argument("--dtypes", default=",".join(TYPES), help="value types, commas between them")
    parser.add_argument("--formats", default=",".join(FORMATS), help="formats, commas between them")
    parser.add_argument("--contexts", default="64,512", help="tokens of contexts in decode")
    parser.add_argument("--prefill", default="128", help="tokens of prompts; empty for none")
    parser.add_argument("--threads", default="", help="numbers of cores; default: 1 and all")
    parser.add_argument("--repetitions", type=int, default=15)
    asked = parser.parse_args(arguments)
    # Before the model is loaded, which takes longest: a row must name what ran.
    host = this_machine()
    found = checkout(Path(nmsim.__file__).resolve().parent.parent)
    cores = _numbers(asked.threads) or sorted({1, host.cores})
    plans = [
        plan
        for threads in cores
        for plan in (
            *(StepPlan("decode", 1, context, threads) for context in _numbers(asked.contexts)),
            *(StepPlan("prefill", tokens, tokens, threads) for tokens in _numbers(asked.prefill)),
        )
    ]
    try:
        rows = measure_model(
            load_model(asked.model), asked.output, plans,
            stamp=Stamp(asked.machine or host.id, found.commit, found.dirty),
            dtypes=asked.dtypes.split(","), formats=asked.formats.split(","), repetitions=asked.repetitions,
            progress=lambda text, share: print(f"{percent(share, 0)}  {text}", file=sys.stderr, flush=True),
        )  # fmt: skip
    except NmsimError as error:
        print(f"steps: {error}", file=sys.stderr)
        return 2
    for row in rows:
        print(
            f"{row.dtype} {row.format:24} {row.phase} {row.context_tokens:5} tokens {row.threads} threads  "
            f"{row.sparse_call:26} {row.sparse_time_s * 1e3:8.2f} ms, dense {row.dense_time_s * 1e3:8.2f} ms "
            f"({row.dense_call}), {row.speedup_vs_dense:.3f}x"
        )
    return 0


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


if __name__ == "__main__":
    sys.exit(main())
