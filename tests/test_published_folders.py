"""Folders as people publish them, each beside the reference: the same bits, or refused with a reason."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import transformers
from conftest import TEXTS, TinyFolder, edit_json, load_reference
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules.normalize import Normalize
from sentence_transformers.sentence_transformer.modules.dropout import Dropout
from sentence_transformers.sentence_transformer.modules.pooling import Pooling
from transformers import BertConfig, GenerationConfig

from minilm import CheckpointError, CheckpointWarning, EncoderConfig, InputError, SentenceEncoder
from minilm.folder import read_folder
from minilm.internals import component_table, explain, layer_by_layer, token_pairs
from minilm.internals.page import explanation_page
from minilm.tolerances import PACKED_FLOAT32

pytestmark = pytest.mark.filterwarnings("ignore::minilm.TruncationWarning", "ignore::minilm.SlowPrecisionWarning")


def load(folder: Path, **options: Any) -> tuple[SentenceEncoder, str]:
    """The model, and what was said of its folder."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = SentenceEncoder.from_pretrained(folder, device="cpu", **options)
    said = [str(warning.message) for warning in caught if warning.category is CheckpointWarning]
    assert len(said) <= 1
    return model, said[0].removeprefix(f"{folder}: ") if said else ""


def same(folder: Path, tmp_path: Path) -> tuple[SentenceEncoder, str]:
    """Loads a folder that gives the reference's bits, also after ours and the reference's own save of ours."""
    theirs = load_reference(folder)
    expected = theirs.encode(TEXTS)
    ours, said = load(folder)
    assert ours.dtype == next(theirs.parameters()).dtype
    assert ours.max_seq_length == theirs.max_seq_length
    np.testing.assert_array_equal(ours.encode(TEXTS, layout="padded"), expected)
    shutil.rmtree(tmp_path / "ours", ignore_errors=True)
    ours.save_pretrained(tmp_path / "ours")
    again = load_reference(tmp_path / "ours")
    np.testing.assert_array_equal(again.encode(TEXTS), expected)
    np.testing.assert_array_equal(load(tmp_path / "ours")[0].encode(TEXTS, layout="padded"), expected)
    again.save(str(tmp_path / "theirs"), create_model_card=False)
    np.testing.assert_array_equal(load(tmp_path / "theirs")[0].encode(TEXTS, layout="padded"), expected)
    return ours, said


# ---- config.json ----------------------------------------------------------------------------------

# What full configurations hold that transformers 2 to 4 wrote, beside what BertConfig still has.
OLD_DEFAULTS: dict[str, Any] = {
    **GenerationConfig._get_default_generation_params(),
    "_attn_implementation_autoset": True,
    "cross_attention_hidden_size": None,
    "decoder_start_token_id": None,
    "eos_token_ids": 0,
    "export_model_type": "transformer",
    "finetuning_task": None,
    "num_labels": 2,
    "output_past": True,
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
    "prefix": None,
    "pruned_heads": {},
    "sep_token_id": None,
    "task_specific_params": None,
    "tf_legacy_loss": False,
    "tie_encoder_decoder": False,
    "tokenizer_class": None,
    "torchscript": False,
    "transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}},
    "use_bfloat16": False,
    "xla_device": None,
}


