"""A folder's tokenizer files give transformers' ids, in every form that they come in, or are refused."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from conftest import TEXTS, TINY, TinyFolder, edit_json, load_reference, tiny_tokenizer
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokens import HARD
from transformers import AutoModel, AutoTokenizer

from minilm import CheckpointError, Encoder, EncoderConfig, InputError, SentenceEncoder, Tokenizer
from minilm.internals import occlusion
from minilm.tokenizer_files import read_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::minilm.TruncationWarning")

LETTERS = "abcdefghijklmnopqrstuvwxyzABCÉéüß漢字0123456789.,!?-[]"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PIECES = [*SPECIAL, *LETTERS, *(f"##{c}" for c in LETTERS), "the", "The", "cat", "Cat", "cafe", "café", "[E1]"]
LIMIT = 60

HARD_TEXTS = [
    *HARD[-20:],
    "The Cat, the café; The Café",
    "cafe\u0301 É é Ü ü",
    "漢字 x漢y字",
    "a\x00b\ufffdc\u200bd\x1ce",
    *("cat" * n + "s" for n in (33, 34, 66, 67, 70)),  # about the word limits of 100 and 200 characters
    "[CLS] a [SEP] [MASK][PAD] [UNK] [E1]b [e1] new new. New",
    "<s> a </s> <pad> <mask> <unk>",
]

BERT_JSON: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [
        {"id": i, "content": token, "single_word": False, "lstrip": False, "rstrip": False}
        | {"normalized": False, "special": True}
        for i, token in enumerate(SPECIAL)
    ],
    "normalizer": {
        "type": "BertNormalizer",
        "clean_text": True,
        "handle_chinese_chars": True,
        "strip_accents": None,
        "lowercase": True,
    },
    "pre_tokenizer": {"type": "BertPreTokenizer"},
    "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
    "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    "model": {
        "type": "WordPiece",
        "unk_token": "[UNK]",
        "continuing_subword_prefix": "##",
        "max_input_chars_per_word": 100,
        "vocab": {piece: i for i, piece in enumerate(PIECES)},
    },
}


def new(content: str, **flags: bool) -> dict[str, Any]:
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False} | {
        "normalized": False,
        "special": True,
        **flags,
    }


# A map of characters as sentencepiece writes it: the size of a trie, and a trie that holds nothing.
PRECOMPILED = {
    "type": "Precompiled",
    "precompiled_charsmap": base64.b64encode((1024).to_bytes(4, "little") + bytes(1024)).decode(),
}


def unigram_json(**change: Any) -> dict[str, Any]:
    """XLM-R's tokenizer.json, small."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "▁the", "▁cat", "▁The", "ing", *"▁thecaing漢ABC.", "<mask>"]
    vocabulary = [[piece, -float(i)] for i, piece in enumerate(dict.fromkeys(pieces))]
    ids = {piece: i for i, (piece, _) in enumerate(vocabulary)}
    metaspace = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[t], **new(t, lstrip=t == "<mask>")} for t in ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
        ],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
        "post_processor": {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
        | {"trim_offsets": True, "add_prefix_space": True},
        "decoder": metaspace,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": False},
    } | change


def write(folder: Path, files: dict[str, Any]) -> Path:
    folder.mkdir()
    for name, content in ({"config.json": {"model_type": "bert"}} | files).items():
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / name).write_bytes(data)
    return folder


def ours(folder: Path) -> Tokenizer:
    config = folder / "tokenizer_config.json"
    return Tokenizer(read_tokenizer(folder, json.loads(config.read_text()) if config.exists() else {}), LIMIT)


def assert_equal_ids(folder: Path, texts: list[str]) -> None:
    theirs = AutoTokenizer.from_pretrained(str(folder))
    tokenizer = ours(folder)
    assert tokenizer(texts).ids == theirs(texts, truncation=True, max_length=LIMIT)["input_ids"]
    assert tokenizer.pad_token_id == theirs.pad_token_id


def bert(**change: Any) -> dict[str, Any]:
    return BERT_JSON | change


def normalizer(**change: Any) -> dict[str, Any]:
    return bert(normalizer=BERT_JSON["normalizer"] | change)


