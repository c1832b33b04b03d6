"""Texts by name or from a file, their tokens, and the windows of tokens on which a loss is fitted and measured."""

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

try:
    import torch
except ModuleNotFoundError as error:
    raise explained(error, __name__, {"torch": "nmsim[llm]"}) from error

NEWS = "news"
"""The default text. Lee, Pincombe and Welsh (2005): 300 documents of the Australian Broadcasting Corporation's news."""
PYTHON_TOPICS = "python-topics"
"""Help pages of the language reference of CPython, which change with its version."""
LEE_FILE = "test/test_data/lee_background.cor"
CALIBRATION_SHARE = 4
"""The first 1 / 4 of a text is for calibration, the rest for evaluation."""


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


@dataclass(frozen=True)
class Windows:
    """Windows of tokens, each run on its own. Calibration and evaluation share no token.

    Parameters
    ----------
    calibration : tensor of int64 [windows, window_tokens]
        From the start of the text. It may have no windows.
    evaluation : tensor of int64 [windows, window_tokens]
    first_window_token : int
        Place of the first token of evaluation in the text. It depends on the length of the text and of a window only.
        So window i is the same tokens whatever the numbers of windows are.
    """

    calibration: torch.Tensor
    evaluation: torch.Tensor
    first_window_token: int

    @property
    def window_tokens(self) -> int:
        """Tokens of each window; one fewer is predicted."""
        return self.evaluation.shape[1]

    @property
    def calibration_tokens(self) -> int:
        """Tokens of all windows of calibration."""
        return self.calibration.numel()


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
        name, text = Path(where).name, read_text(where, error=LanguageError)
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


def cut_windows(
    ids: torch.Tensor, *, window_tokens: int, windows: int, calibration_windows: int, where: str = "text"
) -> Windows:
    """Cut windows: those of calibration from the first quarter of the tokens, those of evaluation from the rest.

    Parameters
    ----------
    ids : tensor of int64 [tokens]
        Of a whole text.
    window_tokens, windows : int
        At least 2 tokens per window, and at least 1 window of evaluation.
    calibration_windows : int
        May be 0.
    where : str
        Begins the error.

    Raises
    ------
    LanguageError
        Numbers out of range, or a text that is too short.

    Examples
    --------
    >>> cut = cut_windows(torch.arange(80), window_tokens=4, windows=2, calibration_windows=1)
    >>> cut.calibration.tolist(), cut.evaluation.tolist(), cut.first_window_token
    ([[0, 1, 2, 3]], [[20, 21, 22, 23], [24, 25, 26, 27]], 20)
    """
    for name, number, least in (
        ("window_tokens", window_tokens, 2),
        ("windows", windows, 1),
        ("calibration_windows", calibration_windows, 0),
    ):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise LanguageError(f"{where}: {name}={brief(number)}: expected an int of at least {least}")
    needed = needed_tokens(
        window_tokens=window_tokens, windows=windows, calibration_windows=calibration_windows
    )
    if len(ids) < needed:
        raise LanguageError(
            f"{where}: has {len(ids)} tokens, expected at least {needed}. Calibration takes {calibration_windows} windows of "
            f"{window_tokens} tokens from its first quarter, and evaluation {windows} from the rest"
        )
    first = len(ids) // (CALIBRATION_SHARE * window_tokens) * window_tokens
    used = calibration_windows * window_tokens
    return Windows(
        ids[:used].reshape(-1, window_tokens),
        ids[first : first + windows * window_tokens].reshape(-1, window_tokens),
        first,
    )


def needed_tokens(*, window_tokens: int, windows: int, calibration_windows: int) -> int:
    """Give the fewest tokens of a text from which these windows can be cut.

    Examples
    --------
    >>> needed_tokens(window_tokens=512, windows=8, calibration_windows=0) // 512
    10
    """
    # Of T = q * 4 + r windows in the whole text, q are left to calibration, so 3 * q + r can be evaluated.
    evaluated = windows + (windows - 1) // (CALIBRATION_SHARE - 1)
    return max(CALIBRATION_SHARE * calibration_windows, evaluated) * window_tokens


def windows_of(
    text: Text, model: LanguageModel, *, window_tokens: int, windows: int, calibration_windows: int
) -> Windows:
    """Cut the windows of a text for a model: `token_ids`, then `cut_windows`.

    Raises
    ------
    LanguageError
        As these two, or windows longer than the model's context.
    """
    where = f"text {brief(text.name)}"
    context = model.context_tokens
    if context is not None and window_tokens > context:
        raise LanguageError(
            f"{where}: window_tokens={window_tokens}: expected at most {context}, the context of {model.name}"
        )
    return cut_windows(
        token_ids(text, model),
        window_tokens=window_tokens,
        windows=windows,
        calibration_windows=calibration_windows,
        where=where,
    )


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
