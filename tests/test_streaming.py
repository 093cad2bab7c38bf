"""Any number of texts in constant memory, into files that survive whatever ends the process."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from conftest import TEXTS, TinyFolder
from encoding_child import TEXTS_AT_A_TIME, numbered

from minilm import InputError, SentenceEncoder, TextTypeError, TruncationError, TruncationWarning, streaming
from minilm.tolerances import PACKED_FLOAT32

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore::minilm.TruncationWarning")]

TESTS = Path(__file__).parent
MANY = [f"{text} {i}" for i in range(20) for text in TEXTS]
LONG = "a " * 50  # 20 tokens over the tiny model's limit


@pytest.fixture(scope="module")
def folder(tiny_folder: TinyFolder) -> Path:
    return tiny_folder()


@pytest.fixture(scope="module")
def tiny(folder: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(folder, device="cpu")


@pytest.fixture
def encoded(tiny: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """All texts that the model is given to encode."""
    given: list[str] = []
    encode_texts = tiny.encode_texts

    def spy(texts: list[str], **options: Any) -> Any:
        given.extend(texts)
        return encode_texts(texts, **options)

    monkeypatch.setattr(tiny, "encode_texts", spy)
    return given


def failing_after(texts: list[str], count: int, error: BaseException) -> Iterator[str]:
    yield from texts[:count]
    raise error


def interrupted(tiny: SentenceEncoder, output: Path, count: int = 60, **options: Any) -> None:
    """A run of MANY, 16 at a time, that ends before its texts do."""
    with pytest.raises(KeyboardInterrupt):
        tiny.encode(failing_after(MANY, count, KeyboardInterrupt()), output=output, **{"chunk_size": 16, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"layout": "padded", "batch_size": 5},
        {"precision": "binary"},
        {"precision": "ubinary", "truncate_dim": 16},
        {"truncate_dim": 7, "normalize_embeddings": True},
        {"prompt": "two "},
    ],
    ids=lambda options: " ".join(options) or "default",
)
def test_every_way_out_has_the_vectors_of_encode(
    options: dict[str, Any], tiny: SentenceEncoder, tmp_path: Path
) -> None:
    size = 25
    expected = np.concatenate([tiny.encode(MANY[i : i + size], **options) for i in range(0, len(MANY), size)])
    if expected.dtype == np.float32:
        np.testing.assert_allclose(expected, tiny.encode(MANY, **options), atol=PACKED_FLOAT32, rtol=0)
    options["chunk_size"] = size

    parts = list(tiny.encode_stream(iter(MANY), **options))
    assert [start for start, _ in parts] == list(range(0, len(MANY), size))
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors in parts]), expected)

    called: list[Any] = []
    assert tiny.encode(iter(MANY), output=lambda *part: called.append(part), **options) is None
    assert [start for start, _ in called] == [start for start, _ in parts]
    np.testing.assert_array_equal(np.concatenate([vectors for _, vectors in called]), expected)

    mapped = tiny.encode(iter(MANY), output=str(tmp_path / "out.npy"), **options)
    assert isinstance(mapped, np.memmap) and not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, expected)
    assert mapped.dtype == expected.dtype
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    mapped = tiny.encode(iter(MANY), output=tmp_path / "out.safetensors", **options)
    np.testing.assert_array_equal(mapped, expected)
    found = safetensors.numpy.load_file(tmp_path / "out.safetensors")["embeddings"]
    np.testing.assert_array_equal(found, expected)
    assert tiny.encode(iter(MANY), output=tmp_path / "out.jsonl", **options) is None
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["text"] for record in records] == MANY
    np.testing.assert_array_equal(np.array([r["embedding"] for r in records], expected.dtype), expected)
    assert sorted(os.listdir(tmp_path)) == ["out.jsonl", "out.npy", "out.safetensors"]


def test_no_texts(tiny: SentenceEncoder, tmp_path: Path) -> None:
    assert list(tiny.encode_stream(iter(()))) == []
    for name in ("out.npy", "out.safetensors"):
        assert tiny.encode(iter(()), output=tmp_path / name).shape == (0, 24)
    assert np.load(tmp_path / "out.npy").shape == (0, 24)
    tiny.encode(iter(()), output=tmp_path / "out.jsonl")
    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert len(os.listdir(tmp_path)) == 3


def test_texts_are_read_as_they_are_needed(tiny: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in MANY:
            read += 1
            yield text

    for number, _ in enumerate(tiny.encode_stream(texts(), chunk_size=10), start=1):
        assert read == 10 * number
    monkeypatch.setattr(streaming, "MOST_CHARACTERS", 1000)
    sizes = [len(vectors) for _, vectors in tiny.encode_stream(["a" * 400, "b" * 400, "c" * 400, "d", "e" * 5000, "f"])]
    assert sizes == [3, 2, 1]  # a chunk ends when it has enough characters, however few its texts


MEMORY = """
import sys
import torch
from tiny_models import tiny_model
torch.set_num_threads(1)
model, sizes = tiny_model(), []
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM:"))
for count in (20_000, 120_000):
    model.encode((f"cat {i}" for i in range(count)), output=sys.argv[1], chunk_size=2000)
    sizes.append(peak())
