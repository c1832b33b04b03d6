"""The page on models: what loads, and published configurations beside their published totals."""

import json
import textwrap
from pathlib import Path

from hwmodels.models.build import build
from hwmodels.models.families import family_names, table

HERE = Path(__file__).resolve().parents[1]
CACHE_BITS = 16
CONTEXT_TOKENS = 32768
INTRO = """# Models

`nmsim model`, `threshold`, `study`, `predict --model` and `sweep` take a model by name, or any Hugging Face `config.json`.
`nmsim model MODEL` shows its layers, its attention and notes. The notes say what was taken from defaults or left out.

## What is counted

- Linear weights: all matrices of all experts, routers and the output head. No embeddings, norms, biases or convolutions.
- Active weights: those that one token is multiplied with.
- Cache: elements that attention keeps per token, in {bits} bits. Windows cut it for long contexts. A state does not grow.
- The total is compared with the published one. It adds embeddings, and counts a head that shares them once.

`architectures` decides what a model ends in. `...ForCausalLM` has an output head, `...ForSequenceClassification` and
`...RewardModel` have a head over labels, and `...Model` has none. An EAGLE or EAGLE-3 draft head has layers of its own.

`quantization_config` gives the default value type. Heads and routers are not converted.

A key of a wrong type, null in place of a number, and keys that contradict each other are refused.

## Published configurations

The keys and the totals below, and those of the models that ship, were written down without downloading the pages that the
names lead to. The counts are ours, and most totals agree within 0.05 %. Compare a row with its page before you cite it.

| model | linear weights | active weights | cache bytes/token | MiB at {context} tokens | total | published | deviation |
|---|---:|---:|---:|---:|---:|---:|---:|
"""
FAMILIES = """
Sources are in `docs/reference/models.json`. Published totals are those of the checkpoints.

## Families

These values of `model_type` load. A new one is an entry of `hwmodels/models/families.toml`.

"""
REFUSED = """
These are refused by name, with the reason.
"""


def page() -> str:
    """Write the page."""
    text = INTRO.format(bits=CACHE_BITS, context=f"{CONTEXT_TOKENS:,}")
    for entry in json.loads((HERE / "reference/models.json").read_text(encoding="utf-8")):
        model = build(entry["name"], entry["config"], source=entry["source"], where=entry["name"])
        deviation = model.total_elems / entry["published"] - 1
        cells = (
            f"[{model.name}]({model.source})",
            f"{model.weight_elems:,}",
            f"{model.active_elems:,}",
            f"{model.kv_elems_per_token * CACHE_BITS // 8:,}",
            f"{model.kept_elems(CONTEXT_TOKENS) * CACHE_BITS / 8 / 2**20:,.1f}",
            f"{model.total_elems:,}",
            f"{entry['published']:,}",
            f"{deviation:+.3%}",
        )
        text += f"| {' | '.join(cells)} |\n"
    text += FAMILIES + listed(family_names()) + REFUSED
    for reason, names in table()["refused"].items():
        text += f"\nRefused: {reason}.\n\n{listed(names)}"
    return text


def listed(names: list[str]) -> str:
    """A block of names, in lines of a page's width."""
    return f"```text\n{textwrap.fill(' '.join(names), 118, break_on_hyphens=False)}\n```\n"
