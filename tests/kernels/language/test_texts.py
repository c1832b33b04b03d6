"""Texts come from packages and files, whole, and their tokens are those of the text alone."""

import hashlib
import importlib.util

import pytest

torch = pytest.importorskip("torch")

from kernels.language import texts  # noqa: E402
from kernels.language.packages import LanguageError  # noqa: E402
from kernels.language.texts import TEXTS, Text, enough_token_ids, load_text, token_ids  # noqa: E402


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


def test_a_mark_before_the_first_character_is_not_of_the_text(tmp_path):
    """Editors of Windows write one; as three bytes it would shift every window."""
    path = tmp_path / "mine.txt"
    path.write_text("Words.", encoding="utf-8")
    plain = load_text(path)
    path.write_text("Words.", encoding="utf-8-sig")
    assert load_text(path) == plain


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"caf\xe9", "byte 3"),
        (b"", "has no words"),
        (b" \n\t", "has no words"),
        (b"\xef\xbb\xbf\n", "has no words"),
    ],
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


def enough(tiny, characters, **numbers):
    sizes = {"window_tokens": 16, "windows": 3, "calibration_tokens": 40} | numbers
    return enough_token_ids(Text("mine", "", "x" * characters), tiny, **sizes)


def test_a_text_that_is_too_short_says_how_many_tokens_it_has_and_needs(tiny):
    """40 tokens of calibration take 3 windows of 16, and 3 are evaluated."""
    assert len(enough(tiny, 96)) == 96
    assert error(enough, tiny, 95) == (
        "text 'mine': has 95 tokens of tiny-llama, expected at least 96: 40 for calibration, then 3 windows of 16"
    )


def test_windows_longer_than_the_context_are_refused(tiny):
    assert len(enough(tiny, 1000, window_tokens=128)) == 1000
    assert error(enough, tiny, 1000, window_tokens=129).endswith(
        "expected at most 128, the context of tiny-llama"
    )


def test_texts_of_the_package_and_the_model_agree(smollm2):
    """Tokens of the real model give the text back, and it predicts them far better than chance (log 49152 = 10.8)."""
    text = load_text(next(iter(TEXTS)))
    ids = token_ids(text, smollm2)
    assert len(ids) == 75_680
    assert smollm2.tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False) == text.text
    window = ids[None, 1024:1152]
    with torch.inference_mode():
        loss = smollm2.module(input_ids=window, labels=window).loss
    assert 2.5 < float(loss) < 5
