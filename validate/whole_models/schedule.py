"""Which steps a run of `vllm bench throughput` takes: its scheduler, counted step by step."""

from collections import Counter
from collections.abc import Iterator

import numpy as np

from hwmodels.steps.serving import CAPTURED_PER_SEQUENCE, MOST_CAPTURED, Steps


def scheduled(
    *, requests: int, sequences: int, prompt_tokens: int, output_tokens: int, step_tokens: int
) -> Iterator[tuple[int, int]]:
    """Yield the steps of a run: sequences that get their next token, and sequences that are admitted.

    Sequences that run come first, with one token each. A waiting request is admitted if its whole prompt fits into the
    tokens that are left, and if a place is free. Its prompt gives its first token. That is the scheduler of vLLM 0.13 with
    chunked prefill switched off. Tokens that no whole prompt fits into stay unused. So of 512 requests with 512 tokens per
    step, the last 15 are admitted only when the others have finished.

    Parameters
    ----------
    requests, sequences : int
        Of the run, and most that run together.
    prompt_tokens, output_tokens : int
        Of each request.
    step_tokens : int
        Most tokens of a step.

    Examples
    --------
    >>> list(scheduled(requests=2, sequences=2, prompt_tokens=4, output_tokens=3, step_tokens=4))
    [(0, 1), (1, 0), (1, 0), (0, 1), (1, 0), (1, 0)]
    >>> len(list(scheduled(requests=512, sequences=512, prompt_tokens=16, output_tokens=256, step_tokens=512)))
    515
    """
    waiting, running = requests, Counter[int]()
    step = 0
    while waiting or running:
        decoded = running.total()
        admitted = min(waiting, sequences - decoded, (step_tokens - decoded) // prompt_tokens)
        if not decoded and admitted < 1:
            raise ValueError(
                f"{step_tokens} tokens per step: expected at least the {prompt_tokens} of a prompt"
            )
        admitted = max(admitted, 0)
        yield decoded, admitted
        # A sequence is kept under the step in which it gets its last token.
        running.pop(step, None)
        waiting -= admitted
        if admitted and output_tokens > 1:
            running[step + output_tokens - 1] += admitted
        step += 1


def steps_of(
    *, requests: int, sequences: int, prompt_tokens: int, output_tokens: int, step_tokens: int, eager: bool
) -> Steps:
    """Count the steps of a run that are alike.

    Examples
    --------
    >>> found = steps_of(requests=256, sequences=2, prompt_tokens=1024, output_tokens=1, step_tokens=2048, eager=False)
    >>> found.tokens.tolist(), found.count.tolist(), found.captured.tolist()
    ([2048], [128], [False])
    """
    counts = Counter(
        scheduled(
            requests=requests, sequences=sequences, prompt_tokens=prompt_tokens, output_tokens=output_tokens,
            step_tokens=step_tokens,
        )
    )  # fmt: skip
    decoded, admitted = (np.array([kind[place] for kind in counts], np.int64) for place in (0, 1))
    tokens = decoded + admitted * prompt_tokens
    captured = tokens <= min(CAPTURED_PER_SEQUENCE * sequences, MOST_CAPTURED)
    # The context of a decoded token grows from the prompt to the whole: its mean stands for all.
    context = prompt_tokens + (output_tokens + 1) // 2 if output_tokens > 1 else prompt_tokens
    return Steps(
        decoded,
        admitted,
        np.array(list(counts.values()), np.int64),
        captured & (not eager),
        prompt_tokens,
        context,
    )