def test_a_full_configuration_of_an_old_release_loads_without_a_word(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    edit_json(folder / "config.json", **OLD_DEFAULTS)
    assert same(folder, tmp_path)[1] == ""


@pytest.mark.parametrize("value", [True, 0, "", [1], {"a": 1}])
def test_fields_without_effect_may_have_any_value(value: object) -> None:
    everything = BertConfig().to_dict() | dict.fromkeys(OLD_DEFAULTS.keys() - {"pruned_heads"}, value)
    everything["cross_attention_hidden_size"] = None
    assert EncoderConfig.from_dict(everything) == EncoderConfig.from_dict(BertConfig().to_dict())


def test_fields_that_no_bert_has_are_named_once_and_change_nothing(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    fields = {"uniem_embedding_strategy": "last_mean", "ours": {"run": 7}, "sliding_window": 2, "layer_types": None}
    edit_json(folder / "config.json", **fields)
    said = same(folder, tmp_path)[1]
    assert said == f"fields of config.json without effect in BERT: {', '.join(sorted(fields))}"


@pytest.mark.parametrize("architectures", [["BertForMaskedLM"], ["BertForPreTraining"], [], None])
def test_any_bert_is_bert(tiny_folder: TinyFolder, tmp_path: Path, architectures: object) -> None:
    folder = tiny_folder()
    edit_json(folder / "config.json", architectures=architectures)
    assert same(folder, tmp_path)[1] == ""


def test_the_model_type_decides_and_not_the_architecture(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    edit_json(folder / "config.json", architectures=["RobertaModel"])
    assert "architectures" in same(folder, tmp_path)[1]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("is_causal", True),  # the reference then masks what comes after a token
        ("is_decoder", True),
        ("per_layer_config", {"0": {"layer_norm_eps": 0.5}}),
        ("transformers_weights", "other.safetensors"),
        ("configuration_files", ["config.9.json"]),
        ("attribute_map", {"hidden_act": "other"}),
        ("auto_map", {"AutoModel": "code.Model"}),
        ("quantization_config", {"load_in_8bit": True}),
        ("position_embedding_type", "relative_key"),
        ("hidden_act", "gelu_fast"),
    ],
)
def test_fields_that_change_the_vectors_are_refused(tiny_folder: TinyFolder, field: str, value: object) -> None:
    folder = tiny_folder()
    edit_json(folder / "config.json", **{field: value})
    with pytest.raises(CheckpointError, match=rf"config\.json: {field} is "):
        load(folder)


@pytest.mark.parametrize("name", ["gelu_new", "gelu_python", "gelu_pytorch_tanh", "silu", "swish"])
def test_activations_are_the_reference_s(tiny_folder: TinyFolder, tmp_path: Path, name: str) -> None:
    ours, said = same(tiny_folder(hidden_act=name), tmp_path)
    assert said == ""
    padded = ours.encode(TEXTS, layout="padded")
    np.testing.assert_allclose(ours.encode(TEXTS), padded, atol=PACKED_FLOAT32, rtol=0)


def test_whole_numbers_are_saved_as_the_reference_wants_them(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder(layer_norm_eps=1.0, initializer_range=1.0)
    edit_json(folder / "config.json", layer_norm_eps=1, initializer_range=1)
    load(folder)[0].save_pretrained(tmp_path / "saved")
    load_reference(tmp_path / "saved")


# ---- weights --------------------------------------------------------------------------------------


def rename(folder: Path, change: Any) -> None:
    """Writes the weights again, as ``change`` makes a tensor's name and values."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    changed = dict(change(name, tensor) for name, tensor in tensors.items())
    safetensors.torch.save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})


def old_name(name: str) -> str:
    return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")


@pytest.mark.parametrize(
    "change",
    [lambda n: f"bert.{n}", old_name, lambda n: f"bert.{old_name(n)}", lambda n: f"bert.{n}" if "layer.1" in n else n],
)
def test_names_that_other_releases_wrote(tiny_folder: TinyFolder, tmp_path: Path, change: Any) -> None:
    folder = tiny_folder()
    rename(folder, lambda name, tensor: (change(name), tensor))
    assert same(folder, tmp_path)[1] == ""


def test_the_same_tensor_under_two_names_is_refused(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    tensors["bert.embeddings.LayerNorm.gamma"] = torch.ones(24)
    safetensors.torch.save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"has embeddings\.LayerNorm\.weight twice"):
        load(folder)


@pytest.mark.parametrize("prefix", ["0.auto_model.", "model.", "roberta.", "bert.bert."])
def test_names_that_the_reference_does_not_find_are_refused_and_shown(tiny_folder: TinyFolder, prefix: str) -> None:
    folder = tiny_folder()
    rename(folder, lambda name, tensor: (prefix + name, tensor))
    with pytest.raises(CheckpointError, match=r"missing: embeddings(.|\n)*in their place: ") as error:
        load(folder)
    assert prefix.removeprefix("bert.") in str(error.value)


@pytest.mark.parametrize(
    ("head", "names"),
    [
        ("BertForMaskedLM", "cls"),
        ("BertForPreTraining", "cls"),
        ("BertForSequenceClassification", "classifier"),
        ("BertForQuestionAnswering", "qa_outputs"),
    ],
)
def test_a_head_is_named_kept_and_without_effect(
    tiny_folder: TinyFolder, tmp_path: Path, head: str, names: str
) -> None:
    folder = tiny_folder()
    model = getattr(transformers, head)(BertConfig.from_pretrained(folder))
    model.bert.load_state_dict(safetensors.torch.load_file(folder / "model.safetensors"), strict=False)
    model.save_pretrained(folder)
    _, said = same(folder, tmp_path)
    assert said == f"tensors that no vector depends on: {names}"
    saved = safetensors.torch.load_file(tmp_path / "ours" / "model.safetensors")
    for name, tensor in safetensors.torch.load_file(folder / "model.safetensors").items():
        assert torch.equal(saved[name.removeprefix("bert.")], tensor)


def test_layers_beyond_the_configuration_s_are_no_head(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    edit_json(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(CheckpointError, match=r"unexpected: encoder\.layer\.1\."):
        load(folder)


@pytest.mark.parametrize("stated", [None, "float16", "float32"])
@pytest.mark.parametrize("part", ["LayerNorm", "dense", "pooler", "word_embeddings", "head."])
def test_weights_of_two_types_get_the_reference_s(
    tiny_folder: TinyFolder, tmp_path: Path, stated: str | None, part: str
) -> None:
    folder = tiny_folder()
    tensors = safetensors.torch.load_file(folder / "model.safetensors") | {"a.head.weight": torch.ones(3)}
    half = {name: tensor if part in name else tensor.half() for name, tensor in tensors.items()}
    safetensors.torch.save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    edit_json(folder / "config.json", dtype=stated)
    same(folder, tmp_path)


# ---- pooling and what comes after it --------------------------------------------------------------


@pytest.mark.parametrize(
    "pooling",
    [
        {"pooling_mode": "cls"},
        {"pooling_mode": ["cls"], "include_prompt": True},
        {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
        {"pooling_mode": "cls", "pooling_mode_mean_tokens": True},
    ],
    ids=repr,
)
@pytest.mark.parametrize("normalize", [True, False])
def test_the_vector_of_cls(tiny_folder: TinyFolder, tmp_path: Path, normalize: bool, pooling: dict[str, Any]) -> None:
    folder = tiny_folder(normalize=normalize)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"word_embedding_dimension": 24} | pooling))
    ours, said = same(folder, tmp_path)
    assert (said, read_folder(folder).pooling_mode) == ("", "cls")
    assert load_reference(tmp_path / "ours")[1].pooling_mode == "cls"
    padded, packed = (ours.encode(TEXTS, layout=x, normalize_embeddings=True) for x in ("padded", "packed"))
    np.testing.assert_allclose(packed, padded, atol=PACKED_FLOAT32, rtol=0)


def test_internals_of_a_model_that_takes_cls(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    edit_json(folder / "1_Pooling" / "config.json", pooling_mode="cls")
    model = load(folder)[0]
    a, b = "the cat sat", "two dogs"
    score = float(model.similarity(model.encode(a), model.encode(b)))
    pairs = token_pairs(model, a, b)
    assert abs(pairs.gap) < PACKED_FLOAT32
    assert pairs.matrix[0, 0].item() == pytest.approx(score, abs=PACKED_FLOAT32)
    assert pairs.matrix.count_nonzero() == 1
    traced = model.trace([a], ["pooled", "layers.1.output"])
    torch.testing.assert_close(traced["pooled"], traced["layers.1.output"][:, 0])
    vectors = layer_by_layer(model, [a, b]).vectors
    np.testing.assert_array_equal(vectors[-1], model.encode([a, b], layout="padded"))
    assert component_table(model, [(a, b)]).scores[0].item() == pytest.approx(score, abs=PACKED_FLOAT32)
    found = explain(model, a, b)
    for shown in (repr(found), explanation_page(found)):
        assert "vector of [CLS]" in shown
        assert "mean of the last" not in shown


def test_an_encoder_of_one_s_own_may_take_cls(tiny_folder: TinyFolder) -> None:
    model = load(tiny_folder())[0]
    own = SentenceEncoder(model.encoder, model.tokenizer, pooling_mode="cls", normalize=False)
    first = own(own.tokenize(TEXTS)).last_hidden_state[:, 0]
    np.testing.assert_array_equal(own.encode(TEXTS, layout="padded"), first.detach())
    with pytest.raises(InputError, match="pooling_mode is 'max'"):
        SentenceEncoder(model.encoder, model.tokenizer, pooling_mode="max")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "after",
    [
        [Normalize(), Normalize()],
        [Dropout(0.3)],
        [Dropout(0.3), Normalize()],
        [Normalize(), Dropout(0.5), Normalize(), Dropout(0.1)],
    ],
    ids=lambda modules: " ".join(type(module).__name__ for module in modules),
)
def test_modules_after_pooling(tiny_folder: TinyFolder, tmp_path: Path, after: list[Any]) -> None:
    theirs = load_reference(tiny_folder())
    modules = [theirs[0], Pooling(24), *after]
    SentenceTransformer(modules=modules, device="cpu").save(str(tmp_path / "made"), create_model_card=False)
    ours, said = same(tmp_path / "made", tmp_path)
    assert said == ""
    again = load_reference(tmp_path / "ours")
    assert [repr(module) for module in list(again)[2:]] == [repr(module) for module in after]

    theirs = load_reference(tmp_path / "made").train()  # dropout of vectors while training, like the rest
    torch.manual_seed(5)
    expected = theirs(theirs.preprocess(TEXTS))["sentence_embedding"]
    torch.manual_seed(5)
    assert torch.equal(ours.train()(ours.tokenize(TEXTS)).sentence_embedding, expected)


def test_a_dropout_without_settings_is_the_reference_s(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder(normalize=False)
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Dropout", "type": "sentence_transformers.models.Dropout"})
    (folder / "modules.json").write_text(json.dumps(modules))
    same(folder, tmp_path)
    assert read_folder(folder).after_pooling == (load_reference(folder)[2].dropout,) == (0.2,)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["Transformer", "Normalize", "Pooling"], "Transformer → Normalize → Pooling, supported is"),
        (["Pooling", "Transformer"], "Pooling → Transformer, supported is"),
        (["Transformer"], "Transformer, supported is"),
        (["Transformer", "Pooling", "Dense"], "Pooling → Dense, supported is"),
    ],
)
def test_other_orders_are_refused(tiny_folder: TinyFolder, kinds: list[str], said: str) -> None:
    folder = tiny_folder()
    paths = {"Transformer": "", "Pooling": "1_Pooling", "Normalize": "2_Normalize", "Dense": "2_Dense"}
    modules = [{"name": k, "path": paths[k], "type": f"sentence_transformers.models.{k}"} for k in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match=said):
        load(folder)


def test_two_modules_of_one_name_are_refused(tiny_folder: TinyFolder) -> None:
    """The reference keeps the last of them."""
    folder = tiny_folder()
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["name"] = modules[1]["name"]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="two modules have the name '1'"):
        load(folder)


def test_the_order_in_the_file_counts_and_not_the_index(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    modules = json.loads((folder / "modules.json").read_text())
    for module, index, path in zip(modules, (7, 0, 3), (".", "1_Pooling/", "./2_Normalize"), strict=True):
        module.update(idx=index, path=path, name=f"module {index}")
    (folder / "modules.json").write_text(json.dumps(modules))
    same(folder, tmp_path)


# ---- limits and settings --------------------------------------------------------------------------


@pytest.mark.parametrize("stated", [None, "missing"])
@pytest.mark.parametrize(("tokenizer_s", "limit"), [(20, 20), (100, 40), (None, 40), (1e30, 40), ("missing", 40)])
def test_a_limit_that_is_not_stated(
    tiny_folder: TinyFolder, tmp_path: Path, stated: object, tokenizer_s: object, limit: int
) -> None:
    folder = tiny_folder()
    for name, field, value in (
        ("sentence_bert_config.json", "max_seq_length", stated),
        ("tokenizer_config.json", "model_max_length", tokenizer_s),
    ):
        content = json.loads((folder / name).read_text()) | {field: value}
        (folder / name).write_text(json.dumps({k: v for k, v in content.items() if v != "missing"}))
    assert same(folder, tmp_path)[0].max_seq_length == limit


def test_a_limit_above_the_positions_is_the_positions(tiny_folder: TinyFolder) -> None:
    """The reference keeps it, gives the same bits below the positions, and fails above."""
    folder = tiny_folder()
    edit_json(folder / "sentence_bert_config.json", max_seq_length=512)
    ours, said = load(folder)
    theirs = load_reference(folder)
    assert (ours.max_seq_length, theirs.max_seq_length, said) == (40, 512, "")
    short = [text for text in TEXTS if len(text) < 60]
    np.testing.assert_array_equal(ours.encode(short, layout="padded"), theirs.encode(short))
    assert ours.encode(TEXTS).shape == (len(TEXTS), 24)


def test_settings_that_are_of_no_concern(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    file = folder / "config_sentence_transformers.json"
    edit_json(file, requirements=["sentence-transformers>=2"], __version__={"pytorch": "9"})
    assert same(folder, tmp_path)[1] == ""
    edit_json(file, made_by="us", nothing=None)
    assert same(folder, tmp_path)[1] == f"settings of {file.name} without effect: made_by, nothing"


def test_a_shortened_dimension_goes_both_ways(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    theirs = SentenceTransformer(str(tiny_folder()), device="cpu", local_files_only=True, truncate_dim=10)
    theirs.save(str(tmp_path / "made"), create_model_card=False)
    ours, _ = same(tmp_path / "made", tmp_path)
    assert ours.truncate_dim == ours.get_embedding_dimension() == 10
    assert load_reference(tmp_path / "ours").truncate_dim == 10
    assert load(tmp_path / "made", truncate_dim=5)[0].encode("a").shape == (5,)
    ours.truncate_dim = None
    ours.save_pretrained(tmp_path / "whole")
    assert load_reference(tmp_path / "whole").truncate_dim is load(tmp_path / "whole")[0].truncate_dim is None


# ---- plain transformers ---------------------------------------------------------------------------


def plain(folder: Path) -> Path:
    """What BertModel and its tokenizer save themselves."""
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (folder / name).unlink()
    shutil.rmtree(folder / "1_Pooling")
    shutil.rmtree(folder / "2_Normalize", ignore_errors=True)
    return folder


@pytest.mark.parametrize("limit", [20, 512, None])
def test_a_folder_of_plain_transformers(tiny_folder: TinyFolder, tmp_path: Path, limit: int | None) -> None:
    folder = plain(tiny_folder())
    edit_json(folder / "tokenizer_config.json", model_max_length=limit)
    ours, said = same(folder, tmp_path)
    assert "no modules.json" in said
    assert "means of the tokens" in said
    assert ours.max_seq_length == min(limit or 40, 40)
    assert load(tmp_path / "ours")[1] == ""
    assert isinstance(ours.normalize, torch.nn.Identity)


def test_without_modules_json_the_other_settings_are_not_read(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    folder = tiny_folder()
    edit_json(folder / "config_sentence_transformers.json", prompts={"query": "the "}, default_prompt_name="query")
    edit_json(folder / "sentence_bert_config.json", max_seq_length=11)
    (folder / "modules.json").unlink()
    ours, said = same(folder, tmp_path)
    assert (ours.default_prompt_name, ours.max_seq_length) == (None, 32)
    assert "prompts and other settings are not read" in said


def test_a_plain_decoder_would_be_pooled_otherwise(tiny_folder: TinyFolder) -> None:
    folder = plain(tiny_folder())
    edit_json(folder / "config.json", architectures=["BertForCausalLM"])
    with pytest.raises(CheckpointError, match="the last token's vector"):
        load(folder)


# ---- other formats --------------------------------------------------------------------------------


def printed_command(error: CheckpointError) -> list[str]:
    command = shlex.split(str(error).rpartition("\n")[2])
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize("kind", ["pickle", "safetensors"])
def test_the_printed_command_converts(tiny_folder: TinyFolder, tmp_path: Path, kind: str, parts: int) -> None:
    folder = shutil.move(tiny_folder(), tmp_path / 'it\'s a "$HOME" folder')
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    expected = load(folder)[0].encode(TEXTS, layout="padded")
    (folder / "model.safetensors").unlink()
    torch.save({"step": 1}, folder / "training_args.bin")
    names = sorted(tensors)
    for part in range(parts):
        some = {name: tensors[name] for name in names[part::parts]}
        suffix = "" if parts == 1 and kind == "pickle" else f"-0000{part + 1}-of-0000{parts}"
        if kind == "pickle":
            torch.save(some | {"note": "no tensor"}, folder / f"pytorch_model{suffix}.bin")
        else:
            safetensors.torch.save_file(some, folder / f"model{suffix}.safetensors")
            (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="never read" if kind == "pickle" else "shards") as error:
        load(folder)
    subprocess.run(printed_command(error.value), check=True)
    np.testing.assert_array_equal(load(folder)[0].encode(TEXTS, layout="padded"), expected)


def test_the_printed_command_runs_no_code(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return Path.mkdir, (tmp_path / "pwned",)

    folder = tiny_folder()
    (folder / "model.safetensors").unlink()
    torch.save({"a": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as error:
        load(folder)
    assert subprocess.run(printed_command(error.value), capture_output=True).returncode
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "tokenizer.json", "vocab.txt", "config.json", "modules.json", "1_Pooling/config.json"],
)
def test_a_pointer_of_git_lfs_is_called_that(tiny_folder: TinyFolder, name: str) -> None:
    folder = tiny_folder()
    digest = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
    (folder / name).write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{digest}\nsize 90868376\n")
    with pytest.raises(CheckpointError, match=rf"{name} is a pointer of Git LFS(.|\n)*git lfs pull"):
        load(folder)
