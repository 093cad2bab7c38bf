"""Token ids are the reference's for any text, and what the limit cuts off is counted."""

import warnings

import pytest
from conftest import TinyFolder
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer

from minilm import SentenceEncoder, TextTypeError, Tokenizer, TruncationError, TruncationWarning
from minilm.parity import TEXTS

HARD = [
    *TEXTS,
    "word " * 10_000,
    "x" * 99,
    "x" * 100,
    "x" * 101,
    "token " * 199,  # over the 128 that tokenizer.json states, under the 256 that hold
    "##piece ##ing piece##",
    "[CLS][CLS][SEP]",
    "[cls] [Mask]",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467",
    "\u202eright to left override\u202c",
    "ﬁ ligature Ⅷ ① ½ ﷺ",
    "\ud7ff\ue000\U0010ffff\ufffd\ufffe",
    "\r\n\t\v\f\x1c\x85\xa0\u3000",
    "Straße İstanbul ıI ΣΑΣ",
    "a" + "\u0301" * 300,
]


def same_ids(model: SentenceEncoder, reference: SentenceTransformer, texts: list[str]) -> None:
    for text, ids in zip(texts, model.tokenizer(texts).ids, strict=True):
        assert ids == reference.preprocess([text])["input_ids"][0].tolist(), repr(text[:80])


def test_a_hard_set_gives_the_reference_ids(model: SentenceEncoder, reference: SentenceTransformer) -> None:
    same_ids(model, reference, HARD)
    assert model.tokenize(HARD).input_ids.tolist() == reference.preprocess(HARD)["input_ids"].tolist()


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=400))
def test_any_text_gives_the_reference_ids(model: SentenceEncoder, reference: SentenceTransformer, text: str) -> None:
    same_ids(model, reference, [text])


def test_the_limit_is_256_and_not_the_128_of_the_file(model: SentenceEncoder) -> None:
    tokenized = model.tokenizer(["token " * 200, "token " * 254, "token " * 255, "token " * 300])
    assert [len(ids) for ids in tokenized.ids] == [202, 256, 256, 256]
    assert tokenized.tokens_lost == {2: 1, 3: 46}
    assert all(ids[0] == 101 and ids[-1] == 102 for ids in tokenized.ids)


def test_pieces_read_as_the_text(model: SentenceEncoder) -> None:
    ids = model.tokenizer(["Sourdough loaves"]).ids[0]
    assert model.tokenizer.pieces(ids) == ["[CLS]", "sour", "##dou", "##gh", "lo", "##aves", "[SEP]"]


def test_the_cut_is_reported_as_asked(model: SentenceEncoder) -> None:
    texts = ["short", "long " * 300, "long " * 400]
    with pytest.warns(TruncationWarning, match=r"2 of 3 texts .*text 1 by 46, text 2 by 146") as caught:
        model.encode(texts)
    assert caught[0].message.tokens_lost == {1: 46, 2: 146}
    assert caught[0].filename == __file__
    with pytest.raises(TruncationError, match="split them") as error:
        model.encode(texts, truncation="error")
    assert error.value.tokens_lost == {1: 46, 2: 146}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode(texts, truncation="silent")
        model.encode("short")
    assert model.tokens_lost(texts) == {1: 46, 2: 146}


def test_the_prompt_counts_towards_the_limit(model: SentenceEncoder) -> None:
    assert model.tokens_lost(["word " * 254], prompt="two words ") == {0: 2}


def test_a_shorter_limit_can_be_set(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    model.max_seq_length = 5
    assert [len(ids) for ids in model.tokenizer(["the cat sat on the mat"]).ids] == [5]
    for wrong in (2, 41, 0, -1):
        with pytest.raises(ValueError, match="expected 3 … 40"):
            model.max_seq_length = wrong


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"bytes", "text 1 is bytes .* Decode it first"),
        (None, "text 1 is NoneType None, expected a string"),
        (3, "text 1 is int 3"),
        (float("nan"), "text 1 is float nan.*missing value"),
        (["nested"], "text 1 is list .* flatten"),
        ("half \ud83d", r"text 1 has a lone surrogate U\+D83D at character 5"),
    ],
)
def test_what_is_no_text_is_named(model: SentenceEncoder, text: object, message: str) -> None:
    with pytest.raises(TextTypeError, match=message):
        model.encode(["fine", text])
    with pytest.raises(TextTypeError, match=message):
        model.tokenize(["fine", text])


def test_a_lone_surrogate_is_named_by_the_tokenizer_alone(model: SentenceEncoder) -> None:
    with pytest.raises(TextTypeError, match=r"text 0 has a lone surrogate U\+DC80 at character 0"):
        model.tokenizer(["\udc80"])


def test_a_tokenizer_of_another_kind_is_refused() -> None:
    import tokenizers

    with pytest.raises(ValueError, match="one token before and one after"):
        Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE()), 128)
