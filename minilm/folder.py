"""A model folder in sentence-transformers' format: what its JSON files say, read and written.

Two generations of the format exist. The legacy one, ``sentence_transformers.models.*`` with
``max_seq_length`` in ``sentence_bert_config.json``, is read by every release, so that is what
:func:`write_folder` writes; both are read. The rest of the pipeline has to be what this library
implements: ``Transformer → Pooling``, by the mean or ``[CLS]``, and after it any number of ``Normalize``
and ``Dropout``; anything else is refused by name. A folder of plain transformers, without
``modules.json``, is taken as the reference takes it: with the mean and nothing after it.

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

from minilm.checkpoint import WEIGHTS_FILE, atomic_path, check_not_a_pointer, read_json, read_json_object, save_encoder
from minilm.config import EncoderConfig, stated_dtype, unknown_fields
from minilm.encoder import Encoder
from minilm.errors import CheckpointError
from minilm.pooling import POOLING, PoolingMode
from minilm.similarity import SIMILARITY
from minilm.tokens import Tokenizer

if sys.platform != "win32":
    import fcntl

# Files of the tokenizer beside tokenizer.json and tokenizer_config.json; kept as they came and written back.
TOKENIZER_FILES = ("special_tokens_map.json", "added_tokens.json", "vocab.txt")

# Every file that is ever read, in the folder or in that of a module: no pickle, and no code.
FILES = (
    "modules.json",
    "config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
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
        pooling_mode: ``"mean"`` or ``"cls"``.
        after_pooling: the modules after it, in order: the probability of a Dropout, None for Normalize.
        dtype: the floating-point type that config.json asks for; None: that of the weights.
        do_lower_case: texts are lower-cased before the tokenizer's own rules.
        tokenizer_config: content of tokenizer_config.json, with the ``tokenizer_class`` of config.json where
            it names none; empty for a tokenizer of one's own.
        tokenizer_files: content of those of :data:`TOKENIZER_FILES` that are there.
        notes: what a user is to know of the folder: what is not there, and what has no effect.
    """

    config: EncoderConfig
    transformer_dir: Path
    max_seq_length: int
    pooling_mode: PoolingMode = "mean"
    after_pooling: tuple[float | None, ...] = ()
    dtype: torch.dtype | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    similarity_fn_name: str = "cosine"
    truncate_dim: int | None = None
    do_lower_case: bool = False
    tokenizer_config: dict[str, Any] = field(default_factory=dict)
    tokenizer_files: dict[str, bytes] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def normalize(self) -> bool:
        """Whether vectors have length 1."""
        return None in self.after_pooling


