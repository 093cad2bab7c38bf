"""The encoder against transformers' BertModel, stage by stage, on tiny random models that go
through the shipping loader: other sizes, another epsilon and activation, padding, gradients."""

import math

import pytest
import torch
from conftest import TEXTS, TinyFolder, load_reference

from minilm import Encoder, EncoderConfig, PackedBatch, PaddedBatch, SentenceEncoder
from minilm.checkpoint import their_names
from minilm.encoder import attend_by_hand
from minilm.parity import compare_stages
from minilm.pooling import MeanPooling, masked_mean
from minilm.tolerances import ATTENTION_BY_HAND, GRADIENT_FLOAT64, INITIAL_STD, PACKED_FLOAT32, PACKED_FLOAT64


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layer_norm_eps": 0.1, "hidden_act": "relu"},
        {"hidden_act": "gelu_pytorch_tanh", "num_attention_heads": 1, "num_hidden_layers": 1},
        {"hidden_act": "silu", "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 16},
        {"hidden_act": "tanh", "type_vocab_size": 1, "pad_token_id": 3},
    ],
)
def test_every_stage_gives_the_reference_bits(tiny_folder: TinyFolder, config: dict) -> None:
    folder = tiny_folder(**config)
    model, reference = SentenceEncoder.from_pretrained(folder, device="cpu"), load_reference(folder)
    stages = compare_stages(model, reference, TEXTS, "padded")
    assert len(stages) == 3 + 8 * model.encoder.config.num_hidden_layers + 2
    assert stages == dict.fromkeys(stages, 0.0)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e3 * PACKED_FLOAT32), (torch.float64, 1e3 * PACKED_FLOAT64)]
)
def test_packed_stages_differ_by_rounding_alone(tiny_folder: TinyFolder, dtype: torch.dtype, tolerance: float) -> None:
    # The stages inside are not of length 1: their numbers reach hundreds, so rounding does too.
    folder = tiny_folder()
    model = SentenceEncoder.from_pretrained(folder, device="cpu", dtype=dtype)
    stages = compare_stages(model, load_reference(folder).to(dtype), TEXTS, "packed")
    assert max(stages.values()) < tolerance


@pytest.mark.parametrize("training", [False, True])
def test_gradients_give_the_reference_bits(tiny_folder: TinyFolder, training: bool) -> None:
    """With dropout on, the random draws have to be the same ones too."""
    folder = tiny_folder()
    model = SentenceEncoder.from_pretrained(folder, device="cpu").train(training)
    reference = load_reference(folder).train(training)
    weights = torch.randn(len(TEXTS), model.get_embedding_dimension(), generator=torch.Generator().manual_seed(0))

    torch.manual_seed(7)
    ours = model(model.tokenize(TEXTS)).sentence_embedding
    (ours * weights).sum().backward()
    torch.manual_seed(7)
    theirs = reference(reference.preprocess(TEXTS))["sentence_embedding"]
    (theirs * weights).sum().backward()

    assert torch.equal(ours, theirs)
    bert = dict(reference[0].auto_model.named_parameters())
    names = their_names(model.encoder.config)
    for name, parameter in model.encoder.named_parameters():
        assert torch.equal(parameter.grad, bert[names[name]].grad), name


def test_parameters_come_in_the_checkpoints_order(tiny_folder: TinyFolder) -> None:
    """Gradient clipping sums over them in this order, and rounds accordingly."""
    folder = tiny_folder()
    model, reference = SentenceEncoder.from_pretrained(folder, device="cpu"), load_reference(folder)
    theirs = [name for name, _ in reference[0].auto_model.named_parameters() if "pooler" not in name]
    names = their_names(model.encoder.config)
    assert [names[name] for name, _ in model.encoder.named_parameters()] == theirs


