"""Attributions: what must sum does, what stands for a change of the score is that change, and the
figures of the components are those of an intervention."""

from pathlib import Path

import pytest
import torch
from conftest import TinyFolder
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import InputError, SentenceEncoder, TextTypeError
from minilm.internals import (
    ablate,
    component_table,
    deletion_curve,
    gradient_x_input,
    integrated_gradients,
    occlusion,
    read_pairs,
    replace,
    token_pairs,
)
from minilm.tolerances import (
    ATTRIBUTION_SUM,
    COMPLETENESS,
    FIGURE_FLOAT64,
    FINITE_DIFFERENCE,
    FINITE_DIFFERENCE_NEAR_ZERO,
    PACKED_FLOAT32,
    PACKED_FLOAT64,
    TOKEN_PAIR,
)

PAIRS = [
    ("How long does a sourdough loaf stay in the oven?", "Bake the bread until the crust sounds hollow."),
    ("A man is playing a guitar.", "A man plays the guitar."),
    ("The ferry leaves at seven.", "Stocks fell sharply on Monday after the report."),
    ("cat", "kitten"),
    ("", "An empty text beside this one."),
    ("The committee met again in the spring, and " * 8, "Nothing was decided by the committee; " * 6),
]

pytestmark = pytest.mark.filterwarnings("ignore::minilm.TruncationWarning")


@pytest.fixture(scope="module")
def tiny(tiny_folder: TinyFolder) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", dtype=torch.float64)


def score(model: SentenceEncoder, text: str, other: str) -> float:
    vectors = model.encode([text, other], convert_to_tensor=True, truncation="silent")
    return model.similarity_pairwise(vectors[:1], vectors[1:]).item()


# ---- token pairs --------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_token_pairs_sum_to_the_score(model: SentenceEncoder, pair: tuple[str, str], layout: str) -> None:
    found = token_pairs(model, *pair, layout=layout)
    assert found.matrix.shape == (len(found.tokens[0]), len(found.tokens[1]))
    assert abs(found.matrix.sum().item() - score(model, *pair)) < ATTRIBUTION_SUM
    assert abs(found.gap) < ATTRIBUTION_SUM
    assert found.first.sum().item() == pytest.approx(found.score, abs=ATTRIBUTION_SUM)
    assert found.second.sum().item() == pytest.approx(found.score, abs=ATTRIBUTION_SUM)


def test_token_pairs_are_products_of_the_token_vectors(model: SentenceEncoder) -> None:
    """One entry, by hand from ``encode``'s own token embeddings."""
    a, b = model.encode(PAIRS[0], output_value="token_embeddings")
    by_hand = a[3] @ b[2] / (len(a) * len(b) * a.mean(0).norm() * b.mean(0).norm())
    assert token_pairs(model, *PAIRS[0]).matrix[3, 2].item() == pytest.approx(by_hand.item(), abs=TOKEN_PAIR)


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("truncate_dim", [None, 5])
def test_token_pairs_sum_for_any_checkpoint(
    tiny_folder: TinyFolder, normalize: bool, similarity: str, truncate_dim: int | None
) -> None:
    model = SentenceEncoder.from_pretrained(
        tiny_folder(normalize=normalize, hidden_act="relu"),
        device="cpu",
        dtype=torch.float64,
        similarity_fn_name=similarity,
        truncate_dim=truncate_dim,
    )
    found = token_pairs(model, "the cat sat", "two dogs")
    assert found.score == pytest.approx(score(model, "the cat sat", "two dogs"), rel=100 * PACKED_FLOAT64)
    assert found.matrix.sum().item() == pytest.approx(found.score, rel=100 * PACKED_FLOAT64)


def test_token_pairs_refuse_what_is_no_sum(tiny: SentenceEncoder) -> None:
    with pytest.raises(InputError, match="'euclidean', which is no sum over token pairs"):
        token_pairs(tiny, "a", "b", similarity="euclidean")
    with pytest.raises(TextTypeError, match="text 1 is NoneType"):
        token_pairs(tiny, "a", None)


