"""Texts come from packages and files, whole; windows of calibration and evaluation share no token, and keep their numbers."""

import hashlib
import importlib.util

import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from kernels.language import texts  # noqa: E402
from kernels.language.packages import LanguageError  # noqa: E402
from kernels.language.texts import (  # noqa: E402
    TEXTS,
    Text,
    cut_windows,
    load_text,
    needed_tokens,
    token_ids,
    windows_of,
)


def error(function, *arguments, **named):
    with pytest.raises(LanguageError) as caught:
        function(*arguments, **named)
    (line,) = caught.value.args
    return line


def test_the_topics_of_python_are_all_in_their_text():
    from pydoc_data.topics import topics

    text = load_text("python-topics")
    assert all(topic in text.text for topic in topics.values())
    assert text.digest == hashlib.sha256(text.text.encode()).hexdigest()[:16]


def test_the_news_are_read_without_importing_their_package():
    import sys

    if importlib.util.find_spec("gensim") is None:
        pytest.skip("needs gensim: pip install --no-deps gensim==4.4.0")
    text = load_text()
    assert (text.name, text.digest) == ("news", "5d78d6dafd953bbf")
    assert len(text.text.splitlines()) == 300
    assert text.text.startswith("Hundreds of people have been forced to vacate their homes")
    assert "gensim" not in sys.modules


def test_a_file_of_the_user_is_read(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_bytes("Grüße,\r\n世界\n".encode())
    assert load_text(path) == Text(
        "mine.txt", hashlib.sha256(path.read_bytes()).hexdigest()[:16], "Grüße,\r\n世界\n"
    )
    assert load_text(str(path)) == load_text(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"caf\xe9", "byte 3"), (b"", "has no words"), (b" \n\t", "has no words")],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, says):
    path = tmp_path / "mine.txt"
    path.write_bytes(content)
    line = error(load_text, path)
    assert says in line
    assert "mine.txt" in line


def test_what_is_not_there_is_refused(tmp_path):
    assert error(load_text, "wikitext").endswith("expected news, python-topics, or a text file in UTF-8")
    assert "is a folder" in error(load_text, tmp_path)


def test_a_missing_package_is_named_with_its_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert error(load_text).endswith("gensim, which is not installed: pip install --no-deps gensim==4.4.0")
    assert "comes without pydoc_data" in error(load_text, "python-topics")


def test_a_package_without_the_text_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(texts, "folder_of", lambda module, what: tmp_path)
    assert "lee_background.cor: cannot be read" in error(load_text)


def test_tokens_are_of_the_text_alone(tiny):
    """Bytes are tokens of the tiny model, in the order of the characters that stand for them; none marks the beginning."""
    from byte_tokenizer import byte_tokens

    ids = token_ids(Text("t", "", "ab é!"), tiny)
    names = [byte_tokens()[number] for number in ids.tolist()]
    assert (names, ids.dtype, ids.shape) == (["a", "b", "Ġ", "Ã", "©", "!"], torch.int64, (6,))
    assert tiny.tokenizer.decode(ids.tolist()) == "ab é!"


def test_a_token_without_an_embedding_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(type(tiny), "vocabulary", 100)
    assert "expected tokens below 100" in error(token_ids, Text("t", "", "é"), tiny)


@given(
    tokens=st.integers(8, 4000),
    window_tokens=st.integers(2, 40),
    windows=st.integers(1, 60),
    calibration_windows=st.integers(0, 20),
)
def test_windows_share_no_token_and_keep_their_numbers(tokens, window_tokens, windows, calibration_windows):
    ids = torch.arange(tokens)
    numbers = {"window_tokens": window_tokens, "calibration_windows": calibration_windows}
    if tokens < needed_tokens(windows=windows, **numbers):
        with pytest.raises(LanguageError):
            cut_windows(ids, windows=windows, **numbers)
        return
    cut = cut_windows(ids, windows=windows, **numbers)
    fewer = cut_windows(ids, windows=1, window_tokens=window_tokens, calibration_windows=0)
    assert cut.evaluation.shape == (windows, window_tokens)
    assert cut.calibration.shape == (calibration_windows, window_tokens)
    assert (cut.window_tokens, cut.calibration_tokens) == (window_tokens, calibration_windows * window_tokens)
    assert cut.calibration.flatten().tolist() == list(range(cut.calibration_tokens))
    first = cut.first_window_token
    assert cut.evaluation.flatten().tolist() == list(range(first, first + windows * window_tokens))
    assert cut.calibration_tokens <= first
    assert first % window_tokens == 0
    assert (fewer.first_window_token, fewer.evaluation[0].tolist()) == (first, cut.evaluation[0].tolist())


@given(window_tokens=st.integers(2, 12), windows=st.integers(1, 40), calibration_windows=st.integers(0, 12))
def test_one_token_fewer_than_needed_is_too_few(window_tokens, windows, calibration_windows):
    """The number that the error names is found again by trying: a quarter in whole windows, and the rest."""
    numbers = {"window_tokens": window_tokens, "windows": windows, "calibration_windows": calibration_windows}

    def fits(tokens):
        quarter = tokens // 4 // window_tokens * window_tokens
        return quarter >= calibration_windows * window_tokens and tokens - quarter >= windows * window_tokens

    needed = needed_tokens(**numbers)
    assert fits(needed)
    assert not fits(needed - 1)


def test_a_text_that_is_too_short_says_how_many_tokens_it_has_and_needs(tiny):
    line = error(
        windows_of, Text("short", "", "x" * 500), tiny, window_tokens=64, windows=4, calibration_windows=3
    )
    assert line.startswith("text 'short': has 500 tokens, expected at least 768")


def test_windows_of_a_text_are_cut_from_its_tokens(tiny):
    text = Text("t", "", "abcdefgh" * 32)
    cut = windows_of(text, tiny, window_tokens=16, windows=3, calibration_windows=2)
    ids = token_ids(text, tiny)
    assert cut.first_window_token == 64
    assert torch.equal(cut.evaluation[2], ids[96:112])
    assert torch.equal(cut.calibration[1], ids[16:32])


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("window_tokens", 1),
        ("window_tokens", 129),
        ("windows", 0),
        ("calibration_windows", -1),
        ("windows", 2.0),
    ],
)
def test_numbers_out_of_range_are_refused(tiny, name, number):
    numbers = {"window_tokens": 16, "windows": 1, "calibration_windows": 1} | {name: number}
    assert f"{name}={number}: expected" in error(windows_of, Text("t", "", "x" * 500), tiny, **numbers)


def test_texts_of_the_package_and_the_model_agree(smollm2):
    """Tokens of the real model give the text back, and it predicts them far better than chance (log 49152 = 10.8)."""
    text = load_text(next(iter(TEXTS)))
    cut = windows_of(text, smollm2, window_tokens=128, windows=1, calibration_windows=0)
    assert (
        smollm2.tokenizer.decode(cut.evaluation[0].tolist(), clean_up_tokenization_spaces=False) in text.text
    )
    with torch.inference_mode():
        loss = smollm2.module(input_ids=cut.evaluation, labels=cut.evaluation).loss
    assert 2.5 < float(loss) < 5
