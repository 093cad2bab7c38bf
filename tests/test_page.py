"""The page of an explanation, in a real browser, opened from disk: its figures are the API's, pointer and keys
work, it asks nothing of a network, and no text can get out of its place."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import Watched, browser
from conftest import TinyFolder
from playwright.sync_api import Browser, Page

from minilm import SentenceEncoder
from minilm.internals import compare
from minilm.internals.explanation import Explanation, explain
from minilm.terminal import visible
from minilm.tolerances import FOUR_DIGITS, ONE_BYTE

A = "How long does a sourdough loaf stay in the oven?"
B = "Bake the bread until the crust sounds hollow."
HOSTILE = (
    "</script><script>alert(1)</script><!--<script> \"' &amp; <img src=x onerror=alert(2)> "
    "\u2028\u2029 \u202eevil\u202c \x00\x07\x1b[31m ]]> {{x}} ${x}"
)

Open = Callable[..., Page]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def explained(model: SentenceEncoder) -> Explanation:
    return explain(model, A, B, steps=8, name="all-MiniLM-L6-v2")


@pytest.fixture(scope="module")
def small(tiny_folder: TinyFolder) -> SentenceEncoder:
    """As many layers, heads and tokens as the real model has, of few numbers: for pages of long texts."""
    folder = tiny_folder(num_hidden_layers=6, num_attention_heads=12, max_position_embeddings=264)
    return SentenceEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture
def show(chromium: Browser, tmp_path: Path) -> Iterator[Open]:
    """Opens an explanation's page; at the end it must have asked for nothing and complained of nothing."""
    watched = []

    def show(explanation: Explanation, width: int = 1200, color_scheme: str = "light") -> Page:
        file = tmp_path / f"page {len(watched)}.html"
        explanation.write_html(file)
        watched.append(
            (Watched(chromium.new_page(viewport={"width": width, "height": 800}, color_scheme=color_scheme)), file)
        )
        return watched[-1][0].open(file)

    yield show
    for page, file in watched:
        assert page.requests == [file.as_uri()]
        assert page.complaints == []
        page.page.close()


def readout(page: Page, part: str) -> str:
    return page.locator(f"#{part} .readout").inner_text()


def test_the_pair_under_the_pointer_and_the_keys(show: Open, explained: Explanation) -> None:
    page = show(explained)
    rows, columns = explained.pairs.tokens

    def stated(i: int, j: int) -> str:
        return f"{rows[i]} × {columns[j]} {explained.pairs.matrix[i, j]:+.4f} "

    cells = page.locator("#pair-map .cells")
    cells.scroll_into_view_if_needed()
    box = cells.bounding_box()
    for i, j in ((0, 0), (8, 4), (14, 11), (3, 7)):
        x, y = (j + 0.5) * box["width"] / len(columns), (i + 0.5) * box["height"] / len(rows)
        cells.hover(position={"x": x, "y": y})
        assert " ".join(readout(page, "pair-map").split()).startswith(stated(i, j))
    page.mouse.move(0, 0)
    page.locator("#pair-map .map").focus()
    for keys, (i, j) in (
        (["Home", "PageUp"], (0, 0)),
        (["ArrowLeft", "ArrowUp"], (0, 0)),
        (["ArrowDown", "ArrowDown", "ArrowRight"], (2, 1)),
        (["End"], (2, 11)),
        (["PageDown", "ArrowRight", "ArrowDown"], (14, 11)),
    ):
        for key in keys:
            page.keyboard.press(key)
        assert " ".join(readout(page, "pair-map").split()).startswith(stated(i, j))
    outline = page.locator("#pair-map .map").evaluate("box => getComputedStyle(box).outlineWidth")
    assert outline == "3px"  # the focus is visible


