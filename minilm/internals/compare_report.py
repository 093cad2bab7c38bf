"""A comparison as a report for the terminal and as a page."""

from __future__ import annotations

from collections.abc import Sequence

from minilm.internals.compare import Comparison, PairChange, PartChange, TensorChange, TextChange, percent
from minilm.internals.html import Html, bar, escape, page, table, text_cell
from minilm.terminal import visible

WIDTH = 72  # characters of a text in the terminal
ON_PAGE = 300


# ---- the terminal ----------------------------------------------------------------------------------


def to_text(found: Comparison, top: int) -> str:
    """The report, top things first; ``top`` texts and pairs of each kind."""
    lines = [f"A  {visible(found.a)}", f"B  {visible(found.b)}", f"{found.verdict}."]
    lines += [f"Note: {note}" for note in found.notes]
    lines += ["", *_tensors(found, top)]
    if found.settings:
        lines += ["", *_columns([("setting", "A", "B"), *_settings(found)], numbers=0)]
    lines += ["", *_tokenizer(found)]
    if found.layers:
        head = ("activation", "drift", "median", "95 %", "cosine", "lowest", "CKA")
        lines += ["", "Layers: drift ‖B - A‖ / ‖A‖ of all tokens, and of a text; cosine of a token's vectors"]
        lines += _columns([head, *_layers(found)])
    if found.vectors is not None:
        vectors = found.vectors
        lines += ["", f"Vectors of {found.text_count:,} texts ({visible(found.texts)})"]
        if vectors.distance is not None:
            lines.append("cosine distance from A's to B's: " + _listed(vectors.distance))
            lines += [f"  {text.distance:.2e}  {_quoted(text.text)}" for text in vectors.moved_most(top)]
        lines.append(f"{percent(vectors.overlap)} of the {vectors.neighbours} nearest neighbours are the same")
        for text in vectors.other_neighbours(top):
            lines.append(f"  {percent(text.overlap):>6}  {_quoted(text.text)}")
            lines += [f"          {sign} {_quoted(other)}" for sign, other in _lost_and_gained(found, text, 2)]
    if found.scores is not None:
        scores = found.scores
        lines += ["", f"Scores of {len(scores.pairs):,} pairs ({visible(scores.source)})", *_correlations(found)]
        lines.append("change, B less A: " + _listed(scores.change))
        for pair in scores.changed_most(top):
            lines.append(f"  {pair.a:.4f} → {pair.b:.4f} ({pair.change:+.4f})  {_quoted(pair.first)}")
            lines.append(" " * 31 + _quoted(pair.second))
            lines += [" " * 31 + token for token in _token_lines(pair)]
    return "\n".join(lines)


def _tensors(found: Comparison, top: int) -> list[str]:
    head = ("tensors", "changed", "numbers changed", "largest", "relative L2")
    lines = _columns([head, *(_part(part) for part in found.parts)])
    lines += [f"  {visible(t.name)}: {_other_form(t)}" for t in found.tensors if t.changed is None][:top]
    if most := _changed_most(found)[:top]:
        lines.append("most changed, by relative L2:")
        lines += ["  " + line for line in _columns([(t.name, _number(t.relative), _number(t.largest)) for t in most])]
    return lines


def _columns(rows: Sequence[Sequence[str]], numbers: int | None = None) -> list[str]:
    """Rows in columns, the first to the left and so many of the last (None: all others) to the right."""
    first_number = 1 if numbers is None else len(rows[0]) - numbers
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [row[i].ljust(w) if i < first_number else row[i].rjust(w) for i, w in enumerate(widths)]
        lines.append("  ".join(cells).rstrip())
    return lines


def _quoted(text: str) -> str:
    return visible(text, WIDTH)


# ---- what both show --------------------------------------------------------------------------------


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return "0" if value == 0 else f"{value:.2e}"


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {_number(value)}" for name, value in values.items())


def _part(part: PartChange) -> tuple[str, ...]:
    share = percent(part.changed / part.elements) if part.elements else "-"
    changed = f"{part.tensors_changed} of {part.tensors}"
    return part.part, changed, share, _number(part.largest), _number(part.relative)


def _changed_most(found: Comparison) -> list[TensorChange]:
    return sorted((t for t in found.tensors if t.change), key=lambda t: -(t.relative or float("inf")))


def _other_form(tensor: TensorChange) -> str:
    """Of a tensor that is not in both files in one shape."""
    if tensor.shape_a is None or tensor.shape_b is None:
        return f"only in {'B' if tensor.shape_a is None else 'A'}"
    return f"shape {list(tensor.shape_a)} in A, {list(tensor.shape_b)} in B"


