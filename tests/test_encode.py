"""What encode takes and gives, beside the numbers: every kind of input, empty ones, settings, threads."""

import enum
import threading
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import TinyFolder, load_reference
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer, SimilarityFunction

from minilm import InputError, SentenceEncoder, TextTypeError, paraphrase_mining
from minilm.errors import IgnoredArgumentWarning, NonFiniteWarning
from minilm.evaluation import EmbeddingSimilarityEvaluator, InformationRetrievalEvaluator, TripletEvaluator
from minilm.tolerances import PACKED_FLOAT32

TEXTS = ["one text", "another", "a third, longer text"]
TABLE = pa.table({"text": TEXTS, "id": ["1", "2", "3"]})


class Fruit(str, enum.Enum):
    """Prints as "Fruit.PEAR", and is the text "pear"."""

    PEAR = "pear"


Pair = tuple[SentenceEncoder, SentenceTransformer]


@pytest.fixture
def pair(tiny_folder: TinyFolder) -> Pair:
    """A model, and the same in the reference."""
    folder = tiny_folder(normalize=False)
    return SentenceEncoder.from_pretrained(folder, device="cpu"), load_reference(folder)


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
        pd.Series(TEXTS, dtype="category"),
        pd.Index(TEXTS),
        pd.array(TEXTS, dtype="string"),
        np.array(TEXTS, dtype=np.dtypes.StringDType()),
        [np.array(text) for text in TEXTS],
        pa.array(TEXTS),
        pa.array(TEXTS, pa.large_string()),
        pa.array(TEXTS).dictionary_encode(),
        list(pa.array(TEXTS)),
        pa.chunked_array([TEXTS[:1], TEXTS[1:]]),
        TABLE["text"],
    ],
    ids=lambda inputs: type(inputs).__name__,
)
def test_whatever_holds_texts_is_a_batch(model: SentenceEncoder, inputs: object) -> None:
    assert np.array_equal(model.encode(inputs), model.encode(TEXTS))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.to_pandas(), r"found DataFrame .* data\['text'\]"),
        (TABLE.to_pandas()[["id"]], r"found DataFrame .* data\['id'\]"),
        (TABLE, r"found Table .* data\['text'\]"),
        (TABLE.to_batches()[0], r"found RecordBatch .* data\['text'\]"),
        (datasets.Dataset(TABLE), r"found Dataset .* data\['text'\]"),
        (datasets.Dataset(TABLE).to_iterable_dataset(), "found IterableDataset .* one column"),
        (types.SimpleNamespace(columns=["text"]), "one column"),  # polars, dask, spark, duckdb
        (set(TEXTS), r"no order; give a list, e.g. sorted\(texts\)"),
        (frozenset(TEXTS), "no order"),
    ],
)
@pytest.mark.parametrize(
    "take",
    [
        lambda model, texts: model.encode(texts),
        lambda model, texts: model.encode(texts, output=print),
        lambda model, texts: model.encode_stream(texts),
        lambda model, texts: model.encode_query(texts),
        lambda model, texts: model.encode_document(texts, layout="padded"),
        lambda model, texts: model.tokenize(texts),
        lambda model, texts: model.tokens_lost(texts),
        lambda model, texts: model.trace(texts),
        lambda model, texts: paraphrase_mining(model, texts),
        lambda model, texts: EmbeddingSimilarityEvaluator(texts, TEXTS, [1, 2, 3]),
        lambda model, texts: TripletEvaluator(TEXTS, TEXTS, texts),
    ],
    ids=lambda take: take.__code__.co_names[0],
)
def test_a_table_or_a_set_is_refused_everywhere(
    tiny: SentenceEncoder, take: Callable[[SentenceEncoder, Any], object], table: object, message: str
) -> None:
    with pytest.raises(TextTypeError, match=message):
        take(tiny, table)


def test_a_generator_that_fails_fails_as_itself(tiny: SentenceEncoder) -> None:
    def texts() -> Any:
        yield "a"
        raise KeyError("the source")

    with pytest.raises(KeyError, match="the source"):
        tiny.encode(texts())


@pytest.mark.parametrize("prompt", [None, "a "])
def test_a_text_that_prints_otherwise_is_taken_as_it_is(tiny: SentenceEncoder, prompt: str | None) -> None:
    assert np.array_equal(tiny.encode([Fruit.PEAR], prompt=prompt), tiny.encode(["pear"], prompt=prompt))


