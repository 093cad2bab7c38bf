"""The encoder over prepacked weights against the plain one, and when it must give way to it."""

import copy
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from conftest import TEXTS as SOME
from conftest import TinyFolder
from sentence_transformers import SentenceTransformer

from minilm import SentenceEncoder, SlowPrecisionWarning, TruncationError, TruncationWarning
from minilm import fused as module
from minilm.fused import fused
from minilm.tolerances import BFLOAT16_BESIDE_REFERENCE, PACKED_FLOAT32, PACKED_FLOAT64

TEXTS = [text[:60] for text in SOME]  # all within the tiny models' limit
MANY = [*TEXTS, *(" ".join(TEXTS)[:n] for n in range(3, 200, 7))]


def plain(model: SentenceEncoder, texts: list[str] = MANY, **options: object) -> np.ndarray:
    return model.encode(texts, truncation="silent", engine="plain", **options)


def fast(model: SentenceEncoder, texts: list[str] = MANY, **options: object) -> np.ndarray:
    vectors = model.encode(texts, truncation="silent", **options)
    assert fused(model.encoder) is not None
    return vectors


@pytest.mark.parametrize("prepacked", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"layer_norm_eps": 0.1, "hidden_act": "relu"},
        {"hidden_act": "gelu_pytorch_tanh", "num_attention_heads": 1, "num_hidden_layers": 1},
        {"hidden_act": "silu", "hidden_size": 64, "num_attention_heads": 2, "intermediate_size": 16},
        {"hidden_act": "tanh", "type_vocab_size": 1, "pad_token_id": 3},
    ],
)
def test_the_same_as_the_plain_encoder(
    tiny_folder: TinyFolder, config: dict, prepacked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other sizes and activations; and with torch's private operators missing, as on other processors."""
    if not prepacked:
        monkeypatch.setattr(module, "can_prepack", lambda dtype: False)
    for dtype, tolerance in ((torch.float32, PACKED_FLOAT32), (torch.float64, PACKED_FLOAT64)):
        model = SentenceEncoder.from_pretrained(tiny_folder(**config), device="cpu", dtype=dtype)
        assert abs(fast(model) - plain(model)).max() <= tolerance
        tokens = zip(
            fast(model, output_value="token_embeddings"), plain(model, output_value="token_embeddings"), strict=True
        )
        assert all(torch.allclose(a, b, rtol=0, atol=1e3 * tolerance) for a, b in tokens)


def test_this_machine_prepacks() -> None:
    """Loud where torch's private operators are gone or have changed: the work is done without, but slower."""
    assert module.can_prepack(torch.float32) == torch.backends.mkldnn.is_available()
    assert not module.can_prepack(torch.float64)


def test_a_changed_operator_is_done_without(monkeypatch: pytest.MonkeyPatch, model: SentenceEncoder) -> None:
    def gone(*_: object) -> None:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(module._Prepacked, "plus", gone)
    assert not module.can_prepack(torch.float32)


def change_in_place(model: SentenceEncoder) -> None:
    with torch.no_grad():
        model.encoder.layers[0].feed_forward.up.bias.add_(0.3)


def test_training_mode_ends(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(hidden_dropout_prob=0.5), device="cpu")
    before = model.encode(TEXTS)
    model.train()
    assert (model.encode(TEXTS) == before).all()
    assert not any(part.training for part in model.modules())
    model.encoder.layers[0].train()
    assert (model.encode(TEXTS) == before).all()
    assert not any(part.training for part in model.modules())


def test_autocast_is_the_plain_encoders(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    before = model.encode(TEXTS)
    with torch.autocast("cpu", torch.bfloat16):
        inside = model.encode(TEXTS)
    assert abs(inside - before).max() > 100 * PACKED_FLOAT32
    assert (model.encode(TEXTS) == before).all()


def test_copies_and_pickles(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    vectors = model.encode(TEXTS)
    for same in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert (same.encode(TEXTS) == vectors).all()
    other = copy.deepcopy(model)
    change_in_place(other)
    assert (model.encode(TEXTS) == vectors).all()


def test_no_longer_held_than_the_model(tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    model.encode(TEXTS)
    held = len(module._MADE)
    del model
    assert len(module._MADE) == held - 1


def test_equal_texts_are_encoded_once(model: SentenceEncoder) -> None:
    seen = []
    handle = model.pooling.register_forward_hook(lambda _, args, __: seen.append(len(args[1].lengths)))
    texts = ["a", "b", "a", "a", "c", "b"]
    try:
        vectors = model.encode(texts)
    finally:
        handle.remove()
    assert sum(seen) == 3
    assert (vectors == np.concatenate([model.encode([text]) for text in texts])).all()


def test_every_one_of_equal_texts_is_named_when_cut(model: SentenceEncoder) -> None:
    long = "word " * 300
    with pytest.warns(TruncationWarning) as caught:
        model.encode(["a", long, "a", long])
    assert caught[0].message.tokens_lost == {1: 46, 3: 46}
    with pytest.raises(TruncationError) as error:
        model.encode(["a", long, "a", long], truncation="error")
    assert error.value.tokens_lost == {1: 46, 3: 46}


def test_bfloat16_is_as_near_to_float32_as_the_references(
    model: SentenceEncoder, reference: SentenceTransformer
) -> None:
    texts = [text for text in MANY if text.strip()]
    exact = model.encode(texts)
    half = SentenceEncoder.from_pretrained(device="cpu", dtype=torch.bfloat16)
    theirs = copy.deepcopy(reference).to(torch.bfloat16).encode(texts, convert_to_tensor=True).float().numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SlowPrecisionWarning)
        ours = half.encode(texts)

    def distance(vectors: np.ndarray) -> float:
        return float(np.linalg.norm(vectors - exact, axis=1).mean())

    assert distance(ours) <= BFLOAT16_BESIDE_REFERENCE * distance(theirs)


def test_emulated_bfloat16_is_warned_about(monkeypatch: pytest.MonkeyPatch, tiny_folder: TinyFolder) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", dtype=torch.bfloat16)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.warns(SlowPrecisionWarning, match="float32"):
        model.encode("a text")
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.encode("a text")


MEMORY = """
import torch
from minilm import SentenceEncoder
def resident() -> int:
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmRSS")) // 1024
model = SentenceEncoder.from_pretrained(device="cpu")
model.encode("a")
before = resident()
for length in range(1, 255):
    model.encode("a " * length)
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_queries_of_every_length_take_little_memory() -> None:
    """A kernel is kept for each number of rows: for all 254 of them that was 590 MiB (now 60)."""
    process = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert int(process.stdout) < 250
