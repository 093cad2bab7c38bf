"""A folder's tokenizer files → the ``tokenizers.Tokenizer`` that transformers makes of them.

``tokenizer_class`` decides what is followed. ``PreTrainedTokenizerFast`` takes ``tokenizer.json`` as it stands.
``BertTokenizer`` and ``XLMRobertaTokenizer`` take the vocabulary from it, or from ``vocab.txt``, and build the rest
themselves: what ``tokenizer_config.json`` does not say has their defaults, whatever ``tokenizer.json`` says. So a cased
``tokenizer.json`` beside a ``tokenizer_config.json`` without ``do_lower_case`` is lower-cased.

Follows ``PreTrainedTokenizerBase._from_pretrained``, ``TokenizersBackend.__init__`` and ``tokenization_bert.py`` of
transformers 5. What would change ids in another way is refused.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from minilm.checkpoint import read_json_object
from minilm.errors import CheckpointError

BERT, XLM_ROBERTA, AS_IT_STANDS = "BertTokenizer", "XLMRobertaTokenizer", "PreTrainedTokenizerFast"

_CLASSES = {
    "BertTokenizer": BERT,
    "BertTokenizerFast": BERT,
    "XLMRobertaTokenizer": XLM_ROBERTA,
    "XLMRobertaTokenizerFast": XLM_ROBERTA,
    "PreTrainedTokenizerFast": AS_IT_STANDS,
    "PreTrainedTokenizer": AS_IT_STANDS,
    "TokenizersBackend": AS_IT_STANDS,
}

# Special tokens that the vocabulary lacks are added to it in this order.
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

_DEFAULTS: dict[str, dict[str, Any]] = {
    BERT: {
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
        "do_lower_case": True,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
    },
    XLM_ROBERTA: {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "sep_token": "</s>",
        "pad_token": "<pad>",
        "cls_token": "<s>",
        "mask_token": "<mask>",
        "add_prefix_space": True,
    },
    AS_IT_STANDS: {},
}

# The tokens before and after a text, and the others that every text or batch may need.
_NEEDED = {
    BERT: ("cls_token", "sep_token", "pad_token", "unk_token"),
    XLM_ROBERTA: ("bos_token", "eos_token", "pad_token"),
    AS_IT_STANDS: ("pad_token",),
}

# Settings that would change ids, or what is computed of them, with the values that do not.
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "split_special_tokens": (None, False),
    "init_inputs": (None, []),
    "fast_tokenizer_files": (None, [], ["tokenizer.json"]),
    "model_input_names": (
        None,
        ["input_ids", "attention_mask"],
        ["input_ids", "token_type_ids", "attention_mask"],
    ),
}


def read_tokenizer(
    folder: Path, config: Mapping[str, Any], *, lower_case: bool = False, vocab_size: int | None = None
) -> tokenizers.Tokenizer:
    """Builds the tokenizer of a folder. Its padding names the token that fills batches.

    Args:
        folder: where tokenizer.json or vocab.txt is.
        config: the content of tokenizer_config.json.
        lower_case: lower-case every text first: ``do_lower_case`` of sentence_bert_config.json.
        vocab_size: how many ids the encoder has vectors for; None: any number.

    Raises:
        CheckpointError: a file is missing or broken, or asks for something that is not supported.
    """
    kind = _kind(folder, config)
    file = folder / "tokenizer.json"
    from_text = kind == BERT and not file.exists() and (folder / "vocab.txt").is_file()
    content = {} if from_text else read_json_object(file)
    try:
        if from_text:
            file = folder / "vocab.txt"
            content = json.loads(tokenizers.Tokenizer(models.WordPiece()).to_str())
            content["model"]["vocab"] = models.WordPiece.read_file(str(file))
        settings, added = _special_and_added(folder, {**_DEFAULTS[kind], **config}, content)
        tokenizer = _BUILDERS[kind](folder, content, settings)
        _check_sides(folder, config, tokenizer)
        if tokenizer.padding:
            settings.setdefault("pad_token", tokenizer.padding["pad_token"])
        for name in _NEEDED[kind]:
            if not settings.get(name):
                raise CheckpointError(f"{folder / 'tokenizer_config.json'} names no {name}")
        _add_tokens(tokenizer, settings, added)
        _set_template(tokenizer, kind, settings)
        pad = str(settings["pad_token"])
        tokenizer.enable_padding(pad_id=tokenizer.token_to_id(pad), pad_token=pad)
    except CheckpointError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":  # the tokenizers library's
            raise
        raise CheckpointError(f"{file} and the files beside it make no tokenizer: {error}") from None
    ids = {str(token): tokenizer.token_to_id(str(token)) or 0 for token in _special(settings)}
    if beyond := [token for token, i in ids.items() if vocab_size is not None and i >= vocab_size]:
        raise CheckpointError(
            f"{folder}: the vocabulary has no {', '.join(beyond)}, and the encoder no vectors to add them"
        )
    if lower_case:
        _lower_case_first(tokenizer)
    return tokenizer


def _kind(folder: Path, config: Mapping[str, Any]) -> str:
    name = config.get("tokenizer_class") or BERT
    if not isinstance(name, str) or name not in _CLASSES:
        raise CheckpointError(f"{folder}: tokenizer_class is {name!r}, supported are {', '.join(_CLASSES)}")
    for key, supported in _SUPPORTED.items():
        if config.get(key) not in supported:
            raise CheckpointError(
                f"{folder / 'tokenizer_config.json'}: {key} is {config[key]!r}, supported is {supported[-1]!r}"
            )
    return _CLASSES[name]


# ---- the three kinds --------------------------------------------------------------------------------


def _bert(folder: Path, content: Mapping[str, Any], settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    unknown = str(settings["unk_token"])
    tokenizer, vocabulary = _without_model(folder, content, "WordPiece", {"vocab": {}})
    tokenizer.model = models.WordPiece(vocabulary, unk_token=unknown)
    if tokenizer.token_to_id(unknown) is None:
        raise CheckpointError(f"{folder}: the vocabulary has no {unknown}, which stands for unknown words")
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings["tokenize_chinese_chars"],
        strip_accents=settings["strip_accents"],
        lowercase=settings["do_lower_case"],
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def _xlm_roberta(folder: Path, content: Mapping[str, Any], settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    tokenizer, vocabulary = _without_model(folder, content, "Unigram", {"vocab": [["", 0.0]], "unk_id": None})
    tokenizer.model = models.Unigram([tuple(item) for item in vocabulary], unk_id=3, byte_fallback=False)
    normalizer = content.get("normalizer") or {}
    for part in normalizer.get("normalizers", [normalizer]):
        if part.get("type") == "Precompiled":
            tokenizer.normalizer = normalizers.Precompiled(base64.b64decode(part["precompiled_charsmap"]))
            break
    else:
        tokenizer.normalizer = None
    scheme = "always" if settings["add_prefix_space"] else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)]
    )
    tokenizer.decoder = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    return tokenizer


def _as_it_stands(folder: Path, content: Mapping[str, Any], settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


_BUILDERS = {BERT: _bert, XLM_ROBERTA: _xlm_roberta, AS_IT_STANDS: _as_it_stands}


def _without_model(
    folder: Path, content: Mapping[str, Any], kind: str, empty: Mapping[str, Any]
) -> tuple[tokenizers.Tokenizer, Any]:
    """All of tokenizer.json but the vocabulary and the added tokens, and the vocabulary apart."""
    model = content.get("model")
    if not isinstance(model, dict) or "vocab" not in model or model.get("type", kind) != kind or "merges" in model:
        found = model.get("type") if isinstance(model, dict) else model
        raise CheckpointError(
            f"{folder / 'tokenizer.json'}: the model is {found!r}, expected a {kind} with its vocabulary"
        )
    rest = {**content, "added_tokens": [], "model": {**model, "type": kind, **empty}}
    return tokenizers.Tokenizer.from_str(json.dumps(rest)), model["vocab"]


# ---- special and added tokens -----------------------------------------------------------------------


def _special_and_added(
    folder: Path, settings: dict[str, Any], content: Mapping[str, Any]
) -> tuple[dict[str, Any], list[AddedToken]]:
    """The settings with every special token in them, and the added tokens in the order of their ids.

    ``added_tokens_decoder`` of tokenizer_config.json stands for all the other files where it is there."""
    extra = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    added: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in settings:
        added = {int(i): AddedToken(**token) for i, token in settings["added_tokens_decoder"].items()}
    else:
        named = read_json_object(folder / "special_tokens_map.json", optional=True)
        if "extra_special_tokens" in named:
            extra = [*extra, *(named.pop("extra_special_tokens") or [])]
        elif settings.get("extra_special_tokens", {}) == {} and "additional_special_tokens" not in settings:
            extra = named.pop("additional_special_tokens", None) or []
        settings = settings | {
            k: AddedToken(**v | {"special": True}) if isinstance(v, dict) else v for k, v in named.items()
        }
        special = {str(token) for token in (*map(settings.get, _SPECIAL), *extra) if token}
        for text, i in read_json_object(folder / "added_tokens.json", optional=True).items():
            added[i] = AddedToken(text, normalized=text not in special, special=text in special)
        for token in content.get("added_tokens", []):
            added[token["id"]] = AddedToken(**{k: v for k, v in token.items() if k != "id"})
    settings |= {key: _token(value) for key, value in settings.items() if key.endswith("_token")}
    return settings | {"extra_special_tokens": [_token(t) for t in extra]}, [added[i] for i in sorted(added)]


def _token(value: Any) -> Any:
    return AddedToken(**{k: v for k, v in value.items() if k != "__type"}) if isinstance(value, dict) else value


def _special(settings: Mapping[str, Any]) -> list[str | AddedToken]:
    others = [key for key in settings if key.endswith("_token") and key not in _SPECIAL]
    tokens = [*map(settings.get, (*_SPECIAL, *others)), *settings["extra_special_tokens"]]
    return [token for token in tokens if isinstance(token, str | AddedToken)]


def _add_tokens(tokenizer: tokenizers.Tokenizer, settings: Mapping[str, Any], added: list[AddedToken]) -> None:
    """Makes the tokens ones that are looked for in a text before it is split."""
    special = _special(settings)
    named = {str(token) for token in special[: len(special) - len(settings["extra_special_tokens"])]}
    known = {str(token) for token in (*added, *tokenizer.get_added_tokens_decoder().values())}
    tokens: list[str | AddedToken] = [*added]
    for token in special:  # one that is given twice, in two forms, is added in both: the last one counts
        if str(token) not in known and token not in tokens:
            tokens.append(token)
    for i, token in enumerate(tokens):
        if isinstance(token, str):
            tokens[i] = AddedToken(token, special=True)
        else:
            token.special |= str(token) in named
    tokenizer.add_tokens(tokens)


# ---- what surrounds the tokens ----------------------------------------------------------------------


def _check_sides(folder: Path, config: Mapping[str, Any], tokenizer: tokenizers.Tokenizer) -> None:
    for name, stated in (("truncation_side", tokenizer.truncation), ("padding_side", tokenizer.padding)):
        side = config.get(name, stated["direction"] if stated else "right")
        if side != "right":
            raise CheckpointError(f"{folder}: {name} is {side!r}, supported is right")


def _set_template(tokenizer: tokenizers.Tokenizer, kind: str, settings: Mapping[str, Any]) -> None:
    if kind == AS_IT_STANDS:
        return
    first, last = (str(settings[name]) for name in _NEEDED[kind][:2])
    pair = [first, "$A", last, *([last, "$B", last] if kind == XLM_ROBERTA else ["$B:1", f"{last}:1"])]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[first, "$A", last], pair=pair, special_tokens=[(t, tokenizer.token_to_id(t)) for t in (first, last)]
    )


def _lower_case_first(tokenizer: tokenizers.Tokenizer) -> None:
    present: Any = tokenizer.normalizer
    parts = [present] if present else []
    if isinstance(present, normalizers.Sequence):
        parts = [present[i] for i in range(len(present))]
    if not any(isinstance(part, normalizers.Lowercase) for part in parts):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *parts])
