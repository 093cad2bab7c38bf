"""Hostile input on the command line: one clean line, a status, and no traceback."""

import contextlib
import io
import json
import os
import pty
import random
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from minilm import InputError, SentenceEncoder
from minilm.checkpoint import atomic_path
from minilm.cli import COMMANDS, main
from minilm.internals import integrated_gradients
from minilm.plain_json import parse_json, to_json
from minilm.terminal import clean, clean_lines, is_terminal

EVIL = "\x1b]0;owned\x07\x1b[31m\x9b31m\u202e\u2066\x7f\u2028"
CASES = {
    "encode": ["texts.txt", "-o", "out.npy", "--model", "tiny"],
    "similarity": ["cat", "dog", "--model", "tiny"],
    "search": ["cat", "texts.txt", "--model", "tiny"],
    "train": ["pairs.csv", "--output", "out", "--model", "tiny"],
    "evaluate": ["tiny", "--triplets", "triplets.csv"],
    "compare": ["tiny", "tiny", "--texts", "texts.txt"],
    "explain": ["cat", "dog", "--model", "tiny"],
    "reproduce": ["tiny", "--data", "pairs.csv"],
    "inspect": ["tiny"],
    "verify": ["tiny"],
    "push": ["tiny", "user/name"],
}
NUMBERS = ["nan", "inf", "-1e999", "", "x", "9" * 30, "9" * 5000, EVIL, "x\ny"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tiny_model().save_pretrained("tiny")
    Path("texts.txt").write_text(f"cat {EVIL}x\ndog\n\nsun\n", encoding="utf-8")
    Path("pairs.csv").write_text("anchor,positive\ncat,dog\nsun,moon\n")
    Path("triplets.csv").write_text("anchor,positive,negative\ncat,dog,sun\n")
    return tmp_path


def run(arguments: list[str]) -> tuple[int, str, str]:
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(2))
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = main(arguments)
        except SystemExit as exit:
            status = int(exit.code or 0)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return status, *texts


def is_clean(text: str) -> bool:
    return all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in text)


def refused(arguments: list[str]) -> str:
    status, out, err = run(arguments)
    assert status == 2, (arguments, out, err)
    *notes, error, end = err.split("\n")  # notes say which tables were read
    assert error.startswith("minilm") and end == "", (arguments, err)
    assert len(notes) <= 1 and all(" rows; columns " in note for note in notes), (arguments, err)
    assert is_clean(out + err), (arguments, err)
    return err


@pytest.mark.parametrize("command", COMMANDS)
def test_hostile_arguments_of_every_command(command: str, folder: Path) -> None:
    arguments = [command, *CASES[command]]
    for evil in (f"no/{EVIL}\nsuch", "a\0b", "\ud800", "\udcff"):
        if command in ("similarity", "explain"):  # all may be texts, but not a third one
            refused([*arguments, evil])
        else:
            place = 2 if command == "search" else 1
            refused([*arguments[:place], evil, *arguments[place + 1 :]])
    refused([*arguments, f"--{EVIL}"])
    options = ["--device=banana", "--device=meta", "--device=", f"--device={EVIL}", "--device=cuda:99"]
    for option in options if command not in ("inspect", "verify", "push") else ():
        if command != "reproduce":  # there the receipt comes first
            assert "device is" in refused([*arguments, option])
    numbers = {
        "encode": ["--batch-size", "--truncate-dim"],
        "search": ["--top-k"],
        "train": ["--max_steps", "--seed"],
        "evaluate": ["--resamples"],
        "compare": ["--top", "--neighbours"],
        "explain": ["--steps", "--token"],
        "verify": ["--compositions"],
        "reproduce": ["--threads"],
    }
    for option in numbers.get(command, []):
        for value in random.Random(command + option).sample(NUMBERS, 4):
            refused([*arguments, f"{option}={value}"])