@pytest.mark.parametrize(
    "single",
    ["one text", np.str_("one text"), np.array("one text"), pa.scalar("one text")],
    ids=["str", "numpy", "0-d", "pyarrow"],
)
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
        (pd.Series(["a", None], dtype="string"), "text 1 is NAType <NA>.*Drop it"),
        (pd.Series(["a", np.nan], dtype=object), "text 1 is float nan.*missing value"),
        (np.array([b"a"]), "text 0 is bytes b'a'.*Decode it"),
        (pa.array(["a", None]), "text 1 is NoneType.*Drop it"),
        (Path("notes.txt"), "found PosixPath|found WindowsPath"),
        ([Path("notes.txt")], "text 0 is"),
        ([{"text": "a"}], "text 0 is dict.*one field"),
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
        ({"truncate_dim": -3}, "truncate_dim is -3"),
        ({"truncate_dim": "5"}, "truncate_dim is '5'"),
        ({"truncate_dim": True}, "truncate_dim is True"),
        ({"batch_size": 2.5}, "batch_size is 2.5, expected a whole number"),
        ({"non_finite": "maybe"}, "non_finite is 'maybe'"),
        ({"prompt": 5}, "prompt is 5"),
        ({"precision": "int8", "output_value": None}, "dict of everything"),
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


@pytest.mark.parametrize("output_value", ["sentence_embedding", "token_embeddings", None])
@pytest.mark.parametrize("precision", [None, "float32", "int8", "uint8", "binary", "ubinary"])
@pytest.mark.parametrize("convert", [{}, {"convert_to_numpy": False}, {"convert_to_tensor": True}], ids=str)
@pytest.mark.parametrize("more", [{}, {"truncate_dim": 16}, {"normalize_embeddings": True}], ids=str)
def test_every_kind_of_result_is_the_reference_s(pair: Pair, output_value: Any, precision: Any, convert, more) -> None:
    ours, theirs = pair
    options = {"output_value": output_value, "precision": precision, **convert, **more}
    if output_value is None and precision not in (None, "float32"):
        with pytest.raises((TypeError, ValueError)):  # of NumPy, about dicts
            theirs.encode(TEXTS, **options)
        return
    found, expected = ours.encode(TEXTS, layout="padded", **options), theirs.encode(TEXTS, **options)
    assert type(found) is type(expected)
    for mine, other in zip(found, expected, strict=True):
        if output_value is None:
            mask = other["attention_mask"].bool()
            assert torch.equal(mine["token_embeddings"], other["token_embeddings"][mask])
            mine, other = mine["sentence_embedding"], other["sentence_embedding"]
        assert type(mine) is type(other)
        assert mine.dtype == other.dtype
        assert np.array_equal(np.asarray(mine), np.asarray(other))


@pytest.mark.parametrize("prompts", [{}, {"passage": "on "}, {"corpus": "two "}, {"corpus": "at ", "passage": "on "}])
@pytest.mark.parametrize("default", [None, "three"])
@pytest.mark.parametrize(
    "options", [{}, {"prompt_name": None}, {"prompt": ""}, {"prompt": "cat "}, {"prompt_name": "three"}], ids=str
)
def test_prompts_are_chosen_as_in_the_reference(pair: Pair, prompts: dict, default: str | None, options: dict) -> None:
    ours, theirs = pair
    for model in pair:
        model.default_prompt_name = None
        model.prompts = {**prompts, "three": "three "}
        model.default_prompt_name = default
    for method in ("encode", "encode_query", "encode_document"):
        mine = getattr(ours, method)(TEXTS, layout="padded", **options)
        assert np.array_equal(mine, getattr(theirs, method)(TEXTS, **options)), method
        for model in pair:
            model.prompts["query"] = "about "
    with pytest.warns(IgnoredArgumentWarning, match="prompt_name='three' is ignored"):
        mine = ours.encode(TEXTS, "three", "cat ", layout="padded")
    assert np.array_equal(mine, theirs.encode(TEXTS, "three", "cat "))


def test_a_prompt_beside_a_name_is_said_once(tiny: SentenceEncoder) -> None:
    for encode in (
        tiny.encode,
        tiny.encode_document,
        lambda *args: list(tiny.encode_stream(args[0], prompt_name=args[1], prompt=args[2])),
    ):
        with pytest.warns(IgnoredArgumentWarning) as caught:
            encode(TEXTS, "query", "cat ")
        assert len(caught) == 1