@settings(max_examples=30, deadline=None)
@given(text=st.text(max_size=60), other=st.text(max_size=60))
def test_token_pairs_sum_for_any_text(model: SentenceEncoder, text: str, other: str) -> None:
    assert abs(token_pairs(model, text, other).gap) < ATTRIBUTION_SUM


# ---- to the input -------------------------------------------------------------------------------


@pytest.mark.parametrize("pair", PAIRS[:4])
@pytest.mark.parametrize("baseline", ["pad", "mask", "zero"])
def test_integrated_gradients_are_complete(model: SentenceEncoder, pair: tuple[str, str], baseline: str) -> None:
    found = integrated_gradients(model, *pair, baseline=baseline)
    whole = found.score - found.baseline_score
    assert found.score == pytest.approx(score(model, *pair), abs=PACKED_FLOAT32)
    assert found.values.sum().item() == pytest.approx(whole, abs=COMPLETENESS * abs(whole))
    assert found.gap == pytest.approx(found.values.sum().item() - whole, abs=FIGURE_FLOAT64)
    assert found.values[0] == found.values[-1] == 0  # [CLS] and [SEP] are not replaced


def test_the_baseline_is_the_one_stated(model: SentenceEncoder) -> None:
    text, other = PAIRS[0]
    words = len(model.tokenizer([text]).ids[0]) - 2
    for baseline, piece in (("mask", "[MASK]"), ("pad", "[PAD]")):
        blank = score(model, " ".join([piece] * words), other)
        found = integrated_gradients(model, text, other, baseline=baseline, steps=1)
        assert found.baseline_score == pytest.approx(blank, abs=PACKED_FLOAT32)


def test_the_gap_shrinks_with_the_steps(model: SentenceEncoder) -> None:
    gaps = [abs(integrated_gradients(model, *PAIRS[0], steps=steps).gap) for steps in (4, 16, 64)]
    assert gaps[0] > 10 * gaps[2]
    assert gaps[1] > 10 * gaps[2]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_gradient_x_input_is_the_derivative_along_the_input(tiny: SentenceEncoder, similarity: str) -> None:
    """For each token, a finite difference of the score as its word vector grows."""
    text, other = "the cat sat", "two dogs"
    found = gradient_x_input(tiny, text, other, similarity=similarity)
    assert found.gap is None
    fixed = tiny.encode([other], convert_to_tensor=True)
    for position in (1, 3):
        scores = []
        for step in (1e-6, -1e-6):

            def grow(value: torch.Tensor, place: object, step: float = step, position: int = position) -> torch.Tensor:
                factor = torch.ones(len(value), 1, dtype=value.dtype)
                factor[position] += step
                return value * factor

            with tiny.intervene({"embeddings.word": grow}):
                vector = tiny(tiny.tokenize([text])).sentence_embedding.detach()
            scores.append(
                {"cosine": (vector * fixed).sum(), "dot": (vector * fixed).sum()}.get(
                    similarity, -(vector - fixed).norm(p=2 if similarity == "euclidean" else 1)
                ).item()
            )
        assert found.values[position].item() == pytest.approx(
            (scores[0] - scores[1]) / 2e-6, rel=FINITE_DIFFERENCE, abs=FINITE_DIFFERENCE_NEAR_ZERO
        )


def test_attribution_leaves_no_gradient_and_no_hook(tiny: SentenceEncoder) -> None:
    with torch.inference_mode():
        integrated_gradients(tiny, "the cat", "a dog", steps=2)
    assert all(parameter.grad is None for parameter in tiny.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in tiny.modules())


def test_occlusion_is_what_the_score_loses(model: SentenceEncoder) -> None:
    text, other = "a sourdough loaf", "The bread is in the oven."
    whole = score(model, text, other)
    found = occlusion(model, text, other, by="delete", unit="word")
    assert found.tokens == ["[CLS]", "a", "sourdough", "loaf", "[SEP]"]
    left = [score(model, rest, other) for rest in ("sourdough loaf", "a loaf", "a sourdough")]
    expected = [0, *(whole - rest for rest in left), 0]
    assert found.values.tolist() == pytest.approx(expected, abs=3 * PACKED_FLOAT32)
    found = occlusion(model, text, other, by="mask")
    assert found.tokens == ["[CLS]", "a", "sour", "##dou", "##gh", "loaf", "[SEP]"]
    assert found.values[5].item() == pytest.approx(
        whole - score(model, "a sourdough [MASK]", other), abs=3 * PACKED_FLOAT32
    )
    assert found.values[0] == found.values[-1] == 0
    assert occlusion(model, "", other).values.tolist() == [0, 0]


