"""Model folders: sentence-transformers' own, in both forms, into ours and back; and those that are refused."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import TEXTS, TINY, TinyFolder, edit_json, load_reference, tiny_tokenizer
from sentence_transformers import SentenceTransformer
from test_checkpoint import largest_file

from minilm import CheckpointError, EncoderConfig, InputError, SentenceEncoder, Tokenizer
from minilm.encoder import Encoder
from minilm.folder import read_folder

pytestmark = pytest.mark.filterwarnings("ignore::minilm.TruncationWarning")


def load(folder: Path | str, **options: Any) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu", **options)


def vectors(model: SentenceEncoder) -> np.ndarray:
    return np.asarray(model.encode(TEXTS, layout="padded"))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- there and back -----------------------------------------------------------------------------


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("legacy", [True, False])
def test_both_forms_give_the_reference_s_bits_before_and_after_saving(
    tiny_folder: TinyFolder, tmp_path: Path, normalize: bool, legacy: bool
) -> None:
    folder = tiny_folder(normalize=normalize, legacy=legacy)
    theirs = load_reference(folder)
    expected = theirs.encode(TEXTS)
    ours = load(folder)
    assert ours.max_seq_length == theirs.max_seq_length == TINY["max_position_embeddings"] - 8
    np.testing.assert_array_equal(vectors(ours), expected)
    assert np.allclose(np.linalg.norm(expected, axis=1), 1) == normalize

    ours.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(vectors(load(tmp_path / "saved")), expected)
    again = load_reference(tmp_path / "saved")
    np.testing.assert_array_equal(again.encode(TEXTS), expected)
    assert again.max_seq_length == theirs.max_seq_length
    assert [type(module) for module in again] == [type(module) for module in theirs]

    load(tmp_path / "saved").save_pretrained(tmp_path / "twice")
    assert files(tmp_path / "twice") == files(tmp_path / "saved")


def test_what_we_save_survives_a_round_trip_through_sentence_transformers(
    tiny_folder: TinyFolder, tmp_path: Path
) -> None:
    ours = load(tiny_folder())
    ours.save_pretrained(tmp_path / "ours")
    load_reference(tmp_path / "ours").save(str(tmp_path / "theirs"), create_model_card=False)
    np.testing.assert_array_equal(vectors(load(tmp_path / "theirs")), vectors(ours))


SHAPES = {
    "one head": {"num_attention_heads": 1},
    "one layer, narrow": {"num_hidden_layers": 1, "hidden_size": 6, "intermediate_size": 3},
    "L3-like": {"num_hidden_layers": 3, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536},
    "L12-like": {"num_hidden_layers": 12, "hidden_size": 48, "num_attention_heads": 12},
    "one token type, many words": {"type_vocab_size": 1, "vocab_size": 500},
    "another activation and epsilon": {"hidden_act": "relu", "layer_norm_eps": 0.01},
    "512 positions": {"max_position_embeddings": 512},
    "no padding token": {"pad_token_id": None},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_other_sizes(tiny_folder: TinyFolder, tmp_path: Path, shape: dict[str, Any]) -> None:
    folder = tiny_folder(**shape)
    ours = load(folder)
    expected = load_reference(folder).encode(TEXTS)
    np.testing.assert_array_equal(vectors(ours), expected)
    ours.save_pretrained(tmp_path / "saved")
    np.testing.assert_array_equal(load_reference(tmp_path / "saved").encode(TEXTS), expected)


def quiet_reference(folder: Path, caplog: pytest.LogCaptureFixture, capfd: Any) -> SentenceTransformer:
    """Loads in sentence-transformers, and fails at the first complaint about the folder."""
    with caplog.at_level("INFO"), warnings.catch_warnings():
        warnings.simplefilter("error")
        model = load_reference(folder)
    said = caplog.text + "".join(capfd.readouterr())
    for complaint in ("newly initialized", "MISSING", "MISMATCH", "not initialized", "TRAIN this model", "deprecated"):
        assert complaint not in said, said
    assert not [r for r in caplog.records if r.levelname not in ("INFO", "DEBUG")], said
    return model


def test_the_reference_loads_what_we_save_without_complaint(
    tiny_folder: TinyFolder, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    load(tiny_folder()).save_pretrained(tmp_path / "saved")
    quiet_reference(tmp_path / "saved", caplog, capfd)


def test_the_reference_loads_an_encoder_of_one_s_own_without_complaint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """One that never had the pooler that BertModel has."""
    tokenizer = tiny_tokenizer()
    encoder = Encoder(EncoderConfig(vocab_size=tokenizer.get_vocab_size(), **TINY))
    ours = SentenceEncoder(encoder, Tokenizer(tokenizer, 32)).eval()
    ours.save_pretrained(tmp_path / "own")
    theirs = quiet_reference(tmp_path / "own", caplog, capfd)
    np.testing.assert_array_equal(vectors(ours), theirs.encode(TEXTS))
    np.testing.assert_array_equal(vectors(ours), vectors(load(tmp_path / "own")))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_model_in_another_type(tiny_folder: TinyFolder, tmp_path: Path, dtype: torch.dtype) -> None:
    ours = load(tiny_folder(), dtype=dtype)
    ours.save_pretrained(tmp_path / "saved")
    theirs = load_reference(tmp_path / "saved")
    assert next(theirs.parameters()).dtype == load(tmp_path / "saved").dtype == dtype
    np.testing.assert_array_equal(vectors(ours), theirs.encode(TEXTS))
    assert load(tmp_path / "saved", dtype=torch.float32).dtype == torch.float32


def test_settings_survive(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    prompts = {"query": "query: ", "ü🙂": "zwei "}
    ours = load(tiny_folder(), prompts=prompts, default_prompt_name="query", similarity_fn_name="dot")
    ours.max_seq_length = 11
    ours.save_pretrained(tmp_path / "saved")
    again, theirs = load(tmp_path / "saved"), load_reference(tmp_path / "saved")
    assert again.prompts == theirs.prompts == {"document": "", **prompts}
    assert again.default_prompt_name == theirs.default_prompt_name == "query"
    assert again.similarity_fn_name == theirs.similarity_fn_name == "dot"
    assert again.max_seq_length == theirs.max_seq_length == 11
    np.testing.assert_array_equal(vectors(ours), theirs.encode(TEXTS))
    np.testing.assert_array_equal(vectors(again), theirs.encode(TEXTS))
    assert (ours.encode(TEXTS, prompt="") != ours.encode(TEXTS)).any()


def test_a_default_prompt_may_be_one_of_the_two_that_always_exist(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    edit_json(folder / "config_sentence_transformers.json", prompts={}, default_prompt_name="query")
    assert load(folder).default_prompt_name == load_reference(folder).default_prompt_name == "query"


def test_the_real_model_after_a_save(
    model: SentenceEncoder, reference: SentenceTransformer, weights: Path, tmp_path: Path
) -> None:
    model.save_pretrained(tmp_path / "saved")
    texts = [*TEXTS, "A longer text than the others. " * 40]
    expected = reference.encode(texts)
    np.testing.assert_array_equal(load(tmp_path / "saved").encode(texts, layout="padded"), expected)
    np.testing.assert_array_equal(load_reference(tmp_path / "saved").encode(texts), expected)
    name = "model.safetensors"
    before, after = (safetensors.torch.load_file(f / name) for f in (weights, tmp_path / "saved"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("limit", [3, 31, 40])
def test_the_limit_of_tokens_is_the_reference_s(tiny_folder: TinyFolder, limit: int) -> None:
    for legacy, file, field in (
        (True, "sentence_bert_config.json", "max_seq_length"),
        (False, "tokenizer_config.json", "model_max_length"),
    ):
        folder = tiny_folder(legacy=legacy)
        edit_json(folder / file, **{field: limit})
        assert load(folder).max_seq_length == load_reference(folder).max_seq_length == limit


@pytest.mark.parametrize("value", [1000000000000000019884624838656, 1e30, 512, None])
def test_a_limit_beyond_the_positions_is_the_positions(tiny_folder: TinyFolder, value: float | None) -> None:
    folder = tiny_folder()
    edit_json(folder / "tokenizer_config.json", model_max_length=value)
    limit = load_reference(folder).max_seq_length
    assert load(folder).max_seq_length == limit == TINY["max_position_embeddings"]


# ---- what is refused ----------------------------------------------------------------------------


def write_modules(folder: Path, *modules: Any) -> None:
    (folder / "modules.json").write_text(json.dumps(modules))


def module(kind: str, path: str = "", **more: Any) -> dict[str, Any]:
    return {"idx": 0, "name": path, "path": path, "type": f"sentence_transformers.models.{kind}", **more}


@pytest.mark.parametrize("extra", ["Dense", "LayerNorm", "WeightedLayerPooling", "CNN", "Transformer", "Pooling"])
def test_other_modules_are_refused_by_name(tiny_folder: TinyFolder, extra: str) -> None:
    folder = tiny_folder()
    (folder / "2_More").mkdir()
    write_modules(folder, module("Transformer"), module("Pooling", "1_Pooling"), module(extra, "2_More"))
    with pytest.raises(CheckpointError, match=f"Transformer → Pooling → {extra}, supported is"):
        load(folder)


def test_a_real_dense_layer_is_refused(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    from sentence_transformers.base.modules.dense import Dense

    theirs = load_reference(tiny_folder())
    theirs.insert(2, Dense(24, 8))
    theirs.save(str(tmp_path / "dense"), create_model_card=False)
    with pytest.raises(CheckpointError, match="Pooling → Dense → Normalize"):
        load(tmp_path / "dense")


@pytest.mark.parametrize(
    "kind", ["os.system", "Transformer", "my_module.Transformer", "sentence_transformers_evil.Transformer", "", "x."]
)
def test_a_class_of_somebody_else_is_refused_and_not_imported(tiny_folder: TinyFolder, kind: str) -> None:
    folder = tiny_folder()
    (folder / "my_module.py").write_text("raise SystemExit('imported')")
    write_modules(folder, {"path": "", "type": kind}, module("Pooling", "1_Pooling"))
    with pytest.raises(CheckpointError, match=rf"unknown {kind} → Pooling"):
        load(folder)


@pytest.mark.parametrize(
    "modules",
    [
        "{}",
        "[]",
        "[1]",
        "[[]]",
        "null",
        "[{}]",
        '[{"type": 1, "path": ""}]',
        '[{"type": "x"}]',
        '[{"type": "x", "path": 1}]',
    ],
)
def test_a_modules_json_of_another_form(tiny_folder: TinyFolder, modules: str) -> None:
    folder = tiny_folder()
    (folder / "modules.json").write_text(modules)
    with pytest.raises(CheckpointError, match=r"modules\.json"):
        load(folder)


def test_settings_of_a_module_are_refused(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    write_modules(folder, module("Transformer"), module("Pooling", "1_Pooling", kwargs=["task"]))
    with pytest.raises(CheckpointError, match="unsupported settings"):
        load(folder)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode": "max"},
        {"pooling_mode": "mean_tokens"},
        {"pooling_mode": ["cls", "mean"]},
        {"pooling_mode": "lasttoken"},
        {"pooling_mode": ["mean", "max"]},
        {"pooling_mode": ["mean", "mean"]},
        {"pooling_mode": []},
        {"pooling_mode": None},
        {"pooling_mode": 3},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True},
        {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True},
        {"pooling_mode_mean_sqrt_len_tokens": True},
        {"pooling_mode_weightedmean_tokens": True},
        {"pooling_mode_lasttoken": True},
        {"pooling_mode_of_the_future": True},
        {"embedding_dimension": 25},
        {"word_embedding_dimension": 25, "embedding_dimension": None},
        {"include_prompt": False},
        {"new_setting": 1},
    ],
    ids=repr,
)
def test_other_pooling_is_refused(tiny_folder: TinyFolder, pooling: dict[str, Any]) -> None:
    folder = tiny_folder()
    base = (
        {"word_embedding_dimension": 24} if any("pooling_mode_" in k for k in pooling) else {"embedding_dimension": 24}
    )
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(base | pooling))
    with pytest.raises(CheckpointError, match=r"1_Pooling/config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode": "mean"},
        {"pooling_mode": ["mean"]},
        {"pooling_mode": "mean", "pooling_mode_cls_token": True},
        {},
        {"pooling_mode_mean_tokens": True},
        {"pooling_mode_mean_tokens": False, "pooling_mode_cls_token": False},
    ],
    ids=repr,
)
def test_every_way_to_say_mean_is_the_reference_s(tiny_folder: TinyFolder, pooling: dict[str, Any]) -> None:
    folder = tiny_folder()
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 24} | pooling))
    np.testing.assert_array_equal(vectors(load(folder)), load_reference(folder).encode(TEXTS))


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("sentence_bert_config.json", {"max_seq_length": -1}, "limit of tokens is -1"),
        ("sentence_bert_config.json", {"max_seq_length": 30.0}, "limit of tokens is 30.0"),
        ("sentence_bert_config.json", {"max_seq_length": 2}, "limit of tokens is 2"),
        ("sentence_bert_config.json", {"max_seq_length": "32"}, "limit of tokens is '32'"),
        ("sentence_bert_config.json", {"max_seq_length": True}, "limit of tokens is True"),
        ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "fill-mask"),
        ("sentence_bert_config.json", {"model_args": {"trust_remote_code": True}}, "model_args"),
        ("sentence_bert_config.json", {"tokenizer_args": {"use_fast": False}}, "tokenizer_args"),
        ("tokenizer_config.json", {"model_max_length": -5}, "limit of tokens is -5"),
        ("tokenizer_config.json", {"model_max_length": "many"}, "limit of tokens is 'many'"),
        ("tokenizer_config.json", {"padding_side": "left"}, "padding_side is 'left'"),
        ("tokenizer_config.json", {"truncation_side": "left"}, "truncation_side is 'left'"),
        ("config_sentence_transformers.json", {"prompts": ["a"]}, "prompts is"),
        ("config_sentence_transformers.json", {"prompts": {"a": 1}}, "prompts is"),
        ("config_sentence_transformers.json", {"default_prompt_name": "none"}, "'none' is none of query, document"),
        ("config_sentence_transformers.json", {"default_prompt_name": ["a"]}, "default_prompt_name"),
        ("config_sentence_transformers.json", {"similarity_fn_name": "jaccard"}, "jaccard"),
        ("config_sentence_transformers.json", {"similarity_fn_name": ["dot"]}, "similarity_fn_name"),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}, "CrossEncoder"),
        ("config_sentence_transformers.json", {"truncate_dim": 0}, "truncate_dim is 0"),
        ("config_sentence_transformers.json", {"truncate_dim": "8"}, "truncate_dim is '8'"),
        ("2_Normalize/config.json", {"module_input_name": "token_embeddings"}, "module_input_name"),
    ],
    ids=repr,
)
def test_settings_that_are_not_supported(tiny_folder: TinyFolder, file: str, change: dict[str, Any], said: str) -> None:
    folder = tiny_folder()
    edit_json(folder / file, **change)
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert said in str(error.value)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "1_Pooling/config.json", "model.safetensors"])
@pytest.mark.parametrize("how", ["missing", "empty", "a folder", "a list"])
def test_a_file_that_is_needed_and_is_not_usable(tiny_folder: TinyFolder, name: str, how: str) -> None:
    folder = tiny_folder()
    (folder / name).unlink()
    if how == "a folder":
        (folder / name).mkdir()
    elif how != "missing":
        (folder / name).write_text("" if how == "empty" else "[]")
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert str(folder / name) in str(error.value)


@pytest.mark.parametrize("name", ["adapter_config.json", "sentence_roberta_config.json"])
def test_files_that_only_the_reference_follows_are_refused(tiny_folder: TinyFolder, name: str) -> None:
    folder = tiny_folder()
    (folder / name).write_text("{}")
    with pytest.raises(CheckpointError, match=rf"{name} would change the vectors"):
        load(folder)


def test_a_tokenizer_with_ids_beyond_the_table_is_refused(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["two"] = 100_000
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises((CheckpointError, InputError), match="100000"):
        load(folder)


# ---- nothing outside the folder -----------------------------------------------------------------

OUTSIDE = [
    "/etc",
    "//etc",
    "..",
    "../1_Pooling",
    "1_Pooling/../../x",
    "./..",
    "..\\1_Pooling",
    "1_Pooling\\..\\..",
    "\\etc",
    "\\\\server\\share",
    "a\0b",
]


@pytest.mark.parametrize("path", OUTSIDE, ids=repr)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_path_that_leaves_the_folder(tiny_folder: TinyFolder, path: str, place: int) -> None:
    folder = tiny_folder()
    shutil.copytree(folder / "1_Pooling", folder.parent / "1_Pooling")
    modules = json.loads((folder / "modules.json").read_text())
    modules[place]["path"] = path
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="leaves the folder; nothing outside it is read"):
        load(folder)


@pytest.mark.parametrize("path", ["C:\\x", "C:/x", "c:x", "~", "~root", "$HOME", "x" * 5000, "%2e%2e", "..."])
def test_paths_that_mean_something_elsewhere_mean_nothing_here(tiny_folder: TinyFolder, path: str) -> None:
    folder = tiny_folder()
    write_modules(folder, module("Transformer"), module("Pooling", path))
    with pytest.raises(CheckpointError, match=r"does not exist|cannot be read|leaves the folder"):
        load(folder)


@pytest.mark.parametrize(
    "name", ["1_Pooling", "config.json", "model.safetensors", "modules.json", "1_Pooling/config.json"]
)
@pytest.mark.parametrize("relative", [True, False])
def test_a_link_that_leaves_the_folder(tiny_folder: TinyFolder, name: str, relative: bool) -> None:
    folder = tiny_folder()
    outside = folder.parent / "outside"
    shutil.move(folder / name, outside)
    (folder / name).symlink_to(os.path.relpath(outside, (folder / name).parent) if relative else outside)
    with pytest.raises(CheckpointError, match="nothing outside"):
        load(folder)


def test_a_link_to_itself_is_refused(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    (folder / "config.json").unlink()
    (folder / "config.json").symlink_to("config.json")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        load(folder)


def test_links_within_the_folder_to_the_folder_and_beside_the_model_are_fine(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    shutil.move(folder / "model.safetensors", folder / "real.safetensors")
    (folder / "model.safetensors").symlink_to("real.safetensors")
    (folder / "latest_log").symlink_to("/var")  # somebody's own; not of the model
    (folder / "loop").symlink_to("loop")
    (folder.parent / "link").symlink_to(folder)
    np.testing.assert_array_equal(vectors(load(folder)), vectors(load(folder.parent / "link")))


def test_the_hub_cache_s_links_are_followed(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    repo = folder.parent / "models--a--b"
    snapshot = repo / "snapshots" / "0123"
    shutil.copytree(folder, snapshot)
    (repo / "blobs").mkdir()
    for index, file in enumerate([p for p in snapshot.rglob("*") if p.is_file()]):
        shutil.move(file, repo / "blobs" / str(index))
        file.symlink_to(os.path.relpath(repo / "blobs" / str(index), file.parent))
    np.testing.assert_array_equal(vectors(load(snapshot)), vectors(load(folder)))


def test_a_folder_that_is_no_model_is_refused_without_a_walk_through_it() -> None:
    with pytest.raises(CheckpointError, match="is not a model folder"):
        load("/")


def test_nothing_in_a_folder_is_run(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    for name in ("__init__.py", "modeling.py", "modules.py", "sitecustomize.py", "torch.py"):
        (folder / name).write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')")
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling.Model"})
    with pytest.raises(CheckpointError, match="auto_map"):
        load(folder)
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling.T", None]})
    config = edit_json(folder / "config.json")
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    load(folder)
    assert not (tmp_path / "pwned").exists()


# ---- saving where it is difficult ---------------------------------------------------------------


def test_saving_into_a_folder_that_exists_keeps_what_is_not_ours(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    first, second = load(tiny_folder()), load(tiny_folder(normalize=False, num_hidden_layers=1))
    first.save_pretrained(tmp_path / "m")
    (tmp_path / "m" / "notes.txt").write_text("mine")
    second.save_pretrained(tmp_path / "m")
    np.testing.assert_array_equal(vectors(load(tmp_path / "m")), vectors(second))
    np.testing.assert_array_equal(load_reference(tmp_path / "m").encode(TEXTS), vectors(second))
    assert (tmp_path / "m" / "notes.txt").read_text() == "mine"
    assert os.listdir(tmp_path) == ["m"]


def test_saving_over_the_folder_it_was_loaded_from(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    model = load(folder)
    before = vectors(model)
    model.save_pretrained(folder)
    np.testing.assert_array_equal(vectors(model), before)
    np.testing.assert_array_equal(vectors(load(folder)), before)


def test_saving_in_the_working_folder(tiny_folder: TinyFolder, tmp_path: Path, monkeypatch: Any) -> None:
    model = load(tiny_folder())
    monkeypatch.chdir(tmp_path)
    model.save_pretrained(".")
    model.save_pretrained("a/b/../c")
    np.testing.assert_array_equal(vectors(load(tmp_path)), vectors(model))
    np.testing.assert_array_equal(vectors(load(tmp_path / "a/c")), vectors(model))
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("in_the_way", ["the whole", "1_Pooling", "model.safetensors/x", "config.json/x"])
def test_something_in_the_way_is_left_as_it_was(tiny_folder: TinyFolder, tmp_path: Path, in_the_way: str) -> None:
    target = tmp_path / "m"
    obstacle = target if in_the_way == "the whole" else target / in_the_way
    obstacle.parent.mkdir(parents=True, exist_ok=True)
    obstacle.write_text("in the way")
    with pytest.raises(OSError, match=str(target)):
        load(tiny_folder()).save_pretrained(target)
    assert obstacle.read_text() == "in the way"
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [obstacle]


def test_a_disk_that_fills_up_leaves_the_old_folder(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    model = load(tiny_folder())
    model.save_pretrained(tmp_path / "m")
    before = files(tmp_path / "m")
    for size in (10, 100, 2_000, 20_000):
        for target in ("m", "new"):
            with largest_file(size), pytest.raises(OSError, match=r"cannot write .* nothing was changed"):
                model.save_pretrained(tmp_path / target)
    assert files(tmp_path / "m") == before
    assert os.listdir(tmp_path) == ["m"]


@contextlib.contextmanager
def as_nobody() -> Iterator[Path]:
    """A folder of everybody's, in which the process has no more rights than any user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            subprocess.run(["chmod", "-R", "u+rwX", name], check=True)


