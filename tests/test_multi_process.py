"""Encoding in several processes: the same vectors as in one, whatever happens to calls and processes."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TEXTS, TinyFolder

from minilm import InputError, SentenceEncoder, TextTypeError, TruncationError, TruncationWarning, multi_process
from minilm.tolerances import PACKED_FLOAT32

pytestmark = pytest.mark.filterwarnings("ignore::minilm.TruncationWarning")

MANY = [f"{text} {i}" for i in range(20) for text in TEXTS]


@pytest.fixture(scope="module")
def tiny(tiny_folder: TinyFolder) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")


@pytest.fixture(scope="module")
def pool(tiny: SentenceEncoder) -> Iterator[Any]:
    with tiny.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield pool


@pytest.mark.parametrize("layout", ["packed", "padded"])
@pytest.mark.parametrize("chunk_size", [None, 1, 7, 10_000])
def test_the_same_vectors_in_the_same_order(
    tiny: SentenceEncoder, pool: Any, layout: Any, chunk_size: int | None
) -> None:
    found = tiny.encode(MANY, pool=pool, chunk_size=chunk_size, layout=layout)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, tiny.encode(MANY, layout=layout), atol=PACKED_FLOAT32, rtol=0)


def test_every_kind_of_result(tiny: SentenceEncoder, pool: Any) -> None:
    assert tiny.encode([], pool=pool).shape == (0, 24)
    assert tiny.encode("one text", pool=pool).shape == (24,)
    assert tiny.encode((t for t in TEXTS), pool=pool).shape == (len(TEXTS), 24)
    assert tiny.encode(TEXTS, pool=pool, truncate_dim=5, normalize_embeddings=True).shape == (len(TEXTS), 5)
    assert tiny.encode(TEXTS, pool=pool, convert_to_tensor=True).device == tiny.device
    for precision in ("int8", "binary", "ubinary"):
        one, several = (tiny.encode(MANY, precision=precision, **o) for o in ({}, {"pool": pool}))
        assert one.dtype == several.dtype
        assert one.shape == several.shape
    tokens = tiny.encode(TEXTS, pool=pool, output_value="token_embeddings")
    for a, b in zip(tokens, tiny.encode(TEXTS, output_value="token_embeddings"), strict=True):
        torch.testing.assert_close(a, b, atol=10 * PACKED_FLOAT32, rtol=0)
    everything = tiny.encode(TEXTS, pool=pool, output_value=None)
    assert [d["input_ids"].tolist() for d in everything] == tiny.tokenizer(TEXTS).ids
    prompted = tiny.encode(TEXTS, pool=pool, prompt="two ")
    np.testing.assert_allclose(prompted, tiny.encode(TEXTS, prompt="two "), atol=PACKED_FLOAT32, rtol=0)


def test_more_chunks_than_files_that_may_be_open(tiny: SentenceEncoder, pool: Any) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 40, limits[1]))
    try:
        assert tiny.encode(MANY, pool=pool, chunk_size=1).shape == (len(MANY), 24)
        assert len(tiny.encode(MANY, pool=pool, chunk_size=2, output_value="token_embeddings")) == len(MANY)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_texts_over_the_limit_are_reported_by_their_place(tiny: SentenceEncoder, pool: Any) -> None:
    texts = ["short"] * 5 + ["a " * 50] + ["short"] * 5 + ["a " * 40]
    with pytest.warns(TruncationWarning, match="2 of 12 texts") as caught:
        tiny.encode(texts, pool=pool, chunk_size=2)
    (message,) = [w.message for w in caught if isinstance(w.message, TruncationWarning)]
    assert message.tokens_lost == {5: 20, 11: 10}
    with pytest.raises(TruncationError) as error:
        tiny.encode(texts, pool=pool, chunk_size=2, truncation="error")
    assert error.value.tokens_lost == {5: 20, 11: 10}
    assert tiny.encode(texts, pool=pool).shape == (12, 24)  # the pool goes on


def test_what_an_interrupted_call_left_behind_is_not_taken_for_the_next_one_s(
    tiny: SentenceEncoder, pool: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(multi_process, "_next_result", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tiny.encode(["nothing at all"] * len(MANY), pool=pool, chunk_size=3)
    time.sleep(0.3)  # the processes are done with it, and its results wait in the queue
    found = tiny.encode(MANY, pool=pool, chunk_size=3)
    np.testing.assert_allclose(found, tiny.encode(MANY), atol=PACKED_FLOAT32, rtol=0)


def test_threads_may_share_a_pool(tiny: SentenceEncoder, pool: Any) -> None:
    parts = [MANY[i::4] for i in range(4)]
    found: dict[int, Any] = {}

    def encode(i: int) -> None:
        found[i] = tiny.encode(parts[i], pool=pool, chunk_size=2)

    threads = [threading.Thread(target=encode, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, part in enumerate(parts):
        np.testing.assert_allclose(found[i], tiny.encode(part), atol=PACKED_FLOAT32, rtol=0)


def test_arguments_that_cannot_be_used(tiny: SentenceEncoder, pool: Any) -> None:
    with pytest.raises(InputError, match="chunk_size is 0"):
        tiny.encode(TEXTS, pool=pool, chunk_size=0)
    with pytest.raises(InputError, match="no device"):
        tiny.start_multi_process_pool([])
    with pytest.raises(TextTypeError, match="text 1 is"):
        tiny.encode(["a", None], pool=pool)


def running(pids: list[int]) -> list[int]:
    return [
        pid
        for pid in pids
        if Path(f"/proc/{pid}").exists() and "(zombie)" not in Path(f"/proc/{pid}/status").read_text()
    ]


def test_a_pool_of_one_call_ends_with_it_and_a_dead_process_is_an_error(tiny: SentenceEncoder) -> None:
    import multiprocessing

    before = set(multiprocessing.active_children())
    found = tiny.encode(MANY, device=["cpu"])
    np.testing.assert_allclose(found, tiny.encode(MANY), atol=PACKED_FLOAT32, rtol=0)
    assert set(multiprocessing.active_children()) == before

    pool = tiny.start_multi_process_pool(["cpu"])
    pids = [process.pid for process in pool.processes]
    os.kill(pids[0], signal.SIGKILL)
    with pytest.raises(RuntimeError, match=r"1 of 1 encoding processes died \(process \d+ with exit code -9\)"):
        tiny.encode(MANY, pool=pool)
    tiny.stop_multi_process_pool(pool)
    assert not running(pids)


def test_a_pool_that_cannot_encode_says_why(tiny: SentenceEncoder, tiny_folder: TinyFolder) -> None:
    with tiny.start_multi_process_pool(["cpu"]) as pool:
        other = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
        np.testing.assert_allclose(other.encode(TEXTS, pool=pool), tiny.encode(TEXTS), atol=PACKED_FLOAT32, rtol=0)
        with torch.no_grad():
            other.encoder.layers[0].attention.query.weight.add_(1)
        with pytest.raises(InputError, match="other weights"):
            other.encode(TEXTS, pool=pool)
        found: list[BaseException] = []

        def encode() -> None:
            try:
                while True:
                    tiny.encode(MANY, pool=pool, chunk_size=1)
            except BaseException as error:
                found.append(error)

        threads = [threading.Thread(target=encode, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        pool.stop()
        for thread in threads:
            thread.join(60)
        assert [type(error) for error in found] == [InputError] * 3, found
        with pytest.raises(InputError, match="has been stopped"):
            tiny.encode(TEXTS, pool=pool)
        with pytest.raises(InputError, match="has been stopped"):
            list(tiny.encode_stream(TEXTS, pool=pool))
        tiny.stop_multi_process_pool(pool)


FORKED = """
import multiprocessing, sys, warnings
import torch
from minilm import MinilmError, SentenceEncoder

