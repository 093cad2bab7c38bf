"""Weights on disk: everything that can be wrong with a safetensors file, and saving."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import resource
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from conftest import TINY, TinyFolder, edit_json
from hypothesis import given, settings
from hypothesis import strategies as st

from minilm import CheckpointError, EncoderConfig, SentenceEncoder
from minilm.checkpoint import (
    IGNORED,
    atomic_path,
    inspect_tensors,
    load_encoder,
    read_json,
    read_tensors,
    save_encoder,
    their_names,
)
from minilm.encoder import Encoder

CONFIG = EncoderConfig(vocab_size=50, **TINY)
POOLER = {"pooler.dense.weight", "pooler.dense.bias"}
QUERY = "encoder.layer.1.attention.self.query.weight"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A good file of a small encoder, to be broken."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        save_encoder(tmp_path / "model.safetensors", Encoder(CONFIG))
    return tmp_path / "model.safetensors"


def rewrite(file: Path, **changes: torch.Tensor | None) -> Path:
    """The file with tensors put in, or taken out (None)."""
    tensors = safetensors.torch.load_file(file) | changes
    safetensors.torch.save_file({name: t for name, t in tensors.items() if t is not None}, file)
    return file


def raw(file: Path, header: bytes | dict[str, Any], data: bytes = b"", length: int | None = None) -> Path:
    """A safetensors file byte for byte: length, header, data."""
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return file


def f32(*shape: int, start: int = 0, stop: int = 4, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


# ---- a round trip -------------------------------------------------------------------------------


def test_what_is_saved_is_loaded_bit_for_bit(file: Path) -> None:
    encoder, ignored = load_encoder(file, CONFIG)
    assert not encoder.training
    assert ignored.keys() == POOLER
    tensors = safetensors.torch.load_file(file)
    assert set(tensors) == {*their_names(CONFIG).values(), *POOLER}
    for name, parameter in encoder.named_parameters():
        assert torch.equal(parameter, tensors[their_names(CONFIG)[name]])
        assert parameter.requires_grad


def test_the_same_weights_give_the_same_file(file: Path) -> None:
    encoder, ignored = load_encoder(file, CONFIG)
    save_encoder(file.with_name("again"), encoder, ignored)
    assert file.with_name("again").read_bytes() == file.read_bytes()


def test_loading_draws_no_random_numbers_and_does_not_share_memory_with_the_file(file: Path) -> None:
    state = torch.random.get_rng_state()
    encoder, _ = load_encoder(file, CONFIG)
    assert torch.equal(state, torch.random.get_rng_state())
    before = encoder.embeddings.word.weight.clone()
    with open(file, "rb+") as f:  # in place, as a mapped file would show
        f.seek(-10_000, os.SEEK_END)
        f.write(b"\xff" * 10_000)
    assert torch.equal(encoder.embeddings.word.weight, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types(file: Path, dtype: torch.dtype) -> None:
    encoder, _ = load_encoder(file, CONFIG, dtype)
    assert {p.dtype for p in encoder.parameters()} == {dtype}
    save_encoder(file, encoder)
    again, _ = load_encoder(file, CONFIG)
    assert {p.dtype for p in again.parameters()} == {dtype}
    for a, b in zip(encoder.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_the_tensors_that_the_encoder_leaves_aside_are_kept(file: Path) -> None:
    kept = {"pooler.dense.bias": torch.ones(24), "embeddings.position_ids": torch.arange(40)[None]}
    encoder, ignored = load_encoder(rewrite(file, **kept), CONFIG)
    assert all(torch.equal(ignored[name], tensor) for name, tensor in kept.items())
    save_encoder(file, encoder, ignored)
    tensors = safetensors.torch.load_file(file)
    assert set(tensors) == {*their_names(CONFIG).values(), *IGNORED}
    assert all(torch.equal(tensors[name], tensor) for name, tensor in kept.items())
    assert {t.name for t in inspect_tensors(file) if not t.used} == set(IGNORED)


def test_a_file_without_the_tensors_that_are_left_aside_loads(file: Path) -> None:
    encoder, ignored = load_encoder(rewrite(file, **dict.fromkeys(POOLER)), CONFIG)
    assert ignored == {}
    assert encoder.embeddings.word.weight.shape == (50, 24)


# ---- files that are not whole -------------------------------------------------------------------


def test_a_file_cut_anywhere_is_refused(file: Path) -> None:
    data = file.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    cuts = {0, 1, 7, 8, 9, header // 2, header - 1, header, header + 1, header + 4, len(data) // 2, len(data) - 1}
    for cut in sorted(cuts):
        file.write_bytes(data[:cut])
        with pytest.raises(CheckpointError, match=rf"\({cut:,} bytes\) is not a whole safetensors file") as error:
            load_encoder(file, CONFIG)
        assert str(file) in str(error.value)


def test_a_file_with_something_after_it_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_encoder(file, CONFIG)


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        ({}, b"", 2**63),
        ({}, b"", 2**64 - 1),
        ({}, b"", 10**9),
        ({}, b"", 3),
        (b"", b"", None),
        (b"\xff\xfe", b"", None),
        (b"[1]", b"", None),
        (b'{"a": ', b"", None),
        (b'{"a":' * 5000, b"", None),
        ({"a": f32(1, dtype="WHAT")}, b"\0" * 4, None),
        ({"a": f32(1, dtype="F6_E2M3")}, b"\0" * 4, None),
        ({"a": f32(4, stop=3, dtype="F6_E2M3")}, b"\0" * 3, None),
        ({"a": f32(1), "b": f32(1)}, b"\0" * 4, None),  # overlap
        ({"a": f32(1), "b": f32(1, start=2, stop=6)}, b"\0" * 6, None),  # overlap in part
        ({"a": f32(1), "b": f32(1, start=8, stop=12)}, b"\0" * 12, None),  # a hole
        ({"a": f32(1, start=4, stop=0)}, b"\0" * 4, None),
        ({"a": f32(1, start=0, stop=2**40)}, b"\0" * 4, None),
        ({"a": f32(-1)}, b"\0" * 4, None),
        ({"a": f32(2**62, 4)}, b"\0" * 4, None),
        ({"a": f32(2)}, b"\0" * 4, None),
        ({"\ud800": f32(1)}, b"\0" * 4, None),
        ({"a": f32(1), "__metadata__": {"format": 5}}, b"\0" * 4, None),
        (b'{"a":%b,"a":%b}' % ((json.dumps(f32(1)).encode(),) * 2), b"\0" * 8, None),
    ],
)
def test_a_hostile_header_is_refused(tmp_path: Path, header: Any, data: bytes, length: int | None) -> None:
    file = raw(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        read_tensors(file)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_bytes_changed_at_random_never_give_anything_but_tensors_or_our_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        small = EncoderConfig(5, 4, 1, 2, 4, max_position_embeddings=4)
        save_encoder(file, Encoder(small))
        content = bytearray(file.read_bytes())
        header = 8 + struct.unpack("<Q", content[:8])[0]
        for place in data.draw(st.lists(st.integers(0, header - 1), min_size=1, max_size=4)):
            content[place] = data.draw(st.integers(0, 255))
        file.write_bytes(content)
        with contextlib.suppress(CheckpointError):
            load_encoder(file, small)


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "pwned"),)

    for name in ("pytorch_model.bin", "model.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"a": Evil()}))
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_encoder(tmp_path / "model.safetensors", CONFIG)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin, a pickle, .* never read. This converts it"):
        load_encoder(tmp_path / "model.safetensors", CONFIG)
    assert not (tmp_path / "pwned").exists()


def test_shards_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="shards"):
        load_encoder(tmp_path / "model.safetensors", CONFIG)


def test_a_folder_in_the_place_of_the_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").mkdir()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_encoder(tmp_path / "model.safetensors", CONFIG)


# ---- tensors that do not fit --------------------------------------------------------------------


def test_a_missing_tensor(file: Path) -> None:
    with pytest.raises(CheckpointError, match=f"missing: {QUERY}"):
        load_encoder(rewrite(file, **{QUERY: None}), CONFIG)


def test_many_missing_tensors_are_counted(file: Path) -> None:
    config = EncoderConfig(vocab_size=50, **(TINY | {"num_hidden_layers": 4}))
    with pytest.raises(CheckpointError, match=r"missing: encoder\.layer\.2\..* and 27 more"):
        load_encoder(file, config)


def test_an_extra_tensor(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"unexpected: encoder\.layer\.2\.lora"):
        load_encoder(rewrite(file, **{"encoder.layer.2.lora": torch.ones(2)}), CONFIG)


def test_extra_layers_are_not_ignored(file: Path) -> None:
    config = EncoderConfig(vocab_size=50, **(TINY | {"num_hidden_layers": 1}))
    with pytest.raises(CheckpointError, match=r"unexpected: encoder\.layer\.1\."):
        load_encoder(file, config)


@pytest.mark.parametrize("shape", [(24,), (24, 25), (25, 24), (1, 24, 24), (0, 24), ()])
def test_a_misshapen_tensor(file: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(CheckpointError, match=rf"{QUERY} has shape \[.*\], expected \[24, 24\]"):
        load_encoder(rewrite(file, **{QUERY: torch.ones(shape)}), CONFIG)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64, torch.float8_e4m3fn])
def test_tensors_of_a_type_that_is_no_weight(file: Path, dtype: torch.dtype) -> None:
    everything = {name: t.to(dtype) for name, t in safetensors.torch.load_file(file).items()}
    with pytest.raises(CheckpointError, match=f"types: found {str(dtype)[6:]}"):
        load_encoder(rewrite(file, **everything), CONFIG)


def test_one_tensor_of_a_type_that_is_no_weight(file: Path) -> None:
    with pytest.raises(CheckpointError, match=r"types: found int64 \(.*query"):
        load_encoder(rewrite(file, **{QUERY: torch.ones(24, 24, dtype=torch.int64)}), CONFIG)


def test_every_problem_is_named_at_once(file: Path) -> None:
    rewrite(file, **{QUERY: None, "encoder.x": torch.ones(1), "embeddings.LayerNorm.bias": torch.ones(3)})
    with pytest.raises(CheckpointError) as error:
        load_encoder(file, CONFIG)
    assert all(
        part in str(error.value) for part in ("missing: " + QUERY, "unexpected: encoder.x", "LayerNorm.bias has shape")
    )


def test_a_config_of_a_billion_layers_is_refused_at_once(file: Path) -> None:
    config = EncoderConfig(vocab_size=50, **(TINY | {"num_hidden_layers": 10**7}))
    with pytest.raises(CheckpointError, match="num_hidden_layers is 10,000,000"):
        load_encoder(file, config)


def test_other_shapes_load(tmp_path: Path) -> None:
    for layers, size in ((3, 384), (12, 384)):  # MiniLM-L3 and L12, with fewer words
        config = EncoderConfig(vocab_size=60, hidden_size=size, num_hidden_layers=layers)
        save_encoder(tmp_path / "m", Encoder(config))
        assert len(load_encoder(tmp_path / "m", config)[0].layers) == layers


# ---- inspect ------------------------------------------------------------------------------------


def test_inspect_describes_tensors(tmp_path: Path) -> None:
    tensors = {"a": torch.tensor([[3.0, 4.0]]), "b": torch.arange(3), "c": torch.ones((), dtype=torch.bfloat16)}
    safetensors.torch.save_file(tensors | {"empty": torch.ones(0, 4)}, tmp_path / "f")
    found = {t.name: t for t in inspect_tensors(tmp_path / "f")}
    assert (found["a"].shape, found["a"].dtype, found["a"].norm) == ((1, 2), "float32", 5.0)
    assert (found["b"].dtype, found["c"].shape, found["empty"].shape) == ("int64", (), (0, 4))
    assert found["empty"].sha256 == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


# ---- JSON ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}", b"1", b"null", b'"x"', b"\xef\xbb\xbf{}"],
)
def test_json_that_cannot_be_used_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"x\.json"):
        read_json(tmp_path / "x.json")


# ---- writing ------------------------------------------------------------------------------------


@contextlib.contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond ``size``: a full disk, as far as a writer can tell."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_disk_that_fills_up_leaves_the_old_weights(file: Path) -> None:
    encoder, old = Encoder(CONFIG), file.read_bytes()
    with largest_file(len(old) // 2), pytest.raises(OSError, match=r"cannot write .*model\.safetensors") as error:
        save_encoder(file, encoder)
    assert "nothing was changed" in str(error.value)
    assert file.read_bytes() == old
    assert os.listdir(file.parent) == [file.name]


def test_a_full_disk_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no space left on the disk") as error, atomic_path(tmp_path / "x") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_text("something")
    assert str(tmp_path / "x") in str(error.value)
    assert not os.listdir(tmp_path)


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert (tmp_path / "x").read_text() == "old"
    assert os.listdir(tmp_path) == ["x"]


def test_two_writers_at_once_do_not_meet(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "x") as first:
        first.write_text("first")
        with atomic_path(tmp_path / "x") as second:
            second.write_text("second")
        assert first.read_text() == "first"
    assert (tmp_path / "x").read_text() == "first"
    assert os.listdir(tmp_path) == ["x"]


def test_a_written_file_is_as_open_as_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_path(tmp_path / "x") as temporary:
        temporary.write_text("")
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_real_file_has_the_tensors_that_are_published(model: SentenceEncoder, weights: Path) -> None:
    tensors = {t.name: t for t in inspect_tensors(weights / "model.safetensors")}
    assert len(tensors) == 104
    assert {name for name, t in tensors.items() if not t.used} == set(IGNORED)
    assert tensors["embeddings.position_ids"].dtype == "int64"
    assert sum(p.numel() for p in model.encoder.parameters()) + 384 * 385 == 22_713_216
    assert edit_json(weights / "config.json")["vocab_size"] == 30522


def test_a_config_that_does_not_fit_the_real_weights(tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    edit_json(folder / "config.json", type_vocab_size=3)
    with pytest.raises(CheckpointError, match=r"token_type_embeddings\.weight has shape \[2, 24\], expected \[3, 24\]"):
        SentenceEncoder.from_pretrained(folder)