CASED = normalizer(lowercase=False)
WORDS_OF_200 = bert(model=BERT_JSON["model"] | {"max_input_chars_per_word": 200})
SWAPPED = bert(post_processor={"type": "BertProcessing", "sep": ["[CLS]", 2], "cls": ["[SEP]", 3]})
OLD_MODEL = {key: value for key, value in BERT_JSON["model"].items() if key != "type"}
TRUNCATION = {"direction": "Right", "max_length": 7, "strategy": "LongestFirst", "stride": 0}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]"}
VOCAB = "\n".join(PIECES).encode()

JSON_AND_CONFIG: dict[str, dict[str, Any]] = {
    "nothing said": {"tokenizer.json": BERT_JSON},
    "cased, and not said": {"tokenizer.json": CASED, "tokenizer_config.json": {"tokenizer_class": "BertTokenizer"}},
    "cased, and no class": {"tokenizer.json": CASED, "tokenizer_config.json": {}},
    "cased, and said": {"tokenizer.json": CASED, "tokenizer_config.json": {"do_lower_case": False}},
    "cased by the config alone": {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"do_lower_case": False}},
    "accents kept": {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"strip_accents": False}},
    "accents kept by tokenizer.json": {"tokenizer.json": normalizer(strip_accents=False)},
    "Chinese together": {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"tokenize_chinese_chars": False}},
    "Chinese together, by tokenizer.json": {"tokenizer.json": normalizer(handle_chinese_chars=False)},
    "another name for it": {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"handle_chinese_chars": False}},
    "control characters kept": {"tokenizer.json": normalizer(clean_text=False)},
    "no normalizer": {"tokenizer.json": bert(normalizer=None)},
    "another pre-tokenizer": {"tokenizer.json": bert(pre_tokenizer={"type": "WhitespaceSplit"})},
    "longer words": {"tokenizer.json": WORDS_OF_200, "tokenizer_config.json": {"max_input_chars_per_word": 200}},
    "no template": {"tokenizer.json": bert(post_processor=None)},
    "another template": {"tokenizer.json": SWAPPED},
    "no type of model": {"tokenizer.json": bert(model=OLD_MODEL)},
    "truncation baked in": {"tokenizer.json": bert(truncation=TRUNCATION)},
    "settings of a slow tokenizer": {
        "tokenizer.json": BERT_JSON,
        "tokenizer_config.json": {"do_basic_tokenize": False, "never_split": ["cat"], "name_or_path": "x"},
    },
    "other names of tokens": {
        "tokenizer.json": BERT_JSON,
        "tokenizer_config.json": {"cls_token": "[E1]", "sep_token": "[MASK]", "unk_token": "the", "pad_token": "cat"},
    },
    "tokens of a map": {
        "tokenizer.json": BERT_JSON,
        "special_tokens_map.json": {"cls_token": new("[E1]"), "additional_special_tokens": ["Cat"]},
    },
    "an added token": {
        "tokenizer.json": bert(added_tokens=[*BERT_JSON["added_tokens"], {"id": len(PIECES), **new("new")}])
    },
    "added tokens in the config alone": {
        "tokenizer.json": bert(added_tokens=[]),
        "tokenizer_config.json": {"added_tokens_decoder": {"2": new("[CLS]", normalized=True), "9999": new("new")}},
    },
    "added tokens in tokenizer.json alone": {
        "tokenizer.json": bert(added_tokens=[{"id": PIECES.index("cat"), **new("cat")}]),
        "tokenizer_config.json": {"added_tokens_decoder": {}},
    },
    "added_tokens.json": {"tokenizer.json": BERT_JSON, "added_tokens.json": {"new": len(PIECES)}},
    "extra tokens": {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"extra_special_tokens": ["Cat"]}},
    "tokenizer.json as it stands, cased": {"tokenizer.json": CASED, "tokenizer_config.json": FAST},
    "as it stands, longer words": {"tokenizer.json": WORDS_OF_200, "tokenizer_config.json": FAST},
    "as it stands, no normalizer": {"tokenizer.json": bert(normalizer=None), "tokenizer_config.json": FAST},
    "as it stands, another template": {"tokenizer.json": SWAPPED, "tokenizer_config.json": FAST},
    "as it stands, config ignored": {"tokenizer.json": CASED, "tokenizer_config.json": FAST | {"do_lower_case": True}},
    "TokenizersBackend": {
        "tokenizer.json": CASED,
        "tokenizer_config.json": FAST | {"tokenizer_class": "TokenizersBackend"},
    },
    "vocab.txt": {"vocab.txt": VOCAB},
    "vocab.txt, cased": {"vocab.txt": VOCAB + b"\n", "tokenizer_config.json": {"do_lower_case": False}},
    "vocab.txt and a map": {"vocab.txt": VOCAB, "special_tokens_map.json": {"additional_special_tokens": ["[E1]"]}},
    "vocab.txt and added tokens": {"vocab.txt": VOCAB, "added_tokens.json": {"new": len(PIECES)}},
    "vocab.txt of Windows": {"vocab.txt": VOCAB.replace(b"\n", b"\r\n") + b"\r\n"},
    "vocab.txt with empty and repeated lines": {"vocab.txt": VOCAB + b"\n\ncat\nthe\n\n\n"},
    "vocab.txt beside tokenizer.json, and another": {"tokenizer.json": BERT_JSON, "vocab.txt": b"[UNK]\ncat\n" + VOCAB},
    "XLM-R's": {"tokenizer.json": unigram_json(), "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"}},
    "XLM-R's, fast": {
        "tokenizer.json": unigram_json(normalizer=None, pre_tokenizer=None, post_processor=None),
        "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizerFast"},
    },
    "XLM-R's, with its map of characters": {
        "tokenizer.json": unigram_json(normalizer={"type": "Sequence", "normalizers": [PRECOMPILED]}),
        "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"},
    },
    "XLM-R's, no space before": {
        "tokenizer.json": unigram_json(),
        "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizerFast", "add_prefix_space": False},
    },
    "XLM-R's, as it stands": {
        "tokenizer.json": unigram_json(),
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>"},
    },
}


