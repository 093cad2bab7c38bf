"""Two checkpoints compared: what is the same is called so to the bit, what was changed by hand is named."""

import itertools
import json
import math
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from conftest import TinyFolder, edit_json
from safetensors.torch import load_file, save_file
from torch import Tensor
from training_runs import docstring_pairs

from minilm import SentenceEncoder
from minilm.cli import main
from minilm.errors import CheckpointError, InputError, ModelNotFoundError, TextTypeError
from minilm.evaluation.measures import spearman
from minilm.internals import Comparison, compare
from minilm.internals.cka import LinearCKA
from minilm.internals.compare import nearest, percent
from minilm.terminal import visible
from minilm.tolerances import ATTRIBUTION_SUM, CKA, FIGURE_FLOAT64, FLOAT16_DISTANCE, PACKED_FLOAT32
from minilm.training import MultipleNegativesRankingLoss, PairDataset, TrainingRecipe, train
from minilm.training.docstrings import docstring_summaries

TEXTS = [
    "The cat sat on the mat",
    "a dog sat on the cat",
    "two dogs",
    "nothing at all about three cats",
    "sentence about a mat",
    "",
    "three",
    "all the two sentences about nothing",
]
HOSTILE = [
    "</script><script>alert(1)</script>",
    "\"'><img src=x onerror=y>",
    "a\u202egnp.exe",
    "\x1b[31mred\x00",
    "&lt;b&gt;",
]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def folder(tiny_folder: TinyFolder) -> Path:
    return tiny_folder()


@pytest.fixture
def changed(tiny_folder: TinyFolder) -> Callable[[Callable[[dict[str, Tensor]], object]], Path]:
    """The same model with its tensors changed by a function."""

    def make(change: Callable[[dict[str, Tensor]], object]) -> Path:
        file = tiny_folder() / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
        return file.parent

    return make


