"""Explain: the walk's figures and the JSON's are the API's; no text breaks a line, a column or the page."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilm import SentenceEncoder
from minilm.cli import main
from minilm.errors import InputError
from minilm.internals import component_table, integrated_gradients, layer_by_layer, token_pairs
from minilm.internals.display import columns, fit
from minilm.internals.explanation import Explanation, explain
from minilm.internals.page import explanation_page, figures
from minilm.internals.walk import walk
from minilm.tolerances import PACKED_FLOAT32

A, B = "Sourdough loaves stay long in the oven.", "Bake the bread until it sounds hollow."
ESCAPE = re.compile(r"\x1b\[[\d;]*m")


@pytest.fixture(scope="module")
def explained(model: SentenceEncoder) -> Explanation:
    return explain(model, A, B, name="all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def tiny(tiny_folder) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")


def test_the_walk_prints_the_apis_figures(explained: Explanation, model: SentenceEncoder) -> None:
    text = "\n".join(walk(explained, width=200))
    pairs = token_pairs(model, A, B)
    lines = [line.split() for line in text.splitlines()]
    for piece, row in zip(pairs.tokens[0], pairs.matrix.tolist(), strict=True):
        assert [piece, *(f"{value:.4f}" for value in row)] in lines
    for side, (a, b) in enumerate(((A, B), (B, A))):
        found = integrated_gradients(model, a, b)
        shares = (pairs.first, pairs.second)[side]
        for place, piece in enumerate(found.tokens):
            assert [str(place), piece, f"{shares[place]:+.4f}", f"{found.values[place]:+.4f}"] in lines
        assert ["sum", f"{pairs.score:+.4f}", f"{found.values.sum():+.4f}"] in lines
        vector = model.encode(a)
        assert f"of length 1.0000: {' '.join(f'{x:7.4f}' for x in vector[:5])} …" in text
    layers = layer_by_layer(model, [A, B])
    for layer in range(6):
        (line,) = [
            line for line in lines if line[:2] == ["layer", str(layer)] and line[3] == f"{layers.drift[layer, 0]:.4f}"
        ]
        assert line[4] == f"{layers.norms[layer + 1, 0]:.3f}"
    table = component_table(model, [(A, B)])
    most = max((c for c in range(84) if table.components[c].part != "attention"), key=lambda c: abs(table.loss[c, 0]))
    assert [
        table.components[most].name,
        f"{table.without[most, 0]:.4f}",
        f"{table.loss[most, 0]:+.4f}",
    ] in lines


def test_the_json_file_has_everything(explained: Explanation, model: SentenceEncoder, tmp_path: Path) -> None:
    explained.write_json(tmp_path / "figures.json")
    data = json.loads((tmp_path / "figures.json").read_text(encoding="utf-8"))
    assert abs(np.sum(data["token_pairs"]["matrix"]) - data["score"]) < PACKED_FLOAT32
    assert data["score"] == pytest.approx(model.similarity(*model.encode([A, B])).item(), abs=PACKED_FLOAT32)
    trace = model.trace([A, B], "*.probabilities")
    for number, text in enumerate(data["texts"]):
        assert text["vector"] == pytest.approx(model.encode(text["text"]).tolist(), abs=PACKED_FLOAT32)
        attention = np.frombuffer(base64.b64decode(text["attention"]["base64"]), "<f4")
        attention = attention.reshape(text["attention"]["shape"])
        for layer in range(6):
            expected = trace.text(number)[f"layers.{layer}.attention.probabilities"]
            assert np.array_equal(attention[layer], expected.numpy())
        pieces = zip(text["tokens"][1:-1], text["spans"][1:-1], strict=True)
        assert all(text["text"][a:b].lower() == piece.removeprefix("##") for piece, (a, b) in pieces)
    assert len(data["components"]["without"]) == 84


def test_colour_only_where_asked_and_columns_stay(explained: Explanation) -> None:
    plain, coloured = "\n".join(walk(explained)), "\n".join(walk(explained, colour=True))
    assert "\x1b" not in plain
    assert ESCAPE.sub("", coloured) == plain
    assert coloured != plain


def test_the_map_is_left_out_where_it_does_not_fit(explained: Explanation) -> None:
    assert "A ↓" in "\n".join(walk(explained, width=120))
    assert "A ↓" not in "\n".join(walk(explained, width=60))


def test_no_such_token(explained: Explanation) -> None:
    with pytest.raises(InputError, match="there is no token 99"):
        list(walk(explained, token=99))


class Balanced(HTMLParser):
    """Fails where tags are not closed in order."""

    def __init__(self, content: str):
        super().__init__()
        self.open: list[str] = []
        self.feed(content)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag not in ("meta", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=30), min_size=1, max_size=2))
def test_any_texts(tiny: SentenceEncoder, one_thread: None, texts: list[str]) -> None:
    found = explain(tiny, *texts, steps=2)
    for line in walk(found, colour=True):
        line = ESCAPE.sub("", line)
        assert all(unicodedata.category(c) not in ("Cc", "Zl", "Zp") for c in line)
        assert not re.search("[\u202a-\u202e\u2066-\u2069]", line)
    content = explanation_page(found)
    Balanced(content)
    (block,) = re.findall(r'<script type="application/json" id=figures>(.*?)</script>', content)
    assert json.loads(block) == figures(found)
    assert [text["text"] for text in json.loads(json.dumps(found.to_dict()))["texts"]] == texts
    Balanced(found._repr_html_())


@given(text=st.text(max_size=20), width=st.integers(1, 30), right=st.booleans())
def test_fit_fills_its_columns(text: str, width: int, right: bool) -> None:
    assert columns(fit(text, width, right)) == width


def test_columns_of_wide_and_combining_characters() -> None:
    assert [columns(text) for text in ("abc", "漢字", "🙂", "e\u0301", "")] == [3, 4, 2, 1, 0]
    assert fit("漢字", 3) == "漢…"
    assert fit("a\x1b[31m", 20).strip() == "a\\u001b[31m"


@pytest.mark.parametrize("similarity", ["euclidean", "manhattan", "dot"])
def test_other_similarities_and_no_normalisation(tiny_folder, one_thread: None, similarity: str) -> None:
    model = SentenceEncoder.from_pretrained(
        tiny_folder(normalize=False), device="cpu", similarity_fn_name=similarity, truncate_dim=8
    )
    found = explain(model, "the cat", "the dog sat", steps=2)
    assert (found.pairs is None) == (similarity != "dot")
    text = repr(found)
    assert ("no sum over pairs" in text) == (similarity != "dot")
    assert "as it is" in text and len(found.texts[0].vector) == 8
    Balanced(explanation_page(found))


def test_long_texts_are_named_once(tiny: SentenceEncoder, one_thread: None) -> None:
    with pytest.warns(UserWarning) as caught:
        found = explain(tiny, "cat " * 100, "dog", steps=2)
    assert len(caught) == 1
    assert "cut off: the model never sees them" in repr(found)


def test_the_command(weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["explain", A, B, "--steps", "2"]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "cosine 0." in out
    assert main(["explain", A, "--html", "page.html", "--json", "figures.json"]) == 0
    assert capsys.readouterr().out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.json", "page.html"]
    for wrong, said in (
        ([A, B, A], "found 3 texts, expected one or two"),
        ([A, "--html", "no/page.html"], "no/page.html cannot be written"),
        ([A, "--token", "99"], "there is no token 99"),
        ([A, B, "--steps", "0"], "steps is 0"),
    ):
        assert main(["explain", *wrong]) == 2
        assert said in capsys.readouterr().err


def test_colour_on_a_terminal_only(tiny_folder, monkeypatch, capsys) -> None:
    command = ["explain", "the cat", "the dog", "--model", str(tiny_folder()), "--steps", "2"]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for terminal, setting, coloured in (
        (True, {}, True),
        (False, {}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"TERM": "dumb"}, False),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
            for name, value in setting.items():
                patch.setenv(name, value)
            assert main(command) == 0
        assert ("\x1b[" in capsys.readouterr().out) == coloured


def test_notebooks_show_tables(explained: Explanation, model: SentenceEncoder) -> None:
    for part in (
        explained.pairs,
        explained.input[0],
        explained.components,
        explained.layers,
        model.trace([A], "pooled"),
    ):
        content = part._repr_html_()
        Balanced(content)
        assert "<script" not in content
    assert f"{explained.pairs.matrix[3, 2]:.4f}" in explained.pairs._repr_html_()
    assert f"{explained.components.loss[0, 0]:.4f}" in explained.components._repr_html_()


def test_figures_draw(explained: Explanation, model: SentenceEncoder, tmp_path: Path) -> None:
    trace = model.trace(["$\\frac{ a $ b"], "*.probabilities").text(0)
    for number, figure in enumerate(
        (
            explained.pairs.plot(),
            explained.input[0].plot(),
            explained.components.plot(),
            explained.layers.plot(),
            trace.plot_attention(2),
            trace.plot_attention(2, head=3),
            token_pairs(model, "$\\frac{ x", "$^").plot(),
        )
    ):
        figure.savefig(tmp_path / f"{number}.png")
        assert figure._repr_png_().startswith(b"\x89PNG")
    drawn = explained.pairs.plot().axes[0].images[0].get_array()
    assert np.array_equal(drawn, explained.pairs.matrix.numpy())
    with pytest.raises(InputError, match="there is no head 12; there are 0 to 11"):
        trace.plot_attention(0, head=12)


def test_without_matplotlib_the_error_names_the_install(explained: Explanation, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match=re.escape("pip install 'minilm[plot]'")):
        explained.pairs.plot()


def test_importing_internals_brings_no_page() -> None:
    code = "import sys, minilm.internals; print('matplotlib' in sys.modules, 'minilm.internals.page' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_attention_rows_sum_to_one(explained: Explanation) -> None:
    for steps in explained.texts:
        sums = steps.attention.sum(-1)
        torch.testing.assert_close(sums, torch.ones_like(sums))