@pytest.mark.parametrize("files", JSON_AND_CONFIG.values(), ids=JSON_AND_CONFIG)
def test_every_form_gives_the_reference_ids(tmp_path: Path, files: dict[str, Any]) -> None:
    assert_equal_ids(write(tmp_path / "model", files), HARD_TEXTS)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Any, Tokenizer]]:
    """A few of the forms, in transformers and in minilm."""
    loaded = []
    for name in ("cased, and said", "accents kept", "an added token", "extra tokens", "vocab.txt, cased", "XLM-R's"):
        folder = write(tmp_path_factory.mktemp("any") / "model", JSON_AND_CONFIG[name])
        loaded.append((AutoTokenizer.from_pretrained(str(folder)), ours(folder)))
    return loaded


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=100), st.sampled_from(["", "[CLS]", " new", "Cat", "<mask>", "É", "漢", "x" * 101]))
def test_any_text_gives_the_reference_ids(pairs: list[tuple[Any, Tokenizer]], text: str, part: str) -> None:
    for theirs, tokenizer in pairs:
        expected = theirs(text + part + text, truncation=True, max_length=LIMIT)["input_ids"]
        assert tokenizer([text + part + text]).ids == [expected]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({}, r"tokenizer\.json does not exist"),
    "not JSON": ({"tokenizer.json": b"{"}, r"tokenizer\.json is not valid JSON"),
    "a list": ({"tokenizer.json": []}, "holds a list"),
    "no model": ({"tokenizer.json": {}}, "the model is None, expected a WordPiece"),
    "another model": ({"tokenizer.json": unigram_json()}, "the model is 'Unigram', expected a WordPiece"),
    "an id that is none": (
        {"tokenizer.json": bert(model=OLD_MODEL | {"vocab": {"[UNK]": -1}})},
        "make no tokenizer",
    ),
    "an id that is a text": (
        {"tokenizer.json": bert(model=OLD_MODEL | {"vocab": {"[UNK]": "1"}})},
        "make no tokenizer",
    ),
    "no [UNK]": ({"vocab.txt": b"[PAD]\n[CLS]\n[SEP]\ncat"}, r"the vocabulary has no \[UNK\]"),
    "no [CLS]": ({"vocab.txt": b"[PAD]\n[UNK]\n[SEP]\n[MASK]\n"}, r"has no \[CLS\], and the encoder no vectors"),
    "vocab.txt with a byte order mark": ({"vocab.txt": b"\xef\xbb\xbf" + VOCAB}, r"has no \[PAD\], and the encoder"),
    "vocab.txt that is not UTF-8": (
        {"vocab.txt": b"\xff\xfe"},
        r"vocab\.txt and the files beside it make no tokenizer",
    ),
    "an unknown class": (
        {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"tokenizer_class": "RobertaTokenizer"}},
        "tokenizer_class is 'RobertaTokenizer', supported are BertTokenizer",
    ),
    "vocab.txt for a class that does not read it": (
        {"vocab.txt": VOCAB, "tokenizer_config.json": FAST},
        "does not exist",
    ),
    "padding on the left": (
        {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"padding_side": "left"}},
        "padding_side is 'left'",
    ),
    "truncation on the left, baked in": (
        {"tokenizer.json": bert(truncation=TRUNCATION | {"direction": "Left"})},
        "truncation_side is 'left'",
    ),
    "special tokens split": (
        {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"split_special_tokens": True}},
        "split_special_tokens is True, supported is False",
    ),
    "no token to pad with": (
        {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"}},
        "names no pad_token",
    ),
    "do_lower_case that is a text": (
        {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"do_lower_case": "yes"}},
        "make no tokenizer",
    ),
    "a token that is a text": (
        {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"added_tokens_decoder": {"1": "x"}}},
        "make no tokenizer",
    ),
    "as it stands, without a template": (
        {"tokenizer.json": bert(post_processor=None), "tokenizer_config.json": FAST},
        "one token before and one after a text",
    ),
    "XLM-R's without its model": (
        {"tokenizer.json": BERT_JSON, "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"}},
        "the model is 'WordPiece', expected a Unigram",
    ),
    "XLM-R's with too few pieces": (
        {
            "tokenizer.json": unigram_json(model={"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0]]}),
            "tokenizer_config.json": {"tokenizer_class": "XLMRobertaTokenizer"},
        },
        "make no tokenizer",
    ),
}


@pytest.mark.parametrize(("files", "said"), REFUSED.values(), ids=REFUSED)
def test_what_is_broken_or_read_otherwise_is_refused(tmp_path: Path, files: dict[str, Any], said: str) -> None:
    folder = write(tmp_path / "model", files)
    config = files.get("tokenizer_config.json", {})
    size = len((folder / "vocab.txt").read_bytes().splitlines()) if "vocab.txt" in files else None
    with pytest.raises(CheckpointError, match=said):
        Tokenizer(read_tokenizer(folder, config, vocab_size=size), LIMIT)


# ---- whole models -------------------------------------------------------------------------------


def load(folder: Path | str) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu")


def assert_same_vectors(folder: Path, texts: list[str] = TEXTS) -> np.ndarray:
    vectors = np.asarray(load(folder).encode(texts, layout="padded"))
    np.testing.assert_array_equal(vectors, load_reference(folder).encode(texts))
    return vectors


def test_a_cased_tokenizer_json_beside_a_config_that_is_silent(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["do_lower_case"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    vectors = assert_same_vectors(folder)
    load(folder).save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(assert_same_vectors(tmp_path / "saved"), vectors)
    saved = json.loads((tmp_path / "saved" / "tokenizer.json").read_text())
    assert saved["normalizer"]["lowercase"]  # so whoever follows tokenizer.json alone agrees


def test_do_lower_case_of_sentence_transformers(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder(legacy=True)
    edit_json(folder / "tokenizer_config.json", do_lower_case=False)
    as_written = assert_same_vectors(folder)
    edit_json(folder / "sentence_bert_config.json", do_lower_case=True)
    lower = assert_same_vectors(folder)
    assert not np.array_equal(as_written, lower)
    load(folder).save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(assert_same_vectors(tmp_path / "saved"), lower)


def test_a_class_that_config_json_alone_names(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["tokenizer_class"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    edit_json(folder / "config.json", tokenizer_class="PreTrainedTokenizerFast")
    vectors = assert_same_vectors(folder)
    load(folder).save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(assert_same_vectors(tmp_path / "saved"), vectors)


def test_a_folder_with_vocab_txt_alone_and_saved_again(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocabulary, key=vocabulary.__getitem__)))
    (folder / "tokenizer.json").unlink()
    vectors = assert_same_vectors(folder)
    load(folder).save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(assert_same_vectors(tmp_path / "saved"), vectors)
    assert (tmp_path / "saved" / "vocab.txt").read_bytes() == (folder / "vocab.txt").read_bytes()
    assert (tmp_path / "saved" / "tokenizer.json").is_file()


def test_a_multilingual_minilm(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    """BERT's weights under XLM-R's tokenizer, as paraphrase-multilingual-MiniLM-L12-v2 has them."""
    folder = tiny_folder()
    (folder / "tokenizer.json").write_text(json.dumps(unigram_json()))
    config = {"tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 32}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    texts = [*TEXTS, "the cat", "The thing 漢 <mask> </s> [MASK]"]
    vectors = assert_same_vectors(folder, texts)
    model, theirs = load(folder), load_reference(folder)
    assert model.tokenize(texts).input_ids.tolist() == theirs.preprocess(texts)["input_ids"].tolist()
    model.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(assert_same_vectors(tmp_path / "saved", texts), vectors)

    found = occlusion(model, "the caing cat", "the cat", unit="word")
    assert found.tokens == ["<s>", "▁the", "▁caing", "▁cat", "</s>"]


def plain_vectors(folder: Path, texts: list[str]) -> torch.Tensor:
    """What transformers alone makes of a folder: truncation=True, and the mean."""
    batch = AutoTokenizer.from_pretrained(str(folder))(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(str(folder)).eval()(**batch).last_hidden_state
    mask = batch["attention_mask"][..., None]
    return torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_limit_that_was_set_is_read_by_all(tiny_folder: TinyFolder, tmp_path: Path, legacy: bool) -> None:
    folder = tiny_folder(legacy=legacy)
    for limit in (12, 20):
        model = load(folder)
        model.max_seq_length = limit
        expected = torch.tensor(np.asarray(model.encode(TEXTS, layout="padded")))
        folder = tmp_path / str(limit)
        model.save_pretrained(folder)
        assert load(folder).max_seq_length == load_reference(folder).max_seq_length == limit
        torch.testing.assert_close(plain_vectors(folder, TEXTS), expected)
        alone = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(TEXTS)
        assert [row.ids for row in alone] == model.tokenize(TEXTS).input_ids.tolist()
        assert [row.attention_mask for row in alone] == model.tokenize(TEXTS).attention_mask.tolist()


def test_a_tokenizer_of_one_s_own_is_read_as_it_stands(tmp_path: Path) -> None:
    own = tiny_tokenizer()
    own.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=False)
    encoder = Encoder(EncoderConfig(vocab_size=own.get_vocab_size(), **TINY))
    model = SentenceEncoder(encoder, Tokenizer(own, 32)).eval()
    model.save_pretrained(tmp_path / "own")
    texts = [*TEXTS, "[PAD] a [SEP] [MASK]", "Cat CAT cat"]
    expected = np.asarray(model.encode(texts, layout="padded"))
    np.testing.assert_array_equal(assert_same_vectors(tmp_path / "own", texts), expected)


# ---- the limit ----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0, 2, -1, True, 5.0, "12", None, float("nan")])
def test_a_limit_that_is_none_is_refused_wherever_it_is_set(tiny_folder: TinyFolder, value: Any) -> None:
    folder = tiny_folder()
    model = load(folder)
    with pytest.raises(InputError, match=f"max_seq_length is {value!r}, expected 3 … 40"):
        model.max_seq_length = value
    with pytest.raises(InputError, match=f"max_seq_length is {value!r}, expected 3 … 40"):
        model.tokenizer.max_seq_length = value
    with pytest.raises(InputError, match=f"max_seq_length is {value!r}, expected at least 3"):
        Tokenizer(tiny_tokenizer(), value)
    with pytest.raises(InputError, match=f"max_seq_length is {value!r}, expected at least 3"):
        Tokenizer.from_file(folder / "tokenizer.json", value)


def test_a_limit_beyond_the_positions_is_refused_wherever_it_is_set(tiny_folder: TinyFolder) -> None:
    model = load(tiny_folder())
    with pytest.raises(InputError, match="max_seq_length is 600, expected 3 … 40"):
        model.tokenizer.max_seq_length = 600
    with pytest.raises(InputError, match="max_seq_length is 600, expected 3 … 40"):
        model.tokenizer = Tokenizer(tiny_tokenizer(), 600)
    with pytest.raises(InputError, match="max_seq_length is 600, expected 3 … 40"):
        SentenceEncoder(model.encoder, Tokenizer(tiny_tokenizer(), 600))
    assert model.max_seq_length == 32
    model.tokenizer.max_seq_length = np.int64(40)
    assert len(model.tokenize(["a " * 50]).input_ids[0]) == model.max_seq_length == 40
