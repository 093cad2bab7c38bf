"""Weights in int8: what they cost, that they keep the promises of float, and where they are refused."""

import copy
import inspect
import os
import statistics
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TinyFolder
from torch import nn

from minilm import InputError, LossyPrecisionWarning, SentenceEncoder
from minilm.cli import main
from minilm.int8 import _exact_products, check_can_quantise
from minilm.invariance import check_batch_invariance
from minilm.tolerances import INT8_COSINE, INT8_MEAN_COSINE

# On a processor without exact 8-bit products int8 is refused, which test_lesser_processors holds.
needs_vnni = pytest.mark.skipif(not _exact_products(), reason="int8 weights are refused on this processor")

OBJECTS = [getattr(module, name) for module in (statistics, os, subprocess, Path) for name in dir(module)]
DOCSTRINGS = sorted({text for obj in OBJECTS if (text := inspect.getdoc(obj)) and len(text) > 20})[::5]


@pytest.fixture(scope="module")
def quantised(model: SentenceEncoder) -> Iterator[SentenceEncoder]:
    ours = copy.deepcopy(model)
    with pytest.warns(LossyPrecisionWarning):
        ours.weight_precision = "int8"
    yield ours


@needs_vnni
def test_what_it_costs(model: SentenceEncoder, quantised: SentenceEncoder) -> None:
    texts = [*DOCSTRINGS, *(" ".join(text.split()[:9]) for text in DOCSTRINGS)]
    exact = model.encode(texts, truncation="silent")
    cosines = (quantised.encode(texts, truncation="silent") * exact).sum(1)
    assert 1 - cosines.mean() > 1e-5, "nothing was rounded"
    assert cosines.mean() >= INT8_MEAN_COSINE
    assert cosines.min() >= INT8_COSINE


@needs_vnni
def test_the_choice_says_what_it_costs_and_can_be_taken_back(model: SentenceEncoder) -> None:
    texts = ["a text", "one more text that is longer"]
    ours = copy.deepcopy(model)
    with pytest.warns(LossyPrecisionWarning, match=r"0\.99\d\d on average, 0\.9\d\d\d at least, on 15 texts") as caught:
        ours.weight_precision = "int8"
    assert caught[0].filename == __file__
    assert ours.weight_precision == "int8"
    assert (ours.encode(texts) != model.encode(texts)).any()
    # All but encode's packed layout is float.
    assert np.array_equal(ours.encode(texts, layout="padded"), model.encode(texts, layout="padded"))
    batch = ours.tokenize(texts)
    assert torch.equal(ours(batch).sentence_embedding, model(batch).sentence_embedding)
    ours.weight_precision = None
    assert np.array_equal(ours.encode(texts), model.encode(texts))


@needs_vnni
def test_batch_invariance(quantised: SentenceEncoder) -> None:
    found = check_batch_invariance(quantised, DOCSTRINGS[:40], compositions=12)
    assert found.vectors > 50
    assert found.differ == 0


@needs_vnni
def test_a_copy_computes_the_same(quantised: SentenceEncoder) -> None:
    """Which is what a pool's processes get."""
    texts = ["a text", "one more text that is longer"]
    assert np.array_equal(copy.deepcopy(quantised).encode(texts), quantised.encode(texts))


@needs_vnni
def test_changed_weights_are_measured_anew(quantised: SentenceEncoder) -> None:
    ours = copy.deepcopy(quantised)
    ours.encode("a text")
    with torch.no_grad():
        for layer in ours.encoder.layers:  # the same function, of activations eight times as large
            layer.feed_forward.up.weight.mul_(0.125)
            layer.attention_norm.weight.mul_(8)
            layer.attention_norm.bias.mul_(8)
            layer.feed_forward.down.weight.mul_(8)
            layer.feed_forward.down.bias.mul_(8)
    texts = DOCSTRINGS[:12]
    changed = ours.encode(texts, truncation="silent")
    ours.weight_precision = None
    assert (changed * ours.encode(texts, truncation="silent")).sum(1).mean() >= INT8_MEAN_COSINE


@needs_vnni
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_refused(tiny_folder: TinyFolder, dtype: torch.dtype) -> None:
    with pytest.raises(InputError, match=r"float32 models on the CPU, and this one is \w+ on cpu; leave weight_prec"):
        SentenceEncoder.from_pretrained(tiny_folder(), dtype=dtype, weight_precision="int8")


