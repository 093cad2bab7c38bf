"""Traces and interventions: what is seen is what is computed, watching changes no bit, changes do what
they say and no more, and nothing stays behind."""

import copy
import math
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from conftest import TEXTS, TinyFolder
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import InputError, SentenceEncoder, TextTypeError, TruncationWarning
from minilm.internals import ACTIVATIONS, ablate, at, layer_by_layer, patch, replace, scale
from minilm.internals.hooks import is_watched
from minilm.tolerances import ATTENTION_BY_HAND, FINITE_DIFFERENCE, PACKED_FLOAT32

LAYOUTS = ("padded", "packed")
SHORT = ["The cat sat on the mat", "a", "two dogs, about nothing at all", "", "a cat"]
HEADS = "layers.1.attention.head_output"
P = "layers.0.attention.probabilities"

pytestmark = pytest.mark.filterwarnings("ignore::minilm.TruncationWarning")


@pytest.fixture(scope="module")
def tiny(tiny_folder: TinyFolder) -> SentenceEncoder:
    """Two layers, three heads of 8; float64, so that rounding and mistakes are far apart."""
    return SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", dtype=torch.float64)


@pytest.fixture(autouse=True)
def nothing_stays(request: pytest.FixtureRequest) -> None:
    yield
    for name in ("tiny", "model"):
        if name in request.fixturenames:
            assert hooks(request.getfixturevalue(name)) == 0


def hooks(model: SentenceEncoder) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def embed(model: SentenceEncoder, texts: list[str] = SHORT, layout: str = "padded") -> torch.Tensor:
    with torch.no_grad():
        return model(model.tokenize(texts, layout)).sentence_embedding


# ---- trace --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tracing_leaves_the_bits_of_the_real_model(model: SentenceEncoder, layout: str) -> None:
    trace = model.trace([*SHORT, *TEXTS], layout=layout)
    assert torch.equal(trace.sentence_embedding, embed(model, [*SHORT, *TEXTS], layout))
    assert len(trace) == 7 + 6 * 14
    if layout == "padded":
        with torch.no_grad():
            by_hand = model(model.tokenize([*SHORT, *TEXTS]), "eager", output_attentions=True)
        for layer, (probabilities,) in enumerate(by_hand.attentions):
            found = trace[f"layers.{layer}.attention.probabilities"]
            assert (found - probabilities).abs().max() < 100 * PACKED_FLOAT32  # after layers of another rounding