def test_the_same_prompt_is_counted_as_is_encoded(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(
        tiny_folder(), device="cpu", prompts={"long": "cat " * 20, "short": "cat "}, default_prompt_name="long"
    )
    for options in ({}, {"prompt_name": "short"}, {"prompt": "cat cat "}, {"prompt": ""}):
        told: dict[int, int] = {}
        model.encode(["a dog " * 10], truncation=told.update, **options)
        assert model.tokens_lost(["a dog " * 10], **options) == told
    assert model.tokens_lost(["a dog " * 10])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("similarity_fn_name", "l2", "similarity_fn_name is 'l2', expected one of 'cosine'"),
        ("similarity_fn_name", SimilarityFunction.MAXSIM, "similarity_fn_name is 'maxsim'"),
        ("similarity_fn_name", ["cosine"], "similarity_fn_name is"),
        ("truncate_dim", -3, "truncate_dim is -3"),
        ("truncate_dim", "5", "truncate_dim is '5'"),
        ("truncate_dim", True, "truncate_dim is True"),
        ("truncate_dim", 2.0, "truncate_dim is 2.0"),
        ("default_prompt_name", "nope", "no prompt named 'nope'"),
        ("prompts", "x", "prompts is 'x'"),
        ("prompts", {"a": 5}, "prompts is"),
        ("prompts", {5: "a"}, "prompts is"),
    ],
)
def test_settings_are_checked_when_they_are_set(tiny_folder: TinyFolder, name: str, value: Any, message: str) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    before = getattr(model, name)
    with pytest.raises(InputError, match=message):
        setattr(model, name, value)
    with pytest.raises(InputError, match=message):
        SentenceEncoder(model.encoder, model.tokenizer, **{name: value})
    assert getattr(model, name) == before


def test_a_default_prompt_cannot_be_taken_away(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", default_prompt_name="query")
    with pytest.raises(InputError, match="no 'query', which is the default_prompt_name"):
        model.prompts = {"passage": "about "}
    model.default_prompt_name = None
    model.prompts = {"passage": "about ", "nothing": None}
    assert np.array_equal(model.encode(TEXTS, prompt_name="nothing"), model.encode(TEXTS))


def test_similarities_go_by_the_reference_s_names_too(pair: Pair) -> None:
    ours, theirs = pair
    vectors = ours.encode(TEXTS)
    for member in (*list(SimilarityFunction)[:4], None):
        ours.similarity_fn_name = theirs.similarity_fn_name = member
        assert ours.similarity_fn_name == theirs.similarity_fn_name
        assert torch.equal(ours.similarity(vectors, vectors), theirs.similarity(vectors, vectors))
    dot = SimilarityFunction.DOT
    assert "pearson_dot" in EmbeddingSimilarityEvaluator(TEXTS, TEXTS, [1, 2, 3], main_similarity=dot)(ours)
    assert "dot_accuracy" in TripletEvaluator(TEXTS, TEXTS, TEXTS, similarity_fn_names=[dot], margin={dot: 0.1})(ours)
    search = InformationRetrievalEvaluator({"q": "a"}, {"d": "a"}, {"q": {"d"}}, score_functions={"dot": dot})
    assert search(ours)["dot_mrr@10"] == 1


@pytest.mark.parametrize(
    "options", [{}, {"precision": "ubinary"}, {"output_value": None}, {"output_value": "token_embeddings"}]
)
def test_vectors_that_are_not_finite_are_said(tiny_folder: TinyFolder, options: dict) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    with torch.no_grad():
        model.encoder.embeddings.word.weight[model.tokenizer.vocabulary()["cat"]] = float("nan")
    texts = ["a dog", "the cat", "a dog", "the cat"]
    options = {**options, "layout": "padded", "batch_size": 1}
    with pytest.warns(NonFiniteWarning, match="NaN or infinite numbers for 2 of 4 texts, first for 'the cat'"):
        model.encode(texts, **options)
    with pytest.raises(InputError, match="for 2 of 4 texts"):
        model.encode(texts, non_finite="error", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(texts, non_finite="silent", **options)
        model.encode(texts[::2], **options)


def test_vectors_that_are_not_finite_are_said_on_every_road(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    with torch.no_grad():
        model.encoder.embeddings.word.weight.fill_(float("nan"))
    with pytest.warns(NonFiniteWarning, match="for 3 of 3 texts, first for 'one text'"):
        model.encode(TEXTS)
    with pytest.warns(NonFiniteWarning, match="for 1 of 1 texts, first for 'a text'"):
        model.encode("a text")
    with pytest.warns(NonFiniteWarning, match="for 1 of 1 texts, first for 'another'"):
        list(model.encode_stream(TEXTS, chunk_size=1))
    with pytest.warns(NonFiniteWarning, match="for 3 of 3 texts"), model.start_multi_process_pool(["cpu"]) as pool:
        model.encode(TEXTS, pool=pool)
    with pytest.warns(NonFiniteWarning, match="for 3 of 3 texts"):
        paraphrase_mining(model, TEXTS)


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
