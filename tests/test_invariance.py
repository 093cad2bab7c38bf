"""A text's vector has the same bits whatever it is encoded with, on every road but the padded one."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from minilm import SentenceEncoder
from minilm.fused import has_fast_bfloat16
from minilm.invariance import check_batch_invariance
from minilm.parity import TEXTS
from minilm.tolerances import PACKED_FLOAT32

WORDS = " ".join(TEXTS).split()
# Every short length, and longer ones on both sides of where a kernel could change its ways.
POOL = [*TEXTS, *(" ".join(WORDS[i % 7 :][: i + 1]) for i in (*range(16), 18, 22, 25, 40, 60))]
THREADS = (1, 2)
DTYPES = (torch.float32, *([torch.bfloat16] if has_fast_bfloat16() else []))


@cache
def model_of(dtype: torch.dtype) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(device="cpu", dtype=dtype)


@cache
def alone(dtype: torch.dtype, threads: int) -> np.ndarray:
    assert torch.get_num_threads() == threads
    return np.concatenate([model_of(dtype).encode([text], truncation="silent") for text in POOL])


@pytest.fixture(params=THREADS, ids=lambda n: f"{n} threads")
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_company_does_not_matter(threads: int, dtype: torch.dtype) -> None:
    expected = alone(dtype, threads)

    @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        chosen=st.lists(st.integers(0, len(POOL) - 1), min_size=1, max_size=24),
        batch_size=st.sampled_from((1, 2, 5, 32)),
    )
    def check(chosen: list[int], batch_size: int) -> None:
        vectors = model_of(dtype).encode([POOL[i] for i in chosen], batch_size=batch_size, truncation="silent")
        assert np.array_equal(vectors, expected[chosen])

    check()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_other_roads_and_outputs(threads: int, dtype: torch.dtype) -> None:
    """One string, a stream, a pool's chunks, token embeddings: the same bits again."""
    model, expected = model_of(dtype), alone(dtype, threads)
    options = {"truncation": "silent"}
    assert np.array_equal(model.encode(POOL[0], **options), expected[0])
    assert np.array_equal(model.encode(POOL * 3, **options), np.tile(expected, (3, 1)))
    chunks = [rows for _, rows in model.encode_stream(iter(POOL), chunk_size=5, **options)]
    assert np.array_equal(np.concatenate(chunks), expected)
    together = model.encode(POOL, output_value="token_embeddings", **options)
    for text, hidden in list(zip(POOL, together, strict=True))[::5]:
        assert torch.equal(model.encode(text, output_value="token_embeddings", **options), hidden)
    cut = model.encode(POOL, truncate_dim=64, normalize_embeddings=True, **options)
    assert np.array_equal(model.encode([POOL[3]], truncate_dim=64, normalize_embeddings=True, **options), cut[3:4])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_batches(dtype: torch.dtype) -> None:
    """More rows than one batch holds, where kernels for many rows run."""
    model = model_of(dtype)
    texts = [f"{i} {text}" for i in range(12) for text in POOL]
    vectors = model.encode(texts, truncation="silent")
    backwards = model.encode(texts[::-1], batch_size=100, truncation="silent")[::-1]
    assert np.array_equal(vectors, backwards)
    for i in range(0, len(texts), 9):
        assert np.array_equal(model.encode(texts[i], truncation="silent"), vectors[i])


def test_the_scan_finds_what_there_is() -> None:
    """In the padded layout, company does matter."""
    found = check_batch_invariance(model_of(torch.float32), POOL, compositions=10, layout="padded")
    assert found.differ > 0
    assert 0 < found.largest < 10 * PACKED_FLOAT32


SCAN = """
import json, sys, torch
from minilm import SentenceEncoder
from minilm.invariance import check_batch_invariance
model = SentenceEncoder.from_pretrained(device="cpu")
for threads in (2, 1):
    torch.set_num_threads(threads)
    print(check_batch_invariance(model, json.loads(sys.argv[1]), compositions=8).differ)
"""


@pytest.mark.parametrize("isa", ["AVX512_CORE_VNNI", "AVX2_VNNI", "AVX2"])
def test_lesser_processors(isa: str) -> None:
    """The libraries read these variables once, when they are loaded: each set runs in a process of its own."""
    forced = {"ONEDNN_MAX_CPU_ISA": isa}
    if isa.startswith("AVX2"):
        forced |= {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    process = subprocess.run(
        [sys.executable, "-c", SCAN, json.dumps(POOL)],
        env={**os.environ, **forced},
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.split() == ["0", "0"]