def read_folder(path: str | os.PathLike[str]) -> Pipeline:
    """Reads every JSON file of a model folder.

    Raises:
        CheckpointError: a file is missing, broken or outside the folder, or describes something
            that is not supported.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    modules = read_modules(_contained(folder, ""))
    inside = _contained(folder, modules[0][1] if modules else "")
    _refuse_what_is_not_read(inside)
    values = read_json_object(inside / "config.json")
    config = EncoderConfig.from_dict(values, str(inside / "config.json"))
    dtype = stated_dtype(values)
    tokenizer_config = read_json_object(inside / "tokenizer_config.json", optional=True)
    tokenizer_config["tokenizer_class"] = (
        tokenizer_config.get("tokenizer_class") or values.get("tokenizer_class") or "BertTokenizer"
    )
    notes = []
    if unknown := unknown_fields(values):
        notes.append(f"fields of config.json without effect in BERT: {', '.join(unknown)}")
    settings: dict[str, Any] = {}
    if modules:
        (pooling, *after) = [(kind, _contained(folder, path) / "config.json") for kind, path in modules[1:]]
        settings["pooling_mode"] = _read_pooling(pooling[1], config.hidden_size)
        settings["after_pooling"] = tuple(_read_after_pooling(kind, file) for kind, file in after)
        settings["do_lower_case"] = bool(
            read_json_object(inside / "sentence_bert_config.json", optional=True).get("do_lower_case")
        )
        file = folder / "config_sentence_transformers.json"
        content = read_json_object(file, optional=True)
        settings |= _read_settings(file, content)
        if unknown := sorted(set(content) - set(_SETTINGS)):
            notes.append(f"settings of {file.name} without effect: {', '.join(unknown)}")
    else:
        _check_plain(inside, values)
        notes.append(
            "there is no modules.json, so the vectors are means of the tokens and not scaled to length 1, as in "
            "sentence-transformers; prompts and other settings are not read"
        )
    return Pipeline(
        config=config,
        transformer_dir=inside,
        max_seq_length=_max_seq_length(inside, tokenizer_config, config, plain=not modules),
        dtype=getattr(torch, dtype) if dtype else None,
        tokenizer_config=tokenizer_config,
        tokenizer_files={n: (inside / n).read_bytes() for n in TOKENIZER_FILES if (inside / n).is_file()},
        notes=tuple(notes),
        **settings,
    )


def model_files(folder: Path) -> list[str]:
    """Every file that loading looks for in a folder, and in the folders that its modules.json names, which alone
    need be there yet.

    Raises:
        CheckpointError: modules.json is broken, leaves the folder, or names a pipeline that is not supported.
    """
    modules = read_modules(_contained(folder, "")) if (folder / "modules.json").is_file() else []
    paths = {"", *(path for _, path in modules)}
    inside = [_contained(folder, path).relative_to(folder) for path in sorted(paths)]
    return [(path / name).as_posix() for path in inside for name in (*FILES, *_NOT_READ)]


def missing_files(folder: Path) -> list[str]:
    """The files without which a folder cannot be loaded and that are not there.

    Raises:
        CheckpointError: see :func:`model_files`; or there is a file that would change the vectors.
    """
    if not ((folder / "modules.json").is_file() or (folder / "config.json").is_file()):
        _refuse_what_is_not_read(folder)
        return ["modules.json", "config.json"]
    modules = read_modules(_contained(folder, "")) or [("Transformer", "")]
    inside = _contained(folder, modules[0][1])
    _refuse_what_is_not_read(inside)
    needed = [inside / "config.json", inside / WEIGHTS_FILE]
    if not (inside / "vocab.txt").is_file():
        needed.append(inside / "tokenizer.json")
    needed += [_contained(folder, path) / "config.json" for kind, path in modules if kind == "Pooling"]
    return [file.relative_to(folder).as_posix() for file in needed if not file.is_file()]


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
        contents = _json_files(pipeline, tokenizer)
        contents["config.json"]["dtype"] = str(encoder.embeddings.word.weight.dtype).removeprefix("torch.")
        texts = {name: json.dumps(content, indent=2) + "\n" for name, content in contents.items()}
        texts["tokenizer.json"] = tokenizer.to_cutting_json()
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


def _json_files(pipeline: Pipeline, tokenizer: Tokenizer) -> dict[str, Any]:
    names = ["Transformer", "Pooling", *("Normalize" if p is None else "Dropout" for p in pipeline.after_pooling)]
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": _LEGACY_TYPE + name}
            for i, name in enumerate(names)
        ],
        "config.json": pipeline.config.to_dict(),
        "sentence_bert_config.json": {
            "max_seq_length": pipeline.max_seq_length,
            "do_lower_case": tokenizer.lower_cases_first,
        },
        "1_Pooling/config.json": {
            "word_embedding_dimension": pipeline.config.hidden_size,
            "pooling_mode_cls_token": pipeline.pooling_mode == "cls",
            "pooling_mode_mean_tokens": pipeline.pooling_mode == "mean",
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
            **({} if pipeline.truncate_dim is None else {"truncate_dim": pipeline.truncate_dim}),
        },
        **{
            f"{i}_Dropout/config.json": {"dropout": p} for i, p in enumerate(pipeline.after_pooling, 2) if p is not None
        },
        # A tokenizer of one's own is to be followed as it stands, not to be built by a class's rules.
        "tokenizer_config.json": {
            **(pipeline.tokenizer_config or {"tokenizer_class": "PreTrainedTokenizerFast"}),
            "model_max_length": pipeline.max_seq_length,
        },
    }


def read_modules(folder: Path) -> list[tuple[str, str]]:
    """The kind ("Transformer", "Pooling" …) and the path of each module in modules.json; none in a folder of plain
    transformers, which has no such file.

    Raises:
        CheckpointError: the file is broken, the pipeline is not one that is supported, or the folder has neither
            modules.json nor config.json.
    """
    file = folder / "modules.json"
    if not file.exists():
        if not (folder / "config.json").exists():
            raise CheckpointError(f"{file} does not exist, nor does config.json: {folder} is not a model folder")
        return []
    modules: list[tuple[str, str]] = []
    names: list[object] = []
    for module in read_json(file):
        if not (isinstance(module, dict) and isinstance(module.get("type"), str)):
            raise CheckpointError(f"{file}: expected a list of objects with a type, found {module!r}")
        if not isinstance(module.get("path"), str):
            raise CheckpointError(f"{file}: the path of a module is {module.get('path')!r}, expected a string")
        if extra := {k: v for k, v in module.items() if k not in ("idx", "name", "path", "type") and v}:
            raise CheckpointError(f"{file}: unsupported settings of a module: {extra}")
        package, _, kind = module["type"].rpartition(".")
        kind = kind if package.partition(".")[0] == "sentence_transformers" else f"unknown {module['type']}"
        modules.append((kind, module["path"]))
        names.append(module.get("name", len(names)))
    kinds = [kind for kind, _ in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or not set(kinds[2:]) <= {"Normalize", "Dropout"}:
        raise CheckpointError(
            f"{file}: the pipeline is {' → '.join(kinds) or 'empty'}, "
            "supported is Transformer → Pooling, and after it Normalize and Dropout or nothing"
        )
    if twice := [name for name in names if names.count(name) > 1]:
        raise CheckpointError(f"{file}: two modules have the name {twice[0]!r}; names must differ")
    return modules


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
        check_not_a_pointer(file)
    return folder / pure


def _resolved(path: Path) -> Path:
    return Path(os.path.realpath(path))  # Path.resolve raises for a link to itself


def _max_seq_length(inside: Path, tokenizer_config: Mapping[str, Any], config: EncoderConfig, plain: bool) -> int:
    file = inside / "sentence_bert_config.json"
    settings = {} if plain else read_json_object(file, optional=True)
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
    limit = settings.get("max_seq_length")
    if limit is None:  # the new form keeps the limit here
        limit = tokenizer_config.get("model_max_length", tokenizer_config.get("max_len"))
    most = config.max_position_embeddings
    # Without a limit, transformers writes 1e30 or null. One above the positions, the reference keeps, and then fails on
    # a text between the two.
    if limit is None or (isinstance(limit, (int, float)) and limit > most):
        limit = most
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 3:
        raise CheckpointError(
            f"{inside}: the limit of tokens is {limit!r}, expected a whole number from 3 to {most} "
            "(max_position_embeddings), in max_seq_length of sentence_bert_config.json or model_max_length of "
            "tokenizer_config.json"
        )
    return limit


def _refuse_what_is_not_read(inside: Path) -> None:
    for name in _NOT_READ:
        if (inside / name).exists():
            raise CheckpointError(
                f"{inside / name} would change the vectors and is not supported; merge it or remove it"
            )


def _check_plain(inside: Path, values: Mapping[str, Any]) -> None:
    """Refuses a model without modules.json that the reference pools otherwise than by the mean."""
    names = values.get("architectures")
    if isinstance(names, list) and names and str(names[0]).endswith("ForCausalLM"):
        raise CheckpointError(
            f"{inside / 'config.json'}: architectures is {names!r}; without modules.json, sentence-transformers takes "
            "the last token's vector of such a model, and supported are the mean and [CLS]"
        )


def _read_pooling(file: Path, hidden_size: int) -> PoolingMode:
    settings = read_json_object(file)
    # The new form wins over the legacy flags; without either, or with none of the flags set, it is the mean.
    legacy = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}
    flags = [legacy.get(k, k) for k, on in settings.items() if k.startswith("pooling_mode_") and on]
    modes = settings.get("pooling_mode", flags or "mean")
    mode: Any = modes[0] if isinstance(modes, list) and len(modes) == 1 else modes
    if mode not in tuple(POOLING):  # a tuple, since a hostile file may hold a list
        raise CheckpointError(f"{file}: pooling by {modes!r}; supported are {' and '.join(map(repr, POOLING))}")
    size = settings.get("embedding_dimension", settings.get("word_embedding_dimension", hidden_size))
    if size != hidden_size:
        raise CheckpointError(f"{file}: the dimension is {size!r}, but config.json's hidden_size is {hidden_size}")
    names = [k for k in settings if k.startswith("pooling_mode")]
    _expect(file, settings, {"include_prompt": True}, known=("embedding_dimension", "word_embedding_dimension", *names))
    return mode  # type: ignore[no-any-return]


def _read_after_pooling(kind: str, file: Path) -> float | None:
    """The probability of a Dropout; None for Normalize."""
    settings = read_json_object(file, optional=True)
    if kind == "Dropout":
        _expect(file, settings, {}, known=("dropout",))
        p = settings.get("dropout", 0.2)
        if not (isinstance(p, (int, float)) and not isinstance(p, bool) and 0 <= p <= 1):
            raise CheckpointError(f"{file}: dropout is {p!r}, expected a number in [0, 1]")
        return float(p)
    settings = {k: v for k, v in settings.items() if v is not None or k != "module_output_name"}
    names = {"module_input_name": "sentence_embedding", "module_output_name": "sentence_embedding"}
    _expect(file, settings, names, known=tuple(settings))  # the reference ignores other settings as well
    return None


# What config_sentence_transformers.json may say. The reference reads no other setting but "requirements", which
# says what else must be installed for it.
_SETTINGS = (
    "model_type",
    "__version__",
    "requirements",
    "prompts",
    "default_prompt_name",
    "similarity_fn_name",
    "truncate_dim",
)


def _read_settings(file: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    if settings.get("model_type", "SentenceTransformer") != "SentenceTransformer":
        raise CheckpointError(f"{file}: model_type is {settings['model_type']!r}, supported is 'SentenceTransformer'")
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str | None) for p in prompts.values()):
        raise CheckpointError(f"{file}: prompts is {prompts!r}, expected names and texts")
    default, similarity = settings.get("default_prompt_name"), settings.get("similarity_fn_name") or "cosine"
    names = ["query", "document", *prompts]  # the first two always exist, if only as empty texts
    if default is not None and default not in names:
        raise CheckpointError(f"{file}: default_prompt_name {default!r} is none of {', '.join(names)}")
    if similarity not in tuple(SIMILARITY):  # a tuple, since a hostile file may hold a list
        raise CheckpointError(f"{file}: similarity_fn_name is {similarity!r}, supported are {tuple(SIMILARITY)}")
    dim = settings.get("truncate_dim")
    if dim is not None and not (isinstance(dim, int) and not isinstance(dim, bool) and dim >= 1):
        raise CheckpointError(f"{file}: truncate_dim is {dim!r}, expected a whole number of at least 1, or null")
    return {
        "prompts": {name: prompt or "" for name, prompt in prompts.items()},
        "default_prompt_name": default,
        "similarity_fn_name": similarity,
        "truncate_dim": dim,
    }


def _expect(file: Path, settings: Mapping[str, Any], only: Mapping[str, Any], known: tuple[str, ...] = ()) -> None:
    """Refuses a setting that has another value than the one in ``only``, or that is not known (unless
    it is switched off: null, false, 0 or empty)."""
    for name, value in settings.items():
        if name in only and value != only[name]:
            raise CheckpointError(f"{file}: {name} is {value!r}, supported is {only[name]!r}")
        if name not in only and name not in known and value:
            raise CheckpointError(f"{file}: unknown setting {name} = {value!r}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
