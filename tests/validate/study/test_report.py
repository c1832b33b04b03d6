"""The page: its numbers are those of the rows, and it needs nothing but itself."""

import html
import re
from html.parser import HTMLParser

import pandas as pd
import pytest

from validate.study import report
from validate.study.answer import answer
from validate.study.bits import bits_per_element
from validate.study.trust import numbered_assumptions


def text_of(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]*>", "", page))


def answer_of(page: str) -> list[str]:
    box = re.search(r'<div class="answer" id="answer">(.*?)</div>', page, re.S)
    return [text_of(sentence) for sentence in re.findall(r"<p>(.*?)</p>", box[1], re.S)]


def whole_model(rows: pd.DataFrame) -> pd.DataFrame:
    """Speedup of each way to store the weights, from study.csv alone, without the code under test."""
    time_s = rows["count"] * rows["predicted_time_s"]
    steps = ["hardware", "phase", "tokens"]
    dense = rows[rows["pattern"] == "dense"]
    dense_s = time_s[dense.index].groupby([dense[k] for k in steps]).sum()
    head = dense[dense["layer"] == "lm_head"]
    head_s = time_s[head.index].groupby([head[k] for k in steps]).sum()
    sparse = rows[rows["pattern"] != "dense"]
    out = (
        sparse.assign(t=time_s)
        .groupby([*steps, "sparse_operand", "pattern", "encoding"])["t"]
        .sum()
        .reset_index()
    )
    index = pd.MultiIndex.from_frame(out[steps])
    out["speedup"] = dense_s.reindex(index).to_numpy() / (
        out["t"].to_numpy() + head_s.reindex(index).to_numpy()
    )
    return out


def test_the_numbers_of_the_answer_are_those_of_the_rows(study):
    best, cost, limits = answer_of(study.page)
    model = whole_model(study.study)
    weights = model[model["sparse_operand"] == "weights"]
    start = weights[(weights["phase"] == "decode") & (weights["tokens"] == 1)]
    top = start["speedup"].max()
    assert f"an estimated {top:.2f}× vs dense (" in best
    winner = re.search(
        r"with (\d+:\d+) and (\S+) codes on the (.*?)\. (?:Memory|Decod|Select|Matrix|[A-Z])", best
    )
    named = start[(start["pattern"] == winner[1]) & (start["encoding"] == winner[2])]
    assert named["speedup"].max() == pytest.approx(top, rel=1e-3)

    own = study.bits[(study.bits["pattern"] == winner[1]) & (study.bits["encoding"] == winner[2])]
    bits = 8 * own["measured_metadata_bytes"].sum() / own["elems"].sum()
    assert f"take {bits:.3f} bits per weight, measured on {own['elems'].sum()} pruned weights" in cost
    energy = {
        p: t["kept_sum_of_squares"].sum() / t["sum_of_squares"].sum()
        for p, t in study.bits.groupby("pattern")
    }
    assert f"It keeps {100 * energy[winner[1]]:.1f} % of the energy of these weights" in cost
    machine = start.loc[start["speedup"].idxmax(), "hardware"]
    for pattern in set(energy) - {winner[1]}:
        there = start[(start["hardware"] == machine) & (start["pattern"] == pattern)]["speedup"].max()
        claim = f"{pattern} keeps {100 * energy[pattern]:.1f} % at {there:.2f}× vs dense"
        assert (claim in cost) == (energy[pattern] > energy[winner[1]])

    prefill = weights[weights["phase"] == "prefill"].groupby(["hardware", "pattern"])["speedup"].max()
    assert f"only {(prefill >= 1.05).sum()} of {len(prefill)} pairs" in limits
    assert f"an estimated {prefill.max():.2f}× vs dense at best" in limits
    active = model[(model["sparse_operand"] == "activations") & (model["phase"] == "decode")]
    at_one = active[active["tokens"] == 1]["speedup"].max()
    assert f"an estimated {at_one:.2f}× vs dense at batch 1, stop paying at batch 16" in limits
    assert active[active["tokens"] == 16]["speedup"].max() < 1.05
    assert "All of this is an estimate, and the page shows its errors." in limits


def test_the_answer_is_that_of_the_summary(study):
    assert answer_of(study.page) == study.found.summary["answer"]


def test_other_rows_give_another_answer(study):
    """Doubling the dense times doubles what the sentence says."""
    model = study.found.model
    doctored = model.assign(predicted_speedup_vs_dense=2 * model["predicted_speedup_vs_dense"])
    names = {"h200": "h200", "h200-8x16": "h200-8x16"}
    sums = bits_per_element(study.found.bits)
    said = answer(doctored, sums, model_name="m", dtype="bf16", names=names)
    top = model.loc[
        (model["tokens"] == 1) & (model["sparse_operand"] == "weights"), "predicted_speedup_vs_dense"
    ].max()
    assert f"an estimated {2 * top:.2f}× vs dense" in said.best


def test_only_more_energy_than_other_patterns_is_called_so(study):
    names = {"h200": "h200", "h200-8x16": "h200-8x16"}
    sums = bits_per_element(study.found.bits)
    most = sums.loc[sums["energy_kept"].idxmax(), "pattern"]
    alone = study.found.model[study.found.model["pattern"].isin([most, "dense"])]
    said = answer(alone, sums, model_name="m", dtype="bf16", names=names)
    assert "more than any other pattern" in said.cost
    for others in (sums[sums["pattern"] == most], sums.assign(energy_kept=0.5)):
        said = answer(alone, others, model_name="m", dtype="bf16", names=names)
        assert "more than any other pattern" not in said.cost


