"""What encode takes and gives, beside the numbers: every kind of input, empty ones, settings, threads."""

import threading

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from conftest import TinyFolder
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import InputError, SentenceEncoder, TextTypeError
from minilm.tolerances import PACKED_FLOAT32

TEXTS = ["one text", "another", "a third, longer text"]


@pytest.fixture(scope="module")
def tiny(tiny_folder: TinyFolder) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")


@pytest.mark.parametrize(
    "inputs",
    [
        tuple(TEXTS),
        (text for text in TEXTS),
        np.array(TEXTS),
        np.array(TEXTS, dtype=object),
        pd.Series(TEXTS, index=[7, 3, 5]),
        datasets.Dataset.from_dict({"text": TEXTS})["text"],
        dict.fromkeys(TEXTS).keys(),
        [np.str_(text) for text in TEXTS],
    ],
    ids=["tuple", "generator", "numpy", "numpy objects", "pandas", "datasets", "keys", "numpy strings"],
)
def test_whatever_holds_texts_is_a_batch(model: SentenceEncoder, inputs: object) -> None:
    assert np.array_equal(model.encode(inputs), model.encode(TEXTS))


@pytest.mark.parametrize("single", ["one text", np.str_("one text"), np.array("one text")], ids=["str", "numpy", "0-d"])
def test_one_text_gives_one_vector(model: SentenceEncoder, single: object) -> None:
    vector = model.encode(single)
    assert vector.shape == (384,)
    assert np.array_equal(vector, model.encode(["one text"])[0])
    assert model.encode(single, output_value="token_embeddings").shape == (4, 384)
    assert set(model.encode(single, output_value=None)) == {
        "input_ids",
        "attention_mask",
        "token_embeddings",
        "sentence_embedding",
    }


@pytest.mark.parametrize(
    "empty", [[], (), np.array([], dtype=str), iter(())], ids=["list", "tuple", "numpy", "iterator"]
)
def test_no_texts_give_no_rows(model: SentenceEncoder, empty: object) -> None:
    vectors = model.encode(empty)
    assert vectors.shape == (0, 384)
    assert vectors.dtype == np.float32


@pytest.mark.parametrize(
    ("options", "shape", "dtype"),
    [
        ({"truncate_dim": 10}, (0, 10), np.float32),
        ({"precision": "int8"}, (0, 384), np.int8),
        ({"precision": "ubinary"}, (0, 48), np.uint8),
        ({"layout": "padded"}, (0, 384), np.float32),
    ],
)
def test_no_texts_keep_the_shape_of_some(model: SentenceEncoder, options: dict, shape: tuple, dtype: type) -> None:
    vectors = model.encode([], **options)
    assert (vectors.shape, vectors.dtype) == (shape, dtype)
    assert model.encode([], output_value="token_embeddings") == []
    assert model.encode([], convert_to_numpy=False) == []


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (None, "found NoneType in place of texts"),
        (7, "found int in place of texts"),
        (b"bytes", "decode it first"),
        ({"text": "x"}, "found dict in place of texts"),
        (np.array([["a", "b"]]), r"shape \(1, 2\).*ravel"),
        ([["a", "b"]], "text 0 is list"),
        (pd.Series(["a", None]), "text 1 is"),
    ],
)
def test_what_holds_no_texts_is_explained(model: SentenceEncoder, inputs: object, message: str) -> None:
    with pytest.raises(TextTypeError, match=message):
        model.encode(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"layout": "ragged"}, "'packed', 'padded'"),
        ({"truncation": "maybe"}, "truncation is 'maybe'"),
        ({"output_value": "tokens"}, "output_value is 'tokens'"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"truncate_dim": 0}, "truncate_dim is 0"),
        ({"prompt_name": "poem"}, r"no prompt named 'poem'; there are \['document', 'query'\]"),
        ({"precision": "int8"}, "single vector"),
        ({"device": []}, "no device"),
    ],
)
def test_wrong_arguments_are_explained(model: SentenceEncoder, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        model.encode(["a"], **options)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(max_size=30), max_size=20), st.integers(1, 9), st.randoms())
def test_rows_stay_with_their_texts(tiny: SentenceEncoder, texts: list[str], batch_size: int, shuffle) -> None:
    order = list(range(len(texts)))
    shuffle.shuffle(order)
    vectors = tiny.encode(texts, batch_size=batch_size)
    shuffled = tiny.encode([texts[i] for i in order], batch_size=batch_size)
    assert vectors.shape == shuffled.shape == (len(texts), 24)
    assert abs(vectors[order] - shuffled).max(initial=0) <= PACKED_FLOAT32


