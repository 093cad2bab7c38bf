"""A model folder in sentence-transformers' format: what its JSON files say, read and written.

Two generations of the format exist. The legacy one, ``sentence_transformers.models.*`` with
``max_seq_length`` in ``sentence_bert_config.json``, is read by every release, so that is what
:func:`write_folder` writes; both are read. The rest of the pipeline has to be what this library
implements, ``Transformer → Pooling(mean) [→ Normalize]``; anything else is refused by name.

No module that a folder names is ever imported, and no path leaves the folder.
"""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from minilm.checkpoint import WEIGHTS_FILE, atomic_path, read_json, save_encoder
from minilm.config import EncoderConfig, stated_dtype
from minilm.encoder import Encoder
from minilm.errors import CheckpointError
from minilm.similarity import SIMILARITY
from minilm.tokens import Tokenizer

if sys.platform != "win32":
    import fcntl

# Files that describe the tokenizer to other libraries; kept as they came and written back.
TOKENIZER_FILES = ("tokenizer_config.json", "special_tokens_map.json", "vocab.txt")

# Every file that is ever read, in the folder or in that of a module.
FILES = (
    "modules.json",
    "config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    WEIGHTS_FILE,
    *TOKENIZER_FILES,
)

# Files that the reference follows where it finds them: a LoRA adapter, and the settings that stood in
# sentence_bert_config.json when another kind of model was saved.
_NOT_READ = (
    "adapter_config.json",
    *(
        f"sentence_{kind}_config.json"
        for kind in ("roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
    ),
)

_LEGACY_TYPE = "sentence_transformers.models."


@dataclass(frozen=True)
class Pipeline:
    """What a folder says about its model, apart from the weights and the vocabulary.

    Attributes:
        transformer_dir: where config.json, the weights and the tokenizer lie.
        dtype: the floating-point type that config.json asks for; None: that of the weights.
        tokenizer_files: content of those of :data:`TOKENIZER_FILES` that are there.
    """

    config: EncoderConfig
    transformer_dir: Path
    max_seq_length: int
    normalize: bool
    dtype: torch.dtype | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    tokenizer_files: dict[str, bytes] = field(default_factory=dict)


def read_folder(path: str | os.PathLike[str]) -> Pipeline:
    """Reads every JSON file of a model folder.

    Raises:
        CheckpointError: a file is missing, broken or outside the folder, or describes something
            that is not supported.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    kinds, paths = _read_modules(_contained(folder, ""))
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        raise CheckpointError(
            f"{folder / 'modules.json'}: the pipeline is {' → '.join(kinds) or 'empty'}, "
            "supported is Transformer → Pooling, with Normalize after it or not"
        )
    inside = _contained(folder, paths[0])
    for name in _NOT_READ:
        if (inside / name).exists():
            raise CheckpointError(
                f"{inside / name} would change the vectors and is not supported; merge it or remove it"
            )
    values = _object(inside / "config.json")
    config = EncoderConfig.from_dict(values, str(inside / "config.json"))
    dtype = stated_dtype(values)
    _check_pooling(_contained(folder, paths[1]) / "config.json", config.hidden_size)
    if len(paths) == 3:
        _check_normalize(_contained(folder, paths[2]) / "config.json")
    settings = _object(folder / "config_sentence_transformers.json", optional=True)
    tokenizer_config = _object(inside / "tokenizer_config.json", optional=True)
    _check_tokenizer(inside, tokenizer_config)
    return Pipeline(
        config=config,
        transformer_dir=inside,
        max_seq_length=_max_seq_length(inside, tokenizer_config, config),
        normalize=len(paths) == 3,
        dtype=getattr(torch, dtype) if dtype else None,
        tokenizer_files={n: (inside / n).read_bytes() for n in TOKENIZER_FILES if (inside / n).is_file()},
        **_check_settings(folder / "config_sentence_transformers.json", settings),
    )


def write_folder(
    path: str | os.PathLike[str],
    pipeline: Pipeline,
    encoder: Encoder,
    tokenizer: Tokenizer,
    ignored_tensors: Mapping[str, Tensor],
) -> None:
    """Writes a model folder that every release of sentence-transformers loads.

    All files are written under a temporary name first and put in place when every one of them is
    on the disk: a new folder appears whole or not at all. In a folder that exists, files of the
    same names are replaced one after the other, the weights last, and others are left alone: should
    the machine stop between two of them, the folder has files of both models, and the loader refuses
    it if their shapes differ. To be safe from that, save into a new folder.

    Raises:
        OSError: the disk is full or the folder cannot be written; what was there is unchanged.
    """
    target = Path(path)
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{target} exists and is not a folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    # mkdtemp's folder is private (0700); a model folder is as open as any other new folder.
    _remove_leftovers(target)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    staging.chmod(0o777 & ~_umask())
    lock = _lock(staging)  # ends with the process, however it ends
    try:
        texts = {name: json.dumps(content, indent=2) + "\n" for name, content in _json_files(pipeline).items()}
        texts["tokenizer.json"] = tokenizer.to_json()
        for name, data in ({n: text.encode() for n, text in texts.items()} | pipeline.tokenizer_files).items():
            (staging / name).parent.mkdir(exist_ok=True)
            with atomic_path(staging / name) as file:
                file.write_bytes(data)
        save_encoder(staging / WEIGHTS_FILE, encoder, ignored_tensors)
        _put_in_place(staging, target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _remove_leftovers(target: Path) -> None:
    """Deletes what processes that were killed while they saved to ``target`` have left beside it."""
    for path in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        # A minute, as a folder is there a moment before its lock.
        if path.is_dir() and not path.is_symlink() and time.time() - path.stat().st_mtime > 60:
            lock = _lock(path)
            if lock is not None:
                shutil.rmtree(path, ignore_errors=True)
                os.close(lock)


def _lock(folder: Path) -> int | None:
    """An open file that holds the folder's lock; None where another process has it, or there are no locks."""
    if sys.platform == "win32":
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _put_in_place(staging: Path, target: Path) -> None:
    try:
        os.rename(staging, target)  # succeeds when the target is missing or an empty folder
        return
    except OSError:
        if not target.is_dir():
            raise
    files = {file: target / file.relative_to(staging) for file in staging.rglob("*") if file.is_file()}
    for final in files.values():  # whatever is in the way is found before anything is replaced
        final.parent.mkdir(exist_ok=True)
        if final.is_dir():
            raise IsADirectoryError(errno.EISDIR, "there is a folder where a file is to be written", str(final))
    for file, final in files.items():
        if final.is_file():
            shutil.copymode(final, file)
    for file, final in sorted(files.items(), key=lambda item: item[0].name == WEIGHTS_FILE):
        os.replace(file, final)


def _json_files(pipeline: Pipeline) -> dict[str, Any]:
    names = ["Transformer", "Pooling", *(["Normalize"] if pipeline.normalize else [])]
    files: dict[str, Any] = {
        "modules.json": [
            {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": _LEGACY_TYPE + name}
            for i, name in enumerate(names)
        ],
        "config.json": pipeline.config.to_dict(),
        "sentence_bert_config.json": {"max_seq_length": pipeline.max_seq_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": pipeline.config.hidden_size,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
            "pooling_mode_weightedmean_tokens": False,
            "pooling_mode_lasttoken": False,
            "include_prompt": True,
        },
        "config_sentence_transformers.json": {
            "prompts": pipeline.prompts,
            "default_prompt_name": pipeline.default_prompt_name,
            "similarity_fn_name": pipeline.similarity_fn_name,
        },
    }
    if "tokenizer_config.json" not in pipeline.tokenizer_files:
        files["tokenizer_config.json"] = {
            "tokenizer_class": "BertTokenizer",
            "model_max_length": pipeline.max_seq_length,
        }
    return files


def _read_modules(folder: Path) -> tuple[list[str], list[str]]:
    """The kind ("Transformer", "Pooling" …) and the path of each module in modules.json."""
    file = folder / "modules.json"
    if not file.is_file():
        raise CheckpointError(f"{file} does not exist, so {folder} is not a sentence-transformers model folder")
    kinds, paths = [], []
    for module in read_json(file):
        if not (isinstance(module, dict) and isinstance(module.get("type"), str)):
            raise CheckpointError(f"{file}: expected a list of objects with a type, found {module!r}")
        if not isinstance(module.get("path"), str):
            raise CheckpointError(f"{file}: the path of a module is {module.get('path')!r}, expected a string")
        if extra := {k: v for k, v in module.items() if k not in ("idx", "name", "path", "type") and v}:
            raise CheckpointError(f"{file}: unsupported settings of a module: {extra}")
        package, _, kind = module["type"].rpartition(".")
        kinds.append(kind if package.partition(".")[0] == "sentence_transformers" else f"unknown {module['type']}")
        paths.append(module["path"])
    return kinds, paths


def _contained(folder: Path, relative: str) -> Path:
    """``folder / relative``, refused when it, or a file in it that would be read, leaves the folder."""
    pure = PurePosixPath(relative.replace("\\", "/"))
    if (
        pure.is_absolute()
        or Path(relative).is_absolute()
        or ".." in pure.parts
        or "\0" in relative
        or not _resolved(folder / pure).is_relative_to(_resolved(folder))
    ):
        raise CheckpointError(
            f"{folder / 'modules.json'}: the path {relative!r} leaves the folder; nothing outside it is read"
        )
    # The hub's cache is the one exception: there snapshots/REVISION/* link to blobs/*.
    blobs = _resolved(folder).parent.parent / "blobs"
    for file in (folder / pure / name for name in FILES):
        target = _resolved(file)
        if not (target.is_relative_to(_resolved(folder)) or target.parent == blobs):
            raise CheckpointError(f"{file} is a link to {target}, outside its folder; nothing outside is read")
    return folder / pure


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises for a link to itself


def _max_seq_length(inside: Path, tokenizer_config: Mapping[str, Any], config: EncoderConfig) -> int:
    file = inside / "sentence_bert_config.json"
    settings = _object(file, optional=True)
    _expect(
        file,
        settings,
        {
            "transformer_task": "feature-extraction",
            "module_output_name": "token_embeddings",
            "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
        },
        known=("max_seq_length", "do_lower_case"),
    )
    if settings.get("do_lower_case") and not _normalizer(inside).get("lowercase"):
        raise CheckpointError(f"{file}: do_lower_case is true, but tokenizer.json does not lower-case")
    limit = settings.get("max_seq_length")
    if limit is None:
        # The new form keeps the limit here. Without one, transformers writes 1e30 for "no limit".
        limit = tokenizer_config.get("model_max_length", 10**30)
        if isinstance(limit, (int, float)) and limit > config.max_position_embeddings:
            limit = config.max_position_embeddings
    if not isinstance(limit, int) or isinstance(limit, bool) or not 2 < limit <= config.max_position_embeddings:
        raise CheckpointError(
            f"{inside}: the limit of tokens is {limit!r}, expected 3 … {config.max_position_embeddings} "
            "(max_position_embeddings)"
        )
    return limit


def _check_pooling(file: Path, hidden_size: int) -> None:
    settings = _object(file)
    # The new form wins over the legacy flags; without either, or with none of the flags set, it is the mean.
    flags = [k.removeprefix("pooling_mode_") for k, on in settings.items() if k.startswith("pooling_mode_") and on]
    modes = settings.get("pooling_mode", flags or "mean")
    if modes not in ("mean", ["mean"], ["mean_tokens"]):
        raise CheckpointError(f"{file}: pooling by {modes!r}; supported is 'mean' alone")
    size = settings.get("embedding_dimension", settings.get("word_embedding_dimension", hidden_size))
    if size != hidden_size:
        raise CheckpointError(f"{file}: the dimension is {size!r}, but config.json's hidden_size is {hidden_size}")
    known = [k for k in settings if k.startswith("pooling_mode")]
    _expect(file, settings, {"include_prompt": True}, known=("embedding_dimension", "word_embedding_dimension", *known))


def _check_normalize(file: Path) -> None:
    settings = _object(file, optional=True)
    _expect(file, settings, {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"})


def _check_settings(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    _expect(
        file,
        settings,
        {"model_type": "SentenceTransformer"},
        known=("__version__", "prompts", "default_prompt_name", "similarity_fn_name"),
    )
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str | None) for p in prompts.values()):
        raise CheckpointError(f"{file}: prompts is {prompts!r}, expected names and texts")
    default, similarity = settings.get("default_prompt_name"), settings.get("similarity_fn_name") or "cosine"
    names = ["query", "document", *prompts]  # the first two always exist, if only as empty texts
    if default is not None and default not in names:
        raise CheckpointError(f"{file}: default_prompt_name {default!r} is none of {', '.join(names)}")
    if similarity not in tuple(SIMILARITY):  # a tuple, since a hostile file may hold a list
        raise CheckpointError(f"{file}: similarity_fn_name is {similarity!r}, supported are {tuple(SIMILARITY)}")
    return {
        "prompts": {name: prompt or "" for name, prompt in prompts.items()},
        "default_prompt_name": default,
        "similarity_fn_name": similarity,
    }


def _check_tokenizer(inside: Path, settings: Mapping[str, Any]) -> None:
    """Refuses a tokenizer_config.json that contradicts tokenizer.json: transformers follows the
    former (it builds the normaliser from it), minilm the latter."""
    normalizer = _normalizer(inside)
    if normalizer.get("type") != "BertNormalizer":
        raise CheckpointError(
            f"{inside / 'tokenizer.json'}: the normalizer is {normalizer.get('type')!r}, expected BertNormalizer"
        )
    for ours, theirs in (
        ("do_lower_case", "lowercase"),
        ("strip_accents", "strip_accents"),
        ("tokenize_chinese_chars", "handle_chinese_chars"),
    ):
        if ours in settings and settings[ours] != normalizer.get(theirs):
            raise CheckpointError(
                f"{inside}: tokenizer_config.json says {ours} = {settings[ours]!r}, but tokenizer.json "
                f"{theirs} = {normalizer.get(theirs)!r}; make them agree"
            )
    for side in ("padding_side", "truncation_side"):
        if settings.get(side, "right") != "right":
            raise CheckpointError(
                f"{inside / 'tokenizer_config.json'}: {side} is {settings[side]!r}, supported is right"
            )


def _normalizer(inside: Path) -> Mapping[str, Any]:
    normalizer = _object(inside / "tokenizer.json").get("normalizer")
    return normalizer if isinstance(normalizer, dict) else {}


def _expect(file: Path, settings: Mapping[str, Any], only: Mapping[str, Any], known: tuple[str, ...] = ()) -> None:
    """Refuses a setting that has another value than the one in ``only``, or that is not known (unless
    it is switched off: null, false, 0 or empty)."""
    for name, value in settings.items():
        if name in only and value != only[name]:
            raise CheckpointError(f"{file}: {name} is {value!r}, supported is {only[name]!r}")
        if name not in only and name not in known and value:
            raise CheckpointError(f"{file}: unknown setting {name} = {value!r}")


def _object(file: Path, optional: bool = False) -> dict[str, Any]:
    if optional and not file.is_file():
        return {}
    content = read_json(file)
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds a list, expected an object")
    return content


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