@pytest.mark.parametrize(
    ("keep", "says"),
    [
        ({"phase": "decode"}, "In decode at batch 16 only 3 of 6 pairs"),
        ({"phase": "prefill"}, "In prefill of 2048 tokens"),
        ({"hardware": "h200"}, "only 1 of 3 pairs"),
        ({"sparse_operand": "activations"}, "pruned activations bring an estimated"),
        ({"pattern": "8:16", "hardware": "h200"}, "none of the 1 pair of machine and pattern gains 5 %"),
    ],
)
def test_smaller_studies_have_three_paragraphs_too(study, keep, says):
    model, bits = study.found.model, study.found.bits_per_elem
    for column, value in keep.items():
        always = (model["pattern"] == "dense") & (column in ("sparse_operand", "pattern"))
        model = model[always | (model[column] == value)]
    bits = bits[bits["pattern"].isin(model["pattern"])]
    names = {"h200": "NVIDIA H200", "h200-8x16": "another"}
    said = answer(model, bits, model_name="m", dtype="bf16", names=names)
    assert all(text.endswith(".") and "nan" not in text for text in said.paragraphs)
    assert says in " ".join(said.paragraphs)


def test_every_speedup_of_the_page_has_its_baseline(study):
    for sentence in answer_of(study.page):
        for match in re.finditer(r"\d\.\d\d×", sentence):
            assert re.match(r"(?: to \d\.\d\d×)? vs dense", sentence[match.end() :]), sentence


class Resources(HTMLParser):
    """Collects what a page would load, and tags that are not closed."""

    VOID = ("meta", "img", "source", "br", "link", "input", "hr")

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.tags: set[str] = set()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "srcset", "data", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_stands_alone(study):
    parser = Resources()
    parser.feed(study.page)
    assert parser.open == []
    assert "script" not in parser.tags
    assert "link" not in parser.tags
    assert len(parser.loaded) >= 8
    assert all(value.startswith(("data:image/svg+xml;base64,", "#")) for value in parser.loaded)
    assert "url(" not in study.page
    assert "@import" not in study.page


def test_links_inside_the_page_lead_somewhere(study):
    anchors = set(re.findall(r'<section id="([^"]+)"', study.page))
    assert set(re.findall(r'href="#([^"]+)"', study.page)) == anchors


def test_every_number_of_a_machine_has_kind_and_source(study):
    text = text_of(study.page)
    assert "989.4 Tflop/s" in text
    assert "matrix peak, bf16, dense" in text
    assert "matrix peak, bf16, with sparsity (in operations of the dense product)" in text
    cited = {int(number) for number in re.findall(r"(?:datasheet|measured|fitted|assumed) \[(\d+)\]", text)}
    listed = re.search(r'<ol class="sources">(.*?)</ol>', study.page, re.S)[1].count("<li>")
    assert cited == set(range(1, listed + 1))


def test_assumptions_are_listed_word_for_word(study):
    rows = numbered_assumptions()
    assert [row.number for row in rows[:3]] == ["A1", "A2", "A3"]
    text = text_of(study.page)
    assert all(row.text in text for row in rows)


def test_assumptions_are_left_out_where_there_are_no_docs(tmp_path):
    assert numbered_assumptions(tmp_path / "assumptions.md") == []


def test_provenance_names_the_input(study, tiny):
    import hashlib

    text = text_of(study.page)
    assert hashlib.sha256(tiny.weights.read_bytes()).hexdigest() in text
    assert f"{tiny.weights.stat().st_size:,} bytes" in text
    assert "SYNTHETIC example, not a trained model" in text
    assert re.search(r"made\s*20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", text)


@pytest.mark.usefixtures("blank_figures")
def test_names_are_escaped(study, tiny, tmp_path):
    from validate import run_study

    config = tmp_path / "<b>&.json"
    config.write_text(tiny.config.read_text())
    run_study(
        tiny.weights,
        config,
        hardware=["h200"],
        formats=["2:4/index"],
        batches=[1],
        prefill=[],
        out_dir=tmp_path / "out",
    )
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page


HOSTILE = "<script>alert(1)</script>\x1b[31m\x9b\u202e\u2066\u200b`|*_$\\frac{$\"' onload=x"


def test_texts_of_a_page_are_escaped_and_isolated():
    """Every template writes through one environment: a name is never markup, and no mark of direction is left."""
    environment = report.environment()
    for source in (
        "{{ name }}",
        '<a title="{{ name }}">{{ names[0] }}</a>',
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(name) }}",
    ):
        page = environment.from_string(source).render(name=HOSTILE, names=[HOSTILE])
        assert page.isprintable()
        assert "<script" not in page
        assert text_of(page).startswith("<script>alert(1)</script>\\x1b[31m\\x9b\\u202e\\u2066\\u200b`|")


def test_the_page_isolates_names(study):
    assert "unicode-bidi: isolate" in study.page
    assert study.page.count("<bdi>") >= 1
    assert study.page.replace("\n", "").replace("\t", "").isprintable()