def test_texts_and_names_cannot_steer_the_terminal(folder: Path) -> None:
    for arguments in (["search", *CASES["search"]], ["explain", EVIL, "--model", "tiny"], ["inspect", "tiny"]):
        status, out, err = run(arguments)
        assert (status, is_clean(out + err)) == (0, True)
    _, out, _ = run(["search", *CASES["search"]])
    assert "\\u001b]0;owned\\u0007" in out
    # as data, the text is exact
    records = map(json.loads, run(["search", *CASES["search"], "--json"])[1].split("\n")[:-1])
    assert f"cat {EVIL}x dog" in [record["text"] for record in records]
    records = [
        json.loads(line) for line in run(["encode", "texts.txt", "-o", "-", "--model", "tiny"])[1].split("\n")[:-1]
    ]
    assert records[0]["text"] == f"cat {EVIL}x"


@given(st.text())
def test_clean_text_is_one_line_of_visible_characters(text: str) -> None:
    shown = clean(text)
    assert "\n" not in shown
    assert is_clean(shown.replace("\u200c", "").replace("\u200d", ""))
    assert clean(shown) == shown
    for line in clean_lines(f"minilm: {text}").split("\n")[1:]:
        assert line.startswith("  ")  # it cannot look like a message of its own


@given(
    st.recursive(st.floats() | st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner))
)
def test_json_that_is_written_is_json(value: object) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(name)

    for options in ({}, {"ensure_ascii": False}):
        json.loads(to_json(value, null=True, **options), parse_constant=refuse)
    if "nan" in repr(value).lower() or "inf" in repr(value):
        with contextlib.suppress(InputError):
            json.loads(to_json(value), parse_constant=refuse)


@pytest.mark.parametrize("text", ["9" * 5000, "[" * 100_000, '{"a":' * 100_000, "{", b"\xff", ""], ids=range(6))
def test_json_that_cannot_be_read(text: str | bytes, folder: Path) -> None:
    with pytest.raises(ValueError, match=r".+"):
        parse_json(text)
    data = text if isinstance(text, bytes) else text.encode()
    for name in ("config.json", "modules.json", "sentence_bert_config.json"):
        (folder / "tiny" / name).write_bytes(data)
        refused(["similarity", "cat", "dog", "--model", "tiny"])
        tiny_model().save_pretrained("tiny")
    if data:
        Path("data.jsonl").write_bytes(data)
        refused(["encode", "data.jsonl", "--field", "a", "-o", "out.npy", "--model", "tiny"])
        refused(["evaluate", "tiny", "--triplets", "data.jsonl"])


@pytest.mark.parametrize(
    "arguments",
    [
        ["encode", "texts.txt", "-o", "x.jsonl"],
        ["similarity", "cat", "dog"],
        ["encode", "texts.txt", "-o", "x.npy", "--precision", "binary"],
        ["encode", "texts.txt", "-o", "-"],
        ["search", "cat", "texts.txt", "--json"],
    ],
)
def test_a_model_of_nan_is_refused(arguments: list[str], folder: Path) -> None:
    model = tiny_model()
    model.encoder.layers[0].attention.query.weight.data[0, 0] = torch.nan
    model.save_pretrained("nan")
    assert "NaN" in refused([*arguments, "--model", "nan"])
    assert not list(folder.glob("x.*"))
    if "binary" not in arguments:  # finite weights whose vectors are not
        model = tiny_model()
        model.encoder.layers[1].feed_forward_norm.weight.data[:] = 3e38
        model.save_pretrained("large")
        assert "NaN or infinite numbers" in refused([*arguments, "--model", "large"])


def test_not_enough_memory(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory: 1 byte"),
    ]
    for error in errors:

        def fail(*_: object, raised: Exception = error, **__: object) -> None:
            raise raised

        monkeypatch.setattr(SentenceEncoder, "encode", fail)
        assert "not enough memory" in refused(["similarity", "cat", "dog", "--model", "tiny"])
    monkeypatch.setattr(SentenceEncoder, "encode", lambda *_, **__: {}["a fault of ours"])
    with pytest.raises(KeyError):  # keeps its traceback
        run(["similarity", "cat", "dog", "--model", "tiny"])