def test_what_cannot_be_attributed_says_why(tiny: SentenceEncoder, model: SentenceEncoder) -> None:
    with pytest.raises(InputError, match="baseline is 'noise', expected one of 'pad', 'mask', 'zero'"):
        integrated_gradients(tiny, "a", "b", baseline="noise")
    with pytest.raises(InputError, match="steps is 0"):
        integrated_gradients(tiny, "a", "b", steps=0)
    with pytest.raises(InputError, match="similarity is 'cos'"):
        occlusion(tiny, "a", "b", by="delete", similarity="cos")
    with pytest.raises(InputError, match="by is 'zero'"):
        occlusion(tiny, "a", "b", by="zero")
    with pytest.raises(InputError, match="unit is 'letter'"):
        occlusion(tiny, "a", "b", unit="letter")


# ---- deletion curves ----------------------------------------------------------------------------


def test_a_deletion_curve_is_the_score_while_words_go(model: SentenceEncoder) -> None:
    text, other = "a fresh loaf", "The bread is in the oven."
    curve = deletion_curve(model, text, other, [9, 0.1, 0.2, 0.3, 9], by="delete", orders=3)
    assert curve.order == [3, 2, 1]
    expected = [score(model, rest, other) for rest in (text, "a fresh", "a", "")]
    assert curve.scores.tolist() == pytest.approx(expected, abs=3 * PACKED_FLOAT32)
    assert curve.random.shape == (3, 4)
    assert torch.equal(curve.random[:, [0, -1]], curve.scores[[0, -1]].expand(3, 2))
    assert curve.area == pytest.approx((sum(expected) - (expected[0] + expected[-1]) / 2) / 3, abs=3 * PACKED_FLOAT32)
    again = deletion_curve(model, text, other, [9, 0.1, 0.2, 0.3, 9], by="delete", orders=3)
    assert torch.equal(again.random, curve.random)
    with pytest.raises(InputError, match=r"found \[3\] values, expected a number for each of the 5 tokens"):
        deletion_curve(model, text, other, [1, 2, 3])
    assert deletion_curve(model, "", other, [0, 0]).advantage == 0


def test_attributions_do_better_than_chance(model: SentenceEncoder) -> None:
    """The mean over four pairs, both texts of each."""
    asked = [pair for a, b in PAIRS[:3] for pair in ((a, b), (b, a))]
    for method in (lambda *pair: token_pairs(*pair).first, integrated_gradients, occlusion):
        curves = [deletion_curve(model, *pair, method(model, *pair), orders=5) for pair in asked]
        assert sum(curve.advantage for curve in curves) / len(curves) > 0.02


# ---- components ---------------------------------------------------------------------------------


def test_the_table_is_that_of_interventions(model: SentenceEncoder) -> None:
    """Scores of the whole model and without a component, against ``encode`` within ``intervene``."""
    pairs = PAIRS[:4]
    table = component_table(model, pairs, gold=[3, 5, 0, 4])
    assert table.without.shape == (6 * 14, 4)
    assert sum(component.part == "head" for component in table.components) == 72
    for number in (0, 11, 12, 13, 45, 81, 82, 83):
        component = table.components[number]
        with model.intervene({component.activation: ablate(head=component.head)}):
            expected = [score(model, *pair) for pair in pairs]
        assert table.without[number].tolist() == pytest.approx(expected, abs=3 * PACKED_FLOAT32)
    assert table.scores.tolist() == pytest.approx([score(model, *pair) for pair in pairs], abs=3 * PACKED_FLOAT32)
    assert torch.equal(table.loss[5], table.scores - table.without[5])
    assert table.components[45].name == "layers.3.attention.head.3"
    assert len(repr(table).splitlines()) == 2 + 6
    assert table.spearman_loss.shape == (84,)