def test_gradients_of_the_packed_layout(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", dtype=torch.float64)
    gradients = []
    for layout in ("padded", "packed"):
        model.zero_grad()
        model(model.tokenize(TEXTS, layout)).sentence_embedding[:, 0].sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for padded, packed in zip(*gradients, strict=True):
        torch.testing.assert_close(packed, padded, rtol=0, atol=GRADIENT_FLOAT64)


def test_attention_by_hand_is_the_kernels_function(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", dtype=torch.float64)
    for layout in ("padded", "packed"):
        batch = model.tokenize(TEXTS, layout)
        kernel = model(batch).sentence_embedding
        by_hand = model(batch, attention="eager", output_attentions=True)
        torch.testing.assert_close(by_hand.sentence_embedding, kernel, rtol=0, atol=ATTENTION_BY_HAND)
        assert len(by_hand.attentions) == model.encoder.config.num_hidden_layers
        for layer in by_hand.attentions:
            assert sum(block.shape[0] for block in layer) == len(TEXTS)
            for block in layer:
                torch.testing.assert_close(block.sum(-1), torch.ones_like(block.sum(-1)))


def test_attentions_and_hidden_states_are_transformers_own(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    model, reference = SentenceEncoder.from_pretrained(folder, device="cpu"), load_reference(folder)
    bert = reference[0].auto_model
    bert.set_attn_implementation("eager")
    batch = model.tokenize(TEXTS)
    with torch.no_grad():
        ours = model(batch, attention="eager", output_hidden_states=True, output_attentions=True)
        theirs = bert(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            output_hidden_states=True,
            output_attentions=True,
        )
    for mine, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        for row, (a, b) in enumerate(zip(batch.texts(mine), batch.texts(other), strict=True)):
            torch.testing.assert_close(a, b, rtol=0, atol=1e3 * PACKED_FLOAT32, msg=f"text {row}")
    for (mine,), other in zip(ours.attentions, theirs.attentions, strict=True):
        torch.testing.assert_close(mine, other, rtol=0, atol=PACKED_FLOAT32)
    assert torch.equal(ours.hidden_states[-1], ours.last_hidden_state)


def test_attention_of_two_tokens_on_paper() -> None:
    """One head of size 1: scores q·k, so the first token weighs the two values by softmax(0, ln 3)."""
    query = torch.tensor([[[[1.0], [0.0]]]])
    key = torch.tensor([[[[0.0], [math.log(3.0)]]]])
    value = torch.tensor([[[[4.0], [8.0]]]])
    context, probabilities = attend_by_hand(query, key, value)
    torch.testing.assert_close(probabilities, torch.tensor([[[[0.25, 0.75], [0.5, 0.5]]]]))
    torch.testing.assert_close(context, torch.tensor([[[[7.0], [6.0]]]]))
    masked, _ = attend_by_hand(query, key, value, torch.tensor([True, False]))
    torch.testing.assert_close(masked, torch.tensor([[[[4.0], [4.0]]]]))


def test_mean_of_three_vectors_on_paper() -> None:
    hidden = torch.tensor([[[1.0, 2.0], [3.0, 4.0], [100.0, 100.0]]])
    torch.testing.assert_close(masked_mean(hidden, torch.tensor([[1, 1, 0]])), torch.tensor([[2.0, 3.0]]))
    torch.testing.assert_close(masked_mean(hidden[:, :2]), torch.tensor([[2.0, 3.0]]))
    packed = PackedBatch.from_ids([[5, 6], [7]])
    torch.testing.assert_close(MeanPooling()(hidden[0], packed), torch.tensor([[2.0, 3.0], [100.0, 100.0]]))


def test_layouts_lay_out_the_same_tokens() -> None:
    ids = [[2, 10, 3], [2, 3], [2, 3], [2, 11, 12, 3]]
    padded, packed = PaddedBatch.from_ids(ids, pad_token_id=9), PackedBatch.from_ids(ids)
    assert padded.input_ids.tolist() == [[2, 10, 3, 9], [2, 3, 9, 9], [2, 3, 9, 9], [2, 11, 12, 3]]
    assert padded.attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]]
    assert packed.input_ids.tolist() == [2, 10, 3, 2, 3, 2, 3, 2, 11, 12, 3]
    assert packed.position_ids.tolist() == [0, 1, 2, 0, 1, 0, 1, 0, 1, 2, 3]
    for batch in (padded, packed):
        assert [text.tolist() for text in batch.texts(batch.input_ids)] == ids
        blocks = [block for (block,), _ in batch.blocks(batch.input_ids)]
        assert torch.equal(batch.join(blocks), batch.input_ids)
    assert [tuple(block.shape) for (block,), _ in packed.blocks(packed.input_ids)] == [(1, 3), (2, 2), (1, 4)]


def test_a_new_encoder_is_initialised_as_bert() -> None:
    config = EncoderConfig(
        vocab_size=500, hidden_size=48, num_attention_heads=4, initializer_range=0.05, pad_token_id=1
    )
    encoder = Encoder(config)
    words = encoder.embeddings.word.weight
    assert words[1].eq(0).all()
    assert words.std().item() == pytest.approx(0.05, rel=INITIAL_STD)
    assert encoder.layers[0].feed_forward.up.bias.eq(0).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "flash"}, "expected"),
        ({"output_attentions": True}, "eager"),
    ],
)
def test_wrong_arguments_are_explained(model: SentenceEncoder, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(model.tokenize(["a"]), **arguments)


def test_a_batch_that_cannot_be_encoded_is_explained(model: SentenceEncoder) -> None:
    for batch in (PaddedBatch.from_ids([]), PackedBatch.from_ids([[101, 102], []])):
        with pytest.raises(ValueError, match="empty"):
            model(batch)
    with pytest.raises(ValueError, match="513 tokens"):
        model(PackedBatch.from_ids([[101] * 513]))