def test_all_figures_are_the_apis(show: Open, explained: Explanation) -> None:
    page = show(explained)
    assert page.evaluate("Array.from(pairs)") == explained.pairs.matrix.flatten().tolist()
    for number, steps in enumerate(explained.texts):
        shown = torch.tensor(page.evaluate(f"Array.from(texts[{number}].attention)"))
        assert torch.equal(shown, steps.attention.flatten())
        assert page.evaluate(f"texts[{number}].input") == explained.input[number].values.tolist()
    assert f"cosine {explained.score:.4f}" in page.locator(".score").inner_text()
    table = page.locator("#component-table tbody tr").all_inner_texts()
    without = explained.components.without[:, 0].tolist()
    assert len(table) == 84
    assert [float(row.split()[-2]) for row in table] == [pytest.approx(x, abs=FOUR_DIGITS) for x in without]
    layers = page.locator("#layer-table tbody tr").all_inner_texts()
    assert [float(row.split()[1]) for row in layers] == [
        pytest.approx(x, abs=FOUR_DIGITS) for x in explained.layers.similarities[:, 0, 1].tolist()
    ]


def test_attention_by_layer_head_and_token(show: Open, explained: Explanation) -> None:
    page = show(explained)
    controls = page.locator("#attention-controls")
    for title, value in (("Text", "B"), ("Layer", "3"), ("Head", "7")):
        controls.locator("fieldset", has_text=title).get_by_text(value, exact=True).click()
    steps = explained.texts[1]
    weights = steps.attention[3, 7]
    page.locator("#attention-map .map").focus()
    for key in ("Home", "PageUp", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert readout(page, "attention-map").split() == [steps.tokens[1], "→", steps.tokens[2], f"{weights[1, 2]:.4f}"]
    page.locator("#attention-tokens button").nth(4).hover()
    best = weights[4].argmax().item()
    looks = page.locator("#looks").inner_text()
    assert looks.startswith(f"{steps.tokens[4]} looks at {steps.tokens[best]} {weights[4, best]:.3f}")
    page.locator("#attention-tokens button").nth(4).focus()
    page.keyboard.press("ArrowRight")
    assert page.locator("#looks").inner_text().startswith(f"{steps.tokens[5]} looks at ")
    controls.locator("fieldset", has_text="Head").get_by_text("mean", exact=True).click()
    mean = steps.attention[3].mean(dim=0)
    assert f" {mean[5].max():.3f}" in page.locator("#looks").inner_text()


def test_the_components_sort(show: Open, explained: Explanation) -> None:
    page = show(explained)
    losses = explained.components.loss[:, 0].tolist()
    names = [part.name for part in explained.components.components]
    heading = page.get_by_role("button", name="it loses")
    for direction, reverse in (("descending", True), ("ascending", False)):
        heading.press("Enter")
        shown = [row.split()[0] for row in page.locator("#component-table tbody tr").all_inner_texts()]
        assert shown == [name for _, name in sorted(zip(losses, names, strict=True), reverse=reverse)]
        assert page.locator("th[aria-sort]").get_attribute("aria-sort") == direction
    page.locator("#component-map .map").focus()
    for key in ("Home", "PageUp", "End"):
        page.keyboard.press(key)
    row = names.index("layers.0.feed_forward")
    assert f"{losses[row]:+.4f}" in readout(page, "component-map")


def test_light_and_dark(show: Open, explained: Explanation) -> None:
    def brightness(page: Page) -> float:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    light, dark = show(explained), show(explained, color_scheme="dark")
    assert brightness(light) > 230
    assert brightness(dark) < 50
    dark.locator("#theme").click()
    assert brightness(dark) > 230
    dark.locator("#theme").click()
    assert brightness(dark) < 50


def test_a_phone_scrolls_no_page_sideways(show: Open, small: SentenceEncoder) -> None:
    page = show(explain(small, "a cat " * 20 + "x" * 300, HOSTILE, steps=2), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = page.locator("#pair-map .map")
    box.focus()
    for key in ("PageDown", "End"):
        page.keyboard.press(key)
    cursor = page.locator("#pair-map .cursor").bounding_box()
    edge = box.bounding_box()
    assert edge["x"] <= cursor["x"] and cursor["x"] + cursor["width"] <= edge["x"] + edge["width"]


def test_hostile_texts_stay_texts(show: Open, small: SentenceEncoder) -> None:
    page = show(explain(small, HOSTILE, HOSTILE[::-1], steps=2, name=HOSTILE))
    assert page.locator(".text").first.inner_text() == visible(HOSTILE)
    assert page.locator("img, iframe, object, form, a").count() == 0
    assert page.locator("script").count() == 2
    assert page.title() == "What made this score"
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u2028\u2029\x00\x07\x1b]", page.content())


def test_the_policy_stops_what_is_put_in_later(chromium: Browser, explained: Explanation, tmp_path: Path) -> None:
    explained.write_html(tmp_path / "other.html")
    content = (tmp_path / "other.html").read_text(encoding="utf-8")
    (tmp_path / "other.html").write_text(
        content.replace("</main>", "</main><script>document.title = 'broken'</script><img src='http://localhost:9/x'>")
    )
    other = Watched(chromium.new_page())
    assert other.open(tmp_path / "other.html").title() == "What made this score"
    # The browser's own complaints, of the script and of the image; some versions name the request they stopped.
    assert len(other.complaints) == 2
    assert all("Content Security Policy" in str(complaint) for complaint in other.complaints)
    other.page.close()


def test_one_text(show: Open, model: SentenceEncoder) -> None:
    page = show(explain(model, "漢 and 🙂"))
    assert page.title() == "From characters to vector"
    assert page.locator("#pair-map, #component-map").count() == 0
    assert page.locator("#text-0 button").all_inner_texts() == ["[CLS]", "漢", "and", "[UNK]", "[SEP]"]


def test_256_by_256_tokens_stay_usable(show: Open, small: SentenceEncoder, tmp_path: Path) -> None:
    words = "the ferry leaves harbour seven in morning bread oven crust hollow roses march library noon".split()
    first = " ".join(words[i * 7 % len(words)] for i in range(260))
    second = " ".join(words[i * 4 % len(words)] for i in range(260))
    with pytest.warns(UserWarning, match="2 of 2 texts are over the limit"):
        found = explain(small, first, second, steps=2)
    page = show(found)
    assert (tmp_path / "page 0.html").stat().st_size < 15_000_000
    map_ = page.locator("#pair-map .map")
    map_.focus()
    for key in ("Home", "PageUp", "ArrowDown", "ArrowRight", "ArrowRight"):
        page.keyboard.press(key)
    assert f"{found.pairs.matrix[1, 2]:+.4f}" in readout(page, "pair-map")
    for number in (0, 1):  # one byte each: near, and the nearer the smaller
        shown = torch.tensor(page.evaluate(f"Array.from(texts[{number}].attention.slice(-65536))"))
        assert (shown - found.texts[number].attention[5, 11].flatten()).abs().max() < ONE_BYTE


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
def test_a_comparison_fits_its_page(
    chromium: Browser, tiny_folder: TinyFolder, tmp_path: Path, color_scheme: str
) -> None:
    texts = ["x" * 300, "word " * 80, HOSTILE, "漢字 " * 90, "the cat sat on the mat", "two dogs"]
    found = compare(tiny_folder(), tiny_folder(layer_norm_eps=0.1), texts, device="cpu")
    assert found.vectors.moved_most(6) and found.scores.changed_most(6)
    (tmp_path / "compared.html").write_text(found.to_html(6), encoding="utf-8")
    watched = Watched(chromium.new_page(viewport={"width": 1200, "height": 800}, color_scheme=color_scheme))
    page = watched.open(tmp_path / "compared.html")
    hidden = "Array.from(document.querySelectorAll('.wide')).map(box => box.scrollWidth - box.clientWidth)"
    assert set(page.evaluate(hidden)) == {0}  # each table stands there whole, its numbers beside its texts
    page.set_viewport_size({"width": 390, "height": 800})
    assert max(page.evaluate(hidden)) > 0  # tables scroll, and the page does not
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert watched.requests == [(tmp_path / "compared.html").as_uri()]
    assert watched.complaints == []
    page.close()


def test_figures_in_the_page_are_json(explained: Explanation, tmp_path: Path) -> None:
    explained.write_html(tmp_path / "page.html")
    content = (tmp_path / "page.html").read_text(encoding="utf-8")
    (block,) = re.findall(r'<script type="application/json" id=figures>(.*?)</script>', content)
    assert json.loads(block)["score"] == explained.score