def test_mean_and_patch_put_in_what_they_say(tiny: SentenceEncoder) -> None:
    pairs = [("the cat sat", "two dogs"), ("a", "the cat sat"), ("nothing", "")]
    name = "layers.0.attention.head_output"
    texts = ["the cat sat", "two dogs", "a", "nothing", ""]
    mean = torch.cat(tiny.trace(texts, name).by_text(name)).mean(0)
    table = component_table(tiny, pairs, ablation="mean")
    with tiny.intervene({name: replace(mean[2], head=2)}):
        expected = [score(tiny, *pair) for pair in pairs]
    assert table.components[2].name == "layers.0.attention.head.2"
    assert table.without[2].tolist() == pytest.approx(expected, abs=100 * PACKED_FLOAT64)

    name = "layers.1.feed_forward.output"
    table = component_table(tiny, pairs, ablation="patch")
    number = [component.name for component in table.components].index("layers.1.feed_forward")
    for row, pair in enumerate(pairs):
        vectors = []
        for text in pair:
            ids = tiny.tokenizer([text]).ids[0]
            blank = tiny.trace([" ".join(["[MASK]"] * (len(ids) - 2))], name)
            with tiny.intervene({name: replace(blank.text(0)[name])}):
                vectors.append(tiny.encode([text], convert_to_tensor=True))
        expected = tiny.similarity_pairwise(*vectors).item()
        assert table.without[number, row].item() == pytest.approx(expected, abs=100 * PACKED_FLOAT64)


def test_pairs_that_cannot_be_used_say_why(tiny: SentenceEncoder) -> None:
    with pytest.raises(InputError, match="list of pairs of texts"):
        component_table(tiny, ["ab", "cd"])
    with pytest.raises(InputError, match="found 1 gold scores for 2 pairs"):
        component_table(tiny, [("a", "b"), ("c", "d")], gold=[1])
    with pytest.raises(InputError, match="no texts"):
        component_table(tiny, [])
    with pytest.raises(InputError, match="ablation is 'noise'"):
        component_table(tiny, [("a", "b")], ablation="noise")
    with pytest.raises(InputError, match="no gold scores"):
        component_table(tiny, [("a", "b")]).spearman_loss  # noqa: B018


def test_pairs_are_read_with_and_without_scores(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("one,two,2.5\nthree,four,0\n")
    assert read_pairs(file) == ([("one", "two"), ("three", "four")], [2.5, 0])
    file.write_text("sentence1,sentence2\none,two\n")
    assert read_pairs(file) == ([("one", "two")], None)
    file.write_text("one,two\nthree,four\n")
    with pytest.raises(InputError, match="line 1: this has no 'sentence1', 'sentence2', and may be a header or data"):
        read_pairs(file)
    file.write_text("One is less than two.,two\nthree,four\n")
    assert read_pairs(file) == ([("One is less than two.", "two"), ("three", "four")], None)
    file.write_text("one,two,2.5\nthree,four,\n")
    with pytest.raises(InputError, match="line 2: score is '', expected a finite number"):
        read_pairs(file)
    file.write_text("one,two,2.5\nthree,four\n")
    with pytest.raises(InputError, match="line 2: found 2 cells, expected 3"):
        read_pairs(file)
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"question": "one", "answer": "two"}\n')
    assert read_pairs(file, ("question", "answer")) == ([("one", "two")], None)
    with open(file, "a") as more:
        more.write('{"question": "three", "answer": "four", "score": 1}\n')
    with pytest.raises(InputError, match="line 1: score is null"):  # not half of them, and not none in silence
        read_pairs(file, ("question", "answer"))
    with pytest.raises(InputError, match="there is no 'sentence1', 'sentence2'; the columns here are 'question'"):
        read_pairs(file)
    with pytest.raises(InputError, match="cannot read"):
        read_pairs(tmp_path / "none.csv")