@pytest.fixture(scope="module")
def tuned(tiny_bert: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny_bert``, fine-tuned for a few steps."""
    model = SentenceEncoder.from_pretrained(tiny_bert, device="cpu")
    output = tmp_path_factory.mktemp("tuned") / "model"
    recipe = TrainingRecipe.trainer(max_steps=4, per_device_train_batch_size=8, learning_rate=1e-3)
    pairs = PairDataset("docstrings", docstring_pairs(16))
    train(model, pairs, recipe, loss=MultipleNegativesRankingLoss(), output_dir=output)
    return output


@pytest.fixture(scope="module")
def found(tiny_bert: Path, tuned: Path) -> Comparison:
    """The base and its fine-tune, on pairs with scores."""
    texts = docstring_pairs(12, skip=20)["anchor"]
    pairs = list(itertools.pairwise(texts))
    return compare(tiny_bert, tuned, [*texts, *HOSTILE], pairs, [float(i) for i in range(len(pairs))], device="cpu")


# ---- the same, and one weight ----------------------------------------------------------------------


def test_a_model_and_itself(folder: Path) -> None:
    found = compare(folder, folder, TEXTS)
    assert found.same
    assert found.verdict.startswith("Same bits: all 37 tensors")
    assert all(tensor.equal and tensor.largest == tensor.relative == 0 for tensor in found.tensors)
    assert [layer.name for layer in found.layers] == ["embeddings", "layers.0.output", "layers.1.output"]
    for layer in found.layers:
        assert layer.equal
        assert (layer.relative, layer.largest, layer.cosine, layer.lowest_cosine) == (0, 0, 1, 1)
        assert layer.cka == pytest.approx(1, abs=CKA)
    assert found.vectors.equal
    assert (found.vectors.distance["most"], found.vectors.overlap) == (0, 1)
    assert found.scores.absolute_change["most"] == 0
    assert found.scores.spearman == pytest.approx(1)
    assert not (found.vectors.moved_most(5) or found.vectors.other_neighbours(5) or found.scores.changed_most(5))


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("embeddings.word_embeddings.weight", "embeddings"),
        ("encoder.layer.0.attention.self.query.weight", "layers.0.output"),
        ("encoder.layer.1.intermediate.dense.weight", "layers.1.output"),
    ],
)
def test_one_number_is_found(folder: Path, changed, name: str, first: str) -> None:
    column = 5

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][:, column] += 0.0  # no change
        tensors[name][-3, column] += 0.5  # of "all" in the vocabulary

    other = changed(change)
    old, new = (load_file(path / "model.safetensors")[name].double() for path in (folder, other))
    step = (new - old).max().item()  # 0.5, but for the rounding of their sum
    found = compare(folder, other, TEXTS)
    (tensor,) = (tensor for tensor in found.tensors if not tensor.equal)
    assert (tensor.name, tensor.changed, tensor.elements) == (name, 1, old.numel())
    assert tensor.largest == tensor.change == step > 0.49
    assert tensor.relative == pytest.approx(step / old.norm().item(), abs=FIGURE_FLOAT64)
    (part,) = (part for part in found.parts if part.tensors_changed)
    assert (part.part, part.changed) == (tensor.part, 1)
    names = [layer.name for layer in found.layers]
    equal = [layer.equal for layer in found.layers]
    assert equal == [names.index(name) < names.index(first) for name in names]
    assert [layer.relative == 0 for layer in found.layers] == equal
    assert "1 of 37 tensors changed (" in found.verdict
    assert f"activations differ from {first} on" in found.verdict


def test_signed_zero_is_other_bits(folder: Path, changed) -> None:
    name = "encoder.layer.0.output.dense.bias"

    def zero(sign: float) -> Callable[[dict[str, Tensor]], None]:
        return lambda tensors: tensors[name].fill_(sign * 0.0)

    found = compare(changed(zero(1.0)), changed(zero(-1.0)), TEXTS)
    (tensor,) = (tensor for tensor in found.tensors if not tensor.equal)
    assert (tensor.name, tensor.changed, tensor.largest, tensor.relative) == (name, 24, 0, 0)
    assert not found.same


def test_layers_by_the_formulas(tiny_bert: Path, tuned: Path) -> None:
    texts = docstring_pairs(8)["anchor"]
    a, b = (SentenceEncoder.from_pretrained(folder, device="cpu") for folder in (tiny_bert, tuned))
    found = compare(tiny_bert, tuned, texts)
    with torch.no_grad():
        states = [model(model.tokenize(texts, "packed"), output_hidden_states=True).hidden_states for model in (a, b)]
        lengths = a.tokenize(texts).lengths
    for layer, h, g in zip(found.layers, *states, strict=True):
        h, g = h.double(), g.double()
        assert layer.relative == pytest.approx(((g - h).norm() / h.norm()).item(), abs=FIGURE_FLOAT64)
        assert layer.cosine == pytest.approx(torch.cosine_similarity(h, g).mean().item(), abs=FIGURE_FLOAT64)
        assert layer.lowest_cosine == pytest.approx(torch.cosine_similarity(h, g).min().item(), abs=FIGURE_FLOAT64)
        drifts = [(y - x).norm() / x.norm() for x, y in zip(h.split(lengths), g.split(lengths), strict=True)]
        assert layer.relative_of_texts["most"] == pytest.approx(max(drifts).item(), abs=FIGURE_FLOAT64)
        means = [torch.stack([x.mean(dim=0) for x in side.split(lengths)]) for side in (h, g)]
        assert layer.cka == pytest.approx(by_kernels(*means), abs=CKA)


# ---- CKA -------------------------------------------------------------------------------------------


def by_kernels(x: Tensor, y: Tensor) -> float:
    """Unbiased linear CKA as it stands in the papers, with n × n kernels."""
    n, one = len(x), torch.ones(len(x), dtype=torch.float64)

    def hsic(k: Tensor, l: Tensor) -> Tensor:  # noqa: E741
        k, l = (m - m.diag().diag() for m in (k, l))  # noqa: E741
        sums = (one @ k @ one) * (one @ l @ one) / ((n - 1) * (n - 2))
        return ((k @ l).trace() + sums - 2 / (n - 2) * (one @ k @ l @ one)) / (n * (n - 3))

    k, l = x @ x.T, y @ y.T  # noqa: E741
    return float(hsic(k, l) / (hsic(k, k) * hsic(l, l)).sqrt())


def cka(x: Tensor, y: Tensor, batch: int = 7) -> float | None:
    streamed = LinearCKA(x.shape[1], y.shape[1])
    for start in range(0, len(x), batch):
        streamed.update(x[start : start + batch], y[start : start + batch])
    return streamed.value()


def test_cka_in_batches_is_the_formula() -> None:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(50, 6, generator=generator, dtype=torch.float64) + 5
    y = x[:, :4] @ torch.randn(4, 9, generator=generator, dtype=torch.float64)
    y = y + 0.5 * torch.randn(50, 9, generator=generator, dtype=torch.float64)
    expected = by_kernels(x, y)
    assert 0.2 < expected < 0.98
    for batch in (1, 7, 50):
        assert cka(x, y, batch) == pytest.approx(expected, abs=CKA)
        assert cka(x, y + 1e4, batch) == pytest.approx(expected, abs=CKA)  # digits are not lost far from 0


def test_cka_sees_neither_rotation_nor_scale_nor_shift_and_knows_the_unrelated() -> None:
    generator = torch.Generator().manual_seed(4)
    x, other = torch.randn(2, 300, 40, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(40, 40, generator=generator, dtype=torch.float64))[0]
    assert cka(x, x @ rotation * 3 + 2, 64) == pytest.approx(1, abs=CKA)
    assert cka(x, x * torch.linspace(0.1, 3, 40)) < 0.95  # stretching some directions is no rotation
    assert abs(cka(x[:20], other[:20])) < 0.3  # the usual estimator gives 0.67 here
    centred = [m[:20] - m[:20].mean(dim=0) for m in (x, other)]
    usual = (centred[0].T @ centred[1]).norm() ** 2
    usual /= (centred[0].T @ centred[0]).norm() * (centred[1].T @ centred[1]).norm()
    assert usual > 0.6


def test_cka_undefined() -> None:
    x = torch.randn(3, 5)
    assert cka(x, x) is None
    assert cka(torch.ones(9, 5), torch.randn(9, 5)) is None


# ---- vectors and scores ----------------------------------------------------------------------------


def test_neighbours_by_hand() -> None:
    angles = torch.tensor([0.0, 10.0, 25.0, 90.0, 90.0, 180.0]) * math.pi / 180
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    assert nearest(vectors, 2) == [[1, 2], [0, 2], [1, 0], [4, 2], [3, 2], [3, 4]]
    assert nearest(vectors, 5)[0] == [1, 2, 3, 4, 5]
    for number, others in enumerate(nearest(torch.ones(9, 2), 2)):  # all the same, and still not itself
        assert len({*others}) == 2
        assert number not in others


def test_vectors_are_those_of_encode(found: Comparison, tiny_bert: Path, tuned: Path) -> None:
    texts = [text.text for text in found.vectors.texts]
    a, b = (SentenceEncoder.from_pretrained(folder, device="cpu") for folder in (tiny_bert, tuned))
    a, b = (model.encode(texts, truncation="silent") for model in (a, b))
    distances = 1 - (a * b).sum(axis=1)
    assert [text.distance for text in found.vectors.texts] == pytest.approx(distances.tolist(), abs=PACKED_FLOAT32)
    assert found.vectors.distance["most"] == max(text.distance for text in found.vectors.texts) > 1e-4
    neighbours = (nearest(torch.tensor(vectors), 10) for vectors in (a, b))
    for text, before, after in zip(found.vectors.texts, *neighbours, strict=True):
        assert (text.before, text.after) == (before, after)
        assert text.overlap == len({*before} & {*after}) / 10
    moved = found.vectors.moved_most(3)
    assert [text.distance for text in moved] == sorted((t.distance for t in found.vectors.texts), reverse=True)[:3]


def test_scores_and_the_tokens_that_changed_them(found: Comparison, tiny_bert: Path, tuned: Path) -> None:
    models = [SentenceEncoder.from_pretrained(folder, device="cpu") for folder in (tiny_bert, tuned)]
    for pair in found.scores.pairs:
        a, b = (
            model.similarity(*model.encode([pair.first, pair.second], truncation="silent")).item() for model in models
        )
        assert (pair.a, pair.b) == pytest.approx((a, b), abs=PACKED_FLOAT32)
        assert pair.change == pair.b - pair.a
    most = found.scores.changed_most(3)
    assert abs(most[0].change) == found.scores.absolute_change["most"] > 1e-3
    for pair in most:
        assert abs(pair.gap) <= 2 * ATTRIBUTION_SUM  # of two scores: all token pairs together are the whole change
        sizes = [abs(token.change) for token in pair.tokens]
        assert sizes == sorted(sizes, reverse=True)
        for token in pair.tokens:
            assert token.change == token.b - token.a
            first, second = (
                models[0].tokenizer.pieces(models[0].tokenizer([t]).ids[0]) for t in (pair.first, pair.second)
            )
            assert (first[token.first_position], second[token.second_position]) == (token.first, token.second)
    a, b, gold = (
        torch.tensor([getattr(pair, name) for pair in found.scores.pairs]).numpy() for name in ("a", "b", "gold")
    )
    assert found.scores.spearman == pytest.approx(spearman(a, b))
    assert found.scores.gold_spearman_a == pytest.approx(spearman(a, gold))
    assert found.scores.gold_spearman_b == pytest.approx(spearman(b, gold))


def test_without_pairs_each_text_stands_with_its_nearest(folder: Path, changed) -> None:
    found = compare(folder, changed(lambda tensors: tensors["encoder.layer.0.output.dense.weight"].mul_(1.5)), TEXTS)
    numbers = {text.text: number for number, text in enumerate(found.vectors.texts)}
    pairs = {frozenset((numbers[pair.first], numbers[pair.second])) for pair in found.scores.pairs}
    assert len(pairs) == len(found.scores.pairs)
    expected = {
        frozenset((number, other))
        for number, text in enumerate(found.vectors.texts)
        for other in (*text.before[:3], *text.after[:3])
    }
    assert pairs == expected


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (0, "0 %"),
        (1e-9, "<0.01 %"),
        (0.00123, "0.123 %"),
        (0.5, "50 %"),
        (0.9994, "99.9 %"),
        (1 - 1e-9, "99.99 %"),
        (1, "100 %"),
    ],
)
def test_only_all_is_a_hundred_per_cent(share: float, shown: str) -> None:
    assert percent(share) == shown


def test_default_texts() -> None:
    texts = docstring_summaries(256)
    assert len({*texts}) == len(texts) == 256
    assert all(4 <= len(text.split()) <= 30 for text in texts)


# ---- models that differ in form --------------------------------------------------------------------


def test_settings(folder: Path, tiny_folder: TinyFolder) -> None:
    other = tiny_folder(normalize=False, layer_norm_eps=1e-5)
    edit_json(other / "config_sentence_transformers.json", similarity_fn_name="euclidean", prompts={"query": "find: "})
    found = compare(folder, other, TEXTS)
    settings = {setting.name: (setting.a, setting.b) for setting in found.settings}
    assert settings == {
        "layer_norm_eps": (1e-6, 1e-5),
        "normalize": (True, False),
        "similarity_fn_name": ("cosine", "euclidean"),
        "prompts": ({"query": "", "document": ""}, {"query": "find: ", "document": ""}),
    }
    assert found.tokenizer.same
    assert not found.same
    assert "all 37 tensors equal" in found.verdict
    assert any("not split over token pairs" in note for note in found.notes)


def test_another_limit_leaves_out_the_texts_that_are_cut(folder: Path, tiny_folder: TinyFolder) -> None:
    other = tiny_folder()
    edit_json(other / "tokenizer_config.json", model_max_length=6)
    found = compare(folder, other, TEXTS)
    assert [setting.name for setting in found.settings] == ["max_seq_length"]
    assert any("B cuts 4 of 8 texts at its limit of 6 tokens" in note for note in found.notes)
    assert any("Layers are compared on the 4 of 8 texts" in note for note in found.notes)
    assert all(layer.equal for layer in found.layers)
    assert found.tokenizer.split_differently == 0  # up to the cut they are the same
    assert found.vectors.distance["most"] > 0


def test_another_vocabulary(folder: Path, tiny_bert: Path) -> None:
    found = compare(folder, tiny_bert, TEXTS)
    assert not found.tokenizer.same
    assert found.tokenizer.pieces_b == 30522
    assert found.tokenizer.only_in_a == 0 < found.tokenizer.only_in_b
    assert found.tokenizer.vocabulary_a != found.tokenizer.vocabulary_b
    assert found.tokenizer.split_differently == sum(
        text not in ("", "three", "The cat sat on the mat", "a dog sat on the cat", "sentence about a mat")
        for text in TEXTS
    )
    assert found.layers == []
    assert any("hidden_size is 24 in A and 32 in B" in note for note in found.notes)
    assert found.vectors.distance is None
    assert (found.vectors.dimension_a, found.vectors.dimension_b) == (24, 32)
    assert 0 < found.vectors.overlap <= 1
    assert found.scores.spearman is not None
    (word,) = (tensor for tensor in found.tensors if tensor.name == "embeddings.word_embeddings.weight")
    assert (word.changed, word.largest, word.shape_b) == (None, None, (30522, 32))
    assert "Another tokenizer" in found.verdict
    json.loads(found.to_json())
    assert "30522" in found.to_html()


def test_another_number_of_layers(folder: Path, tiny_folder: TinyFolder) -> None:
    found = compare(folder, tiny_folder(num_hidden_layers=3), TEXTS)
    assert any("num_hidden_layers is 2 in A and 3 in B" in note for note in found.notes)
    extra = [tensor for tensor in found.tensors if tensor.part == "layer 2"]
    assert len(extra) == 16
    assert all(tensor.shape_a is None and not tensor.equal for tensor in extra)
    assert "only in B" in found.to_text(top=5)


def test_another_type(folder: Path, changed) -> None:
    def halve(tensors: dict[str, Tensor]) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.half()

    half = changed(halve)
    edit_json(half / "config.json", dtype="float16")
    found = compare(folder, half, TEXTS)
    assert {(tensor.dtype_a, tensor.dtype_b) for tensor in found.tensors} == {("float32", "float16")}
    assert not any(tensor.equal for tensor in found.tensors)
    assert 0 < max(tensor.relative for tensor in found.tensors) < 2**-10
    assert [(s.name, s.a, s.b) for s in found.settings] == [("dtype", "float32", "float16")]
    assert 0 < found.vectors.distance["most"] < FLOAT16_DISTANCE


def test_only_what_the_encoder_does_not_use(folder: Path, changed) -> None:
    found = compare(folder, changed(lambda tensors: tensors.pop("pooler.dense.bias")), TEXTS)
    assert found.same
    assert found.verdict.endswith("1 of the tensors that the encoder does not use differ")


def test_weights_that_are_not_finite(folder: Path, changed) -> None:
    name = "encoder.layer.1.output.dense.bias"
    found = compare(folder, changed(lambda tensors: tensors[name][:2].fill_(math.nan)), TEXTS)
    assert found.verdict.startswith("B has 2 numbers that are not finite")
    assert (found.layers, found.vectors, found.scores) == ([], None, None)
    assert any(name in note and "B's vectors of 8 of 8 texts are not finite" in note for note in found.notes)
    (tensor,) = (tensor for tensor in found.tensors if not tensor.equal)
    assert (tensor.changed, tensor.largest, tensor.relative, tensor.not_finite_b) == (2, None, None, 2)
    assert "NaN" not in found.to_json()
    assert name in found.to_html()


@pytest.mark.parametrize(
    ("texts", "options", "error", "message"),
    [
        ([], {}, InputError, "found 0 different texts, expected at least 2"),
        (["one", "one"], {}, InputError, "found 1 different text, expected at least 2"),
        ("one", {}, TextTypeError, "put it in a list"),
        (["one", None], {}, TextTypeError, "text 1 is NoneType"),
        (TEXTS, {"pairs": []}, InputError, "there are no pairs"),
        (TEXTS, {"pairs": ["ab"]}, InputError, r"pairs\[0\] is 'ab', expected two texts"),
        (TEXTS, {"pairs": [("a", "b")], "gold": [1.0, 2.0]}, InputError, "1 pairs, but 2 gold scores"),
        (TEXTS, {"gold": [1.0]}, InputError, "gold scores are of pairs"),
        (TEXTS, {"neighbours": 0}, InputError, "neighbours is 0"),
    ],
)
def test_bad_input(folder: Path, texts, options, error, message: str) -> None:
    with pytest.raises(error, match=message):
        compare(folder, folder, texts, **options)


def test_bad_folders(folder: Path, tmp_path: Path, changed) -> None:
    with pytest.raises(ModelNotFoundError, match="missing is not a folder"):
        compare(folder, tmp_path / "missing", TEXTS)
    with pytest.raises(CheckpointError, match=r"missing: encoder\.layer\.0\.output\.dense\.bias"):
        compare(folder, changed(lambda tensors: tensors.pop("encoder.layer.0.output.dense.bias")), TEXTS)


# ---- reports ---------------------------------------------------------------------------------------


class Page(HTMLParser):
    """What a browser would see: the tags and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_json_holds_everything(found: Comparison) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads(found.to_json(), parse_constant=refuse)
    assert content["verdict"] == found.verdict
    assert content["same"] is False
    assert len(content["tensors"]) == len(found.tensors)
    assert {part["part"] for part in content["parts"]} == {"embeddings", "layer 0", "layer 1", "unused"}
    assert [layer["relative"] for layer in content["layers"]] == [layer.relative for layer in found.layers]
    assert [text["text"] for text in content["vectors"]["texts"]] == [text.text for text in found.vectors.texts]
    assert content["scores"]["pairs"][0]["gold"] == 0
    assert content == json.loads(json.dumps(found.to_dict()))


def test_the_page_has_the_figures_and_no_text_escapes(found: Comparison) -> None:
    html = found.to_html(top=20)
    page = Page(html)
    assert visible(found.verdict) in page.text
    for layer in found.layers:
        assert layer.name in page.text
        assert f"{layer.relative:.2e}" in page.text
        assert f"{layer.cka:.5f}" in page.text
    for tensor in found.tensors:
        assert tensor.name in page.text
    for text in found.vectors.moved_most(20):
        assert f"{text.distance:.2e}" in page.text
        assert visible(text.text, 300) in page.text
    for pair in found.scores.changed_most(20):
        assert f"{pair.change:+.4f}" in page.text
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "img", "link", "iframe", "b"})
    assert not any(name.startswith("on") or name in ("src", "href") for _, attrs in page.tags for name in attrs)
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", html)
    assert "default-src 'none'" in html
    assert all(visible(text) in page.text for text in HOSTILE if text in [t.text for t in found.vectors.moved_most(20)])