@needs_vnni
def test_other_activations_and_names_are_refused(tiny_folder: TinyFolder) -> None:
    with pytest.raises(InputError, match="need the activation GELU, and this model's is 'relu'"):
        SentenceEncoder.from_pretrained(tiny_folder(hidden_act="relu"), weight_precision="int8")
    with pytest.raises(InputError, match="weight_precision is 'int4', expected one of None, 'int8'"):
        SentenceEncoder.from_pretrained(tiny_folder(), weight_precision="int4")  # type: ignore[arg-type]


@needs_vnni
def test_never_float_in_silence(tiny_folder: TinyFolder) -> None:
    """Where int8 was chosen and cannot be had, that is an error."""
    with pytest.warns(LossyPrecisionWarning):
        ours = SentenceEncoder.from_pretrained(tiny_folder(), weight_precision="int8")
    hook = ours.encoder.register_forward_hook(lambda *_: None)
    with pytest.raises(InputError, match=r"set model\.weight_precision to None"):
        ours.encode("a text")
    hook.remove()
    assert ours.train().encode("a text").shape == (24,)
    with pytest.raises(InputError, match="float32 models on the CPU"):
        ours.to(torch.float64).encode("a text")


@needs_vnni
def test_another_shape_of_model(tiny_folder: TinyFolder) -> None:
    """Sizes that no kernel likes, and gradients or a sign where nothing is."""
    with pytest.warns(LossyPrecisionWarning):
        ours = SentenceEncoder.from_pretrained(tiny_folder(), weight_precision="int8")
    texts = ["the cat sat on the mat", "", "a"]
    changed = ours.encode(texts)
    ours.weight_precision = None
    assert (changed * ours.encode(texts)).sum(1).min() > INT8_MEAN_COSINE
    nn.init.zeros_(ours.encoder.layers[0].feed_forward.down.weight)
    with pytest.warns(LossyPrecisionWarning):
        ours.weight_precision = "int8"
    assert np.isfinite(ours.encode(texts)).all()


@needs_vnni
def test_a_file_of_float_is_not_gone_on_with_in_int8(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")

    def broken() -> Iterator[str]:
        yield from ["a cat", "the dog"]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.encode(broken(), output=tmp_path / "out.npy", chunk_size=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LossyPrecisionWarning)
        model.weight_precision = "int8"
    with pytest.raises(InputError, match="weight_precision"):
        model.encode(["a cat", "the dog", "the mat"], output=tmp_path / "out.npy", chunk_size=1)


@needs_vnni
def test_on_the_command_line(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("the cat\na dog on the mat\n")
    arguments = ["encode", str(tmp_path / "texts.txt"), "--model", str(tiny_folder()), "--weight-precision", "int8"]
    with pytest.warns(LossyPrecisionWarning, match="int8 weights change the vectors"):
        assert main([*arguments, "--output", str(tmp_path / "out.npy")]) == 0
    assert np.load(tmp_path / "out.npy").shape == (2, 24)


@needs_vnni
def test_its_warning_is_one_line_of_the_commands_own(tiny_folder: TinyFolder) -> None:
    command = [sys.executable, "-m", "minilm", "similarity", "a", "b", "--model", str(tiny_folder())]
    process = subprocess.run([*command, "--weight-precision", "int8"], capture_output=True, text=True, check=True)
    (line,) = process.stderr.splitlines()
    assert line.startswith("minilm similarity: int8 weights change the vectors")


TRY = """
import sys
import warnings
from minilm import SentenceEncoder, InputError
from minilm.invariance import check_batch_invariance
warnings.simplefilter("ignore")
model = SentenceEncoder.from_pretrained(device="cpu")
try:
    model.weight_precision = "int8"
except InputError as error:
    print(error)
else:
    print(check_batch_invariance(model, ["a cat", "on a mat", "a dog and a cat " * 9], 6).differ)
"""


@pytest.mark.parametrize("isa", ["AVX512_CORE_VNNI", "AVX2"])
def test_lesser_processors(isa: str) -> None:
    """With VNNI it is had; AVX2 alone cuts sums off at 16 bits, and is refused."""
    forced = {"ONEDNN_MAX_CPU_ISA": isa}
    process = subprocess.run(
        [sys.executable, "-c", TRY], env={**os.environ, **forced}, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    if isa == "AVX2" or not _exact_products():
        assert "this processor or this torch has no exact products of 8-bit integers" in process.stdout
    else:
        assert process.stdout.strip() == "0"


def test_without_torchs_private_operators(model: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        pass

    monkeypatch.setattr(torch.ops, "onednn", Missing())
    _exact_products.cache_clear()
    try:
        with pytest.raises(InputError, match="no exact products of 8-bit integers"):
            check_can_quantise(model.encoder)
    finally:
        _exact_products.cache_clear()