def test_a_folder_that_may_only_be_read(tiny_folder: TinyFolder) -> None:
    source = tiny_folder()
    model = load(source)
    expected = vectors(model)
    with as_nobody() as shared:
        if os.geteuid() != os.getuid():  # root made the folder: fill it as root, then look as nobody
            os.seteuid(0)
        shutil.copytree(source, shared / "m")
        for path in [*(shared / "m").rglob("*"), shared / "m", shared]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        if os.getuid() == 0:
            os.seteuid(65534)
        np.testing.assert_array_equal(vectors(load(shared / "m")), expected)
        before = files(shared / "m")
        for target in (shared / "m", shared / "new"):
            with pytest.raises(PermissionError, match=str(shared)):
                model.save_pretrained(target)
        assert files(shared / "m") == before
        assert os.listdir(shared) == ["m"]


def test_weights_that_may_not_be_read_are_an_error_that_names_them(tiny_folder: TinyFolder) -> None:
    source = tiny_folder()
    with as_nobody() as shared:
        if os.getuid() == 0:
            os.seteuid(0)
        shutil.copytree(source, shared / "m")
        (shared / "m" / "model.safetensors").chmod(0)
        if os.getuid() == 0:
            os.seteuid(65534)
        with pytest.raises((CheckpointError, PermissionError), match=r"model\.safetensors"):
            load(shared / "m")