def test_points_of_integrated_gradients_are_bounded() -> None:
    with pytest.raises(InputError, match="expected 1 to 1,000"):
        integrated_gradients(tiny_model(), "cat", "dog", steps=1_000_000)


def test_a_device_or_a_pipe_is_not_replaced_by_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="no plain file"), atomic_path(tmp_path / "pipe"):
        pass
    with pytest.raises(IsADirectoryError), atomic_path(""):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_warnings_are_one_line(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = (
        "import sys, warnings; from minilm.cli import main; import minilm.commands.inspect as c\n"
        "c.run = lambda args: (warnings.warn('two\\nlines \\x1b[31m'), 0)[1]\n"
        "sys.exit(main(['inspect']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "minilm inspect: two lines \\u001b[31m\n")


def test_without_a_standard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (None, closed, object()):
        assert not is_terminal(stream)
    monkeypatch.setattr(sys, "stderr", None)
    for show in (None, True):
        assert tiny_model().encode(["cat"], show_progress_bar=show).shape == (1, 8)


SHELL = [
    ("similarity cat dog --model tiny >&-", 2, "minilm similarity: standard output is closed\n"),
    ("similarity cat dog --model tiny >/dev/full", 2, "minilm similarity: No space left on device\n"),
    ("--help >/dev/full", 2, "minilm: No space left on device\n"),
    ("encode -o out.npy --model tiny <&-", 2, "minilm encode: standard input is closed; give a file\n"),
    ("encode texts.txt -o out.npy --model tiny >&- 2>&- <&-", 0, ""),
    ("inspect tiny | head -c 1 >/dev/null", 0, ""),
]


@pytest.mark.parametrize(("command", "status", "message"), SHELL, ids=[case[0] for case in SHELL])
def test_closed_and_full_streams(command: str, status: int, message: str, folder: Path) -> None:
    line = f"set -o pipefail; {sys.executable} -m minilm {command}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (status, message)


def test_an_encoding_that_lacks_characters(folder: Path) -> None:
    Path("texts.txt").write_text("cat 漢 €\n", encoding="utf-8")
    for encoding in ("ascii", "cp1252"):
        environment = {**os.environ, "PYTHONIOENCODING": encoding}
        for option in ([], ["--json"]):
            command = [sys.executable, "-m", "minilm", "search", "cat", "texts.txt", "--model", "tiny", *option]
            done = subprocess.run(command, capture_output=True, env=environment)
            assert (done.returncode, done.stderr) == (0, b"")
            if option:
                assert json.loads(done.stdout)["text"] == "cat 漢 €"


def test_ctrl_c_while_torch_is_imported(folder: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': os.kill(os.getpid(), signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "from minilm.cli import main\n"
        "sys.exit(main(['similarity', 'cat', 'dog', '--model', 'tiny']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "minilm similarity: interrupted\n")


@pytest.mark.parametrize("setting", ["HF_HUB_DISABLE_PROGRESS_BARS=1", "TQDM_DISABLE=1", "TQDM_MININTERVAL=0", "A=b"])
def test_progress_on_a_terminal(setting: str, folder: Path) -> None:
    code = (
        "import minilm.progress, minilm.streaming; minilm.progress.QUIET_SECONDS = 0; minilm.streaming.MOST_TEXTS = 2\n"
        "from minilm import SentenceEncoder\n"
        "model = SentenceEncoder.from_pretrained('tiny', device='cpu')\n"
        "for texts in (['cat'] * 5, []): model.encode(texts, output='out.npy', resume=False)"
    )
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": "0", **dict([setting.split("=")])}
    process = subprocess.run([sys.executable, "-c", code], stderr=theirs, env=environment)
    os.close(theirs)
    os.set_blocking(ours, False)
    with contextlib.suppress(OSError):
        assert b"Traceback" not in os.read(ours, 1 << 16)
    os.close(ours)
    assert process.returncode == 0
    assert np.load("out.npy").shape == (0, 8)