torch.set_num_threads(2)
TEXTS = [f"two dogs about nothing {i}" for i in range(64)]


def child(queue, model, pool):
    try:
        first = model.encode(TEXTS), model.trace(TEXTS).sentence_embedding.tolist()
        model(model.tokenize(TEXTS)).sentence_embedding.sum().backward()
        refused = ""
        if pool is not None:
            try:
                model.encode(TEXTS, pool=pool)
            except MinilmError as error:
                refused = str(error)
        queue.put((first[0].shape, refused, torch.get_num_threads()))
    except BaseException as error:
        queue.put(repr(error))


def fork(model, pool=None):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue, model, pool))
    process.start()
    try:
        print(queue.get(timeout=60), flush=True)
    except BaseException as error:
        print("no answer", repr(error), flush=True)
    process.kill()


if __name__ == "__main__":
    model = SentenceEncoder.from_pretrained(sys.argv[1], device="cpu")
    fork(model)
    torch.ones(1000, 1000) @ torch.ones(1000, 1000)
    model.encode(TEXTS)
    model(model.tokenize(TEXTS)).sentence_embedding.sum().backward()
    with model.start_multi_process_pool(["cpu"]) as pool:
        fork(model, pool)
"""

LOADED = """
import os, sys
import torch
from minilm import SentenceEncoder