KILLED = """
import os, random, signal, sys, time
import numpy as np
from minilm import SentenceEncoder
target, *sources = sys.argv[1:]
models = [SentenceEncoder.from_pretrained(source, device="cpu") for source in sources]
texts = ["the cat", "two dogs sat"]
allowed = [model.encode(texts) for model in models]
models[0].save_pretrained(target)
random.seed(0)
for _ in range(15):
    if not (child := os.fork()):
        while True:
            for model in models:
                model.save_pretrained(target)
    time.sleep(random.uniform(0.0, 0.03))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = SentenceEncoder.from_pretrained(target, device="cpu").encode(texts)
    assert any(np.array_equal(found, vectors) for vectors in allowed)
print("loaded every time")
"""


def test_a_save_that_is_killed_leaves_a_folder_that_loads(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    first, second = tiny_folder(), tiny_folder(initializer_range=0.03)  # two models of one shape
    tensors = safetensors.torch.load_file(second / "model.safetensors")
    safetensors.torch.save_file(
        {k: v * 2 if v.is_floating_point() else v for k, v in tensors.items()}, second / "model.safetensors"
    )
    edit_json(second / "config.json", initializer_range=0.02)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "m", first, second],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert "loaded every time" in done.stdout, done.stderr


def test_two_threads_may_save_one_model_into_one_folder(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    model = load(tiny_folder())
    errors = []

    def save() -> None:
        try:
            for _ in range(10):
                model.save_pretrained(tmp_path / "m")
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=save) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    np.testing.assert_array_equal(vectors(load(tmp_path / "m")), vectors(model))
    assert os.listdir(tmp_path) == ["m"]


def test_read_folder_alone_says_what_is_in_it(tiny_folder: TinyFolder) -> None:
    pipeline = read_folder(tiny_folder(normalize=False))
    assert (pipeline.normalize, pipeline.max_seq_length, pipeline.config.hidden_size) == (False, 32, 24)
    with pytest.raises(CheckpointError, match="is not a folder"):
        read_folder("/nowhere")