def _settings(found: Comparison) -> list[tuple[str, str, str]]:
    return [
        (setting.name, visible(repr(setting.a), WIDTH), visible(repr(setting.b), WIDTH)) for setting in found.settings
    ]


def _tokenizer(found: Comparison) -> list[str]:
    """The tokenizers, a line for each thing to say."""
    t = found.tokenizer
    if t.same:
        return [f"Tokenizer: the same, {t.pieces_a:,} pieces (vocabulary {t.vocabulary_a[:16]})"]
    if t.vocabulary_a == t.vocabulary_b:
        lines = [f"Tokenizer: the same {t.pieces_a:,} pieces, but other settings in tokenizer.json"]
    else:
        lines = [
            f"Tokenizer: {t.pieces_a:,} pieces in A, {t.pieces_b:,} in B; {t.only_in_a:,} only in A, "
            f"{t.only_in_b:,} only in B, {t.other_id:,} under another id"
        ]
    for name, pieces in (("A", t.examples_only_in_a), ("B", t.examples_only_in_b)):
        if pieces:
            lines.append(f"only in {name}, e.g. {', '.join(visible(piece, 30) for piece in pieces[:8])}")
    lines.append(f"{t.split_differently:,} of {found.text_count:,} texts are split differently")
    for example in t.examples:
        lines += [f"  {name}  {visible(' '.join(p), WIDTH)}" for name, p in (("A", example.a), ("B", example.b))]
    return lines


def _layers(found: Comparison) -> list[tuple[str, ...]]:
    return [
        (
            layer.name,
            _number(layer.relative),
            _number(layer.relative_of_texts["median"]),
            _number(layer.relative_of_texts["95%"]),
            f"{layer.cosine:.5f}",
            f"{layer.lowest_cosine:.5f}",
            "-" if layer.cka is None else f"{layer.cka:.5f}",
        )
        for layer in found.layers
    ]


def _lost_and_gained(found: Comparison, text: TextChange, most: int) -> list[tuple[str, str]]:
    """The nearest of the neighbours that went, and of those that came."""
    assert found.vectors is not None  # for the type checker
    texts = found.vectors.texts
    lost = [("-", texts[i].text) for i in text.before if i not in text.after]
    gained = [("+", texts[i].text) for i in text.after if i not in text.before]
    return lost[:most] + gained[:most]


def _correlations(found: Comparison) -> list[str]:
    scores = found.scores
    assert scores is not None  # for the type checker

    def shown(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.4f}"

    lines = [f"Spearman of A's scores and B's: {shown(scores.spearman)}"]
    if any(pair.gold is not None for pair in scores.pairs):
        lines.append(
            f"Spearman with the given scores: A {shown(scores.gold_spearman_a)}, B {shown(scores.gold_spearman_b)}"
        )
    return lines


def _token_lines(pair: PairChange) -> list[str]:
    return [f"{t.change:+.4f}  {visible(t.first, 30)} × {visible(t.second, 30)}" for t in pair.tokens or ()]


# ---- the page --------------------------------------------------------------------------------------


def to_html(found: Comparison, top: int) -> str:
    """The report as a page of its own."""
    return page(f"{found.a} and {found.b} compared", body(found, top))


def body(found: Comparison, top: int) -> Html:
    """The report, section by section."""
    sections = [
        f"<h1>{escape(found.a)} → {escape(found.b)}</h1>",
        f'<p class="verdict">{escape(found.verdict)}.</p>',
        *(f"<p>Note: {escape(note)}</p>" for note in found.notes),
        '<p class="dim">A is the model before the arrow, B the one after it.</p>',
        "<h2>Tensors</h2>",
        _tensors_section(found),
        "<h2>Settings and tokenizer</h2>",
        _settings_section(found),
    ]
    if found.layers:
        sections += ["<h2>Layers</h2>", _layers_section(found)]
    if found.vectors is not None:
        sections += ["<h2>Vectors and neighbours</h2>", _vectors_section(found, top)]
    if found.scores is not None:
        sections += ["<h2>Scores</h2>", _scores_section(found, top)]
    return "\n".join(sections)


def _share(value: float | None, largest: float) -> Html:
    return bar(value / largest) if value and largest else bar(0)