def test_the_report(found: Comparison) -> None:
    report = found.to_text(top=17)
    assert found.verdict in report
    assert "\x1b" not in report
    assert "\u202e" not in report
    assert f"A {found.scores.gold_spearman_a:.4f}, B {found.scores.gold_spearman_b:.4f}" in report
    assert repr(found) == found.to_text()
    assert '<main class="minilm">' in found._repr_html_()


def test_the_command(folder: Path, changed, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = changed(lambda tensors: tensors["encoder.layer.1.output.dense.weight"].mul_(1.5))
    texts, pairs = tmp_path / "texts.txt", tmp_path / "pairs.csv"
    texts.write_text("\n".join(TEXTS))
    pairs.write_text("sentence1,sentence2,score\na cat,the cat,1\na dog,nothing,0\nthe mat,a mat,0.8\n")
    command = ["compare", str(folder), str(other), "--texts", str(texts), "--pairs", str(pairs), "--device", "cpu"]
    assert main([*command, "--json", str(tmp_path / "c.json"), "--html", str(tmp_path / "c.html")]) == 0
    report = capsys.readouterr().out
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["verdict"] in report
    assert "encoder.layer.1.output.dense.weight" in report
    assert content["texts"] == "texts.txt"
    assert [pair["gold"] for pair in content["scores"]["pairs"]] == [1, 0, 0.8]
    assert content["verdict"] in Page((tmp_path / "c.html").read_text()).text
    assert main([*command, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == content
    assert main([*command, "--fail-if-different"]) == 1
    assert main([*command[:2], str(folder), *command[3:], "--fail-if-different"]) == 0
    assert "Same bits" in capsys.readouterr().out
    pairs.write_text(pairs.read_text().partition("\n")[2])  # without its header
    assert main([*command, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == content


def test_the_command_says_what_it_cannot_do(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "one.txt").write_text("one")
    for options, message in (
        (["--texts", str(tmp_path / "empty.txt")], "empty.txt has no texts"),
        (["--texts", str(tmp_path / "one.txt")], "found 1 different text"),
        (["--texts", str(tmp_path / "none.txt")], "none.txt: No such file"),
        (["--column", "text"], "--field and --column are of the file of --texts"),
        (["--top", "-1"], "--top is -1"),
    ):
        assert main(["compare", str(folder), str(folder), *options]) == 2
        assert message in capsys.readouterr().err
