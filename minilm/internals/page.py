"""One self-contained page: figures as JSON, a script and a style sheet of our own, nothing fetched.

The page's Content-Security-Policy allows the script and the style sheet by their hashes and nothing
else: no network, no other script, no form. Texts go in as escaped HTML or as JSON whose ``<``, ``>`` and
``&`` are written as numbers, so that none can end its element.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from html import escape as escape_html
from importlib import resources
from typing import Any

import torch
from torch import Tensor

from minilm.internals.explanation import Explanation, TextSteps
from minilm.internals.html import escape
from minilm.plain_json import to_json
from minilm.terminal import visible

# Attention has L · H · T² numbers, 4.7 million for a text of 256 tokens. Up to this many in all go in as
# float32; beyond it each as one byte, 255 √p rounded, which is right to 0.004 and near 0 much closer.
EXACT_ATTENTION = 500_000


def explanation_page(explanation: Explanation) -> str:
    """The page of an :class:`~minilm.internals.explanation.Explanation`, as HTML."""
    two = explanation.score is not None
    title = "What made this score" if two else "From characters to vector"
    body = [
        f"<header><div><h1>{title}</h1>",
        f"<p class=soft>{escape(explanation.model)}</p></div>" if explanation.model else "</div>",
        "<button type=button id=theme aria-label='Light or dark'></button></header>",
        "<noscript><p class=noscript>The maps need JavaScript; nothing is fetched.</p></noscript><main>",
        _texts(explanation),
        _score(explanation) if two else "",
        _attention(explanation),
        _layers(explanation),
        _components(explanation) if explanation.components is not None else "",
        "</main>",
    ]
    return page(title, "\n".join(body), _read("page.css"), _read("page.js"), figures(explanation))


def page(title: str, body: str, css: str, script: str, data: object) -> str:
    """The skeleton: one HTML document that contains all that it needs and may load nothing.

    Args:
        title: as text.
        body: as HTML.
        css, script: ours; allowed by their hashes.
        data: for JSON; the script finds it in the element ``figures``.
    """
    allowed = f"default-src 'none'; script-src {_hash(script)}; style-src {_hash(css)}"
    allowed += "; base-uri 'none'; form-action 'none'"
    figures = to_json(data, separators=(",", ":"))  # ASCII: also U+2028 is an escape
    for character in "<>&":
        figures = figures.replace(character, f"\\u{ord(character):04x}")
    return (
        "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{allowed}">\n'
        '<meta name=viewport content="width=device-width, initial-scale=1">\n'
        f"<title>{escape_html(visible(title))}</title>\n<style>{css}</style>\n</head>\n<body>\n{body}\n"
        f'<script type="application/json" id=figures>{figures}</script>\n<script>{script}</script>\n</body>\n</html>\n'
    )


def figures(explanation: Explanation) -> dict[str, Any]:
    """What the page's script reads: full figures but for attention, see :data:`EXACT_ATTENTION`."""
    exact = sum(steps.attention.numel() for steps in explanation.texts) <= EXACT_ATTENTION
    data: dict[str, Any] = {"score": explanation.score, "texts": []}
    for number, steps in enumerate(explanation.texts):
        layers, heads, *_ = steps.attention.shape
        attention = steps.attention.float() if exact else _coded(steps.attention)
        text = {
            "tokens": [visible(piece) for piece in steps.tokens],
            "from": [visible(steps.text[a:b]) if b > a else "" for a, b in steps.spans],
            "ids": steps.ids,
            "norms": steps.embeddings.double().norm(dim=-1).tolist(),
            "layers": layers,
            "heads": heads,
            "attention": _numbers(attention),
            "toLast": explanation.similarity_to_last(number).tolist(),
        }
        if explanation.input:
            text["input"] = explanation.input[number].values.tolist()
        data["texts"].append(text)
    if explanation.score is not None:
        data["scoreByLayer"] = explanation.layers.similarities[:, 0, 1].tolist()
    if explanation.pairs is not None:
        data["pairs"] = _numbers(explanation.pairs.matrix)
    if (table := explanation.components) is not None:
        scores = zip(table.components, table.without[:, 0].tolist(), table.loss[:, 0].tolist(), strict=True)
        data["components"] = [
            {"name": c.name, "layer": c.layer, "part": c.part, "head": c.head, "without": without, "loss": loss}
            for c, without, loss in scores
        ]
    return data


def _coded(probabilities: Tensor) -> Tensor:
    return (255 * probabilities.float().sqrt()).round().to(torch.uint8)


def _numbers(values: Tensor) -> dict[str, str]:
    array = values.cpu().contiguous().numpy()
    little = array.astype(array.dtype.newbyteorder("<"))
    return {"type": array.dtype.name, "base64": base64.b64encode(little.tobytes()).decode()}


# ---- the parts ------------------------------------------------------------------------------------


def _texts(explanation: Explanation) -> str:
    parts = ["<section><h2>Characters, pieces, vectors</h2>"]
    parts.append("<p class=soft>Point at a piece, or go along with the arrow keys.</p><div id=shades></div>")
    for number, steps in enumerate(explanation.texts):
        side = f"Text {'AB'[number]} · " if explanation.score is not None else ""
        parts += [
            f"<h3>{side}{len(steps.text):,} characters, {len(steps.tokens)} pieces, {len(steps.vector)} numbers</h3>",
            f"<p class=text>{escape(steps.text)}</p><div id=text-{number}></div>",
            f"<p class=soft>{_steps(explanation, steps)}</p>",
        ]
    if explanation.input:
        parts.append("<ul class=soft>")
        for side, found in zip("AB", explanation.input, strict=True):
            assert found.gap is not None and found.baseline_score is not None
            parts.append(
                f"<li>Word pieces put in, {side}: {escape(found.method)}; {found.score:.4f} less "
                f"{found.baseline_score:.4f} at the baseline is {found.score - found.baseline_score:+.4f}, "
                f"the values' sum is {found.values.sum():+.4f} (gap {abs(found.gap):.0e})</li>"
            )
        parts.append("</ul>")
    return "\n".join([*parts, "</section>"])