def test_prompts(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(
        tiny_folder(), device="cpu", prompts={"query": "about ", "s": "two "}, default_prompt_name="s"
    )
    bare = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    expected = {name: bare.encode([name + "cat"]) for name in ("about ", "two ", "three ", "")}
    assert np.array_equal(model.encode(["cat"]), expected["two "])
    assert np.array_equal(model.encode(["cat"], prompt_name="query"), expected["about "])
    assert np.array_equal(model.encode(["cat"], prompt="three "), expected["three "])
    assert np.array_equal(model.encode(["cat"], prompt=""), expected[""])
    assert np.array_equal(model.encode_query(["cat"]), expected["about "])
    assert np.array_equal(model.encode_document(["cat"]), expected[""])
    assert np.array_equal(model.encode_document(["cat"], prompt="three "), expected["three "])


def test_truncate_dim_of_the_model(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", truncate_dim=6)
    assert model.get_embedding_dimension() == 6
    assert model.encode(TEXTS).shape == (3, 6)
    assert model.encode(TEXTS, truncate_dim=4).shape == (3, 4)
    assert model.encode(TEXTS, truncate_dim=1000).shape == (3, 24)
    lengths = np.linalg.norm(model.encode(TEXTS, normalize_embeddings=True), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=PACKED_FLOAT32)


def test_encode_tracks_no_gradients_and_forward_does(tiny: SentenceEncoder) -> None:
    assert not tiny.encode(TEXTS, convert_to_tensor=True).requires_grad
    assert tiny(tiny.tokenize(TEXTS)).sentence_embedding.requires_grad


def test_encode_switches_dropout_off(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    before = model.encode(TEXTS)
    model.train()
    assert np.array_equal(model.encode(TEXTS), before)


def test_encode_moves_no_random_state(tiny: SentenceEncoder) -> None:
    state = torch.get_rng_state()
    tiny.encode(TEXTS)
    assert torch.equal(torch.get_rng_state(), state)


def test_threads_share_a_model(model: SentenceEncoder) -> None:
    """With sentence-transformers this is where the tokenizer says "Already borrowed"."""
    texts = [[f"thread {i} text {j} " + "word " * (j % 300) for j in range(40)] for i in range(6)]
    expected = [model.encode(batch, truncation="silent") for batch in texts]
    found: dict[int, list] = {i: [] for i in range(6)}
    errors = []

    def work(i: int) -> None:
        try:
            for _ in range(2):
                found[i].append(model.encode(texts[i], truncation="silent"))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for i, vectors in found.items():
        for again in vectors:
            assert abs(again - expected[i]).max() <= PACKED_FLOAT32


def test_a_text_of_ten_megabytes(model: SentenceEncoder) -> None:
    text = "ten megabytes of text. " * 450_000
    assert model.tokens_lost(["short", text])[1] > 2_000_000
    vectors = model.encode(["short", text], truncation="silent")
    assert abs(vectors[1] - model.encode([text[:10_000]], truncation="silent")[0]).max() <= PACKED_FLOAT32


def test_a_hundred_thousand_texts(tiny: SentenceEncoder) -> None:
    texts = [f"text {i % 1000} the cat" for i in range(100_000)]
    vectors = tiny.encode(texts)
    assert vectors.shape == (100_000, 24)
    assert abs(vectors - np.tile(vectors[:1000], (100, 1))).max() <= PACKED_FLOAT32


def test_another_process_gives_the_same(model: SentenceEncoder) -> None:
    texts = [f"text number {i}" for i in range(30)] + ["long " * 300]
    with pytest.warns(UserWarning, match=r"1 of 31 texts .*text 30 by 46"):
        vectors = model.encode(texts, device=["cpu"], chunk_size=7)
    assert abs(vectors - model.encode(texts, truncation="silent")).max() <= PACKED_FLOAT32


def test_progress_bar_only_when_asked(tiny: SentenceEncoder, capfd: pytest.CaptureFixture[str]) -> None:
    tiny.encode(TEXTS)
    assert capfd.readouterr() == ("", "")
    tiny.encode(TEXTS, show_progress_bar=True)
    assert "3/3" in capfd.readouterr().err