@pytest.mark.parametrize(
    "config",
    [
        {"normalize": False},
        {"hidden_act": "relu", "num_hidden_layers": 1, "num_attention_heads": 1},
        {"hidden_act": "silu", "hidden_size": 64, "num_attention_heads": 2, "type_vocab_size": 1, "pad_token_id": 3},
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_checkpoint_is_traced(tiny_folder: TinyFolder, config: dict, dtype: torch.dtype, layout: str) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(**config), device="cpu", dtype=dtype)
    trace = model.trace(TEXTS, layout=layout)
    plain = embed(model, TEXTS, layout)
    assert torch.equal(trace.sentence_embedding, plain)
    for name in trace:
        with model.intervene({name: patch(trace)}):
            assert torch.equal(embed(model, TEXTS, layout), plain), name


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_name_is_what_it_says(tiny: SentenceEncoder, layout: str) -> None:
    """The road from one name to the next, written out by hand."""
    trace = tiny.trace(SHORT, layout=layout)
    encoder = tiny.encoder
    with torch.no_grad():
        hidden = tiny(tiny.tokenize(SHORT, layout), output_hidden_states=True).hidden_states
        for row, text in enumerate(SHORT):
            seen = trace.text(row)
            assert seen.tokens == ["[CLS]", *tiny.tokenizer.pieces(tiny.tokenizer([text]).ids[0])[1:-1], "[SEP]"]
            T = len(seen.tokens)
            total = seen["embeddings.word"] + seen["embeddings.token_type"] + seen["embeddings.position"]
            assert torch.equal(seen["embeddings.sum"], total)
            assert torch.equal(seen["embeddings.position"], encoder.embeddings.position.weight[:T])
            before = seen["embeddings"]
            assert torch.equal(before, trace.batch.texts(hidden[0])[row])
            for i, layer in enumerate(encoder.layers):
                part = {name.removeprefix(f"layers.{i}."): seen[name] for name in seen if f"layers.{i}." in name}
                q, k, v = (part[f"attention.{name}"].transpose(0, 1) for name in ("query", "key", "value"))
                assert q.shape == (3, T, 8)
                torch.testing.assert_close(part["attention.scores"], q @ k.transpose(1, 2) / math.sqrt(8))
                p = part["attention.probabilities"]
                assert p.shape == (3, T, T)
                torch.testing.assert_close(p.sum(-1), torch.ones(3, T, dtype=torch.float64))
                torch.testing.assert_close(part["attention.head_output"].transpose(0, 1), p @ v)
                mixed = layer.attention.output(part["attention.head_output"].flatten(1))
                torch.testing.assert_close(part["attention.output"], mixed)
                assert torch.equal(part["attention_residual"], part["attention.output"] + before)
                torch.testing.assert_close(part["attention_norm"], layer.attention_norm(part["attention_residual"]))
                activated = layer.feed_forward.activation(part["feed_forward.up"])
                torch.testing.assert_close(part["feed_forward.hidden"], activated)
                down = layer.feed_forward.down(activated)
                torch.testing.assert_close(part["feed_forward.output"], down)
                residual = part["feed_forward.output"] + part["attention_norm"]
                assert torch.equal(part["feed_forward_residual"], residual)
                assert torch.equal(part["output"], trace.batch.texts(hidden[i + 1])[row])
                before = part["output"]
            torch.testing.assert_close(seen["pooled"], before.mean(0))
            torch.testing.assert_close(seen["sentence_embedding"], seen["pooled"] / seen["pooled"].norm())


def test_layouts_show_the_same_text_alike(tiny: SentenceEncoder) -> None:
    padded, packed = (tiny.trace(SHORT, layout=layout) for layout in LAYOUTS)
    for row in range(len(SHORT)):
        for name in padded:
            torch.testing.assert_close(padded.text(row)[name], packed.text(row)[name])
    assert padded[P].shape == (5, 3, 10, 10)
    assert [p.shape for p in packed[P]] == [(3, n, n) for n in packed.batch.lengths]


def test_names_are_chosen_by_pattern(tiny: SentenceEncoder) -> None:
    def names(*patterns: str) -> list[str]:
        return list(tiny.trace(["a"], patterns))

    assert names("layers.*.output") == ["layers.0.output", "layers.1.output"]
    assert names("*.probabilities") == [P, "layers.1.attention.probabilities"]
    assert names("pooled", "embeddings") == ["embeddings", "pooled"]
    assert names("layers.1.*") == [name for name in names("*") if name.startswith("layers.1.")]
    assert names("layers.[0].attention.q*") == ["layers.0.attention.query"]
    assert len(names("*.attention.*")) == 14
    assert names() == []
    assert {name.replace("layers.1", "layers.{i}") for name in names("*") if "layers.0" not in name} == {
        activation.name for activation in ACTIVATIONS
    }


def test_repr_shows_every_kind_once(tiny: SentenceEncoder) -> None:
    shown = repr(tiny.trace(SHORT)).splitlines()
    assert len(shown) == 1 + len(ACTIVATIONS)
    assert shown[0] == "Trace of 5 texts, 27 tokens, padded: 0.3 MiB"
    assert "layers.{0,1}.attention.query" in "\n".join(shown)
    assert "[5, 10, 3, 8]" in "\n".join(shown)


def test_what_is_not_there_lists_what_is_near(tiny: SentenceEncoder) -> None:
    with pytest.raises(InputError, match=r"'layers.1.atention.query'; near it: layers.1.attention.query"):
        tiny.trace(["a"], "layers.1.atention.query")
    with pytest.raises(InputError, match="Layers count from 0 to 1"):
        tiny.trace(["a"], "layers.2.output")
    with pytest.raises(InputError, match=r"not kept 'layers.0.output'; near it"):
        tiny.trace(["a"], "layers.1.output")["layers.0.output"]
    with pytest.raises(InputError, match="no text 1; the trace has texts 0 to 0"):
        tiny.trace(["a"]).text(1)
    with pytest.raises(InputError, match="no texts"):
        tiny.trace([])
    with pytest.raises(InputError, match="layout is 'ragged'"):
        tiny.trace(["a"], layout="ragged")
    with pytest.raises(TextTypeError, match="put it in a list"):
        tiny.trace("a")
    with pytest.raises(TextTypeError, match="text 1 is NoneType"):
        tiny.trace(["a", None])


def test_texts_are_those_that_encode_would_see(tiny_folder: TinyFolder) -> None:
    """The model's prompt before them, cut with a warning, dropout off."""
    model = SentenceEncoder.from_pretrained(
        tiny_folder(), device="cpu", prompts={"query": "about "}, default_prompt_name="query"
    ).train()
    trace = model.trace(["a cat"])
    assert trace.tokens == [["[CLS]", "about", "a", "cat", "[SEP]"]]
    assert torch.equal(trace.sentence_embedding, model.encode(["a cat"], layout="padded", convert_to_tensor=True))
    assert model.trace(["a cat"], prompt="").tokens == [["[CLS]", "a", "cat", "[SEP]"]]
    with pytest.warns(TruncationWarning, match="text 0"):
        model.trace(["a " * 100])


def test_gradients_reach_what_was_traced(tiny: SentenceEncoder) -> None:
    """The gradient of a sum through layer 1's query, against a finite difference."""
    name = "layers.1.attention.query"
    trace = tiny.trace(["the cat sat"], name, gradients=True)
    weight = torch.arange(24, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((trace.sentence_embedding * weight).sum(), trace[name])
    step = torch.zeros(5, 3, 8, dtype=torch.float64)
    step[2, 1, 3] = 1e-6
    with tiny.intervene({name: lambda value, place: value + step}):
        higher = (embed(tiny, ["the cat sat"]) * weight).sum()
    with tiny.intervene({name: lambda value, place: value - step}):
        lower = (embed(tiny, ["the cat sat"]) * weight).sum()
    assert gradient[0, 2, 1, 3].item() == pytest.approx((higher - lower).item() / 2e-6, rel=FINITE_DIFFERENCE)
    assert not tiny.trace(["a"]).sentence_embedding.requires_grad


# ---- intervene ----------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changing_nothing_changes_no_bit(model: SentenceEncoder, layout: str) -> None:
    """On the real weights, at every name: each text patched with itself, nothing ablated, times one."""
    plain = embed(model, SHORT, layout)
    trace = model.trace(SHORT, layout=layout)
    for name in trace:
        with model.intervene({name: patch(trace)}):
            assert torch.equal(embed(model, SHORT, layout), plain), name
    nothing = {activation.name.replace("{i}", "*"): ablate(**{activation.axes[-1]: []}) for activation in ACTIVATIONS}
    for changes in (nothing, {"*": scale(1.0)}, {"*": lambda value, place: value}):
        with model.intervene(changes):
            assert torch.equal(embed(model, SHORT, layout), plain)
    with model.intervene({"*": patch(trace)}):
        assert torch.equal(embed(model, SHORT, layout), plain)
    assert torch.equal(embed(model, SHORT, layout), plain)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_action_changes_what_it_names_and_nothing_else(tiny: SentenceEncoder, layout: str) -> None:
    before = tiny.trace(SHORT, layout=layout).text(2)[HEADS]
    T = len(before)

    def after(action: object) -> torch.Tensor:
        with tiny.intervene({HEADS: action}):
            trace = tiny.trace(SHORT, layout=layout)
        for row in (0, 1, 3, 4):
            if not isinstance(action, torch.Tensor) and getattr(action, "where", None) and action.where.text == 2:
                assert torch.equal(trace.text(row)[HEADS], tiny.trace(SHORT, layout=layout).text(row)[HEADS])
        return trace.text(2)[HEADS]

    expected = before.clone()
    expected[:, 1] = 0
    assert torch.equal(after(ablate(head=1)), expected)
    expected[:, 1] = before[:, 1].mean(0)
    torch.testing.assert_close(after(ablate("mean", head=1, text=2)), expected)
    expected = before.clone()
    expected[[0, -1], 2:, 3] *= -2
    assert torch.equal(after(scale(-2, text=2, position=[0, -1], head=slice(2, None), dimension=3)), expected)
    expected = before.clone()
    expected[T - 1, 0] = torch.arange(8)
    assert torch.equal(after(replace(torch.arange(8), text=2, position=-1, head=0)), expected)
    expected = before.clone()
    expected[1:3, torch.tensor([0, 2])] = before[1:3, torch.tensor([0, 2])].exp()
    shifted = at(lambda value, place: value.exp(), text=2, position=range(1, 3), head=torch.tensor([0, 2]))
    assert torch.equal(after(shifted), expected)
    everywhere = torch.full((8,), 0.5, dtype=torch.float64)
    assert torch.equal(after(everywhere), everywhere.expand_as(before))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_patching_puts_another_text_in(tiny: SentenceEncoder, layout: str) -> None:
    donor = tiny.trace(["the dog sat on the mat", "nothing at all"])
    text = ["the cat sat on the mat"]
    with tiny.intervene({"embeddings": patch(donor, 0)}):  # the whole text, and so its vector
        torch.testing.assert_close(embed(tiny, text, layout), embed(tiny, ["the dog sat on the mat"]))
    with tiny.intervene({"embeddings": patch(donor, 0, position=2)}):  # the one word that differs
        torch.testing.assert_close(embed(tiny, text, layout), embed(tiny, ["the dog sat on the mat"]))
    with tiny.intervene({"layers.0.output": patch(donor, 1, source_position=[2, 1], position=[3, 4])}):
        found = tiny.trace(text, layout=layout).text(0)["layers.0.output"]
    own = tiny.trace(text, layout=layout).text(0)["layers.0.output"]
    theirs = donor.text(1)["layers.0.output"]
    assert torch.equal(found, torch.stack([*own[:3], theirs[2], theirs[1], *own[5:]]))
    with tiny.intervene({"pooled": patch(donor, 1)}):
        torch.testing.assert_close(embed(tiny, text, layout)[0], donor.text(1)["sentence_embedding"])
    with tiny.intervene({"layers.0.output": ablate(donor, position=1)}):
        found = tiny.trace(text, layout=layout).text(0)["layers.0.output"][1]
    torch.testing.assert_close(found, torch.cat(donor.by_text("layers.0.output")).mean(0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_changed_attention_is_used_in_place_of_the_kernels(tiny: SentenceEncoder, layout: str) -> None:
    """Against the same attention by hand: p′ v, whatever p′ is."""

    def gathered(changes: dict) -> list[torch.Tensor]:
        with tiny.intervene(changes):
            trace = tiny.trace(SHORT, layout=layout)
        for seen in map(trace.text, range(len(SHORT))):
            v = seen["layers.0.attention.value"].transpose(0, 1)
            by_hand = (seen[P] @ v).transpose(0, 1)
            assert (seen["layers.0.attention.head_output"] - by_hand).abs().max() < 100 * ATTENTION_BY_HAND
        return trace.by_text(P)

    plain = tiny.trace(SHORT, layout=layout)
    uniform = gathered({P: lambda p, place: torch.full_like(p, 1 / p.shape[-1])})
    assert all((p == 1 / p.shape[-1]).all() for p in uniform)
    blind = gathered({"layers.0.attention.scores": replace(torch.tensor(-torch.inf), key=0, head=1)})
    for p, own in zip(blind, plain.by_text(P), strict=True):
        assert (p[1, :, 0] == 0).all()
        torch.testing.assert_close(p[1, :, 1:], own[1, :, 1:] / own[1, :, 1:].sum(-1, keepdim=True))
        assert torch.equal(p[[0, 2]], own[[0, 2]])
    gathered(
        {P: ablate(head=2, position=0), "layers.0.attention.query": scale(3), "layers.0.attention.value": scale(2)}
    )


def test_blocks_nest_and_the_outer_comes_first(tiny: SentenceEncoder) -> None:
    plain = embed(tiny)
    with tiny.intervene({"pooled": lambda v, place: v + 1}):
        outer = embed(tiny)
        with tiny.intervene({"pooled": scale(0.0, dimension=0), "layers.0.attention.query": scale(3.0)}):
            trace = tiny.trace(SHORT, ("pooled", "layers.0.attention.query"))
            assert (trace["pooled"][:, 0] == 0).all()
            with tiny.intervene({P: ablate(head=0)}):  # sees the scaled queries of the block around it
                inner = tiny.trace(SHORT, [P, "layers.0.attention.s*"]).text(0)
                torch.testing.assert_close(inner[P][1:], inner["layers.0.attention.scores"][1:].softmax(-1))
        assert torch.equal(embed(tiny), outer)
    assert torch.equal(embed(tiny), plain)
    with tiny.intervene({P: ablate(head=0)}), tiny.intervene({"layers.0.attention.query": scale(3.0)}):
        torch.testing.assert_close(tiny.trace(SHORT, P).text(0)[P], inner[P])


def test_nothing_stays_after_an_error(tiny: SentenceEncoder) -> None:
    plain = embed(tiny)

    def fail(value: torch.Tensor, place: object) -> torch.Tensor:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), tiny.intervene({"pooled": scale(2.0)}):
        with pytest.raises(ZeroDivisionError), tiny.intervene({P: fail}):
            embed(tiny)
        assert hooks(tiny) > 0  # the outer one is still at work
        raise ZeroDivisionError
    assert hooks(tiny) == 0
    with pytest.raises(InputError), tiny.intervene({"pooled": scale(2.0), "pooling": scale(2.0)}):
        pass
    assert hooks(tiny) == 0
    assert torch.equal(embed(tiny), plain)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_encode_sees_the_intervention(tiny: SentenceEncoder, layout: str) -> None:
    changes = {"layers.*.attention.head_output": ablate(head=1), P: ablate("mean", head=0)}
    with tiny.intervene(changes):
        encoded = tiny.encode(SHORT, layout=layout, batch_size=2, convert_to_tensor=True)
        torch.testing.assert_close(encoded, embed(tiny))
    assert (encoded - embed(tiny)).abs().max() > 1e-3


def test_encode_refuses_what_it_would_do_wrongly(tiny: SentenceEncoder) -> None:
    with tiny.intervene({"pooled": scale(2, text=0)}), pytest.raises(InputError, match="an order of its own"):
        tiny.encode(SHORT)
    with tiny.intervene({"pooled": scale(2)}), pytest.raises(InputError, match="other processes"):
        tiny.encode(SHORT, device=["cpu", "cpu"])


def test_gradients_flow_through_actions(tiny: SentenceEncoder) -> None:
    """The derivative by a factor on one head's probabilities, against a finite difference."""

    def total(factor: torch.Tensor) -> torch.Tensor:
        with tiny.intervene({P: scale(factor, head=1), "layers.1.output": ablate("mean", position=0)}):
            return tiny(tiny.tokenize(SHORT)).sentence_embedding[0, :12].sum()

    factor = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(total(factor), factor)
    step = 1e-6
    difference = (total(factor.detach() + step) - total(factor.detach() - step)) / (2 * step)
    assert slope.item() == pytest.approx(difference.item(), rel=FINITE_DIFFERENCE)
    vector = torch.zeros(24, dtype=torch.float64, requires_grad=True)  # a steering vector
    with tiny.intervene({"layers.0.output": lambda value, place: value + vector}):
        tiny(tiny.tokenize(SHORT)).sentence_embedding[:, 0].sum().backward()
    assert vector.grad.abs().sum() > 0
    tiny.zero_grad()


@pytest.mark.parametrize("name", ["embeddings", HEADS, P, "pooled"])
def test_a_function_may_change_in_place_what_it_is_shown(tiny: SentenceEncoder, name: str) -> None:
    with tiny.intervene({name: scale(2.0)}):
        expected = embed(tiny)
    with tiny.intervene({name: lambda value, place: value.mul_(2)}):
        assert torch.equal(embed(tiny), expected)
    with tiny.intervene({name: at(lambda value, place: value.mul_(2), text=range(5))}):
        assert torch.equal(embed(tiny), expected)


def test_a_function_is_told_where_it_is(tiny: SentenceEncoder) -> None:
    seen = []
    with tiny.intervene({"embeddings": lambda value, place: seen.append(place) or value}):
        embed(tiny, ["a cat", "a"])
    assert [(place.name, place.axes, place.text, place.texts) for place in seen] == [
        ("embeddings", ("position", "dimension"), row, 2) for row in (0, 1)
    ]
    assert [place.input_ids.tolist() for place in seen] == tiny.tokenizer(["a cat", "a"]).ids


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        (HEADS, ablate(head=3), "head 3 is not in layers.1.attention.head_output, which has heads 0 to 2"),
        (HEADS, ablate(head=-4), "head -4 is not"),
        ("embeddings", scale(2, position=10), "position 10 is not in embeddings, which has positions 0 to 7"),
        ("embeddings", scale(2, dimension=24), "dimension 24"),
        ("embeddings", scale(2, head=0), "has no head; its axes are position, dimension"),
        ("embeddings", scale(2, position="1"), "position is '1', expected a number"),
        ("embeddings", scale(2, position=1.5), "position is 1.5, expected a number"),
        ("embeddings", scale(2, position=True), "position is True, expected a number"),
        ("pooled", scale(2, position=0), "pooled has no position"),
        ("pooled", ablate("mean"), "pooled has no positions to take a mean over"),
        ("pooled", scale(2, text=5), "text 5 is not in the batch, which has texts 0 to 4"),
        ("embeddings", torch.zeros(7), r"found a tensor \[7\] for embeddings, expected \[8, 24\]"),
        ("embeddings", replace(torch.zeros(24, 1)), "or what broadcasts to it"),
        ("embeddings", lambda value, place: value[1:], r"gave a tensor \[7, 24\], expected a tensor \[8, 24\]"),
        ("embeddings", lambda value, place: None, "gave None, expected a tensor"),
    ],
)
def test_an_action_that_does_not_fit_says_why(tiny: SentenceEncoder, name: str, action: object, message: str) -> None:
    with tiny.intervene({name: action}), pytest.raises(InputError, match=message):
        embed(tiny)


def test_a_patch_that_does_not_fit_says_why(tiny: SentenceEncoder) -> None:
    donor = tiny.trace(["a cat", "the dog"], ("embeddings", P))
    for action, name, message in [
        (patch(donor, 0), "embeddings", "has 8 tokens, but 'a cat', which is to be patched in, has 4"),
        (patch(donor, 0, position=5), "embeddings", "position 5 is not in the text that is patched in"),
        (patch(donor, 0, 1, position=[1, 2]), "embeddings", "found 1 source positions for 2"),
        (patch(donor, 2), "embeddings", "text 2 is not in the trace, which has texts 0 to 1"),
        (patch(donor, 0, position=1), P, "has 4"),
        (patch(donor, 0, position=1), "layers.0.output", "not kept 'layers.0.output'"),
        (ablate(donor), P, "have no mean"),
    ]:
        with tiny.intervene({name: action}), pytest.raises(InputError, match=message):
            embed(tiny)
    with pytest.raises(InputError, match="to is 'median'"):
        ablate("median")
    with pytest.raises(InputError, match="expected a tensor or a function"), tiny.intervene({"pooled": 3}):
        pass


@settings(max_examples=30, deadline=None)
@given(texts=st.lists(st.text(max_size=30), min_size=1, max_size=4), layout=st.sampled_from(LAYOUTS))
def test_any_text_patched_with_itself_keeps_its_bits(tiny: SentenceEncoder, texts: list[str], layout: str) -> None:
    trace = tiny.trace(texts, layout=layout)
    assert torch.equal(trace.sentence_embedding, embed(tiny, texts, layout))
    with tiny.intervene({"*": patch(trace)}):
        assert torch.equal(embed(tiny, texts, layout), trace.sentence_embedding)


# ---- layer by layer -----------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layer_by_layer_ends_with_the_models_own(tiny: SentenceEncoder, layout: str) -> None:
    texts = SHORT[:3]
    found = layer_by_layer(tiny, texts, layout=layout)
    assert torch.equal(found.vectors[-1], embed(tiny, texts, layout))
    first = tiny.trace(texts[:1]).text(0)
    mean = first["layers.0.output"].mean(0)
    torch.testing.assert_close(found.vectors[1, 0], mean / mean.norm())
    torch.testing.assert_close(found.drift[1], 1 - (found.vectors[2] * found.vectors[1]).sum(-1))
    torch.testing.assert_close(found.norms[1, 0], first["layers.0.output"].norm(dim=-1).mean())
    p = first[P]
    torch.testing.assert_close(found.entropy[0, 0], -(p * p.log()).sum(-1).mean(-1))
    torch.testing.assert_close(found.similarities[-1], tiny.similarity(found.vectors[-1], found.vectors[-1]))
    assert len(repr(found).splitlines()) == 4
    with tiny.intervene({"*.probabilities": lambda p, place: torch.full_like(p, 1 / p.shape[-1])}):
        even = layer_by_layer(tiny, texts, layout=layout).entropy
    lengths = torch.tensor([len(tokens) for tokens in found.tokens], dtype=torch.float64)
    torch.testing.assert_close(even, lengths.log()[None, :, None].expand_as(even))


def test_what_a_thread_watches_is_its_own_affair(tiny: SentenceEncoder) -> None:
    texts = ["The cat sat", "a dog"]
    batch = tiny.tokenize(texts)
    before, traced = tiny(batch).sentence_embedding, tiny.trace(texts)
    padded, packed = tiny.encode(texts, layout="padded"), tiny.encode(texts)

    def other() -> tuple[bool, ...]:
        again = tiny.trace(texts)
        return (
            torch.equal(tiny(batch).sentence_embedding, before),
            np.array_equal(tiny.encode(texts, layout="padded"), padded),
            np.array_equal(tiny.encode(texts), packed) and tiny.why_plain() is None,
            all(torch.equal(again.by_text(name)[0], traced.by_text(name)[0]) for name in traced),
            not is_watched(tiny),
        )

    with ThreadPoolExecutor(4) as threads, tiny.intervene({"layers.0.attention.head_output": ablate(head=0)}):
        found = [threads.submit(other) for _ in range(40)]
        for _ in range(40):
            assert not torch.equal(tiny(batch).sentence_embedding, before)
            copied = copy.deepcopy(tiny)
            assert torch.equal(copied(batch).sentence_embedding, before)
            assert torch.equal(pickle.loads(pickle.dumps(tiny))(batch).sentence_embedding, before)
    assert all(all(future.result()) for future in found)
    assert torch.equal(tiny(batch).sentence_embedding, before)
