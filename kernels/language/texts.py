"""Texts by name or from a file, and their tokens."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kernels.language.model import DIGEST_CHARS, LanguageModel
from kernels.language.packages import LanguageError, folder_of
from nmsim.errors import brief
from nmsim.support.lazy import explained
from nmsim.support.sources import read_text
from nmsim.units import ceil_div

try:
    import torch
except ModuleNotFoundError as error:
    raise explained(error, __name__, {"torch": "nmsim[llm]"}) from error

NEWS = "news"
"""The default text. Lee, Pincombe and Welsh (2005): 300 documents of the Australian Broadcasting Corporation's news."""
PYTHON_TOPICS = "python-topics"
"""Help pages of the language reference of CPython, which change with its version."""
LEE_FILE = "test/test_data/lee_background.cor"


@dataclass(frozen=True)
class Text:
    """A text.

    Parameters
    ----------
    name : str
        That of `TEXTS`, or the name of the file.
    digest : str
        First 16 hexadecimal digits of the sha256 of the text in UTF-8.
    text : str
    """

    name: str
    digest: str
    text: str


def load_text(where: str | Path = NEWS) -> Text:
    """Read a text.

    Parameters
    ----------
    where : str or Path
        A name of `TEXTS`, or a text file in UTF-8.

    Raises
    ------
    LanguageError
        A package that is missing or of another release, or a text with nothing in it.
    ContainerError
        A file that cannot be read as UTF-8.

    Examples
    --------
    >>> text = load_text("python-topics")
    >>> text.name, len(text.digest), "yield" in text.text
    ('python-topics', 16, True)
    """
    name = str(where)
    if name in TEXTS:
        text = TEXTS[name]()
    elif not Path(where).exists():
        raise LanguageError(
            f"text {brief(name)}: does not exist, expected {', '.join(TEXTS)}, or a text file in UTF-8"
        )
    else:
        # A mark that an editor puts before the first character is no token of the text.
        name, text = Path(where).name, read_text(where, error=LanguageError, encoding="utf-8-sig")
    if not text.strip():
        raise LanguageError(f"text {brief(name)}: has no words, expected a text")
    return Text(name, hashlib.sha256(text.encode()).hexdigest()[:DIGEST_CHARS], text)


def token_ids(text: Text, model: LanguageModel) -> torch.Tensor:
    """Give the tokens of a whole text, without tokens that mark its beginning or end.

    Returns
    -------
    tensor of int64 [tokens]

    Raises
    ------
    LanguageError
        Tokens for which the model has no embedding.
    """
    found = model.tokenizer(text.text, add_special_tokens=False, verbose=False)["input_ids"]
    ids = torch.tensor(found, dtype=torch.int64)
    if len(ids) and int(ids.max()) >= model.vocabulary:
        raise LanguageError(
            f"text {brief(text.name)}: the tokenizer of {model.name} gives token {int(ids.max())}, "
            f"expected tokens below {model.vocabulary}, for which the model has embeddings"
        )
    return ids


def enough_token_ids(
    text: Text, model: LanguageModel, *, window_tokens: int, windows: int, calibration_tokens: int
) -> torch.Tensor:
    """Give the tokens of a text that is long enough for windows of evaluation after the tokens of calibration.

    Returns
    -------
    tensor of int64 [tokens]
        Of the whole text, as `token_ids` gives them.

    Raises
    ------
    LanguageError
        Too few tokens, or windows longer than the model's context.
    """
    where, context = f"text {brief(text.name)}", model.context_tokens
    if context is not None and window_tokens > context:
        raise LanguageError(
            f"{where}: window_tokens={brief(window_tokens)}: expected at most {context}, the context of {model.name}"
        )
    ids = token_ids(text, model)
    # Evaluation begins with a whole window.
    needed = (ceil_div(calibration_tokens, window_tokens) + windows) * window_tokens
    if len(ids) < needed:
        raise LanguageError(
            f"{where}: has {len(ids)} tokens of {model.name}, expected at least {needed}: {calibration_tokens} for "
            f"calibration, then {windows} window{'s' if windows > 1 else ''} of {window_tokens}"
        )
    return ids


def _news() -> str:
    path = folder_of("gensim", what=f"text {NEWS}") / LEE_FILE
    return read_text(path, error=LanguageError)


def _python_topics() -> str:
    if importlib.util.find_spec("pydoc_data.topics") is None:
        raise LanguageError(
            f"text {PYTHON_TOPICS}: this Python comes without pydoc_data, expected {NEWS} or a text file"
        )
    from pydoc_data.topics import topics

    return "\n\n".join(topics[name] for name in sorted(topics))


TEXTS: dict[str, Callable[[], str]] = {NEWS: _news, PYTHON_TOPICS: _python_topics}
"""Texts that have a name, and what reads them."""
