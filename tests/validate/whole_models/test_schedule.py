"""The steps of a run: against a scheduler that follows each request alone, and by hand."""

import pytest

from validate.whole_models.schedule import scheduled, steps_of

RUNS = [
    {"requests": 1, "sequences": 1, "prompt_tokens": 512, "output_tokens": 1, "step_tokens": 513},
    {"requests": 8, "sequences": 4, "prompt_tokens": 1024, "output_tokens": 1, "step_tokens": 4096},
    {"requests": 64, "sequences": 64, "prompt_tokens": 16, "output_tokens": 256, "step_tokens": 272},
    {"requests": 256, "sequences": 256, "prompt_tokens": 16, "output_tokens": 256, "step_tokens": 272},
    {"requests": 512, "sequences": 512, "prompt_tokens": 16, "output_tokens": 256, "step_tokens": 512},
    {"requests": 20, "sequences": 3, "prompt_tokens": 5, "output_tokens": 4, "step_tokens": 7},
]


def followed(requests, sequences, prompt_tokens, output_tokens, step_tokens):
    """The same run, each request on its own: tokens that it still owes, or None while it waits."""
    owed, steps = [None] * requests, []
    while any(each is None or each for each in owed):
        running = [place for place, each in enumerate(owed) if each]
        left, admitted = step_tokens - len(running), []
        for place, each in enumerate(owed):
            if each is None and left >= prompt_tokens and len(running) + len(admitted) < sequences:
                admitted.append(place)
                left -= prompt_tokens
        for place in running:
            owed[place] -= 1
        for place in admitted:
            owed[place] = output_tokens - 1
        steps.append((len(running), len(admitted)))
    return steps


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_against_a_scheduler_that_follows_each_request(run):
    assert list(scheduled(**run)) == followed(**run)


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_every_token_is_made_once(run):
    steps = steps_of(**run, eager=False)
    assert (steps.count * steps.admitted).sum() == run["requests"]
    assert (steps.count * steps.sequences).sum() == run["requests"] * run["output_tokens"]
    assert steps.tokens.max() <= run["step_tokens"]


def test_the_last_requests_of_512_wait_for_the_others():
    """512 tokens per step: once 497 sequences run, no prompt of 16 tokens fits beside them."""
    steps = list(scheduled(**RUNS[4]))
    assert len(steps) == 515
    assert max(decoded for decoded, _ in steps) == 497
    assert sum(admitted for decoded, admitted in steps[256:] if admitted) == 15


def test_captured_steps():
    found = steps_of(**RUNS[2], eager=False)
    assert (found.captured == (found.tokens <= 128)).all()
    assert not found.captured.all()
    assert not steps_of(**RUNS[2], eager=True).captured.any()
    assert not steps_of(**RUNS[1], eager=False).captured.any()


def test_a_prompt_that_fits_no_step():
    with pytest.raises(ValueError, match="8 tokens per step: expected at least the 16 of a prompt"):
        list(scheduled(requests=1, sequences=1, prompt_tokens=16, output_tokens=2, step_tokens=8))