def _tensors_section(found: Comparison) -> Html:
    parts = found.parts
    largest = max((part.relative or 0 for part in parts), default=0)
    head = ["", "changed", "numbers changed", "largest", "relative L2", ""]
    rows = [[*map(escape, _part(part)), _share(part.relative, largest)] for part in parts]
    largest = max((t.relative or 0 for t in found.tensors), default=0)
    every = [
        [
            escape(t.name),
            escape("equal" if t.equal else "changed" if t.changed is not None else _other_form(t)),
            escape(" × ".join(map(str, t.shape_a or t.shape_b or ()))),
            escape(" → ".join(dict.fromkeys(filter(None, (t.dtype_a, t.dtype_b))))),
            "-" if t.changed is None else f"{t.changed:,}",
            _number(t.largest),
            _number(t.relative),
            _share(t.relative, largest),
        ]
        for t in found.tensors
    ]
    names = ["tensor", "", "shape", "type", "numbers changed", "largest", "relative L2", ""]
    return (
        table(head, rows, caption="By layer; largest: of a number, absolute; relative L2: ‖B - A‖ / ‖A‖")
        + f"<details><summary>All {len(every):,} tensors</summary>{table(names, every, numbers=6)}</details>"
    )


def _settings_section(found: Comparison) -> Html:
    if not found.settings:
        settings = "<p>All settings are the same.</p>"
    else:
        rows = [[escape(s.name), text_cell(repr(s.a), ON_PAGE), text_cell(repr(s.b), ON_PAGE)] for s in found.settings]
        settings = table(["setting", "A", "B"], rows, numbers=0)
    return settings + "".join(f"<p>{escape(line.strip())}</p>" for line in _tokenizer(found))


def _layers_section(found: Comparison) -> Html:
    largest = max(layer.relative for layer in found.layers)
    rows = [
        [escape(row[0]), row[1], _share(layer.relative, largest), *row[2:]]
        for row, layer in zip(_layers(found), found.layers, strict=True)
    ]
    head = ["", "drift", "", "median", "95 %", "cosine", "lowest", "CKA"]
    note = (
        "Drift: ‖B - A‖ / ‖A‖ over all tokens of all texts; median and 95 %: the same for each text. Cosine: of a "
        "token's two vectors, mean and lowest. CKA: unbiased linear centred kernel alignment of the texts' means; 1 is "
        "the same but for rotation and scale."
    )
    return f'<p class="dim">{note}</p>' + table(head, rows, caption="By layer")


def _vectors_section(found: Comparison, top: int) -> Html:
    vectors = found.vectors
    assert vectors is not None  # for the type checker
    parts = [f"<p>{found.text_count:,} texts: {escape(found.texts)}.</p>"]
    if vectors.distance is not None:
        rows = [["cosine distance", *map(_number, vectors.distance.values())]]
        parts.append(table(["", *vectors.distance], rows, caption="From A's vector to B's"))
        most = vectors.distance["most"]
        rows = [
            [text_cell(text.text, ON_PAGE), _number(text.distance), _share(text.distance, most)]
            for text in vectors.moved_most(top)
        ]
        if rows:
            parts.append(table(["text", "distance", ""], rows, caption="Texts that moved most"))
    parts.append(
        f"<p>{percent(vectors.overlap)} of the {vectors.neighbours} nearest neighbours of a text are the same.</p>"
    )
    rows = []
    for text in vectors.other_neighbours(top):
        moves = _lost_and_gained(found, text, 3)
        shown = {sign: "".join(text_cell(t, ON_PAGE) for s, t in moves if s == sign) for sign in "-+"}
        rows.append([text_cell(text.text, ON_PAGE), percent(text.overlap), shown["-"], shown["+"]])
    if rows:
        head = ["text", "the same", "nearest lost", "nearest gained"]
        parts.append(table(head, rows, numbers=0, caption="Texts whose neighbourhood changed most"))
    return "".join(parts)


def _scores_section(found: Comparison, top: int) -> Html:
    scores = found.scores
    assert scores is not None  # for the type checker
    parts = [f"<p>{len(scores.pairs):,} pairs: {escape(scores.source)}.</p>"]
    parts += [f"<p>{escape(line)}.</p>" for line in _correlations(found)]
    rows = [
        ["change", *map(_signed, scores.change.values())],
        ["its size", *map(_number, scores.absolute_change.values())],
    ]
    parts.append(table(["", *scores.change], rows, caption="B's score less A's"))
    rows = []
    for pair in scores.changed_most(top):
        tokens = [f"{_signed(t.change)} {escape(t.first, 30)} × {escape(t.second, 30)}" for t in pair.tokens or ()]
        texts = text_cell(pair.first, ON_PAGE) + text_cell(pair.second, ON_PAGE)
        changes = f'<div class="text">{"<br>".join(tokens) or "-"}</div>'
        rows.append([texts, changes, f"{pair.a:.4f}", f"{pair.b:.4f}", _signed(pair.change)])
    if rows:
        head = ["pair", "token pairs that changed most", "A", "B", "change"]
        parts.append(table(head, rows, numbers=3, caption="Pairs whose score changed most"))
    return "".join(parts)


def _signed(value: float) -> Html:
    kind = "more" if value > 0 else "less" if value < 0 else "dim"
    return f'<span class="{kind}">{value:+.4f}</span>'