def _steps(explanation: Explanation, steps: TextSteps) -> str:
    lost = f"{steps.tokens_lost:,} pieces over the limit were cut off: the model never saw them. "
    end = " Scaled to length 1: " if explanation.normalized else " The vector: "
    first = ", ".join(f"{value:.4f}" for value in steps.vector[:4].tolist())
    mean = explanation.pooling_mode == "mean"
    pooled = f"mean of the last layer's {len(steps.tokens)} tokens" if mean else "last layer's vector of [CLS]"
    return f"{lost if steps.tokens_lost else ''}The {pooled} has length {steps.pooled.norm():.4f}.{end}{first} …"


def _score(explanation: Explanation) -> str:
    head = f"<section><h2>The score</h2><p class=score>{explanation.similarity} {explanation.score:.4f}</p>"
    if explanation.pairs is None:
        return head + "<p>This similarity is no sum over pairs of tokens.</p></section>"
    return f"""{head}
<p>The sum of {explanation.pairs.matrix.numel():,} pairs of tokens, exactly ({abs(explanation.pairs.gap):.0e} apart by
rounding). A token here is the last layer's vector, which has gathered from its whole text.</p>
<div id=pair-map></div>
<p class="soft legend"><span><i class=adds></i> adds to the score</span> <span><i class=takes></i> takes from it</span>
<span>full colour is the largest pair</span></p>
<h3>The pairs that add or take most</h3><ol class=best id=best></ol></section>"""


def _attention(explanation: Explanation) -> str:
    return """<section><h2>Attention</h2>
<p>In each layer a token gathers from the tokens of its own text; each head has weights of its own, which sum to 1.</p>
<div id=attention-controls></div><div id=attention-tokens></div>
<p class=readout role=status id=looks></p><div id=attention-map></div>
<p class="soft legend"><span><i class=looks></i> full colour is the largest weight shown</span>
<span>a row for each token that looks</span></p>
</section>"""


def _layers(explanation: Explanation) -> str:
    layers, two = explanation.layers, explanation.score is not None
    head = ["layer", *(["A with B"] if two else [])]
    for side in "AB" if two else [""]:
        head += [f"{side} to the last", f"{side} drift", f"{side} ‖token‖", f"{side} entropy"]
    rows = []
    for place in range(len(layers.vectors)):
        row = ["embeddings" if place == 0 else str(place - 1)]
        row += [f"{layers.similarities[place, 0, 1]:.4f}"] if two else []
        for number in range(len(explanation.texts)):
            row += [
                f"{explanation.similarity_to_last(number)[place]:.4f}",
                f"{layers.drift[place - 1, number]:.4f}" if place else "",
                f"{layers.norms[place, number]:.3f}",
                f"{layers.entropy[place - 1, number].mean():.3f}" if place else "",
            ]
        rows.append(row)
    return f"""<section><h2>The way through the layers</h2>
<p>The vector that each layer would give, if the model ended there: how similar it is to the
last one{", and A to B" * two}.
Drift is 1 - cosine with the layer before; entropy is of the attention, in nats, the mean of heads and tokens.</p>
<div id=chart></div>
<div class=scroll tabindex=0 role=region aria-label="Figures by layer">{_table(head, rows, "layer-table")}</div>
</section>"""


def _components(explanation: Explanation) -> str:
    table = explanation.components
    assert table is not None
    rows = []
    for part, without, loss in zip(
        table.components, table.without[:, 0].tolist(), table.loss[:, 0].tolist(), strict=True
    ):
        row: list[str | tuple[str, float]] = [part.name, str(part.layer), part.part.replace("_", "-")]
        row.append(("", -1) if part.head is None else str(part.head))
        rows.append([*row, (f"{without:.4f}", without), (f"{loss:+.4f}", loss)])
    head = ["component", "layer", "part", "head", "score without", "it loses"]
    return f"""<section><h2>What the score rests on</h2>
<p>Each head, each layer's attention and each feed-forward is set to zero in turn, in both texts. The losses do not
add up: others step in, and normalisation rescales what is left.</p>
<div id=component-map></div>
<p class="soft legend"><span><i class=adds></i> the score loses without it</span>
<span><i class=takes></i> the score gains</span></p>
<h3>All {len(rows)}; click a heading to sort</h3>
<div class=scroll tabindex=0 role=region aria-label="Components">{_table(head, rows, "component-table")}</div>
</section>"""


def _table(head: Sequence[str], rows: Iterable[Sequence[str | tuple[str, float]]], name: str) -> str:
    """A table; a cell may be a pair of what it shows and its full figure."""
    parts = [f"<table id={name}><thead><tr>", *(f"<th scope=col>{escape(cell)}</th>" for cell in head)]
    parts.append("</tr></thead><tbody>")
    for row in rows:
        parts.append("<tr>")
        for cell in row:
            text, figure = (cell, "") if isinstance(cell, str) else (cell[0], f" data-value={cell[1]!r}")
            parts.append(f"<td{figure}>{escape(text) if text else ''}</td>")
        parts.append("</tr>")
    return "".join([*parts, "</tbody></table>"])


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"