torch.set_num_threads(4)
before = len(os.listdir("/proc/self/task"))
for dtype in (None, torch.float16, torch.bfloat16, torch.float64):
    SentenceEncoder.from_pretrained(sys.argv[1], device="cpu", dtype=dtype)
print(len(os.listdir("/proc/self/task")) - before)
"""

KILLED = """
import sys, time
from minilm import SentenceEncoder
if __name__ == "__main__":
    model = SentenceEncoder.from_pretrained(sys.argv[1], device="cpu")
    pool = model.start_multi_process_pool(["cpu"])
    model.encode(["a"], pool=pool)
    print(pool.processes[0].pid, flush=True)
    time.sleep(60)
"""

UNGUARDED = """
import sys
from minilm import SentenceEncoder
model = SentenceEncoder.from_pretrained(sys.argv[1], device="cpu")
model.encode(["a", "b"], device=["cpu"])
"""


def script(tmp_path: Path, text: str, folder: Path) -> subprocess.Popen[str]:
    (tmp_path / "script.py").write_text(text)
    root = str(Path(multi_process.__file__).parents[1])
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    command = [sys.executable, str(tmp_path / "script.py"), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


@pytest.mark.parametrize("parallelism", [None, "true"])
def test_a_forked_child_encodes_whatever_its_parent_did(
    tiny_folder: TinyFolder, tmp_path: Path, parallelism: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if parallelism:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", parallelism)
    with script(tmp_path, FORKED, tiny_folder()) as process:
        said, errors = process.communicate(timeout=300)
    refused = "'the pool was started by another process; start one here, or encode without a pool'"
    assert said.splitlines() == ["((64, 24), '', 1)", f"((64, 24), {refused}, 1)"], errors


def test_loading_starts_no_thread(weights: Path, tmp_path: Path) -> None:
    with script(tmp_path, LOADED, weights) as process:
        said, errors = process.communicate(timeout=300)
    assert said == "0\n", errors


def test_processes_end_when_their_parent_is_killed(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    with script(tmp_path, KILLED, tiny_folder()) as parent:
        assert parent.stdout
        child = int(parent.stdout.readline())
        assert running([child])
        parent.kill()
        parent.wait()
        for _ in range(200):
            if not running([child]):
                return
            time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the process outlived its parent")


def test_a_script_without_a_guard_is_told_so(tiny_folder: TinyFolder, tmp_path: Path) -> None:
    with script(tmp_path, UNGUARDED, tiny_folder()) as process:
        _, said = process.communicate()
    assert process.returncode == 1
    assert "encoding processes died" in said
    assert "outside `if __name__ == '__main__':`" in said