print(sizes[1] - sizes[0])
"""


def test_memory_does_not_grow_with_the_number_of_texts(tmp_path: Path) -> None:
    """100,000 texts more; as vectors and strings they would be 10 MB."""
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "out.npy")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(TESTS)})
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "out.npy").shape == (120_000, 8)
    assert int(done.stdout) < 3000, f"{done.stdout} KiB more"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int8"}, "int8 needs the range of all vectors"),
        ({"precision": "uint8"}, "uint8 needs the range of all vectors"),
        ({"output_value": "token_embeddings"}, "only sentence embeddings"),
        ({"output_value": None}, "only sentence embeddings"),
        ({"chunk_size": 0}, "chunk_size is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"layout": "square"}, "layout is 'square'"),
        ({"truncation": "maybe"}, "truncation is 'maybe'"),
        ({"prompt_name": "nowhere"}, "no prompt named 'nowhere'"),
    ],
)
def test_options_that_cannot_stream_are_refused_at_once(
    options: dict[str, Any], message: str, tiny: SentenceEncoder, tmp_path: Path
) -> None:
    for output in (tmp_path / "out.npy", print):
        with pytest.raises(InputError, match=message):
            tiny.encode(MANY, output=output, **options)
    with pytest.raises(InputError, match=message):
        tiny.encode_stream(MANY, **options)
    assert not os.listdir(tmp_path)


def test_outputs_and_texts_that_cannot_be_used(tiny: SentenceEncoder, tmp_path: Path) -> None:
    for output, message in [
        (tmp_path / "out.pkl", "ends in .pkl, expected .npy"),
        (tmp_path / "out", "ends in nothing"),
        (3, "output is int"),
    ]:
        with pytest.raises(InputError, match=message):
            tiny.encode(MANY, output=output)
    (tmp_path / "folder.npy").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        tiny.encode(MANY, output=tmp_path / "folder.npy")
    with pytest.raises(FileNotFoundError, match=r"cannot write .*no/out.npy: No such file .*nothing was changed"):
        tiny.encode(MANY, output=tmp_path / "no" / "out.npy")
    with pytest.raises(TextTypeError, match="found str in place of texts"):
        tiny.encode("one text", output=tmp_path / "out.npy")
    with pytest.raises(TextTypeError, match="found str in place of texts"):
        tiny.encode_stream("one text")
    with pytest.raises(InputError, match="call encode with output"):
        tiny.encode_stream(MANY, output=tmp_path / "out.npy")
    with pytest.raises(InputError, match="convert_to_numpy"):
        tiny.encode(MANY, output=tmp_path / "out.npy", convert_to_tensor=True)
    with pytest.raises(TypeError, match="lenght"):
        tiny.encode_stream(MANY, lenght=3)
    assert os.listdir(tmp_path) == ["folder.npy"]


def test_texts_are_named_by_their_place_in_the_stream(tiny: SentenceEncoder, tmp_path: Path) -> None:
    texts: list[Any] = [*["short"] * 12, LONG, "short", LONG, None]
    with pytest.raises(TextTypeError, match="text 15 is NoneType"):
        tiny.encode(texts, output=tmp_path / "out.npy", chunk_size=5)
    with pytest.raises(TruncationError, match=r"text 12 by 20, text 14 by 20\).* split them") as error:
        tiny.encode(texts[:15], output=tmp_path / "out.npy", chunk_size=5, truncation="error", resume=False)
    assert error.value.tokens_lost == {12: 20, 14: 20}
    found: dict[int, int] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in tiny.encode_stream(texts[:15], chunk_size=5, truncation="silent"):
            pass
        tiny.encode(texts[:15], output=tmp_path / "again.npy", chunk_size=13, truncation=found.update)
    assert found == {12: 20, 14: 20}


def test_what_was_cut_is_said_once_for_all_runs_together(
    tiny: SentenceEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [LONG if i % 10 == 3 else "short" for i in range(40)]
    with pytest.warns(TruncationWarning, match=r"4 of 40 texts .*text 3 by 20, text 13 by 20") as caught:
        list(tiny.encode_stream(texts, chunk_size=7))
    assert len(caught) == 1 and caught[0].filename == __file__
    output = tmp_path / "out.npy"
    with pytest.raises(KeyboardInterrupt):
        tiny.encode(failing_after(texts, 30, KeyboardInterrupt()), output=output, chunk_size=7)
    monkeypatch.setattr(streaming, "TEXTS_NAMED", 3)
    with pytest.warns(TruncationWarning, match=r"4 of 40 texts .*text 3 by 20, text 13 by 20") as caught:
        tiny.encode(texts, output=output, chunk_size=7)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert list(caught[0].message.tokens_lost) == [3, 13, 23]  # the rest is only counted


# ---- killed, interrupted, starved --------------------------------------------------------------------


def test_killed_at_every_moment_it_ends_with_the_same_bits_and_does_nothing_twice(
    tiny: SentenceEncoder, folder: Path, encoded: list[str], tmp_path: Path
) -> None:
    total = 60
    expected = tiny.encode(numbered(total), output=tmp_path / "whole.npy", chunk_size=TEXTS_AT_A_TIME)
    os.mkdir(tmp_path / "runs")
    command = [sys.executable, TESTS / "encoding_child.py", folder, tmp_path / "runs", str(total)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(TESTS.parent)})
    assert done.returncode == 0, done.stderr
    runs = sorted((tmp_path / "runs").iterdir(), key=lambda path: int(path.name))
    assert len(runs) > 30
    seen = set()
    for run in runs:
        journal = run / "out.npy.part.json"
        rows = json.loads(journal.read_text())["rows"] if journal.exists() else 0
        whole = (run / "out.npy").exists()
        if whole:
            np.testing.assert_array_equal(np.load(run / "out.npy"), expected)
        seen.add((rows, whole))
        encoded.clear()
        found = tiny.encode(numbered(total), output=run / "out.npy", chunk_size=TEXTS_AT_A_TIME)
        np.testing.assert_array_equal(found, expected)
        assert len(encoded) == (total if whole else total - rows)  # what is finished begins anew
        assert os.listdir(run) == ["out.npy"]
    assert {(0, False), (16, False), (32, False), (48, False), (60, False), (0, True)} <= seen


def test_the_command_killed_from_outside_goes_on_and_says_so(
    tiny: SentenceEncoder, folder: Path, tmp_path: Path
) -> None:
    texts = list(numbered(30_000))
    (tmp_path / "texts.txt").write_text("\n".join(texts) + "\n")
    arguments = [
        "encode",
        tmp_path / "texts.txt",
        "--output",
        tmp_path / "out.npy",
        "--model",
        folder,
        "--device",
        "cpu",
    ]
    command = [sys.executable, "-m", "minilm", *map(str, arguments)]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=env) as process:
        while not (tmp_path / "out.npy.part.json").exists():
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    with open(tmp_path / "out.npy.part", "ab") as file:
        file.write(b"part of a row")
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0
    assert "going on after the 8,192 texts" in done.stderr or "going on after the 16,384 texts" in done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), tiny.encode(texts, output=tmp_path / "whole.npy"))
    assert sorted(os.listdir(tmp_path)) == ["out.npy", "texts.txt", "whole.npy"]


@pytest.mark.parametrize("ending", [".npy", ".safetensors", ".jsonl"])
@pytest.mark.parametrize("layout", ["packed", "padded"])
def test_interrupted_it_goes_on(
    ending: str, layout: Any, tiny: SentenceEncoder, encoded: list[str], tmp_path: Path
) -> None:
    output, whole = tmp_path / f"out{ending}", tmp_path / f"whole{ending}"
    tiny.encode(MANY, output=whole, chunk_size=16, layout=layout)
    output.write_bytes(b"older")
    for count in (20, 20, 90):
        interrupted(tiny, output, count, layout=layout)
        assert output.read_bytes() == b"older"
    encoded.clear()
    tiny.encode(iter(MANY), output=output, chunk_size=16, layout=layout)
    assert encoded == MANY[80:]
    assert output.read_bytes() == whole.read_bytes()
    assert len(os.listdir(tmp_path)) == 2


def test_an_error_in_the_first_chunk_leaves_nothing(tiny: SentenceEncoder, tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        tiny.encode(failing_after(MANY, 3, ZeroDivisionError()), output=tmp_path / "out.npy")
    assert not os.listdir(tmp_path)


def test_another_run_is_not_gone_on_with(tiny: SentenceEncoder, tiny_folder: TinyFolder, tmp_path: Path) -> None:
    output = tmp_path / "out.npy"
    interrupted(tiny, output)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = SentenceEncoder.from_pretrained(tiny_folder(layer_norm_eps=1e-3), device="cpu")
    other_weights = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    with torch.no_grad():
        other_weights.encoder.embeddings.word.weight[3, 3] += 1e-3
    shorter = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu")
    shorter.max_seq_length = 20
    attempts: list[tuple[Any, list[str], dict[str, Any], str]] = [
        (other, MANY, {}, r"48 rows of another run: config was '\w+', is '\w+'\. To go on"),
        (other_weights, MANY, {}, "another run: weights was"),
        (shorter, MANY, {}, "max_seq_length was 32, is 20"),
        (tiny, MANY, {"chunk_size": 8}, "chunk_size was 16, is 8"),
        (tiny, MANY, {"prompt": "two "}, "prompt was '', is 'two '"),
        (tiny, MANY, {"precision": "binary"}, "precision was 'float32', is 'binary'; dimension was 24, is 3"),
        (tiny, MANY, {"normalize_embeddings": True, "layout": "padded"}, "normalize_embeddings was False, is True; la"),
        (tiny, [*MANY[:47], "else"], {}, "48 rows of other texts: their contents differ"),
        (tiny, MANY[1:], {}, "other texts: their contents differ"),
        (tiny, MANY[:40], {}, "of those here, 40 take their place"),
    ]
    for model, texts, options, message in attempts:
        with pytest.raises(InputError, match=message) as error:
            model.encode(texts, output=output, **{"chunk_size": 16, **options})
        assert "pass resume=False (--no-resume) or delete" in str(error.value)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    options = {"batch_size": 32, "prompt": "", "truncate_dim": None, "truncation": "silent", "chunk_size": 16}
    assert len(tiny.encode(MANY, output=output, **options)) == len(MANY)  # the same, said in full
    interrupted(tiny, output)
    np.testing.assert_array_equal(
        shorter.encode(MANY[5:], output=output, chunk_size=16, resume=False),
        np.concatenate([shorter.encode(MANY[5:][i : i + 16]) for i in range(0, 115, 16)]),
    )
    assert os.listdir(tmp_path) == ["out.npy"]


@pytest.mark.parametrize(
    "break_it",
    [
        lambda journal, part: journal.write_text("{"),
        lambda journal, part: journal.write_text("[]"),
        lambda journal, part: journal.write_text("{}"),
        lambda journal, part: journal.write_text(journal.read_text().replace('"rows": 48', '"rows": "48"')),
        lambda journal, part: journal.write_text(journal.read_text().replace('"format": 1', '"format": 99')),
        lambda journal, part: os.truncate(part, 500),
    ],
)
def test_a_broken_journal_is_said_to_be(
    break_it: Callable[[Path, Path], object], tiny: SentenceEncoder, tmp_path: Path
) -> None:
    output, journal, part = (tmp_path / f"out.npy{ending}" for ending in ("", ".part.json", ".part"))
    interrupted(tiny, output)
    break_it(journal, part)
    with pytest.raises(InputError, match=r"cannot be gone on with.* resume=False"):
        tiny.encode(MANY, output=output, chunk_size=16)
    part.unlink()  # as the message says
    assert len(tiny.encode(MANY, output=output, chunk_size=16)) == len(MANY)


def test_two_runs_into_one_file(tiny: SentenceEncoder, tmp_path: Path) -> None:
    output = tmp_path / "out.npy"

    def texts() -> Iterator[str]:
        yield from MANY[:60]
        for resume in (True, False):
            with pytest.raises(InputError, match="is being written by another process or thread"):
                tiny.encode(MANY, output=output, chunk_size=16, resume=resume)
        yield from MANY[60:]

    found = tiny.encode(texts(), output=output, chunk_size=16)
    np.testing.assert_array_equal(found, tiny.encode(MANY, output=tmp_path / "whole.npy", chunk_size=16))


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file may grow beyond this, which the system says as it does when a disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_full_disk(tiny: SentenceEncoder, encoded: list[str], tmp_path: Path) -> None:
    output = tmp_path / "out.npy"
    expected = tiny.encode(MANY, output=tmp_path / "whole.npy", chunk_size=16)
    with largest_file(500), pytest.raises(OSError, match=r"cannot write .*out.npy: .*; nothing was changed"):
        tiny.encode(MANY, output=output, chunk_size=16)
    assert os.listdir(tmp_path) == ["whole.npy"]
    with largest_file(5000), pytest.raises(OSError, match=r"cannot write .*: .*; 48 rows are kept"):
        tiny.encode(MANY, output=output, chunk_size=16)
    encoded.clear()
    np.testing.assert_array_equal(tiny.encode(MANY, output=output, chunk_size=16), expected)
    assert encoded == MANY[48:]


def test_a_folder_that_may_only_be_read(tiny: SentenceEncoder, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    for path in (*shared.parents[:3], shared):
        path.chmod(0o555 if path == shared else 0o755)
    if root := os.geteuid() == 0:
        os.seteuid(65534)
    try:
        with pytest.raises(PermissionError, match=r"cannot write .*shared/out.npy: Permission denied; nothing was"):
            tiny.encode(MANY, output=shared / "out.npy")
    finally:
        if root:
            os.seteuid(0)
    assert not os.listdir(shared)


# ---- several processes -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tiny: SentenceEncoder) -> Iterator[Any]:
    with tiny.start_multi_process_pool(["cpu", "cpu"]) as pool:
        yield pool


def test_a_pool_streams_the_same_bits_in_order(tiny: SentenceEncoder, pool: Any, tmp_path: Path) -> None:
    with pytest.warns(TruncationWarning, match=r"20 of 120 texts .*text 4 by 55, text 10 by 55"):
        found = tiny.encode(MANY, output=tmp_path / "out.npy", chunk_size=4, pool=pool, precision="ubinary")
    expected = [tiny.encode(MANY[i : i + 4], precision="ubinary") for i in range(0, len(MANY), 4)]
    np.testing.assert_array_equal(found, np.concatenate(expected))
    with pytest.raises(TruncationError) as error:
        tiny.encode(MANY, output=tmp_path / "out.npy", chunk_size=4, pool=pool, truncation="error")
    assert error.value.tokens_lost == {4: 55}
    interrupted(tiny, tmp_path / "again.npy", 100)
    assert (tmp_path / "again.npy.part").exists()
    found = tiny.encode(MANY, output=tmp_path / "again.npy", chunk_size=16, pool=pool)  # begun without one
    np.testing.assert_array_equal(found, tiny.encode(MANY, output=tmp_path / "whole.npy", chunk_size=16))


def test_a_pool_reads_only_so_far_ahead_and_serves_others_meanwhile(tiny: SentenceEncoder, pool: Any) -> None:
    read = 0

    def texts() -> Iterator[str]:
        nonlocal read
        for text in MANY * 5:
            read += 1
            yield text

    for number, (start, vectors) in enumerate(tiny.encode_stream(texts(), chunk_size=10, pool=pool)):
        assert start == 10 * number and vectors.shape == (10, 24)
        assert read <= 10 * (number + 4)
        if number % 10 == 0:
            assert tiny.encode(MANY[:9], pool=pool, chunk_size=2).shape == (9, 24)
    stream = tiny.encode_stream(texts(), chunk_size=10, pool=pool)
    next(stream)
    stream.close()  # what is under way is waited for, and the pool goes on
    assert tiny.encode(MANY[:9], pool=pool).shape == (9, 24)


def test_devices_start_a_pool_of_their_own(tiny: SentenceEncoder, tmp_path: Path) -> None:
    import multiprocessing

    before = multiprocessing.active_children()
    found = tiny.encode(iter(MANY), output=tmp_path / "out.npy", device=["cpu"], chunk_size=50)
    np.testing.assert_allclose(found, tiny.encode(MANY), atol=PACKED_FLOAT32, rtol=0)
    assert multiprocessing.active_children() == before
