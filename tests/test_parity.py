"""The real weights against sentence-transformers: the padded layout to the bit, the packed one to
rounding; and against stored tensors, so that parity holds where the reference is not installed."""

import random
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from minilm import SentenceEncoder
from minilm.parity import TEXTS, compare_encode, compare_stages, load_reference
from minilm.tolerances import GOLDEN_FLOAT32, PACKED_FLOAT32, PACKED_FLOAT64

WORDS = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8").split()


def made_up(count: int, seed: int, most_words: int = 40) -> list[str]:
    """Texts of mixed lengths, some of them equal, some over the limit."""
    draw = random.Random(seed)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(0, most_words))) for _ in range(count)]
    return texts + texts[: count // 10] + [" ".join(draw.choices(WORDS, k=300))]


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("batch_size", [32, 1, 7])
def test_padded_is_the_reference_to_the_bit(
    model: SentenceEncoder, reference: SentenceTransformer, threads: int, batch_size: int
) -> None:
    texts = made_up(50, seed=batch_size) + list(TEXTS)
    theirs = reference.encode(texts, batch_size=batch_size)
    ours = model.encode(texts, batch_size=batch_size, layout="padded", truncation="silent")
    assert np.array_equal(ours, theirs)
    packed = model.encode(texts, batch_size=batch_size, truncation="silent")
    assert abs(packed - theirs).max() <= PACKED_FLOAT32


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=60) | st.sampled_from(TEXTS[:14]), min_size=1, max_size=12), st.integers(1, 8))
def test_any_list_is_the_reference_to_the_bit(
    model: SentenceEncoder, reference: SentenceTransformer, texts: list[str], batch_size: int
) -> None:
    padded = compare_encode(model, reference, texts, "padded", batch_size)
    assert padded.equal_rows == padded.rows
    assert compare_encode(model, reference, texts, "packed", batch_size).largest <= PACKED_FLOAT32


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_types_are_the_reference_to_the_bit(weights: Path, dtype: torch.dtype) -> None:
    model = SentenceEncoder.from_pretrained(weights, device="cpu", dtype=dtype)
    reference = load_reference(weights, dtype)
    stages = compare_stages(model, reference, TEXTS, "padded")
    assert stages == dict.fromkeys(stages, 0.0)
    encoded = compare_encode(model, reference, TEXTS, "padded")
    assert encoded.equal_rows == encoded.rows
    if dtype == torch.float64:
        assert compare_encode(model, reference, TEXTS, "packed").largest <= PACKED_FLOAT64


@pytest.mark.parametrize(
    "options",
    [
        {"prompt": "query: "},
        {"normalize_embeddings": True, "truncate_dim": 100},
        {"truncate_dim": 64},
        {"precision": "int8"},
        {"precision": "uint8"},
        {"precision": "binary"},
        {"precision": "ubinary"},
        {"convert_to_tensor": True},
        {"convert_to_tensor": True, "precision": "int8"},
        {"convert_to_numpy": False},
        {"output_value": "token_embeddings"},
    ],
    ids=str,
)
def test_each_argument_does_what_the_reference_does(
    model: SentenceEncoder, reference: SentenceTransformer, options: dict
) -> None:
    texts = made_up(40, seed=3)
    ours = model.encode(texts, layout="padded", truncation="silent", **options)
    theirs = reference.encode(texts, **options)
    assert type(ours) is type(theirs)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert type(mine) is type(other)
        assert mine.dtype == other.dtype
        assert mine.shape == other.shape
        assert np.array_equal(mine, other)


def test_everything_at_once(model: SentenceEncoder, reference: SentenceTransformer) -> None:
    """output_value=None: the reference keeps padding in the rows, here they are cut to the tokens."""
    texts = ["one", "two words", "and a longer text"]
    ours = model.encode(texts, output_value=None, layout="padded", truncate_dim=10)
    theirs = reference.encode(texts, output_value=None, truncate_dim=10)
    for mine, other in zip(ours, theirs, strict=True):
        tokens = int(other["attention_mask"].sum())
        for name, value in mine.items():
            expected = other[name] if name == "sentence_embedding" else other[name][:tokens]
            assert torch.equal(value, expected), name


def test_the_stored_vectors(model: SentenceEncoder) -> None:
    """Made by scripts/goldens with sentence-transformers in float64: they need no reference here."""
    golden = safetensors.numpy.load_file(Path(__file__).parent / "goldens" / "all-MiniLM-L6-v2.safetensors")
    for layout in ("padded", "packed"):
        vectors = model.encode(list(TEXTS), layout=layout, truncation="silent")
        assert abs(vectors - golden["vectors"]).max() <= GOLDEN_FLOAT32
    ids = model.tokenize(list(TEXTS)).input_ids
    assert np.array_equal(ids.numpy(), golden["input_ids"])


def test_the_stored_stages(model: SentenceEncoder) -> None:
    golden = safetensors.numpy.load_file(Path(__file__).parent / "goldens" / "all-MiniLM-L6-v2.safetensors")
    with torch.inference_mode():
        output = model(model.tokenize([TEXTS[0]]), output_hidden_states=True)
    hidden = torch.stack(output.hidden_states)[:, 0].numpy()
    assert hidden.shape == golden["hidden_states"].shape
    assert abs(hidden - golden["hidden_states"]).max() <= 100 * GOLDEN_FLOAT32  # numbers up to 10, not of length 1
