"""The command line, used as a person would: files in, files and lines out, one plain line on errors."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch
from tiny_models import tiny_model

from minilm import SentenceEncoder
from minilm.cli import COMMANDS, main
from minilm.errors import NonFiniteWarning
from minilm.passages import read_passages
from minilm.tolerances import FOUR_DIGITS, PACKED_FLOAT32

TEXTS = ["The cat sat.", "", "A dog ran in the park — déjà vu.", "the last, without a newline"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS), encoding="utf-8")
    return file


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and abs(found - expected).max(initial=0) <= PACKED_FLOAT32


def test_encode_lines_in_every_format(model: SentenceEncoder, lines: Path, tmp_path: Path, capsys) -> None:
    expected = model.encode(TEXTS)
    for name in ("out.npy", "out.safetensors", "out.jsonl"):
        status, out, err = run(capsys, "encode", lines, "--output", tmp_path / name)
        assert (status, out) == (0, "")
        assert "4 × 384 float32" in err
    assert close(np.load(tmp_path / "out.npy"), expected)
    assert close(safetensors.numpy.load_file(tmp_path / "out.safetensors")["embeddings"], expected)
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["text"] for record in records] == TEXTS
    assert close(np.array([record["embedding"] for record in records], dtype=np.float32), expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.npy", "out.safetensors", "texts.txt"]


def test_encode_options(model: SentenceEncoder, lines: Path, tmp_path: Path, capsys) -> None:
    output = tmp_path / "out.npy"
    assert run(capsys, "encode", lines, "-o", output, "--layout", "padded")[0] == 0
    assert np.array_equal(np.load(output), model.encode(TEXTS, layout="padded"))
    options = ["--truncate-dim", 16, "--normalize-embeddings", "--prompt", "query: "]
    assert run(capsys, "encode", lines, "-o", output, *options)[0] == 0
    assert close(np.load(output), model.encode(TEXTS, prompt="query: ", truncate_dim=16, normalize_embeddings=True))
    assert run(capsys, "encode", lines, "-o", output, "--precision", "binary")[0] == 0
    assert np.array_equal(np.load(output), model.encode(TEXTS, precision="binary"))


def test_encode_fields_and_columns(model: SentenceEncoder, tmp_path: Path, capsys) -> None:
    awkward = ['comma, "quotes"', "two\nlines", "tab\there", ""]
    jsonl, table, tabs = tmp_path / "t.jsonl", tmp_path / "t.csv", tmp_path / "t.tsv"
    jsonl.write_text("\n\n".join(json.dumps({"id": 1, "text": text}) for text in awkward) + "\n")
    quoted = ['"' + text.replace('"', '""') + '"' for text in awkward]
    table.write_text("\ufeffid,text\r\n" + "".join(f"1,{text}\r\n" for text in quoted), encoding="utf-8")
    tabs.write_text("id\ttext\n" + "".join(f"1\t{text}\n" for text in quoted))
    output = tmp_path / "out.npy"
    for arguments in ([jsonl, "--field", "text"], [table, "--column", "text"], [tabs, "--column", "text"]):
        status, _, err = run(capsys, "encode", *arguments, "-o", output)
        assert status == 0, err
        assert close(np.load(output), model.encode(awkward))


def test_encode_an_empty_file(tmp_path: Path, capsys) -> None:
    (tmp_path / "empty.txt").touch()
    for name in ("out.npy", "out.safetensors", "out.jsonl"):
        assert run(capsys, "encode", tmp_path / "empty.txt", "-o", tmp_path / name)[0] == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 384)
    assert safetensors.numpy.load_file(tmp_path / "out.safetensors")["embeddings"].shape == (0, 384)
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_encode_reports_the_cut_over_all_chunks(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("minilm.streaming.MOST_TEXTS", 2)
    file, output = tmp_path / "texts.txt", tmp_path / "out.npy"
    file.write_text("\n".join(["short", "long " * 300, "short", "short", "long " * 400]))
    status, _, err = run(capsys, "encode", file, "-o", output)
    assert status == 0
    assert "2 of 5 texts are over the limit of 256 tokens (text 2 by 46, text 5 by 146)" in err
    output.unlink()
    status, _, err = run(capsys, "encode", file, "-o", output, "--truncation", "error")
    assert status == 2
    assert "text 2 is 46 tokens over the limit of 256; split it" in err
    assert not output.exists()
    assert run(capsys, "encode", file, "-o", output, "--truncation", "silent")[2].count("limit") == 0
    assert np.load(output).shape == (5, 384)


def test_similarity(model: SentenceEncoder, lines: Path, tmp_path: Path, capsys) -> None:
    status, out, _ = run(capsys, "similarity", "a cat", "a kitten")
    assert (status, out) == (0, f"{model.similarity(*model.encode(['a cat', 'a kitten'])).item():.4f}\n")
    other = tmp_path / "other.txt"
    other.write_text("\n".join(reversed(TEXTS)), encoding="utf-8")
    vectors = model.encode(TEXTS)
    status, out, _ = run(capsys, "similarity", "--pairwise", lines, other)
    expected = model.similarity_pairwise(vectors, vectors[::-1].copy())
    np.testing.assert_allclose([float(line) for line in out.splitlines()], expected, rtol=0, atol=FOUR_DIGITS)
    for arguments, columns in (([lines], vectors), ([lines, other], vectors[::-1])):
        status, out, _ = run(capsys, "similarity", "--all", *arguments)
        rows = [[float(cell) for cell in line.split("\t")] for line in out.splitlines()]
        np.testing.assert_allclose(rows, vectors @ columns.T, rtol=0, atol=FOUR_DIGITS)


def test_search_names_file_and_line(tmp_path: Path, capsys) -> None:
    garden = tmp_path / "garden.txt"
    garden.write_text("Prune the roses in March.\n\n\nWater the tomatoes\nevery evening.\n")
    (tmp_path / "boats.txt").write_text("The ferry leaves at seven.\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    status, out, err = run(capsys, "search", "when does the boat go", *sorted(tmp_path.iterdir()), "--top-k", 2)
    assert status == 0
    assert "passed over" in err
    assert "binary is not UTF-8" in err
    assert len(out.splitlines()) == 2
    assert f"{tmp_path / 'boats.txt'}:1  The ferry leaves at seven." in out.splitlines()[0]
    status, out, _ = run(capsys, "search", "how often do tomatoes need water", garden, "--json")
    record = json.loads(out.splitlines()[0])
    assert record["score"] > 0.5
    assert {**record, "score": None} == {
        "score": None,
        "file": str(garden),
        "line": 4,
        "text": "Water the tomatoes every evening.",
    }


@pytest.mark.parametrize("prompt", ["passage: ", "title"])  # the second runs into the first word
def test_passages_leave_room_for_the_prompt(model: SentenceEncoder, tmp_path: Path, prompt: str) -> None:
    file = tmp_path / "long.txt"
    words = [f"word{i}" for i in range(900)]
    file.write_text(" ".join(words[:500]) + "\n" + "\n".join(words[500:]))
    passages = [passage.text for passage in read_passages(str(file), model.tokenizer, prompt)]
    assert " ".join(passages).split() == words
    assert model.tokens_lost(passages, prompt=prompt) == {}


def test_search_puts_the_models_prompt_before_passages(
    model: SentenceEncoder, tmp_path: Path, capsys, monkeypatch
) -> None:
    model = SentenceEncoder(model.encoder, model.tokenizer)
    model.prompts = {"passage": "passage: " * 100}
    monkeypatch.setattr("minilm.commands.search.load_model", lambda args: model)
    file = tmp_path / "long.txt"
    file.write_text(" ".join(f"word{i}" for i in range(200)))
    status, out, _ = run(capsys, "search", "word", file, "--json", "--truncation", "error")
    assert status == 0
    best = json.loads(out.splitlines()[0])
    expected = model.similarity(model.encode("word"), model.encode("passage: " * 100 + best["text"]))
    assert abs(best["score"] - expected.item()) <= PACKED_FLOAT32


def test_vectors_that_are_not_finite_end_a_command(tmp_path: Path, lines: Path, capsys, monkeypatch) -> None:
    broken = tiny_model()
    with torch.no_grad():
        broken.encoder.embeddings.word.weight.fill_(float("nan"))
    for command in ("encode", "search", "similarity"):
        monkeypatch.setattr(f"minilm.commands.{command}.load_model", lambda args: broken)
    output = tmp_path / "out.npy"
    for arguments in (
        ["encode", lines, "-o", output],
        ["encode", lines, "-o", "-"],
        ["encode", lines, "-o", output, "--precision", "binary"],
        ["search", "cat", lines],
        ["similarity", "cat", "dog"],
        ["similarity", "--all", lines],
    ):
        status, out, err = run(capsys, *arguments)
        assert (status, out) == (2, "")
        assert "the model gives vectors with NaN or infinite numbers" in err
    assert not output.exists()
    with pytest.warns(NonFiniteWarning):
        assert run(capsys, "encode", lines, "-o", output, "--non-finite", "warn", "--no-resume")[0] == 0
    assert np.isnan(np.load(output)).all()


def test_passages_lose_nothing(model: SentenceEncoder, tmp_path: Path) -> None:
    file = tmp_path / "long.txt"
    words = [f"word{i}" for i in range(900)]
    text = " ".join(words[:500]) + "\n" + "\n".join(" ".join(words[i : i + 20]) for i in range(500, 900, 20))
    file.write_text(text + "\n\nA short one.\n")
    passages = read_passages(str(file), model.tokenizer)
    assert " ".join(passage.text for passage in passages).split() == [*words, "A", "short", "one."]
    assert model.tokens_lost([passage.text for passage in passages]) == {}
    assert [passage.line for passage in passages[:2]] == [1, 1]
    assert passages[-1].line == 23
    for passage in passages[:-1]:
        line = text.splitlines()[passage.line - 1]
        assert passage.text.split()[0] in line.split()


def test_inspect(capsys) -> None:
    status, out, _ = run(capsys, "inspect")
    assert status == 0
    assert "embeddings.word_embeddings.weight" in out
    assert "30522 × 384" in out
    assert "[pooler.dense.weight]" in out
    assert "104 tensors, 101 of them used: 22,565,376 parameters" in out
    status, out, _ = run(capsys, "inspect", "--json")
    records = [json.loads(line) for line in out.splitlines()]
    assert len(records) == 104
    assert all(len(record["sha256"]) == 64 for record in records)


def test_verify(capsys) -> None:
    status, out, _ = run(capsys, "verify", "--json")
    checks = {check["check"]: check for check in map(json.loads, out.splitlines())}
    assert status == 0
    assert len(checks) == 10 + 6
    assert {check["result"] for check in checks.values()} == {"ok"}
    assert checks["file model.safetensors"]["found"].startswith("53aa51172d142c89")
    assert any("15 of 15 rows bit-equal" in check["found"] for check in checks.values())


def test_verify_fails_on_changed_weights(weights: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for source in weights.rglob("*"):
        if source.is_file():
            (folder / source.relative_to(weights)).parent.mkdir(exist_ok=True)
            (folder / source.relative_to(weights)).write_bytes(source.read_bytes())
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\x00\x00\xc0\x7f")  # a NaN in the last tensor, the pooler's or not
    _, out, _ = run(capsys, "verify", folder)
    weights_line = next(line for line in out.splitlines() if "model.safetensors" in line)
    assert "53aa51172d142c89" not in weights_line
    assert not weights_line.rstrip().endswith(("ok", "published"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["encode", "missing.txt", "-o", "out.npy"], "missing.txt: No such file"),
        (["encode", "texts.txt", "-o", "out.pkl"], "out.pkl ends in .pkl, expected .npy, .jsonl, .safetensors"),
        (["encode", "texts.txt", "-o", "no/folder/out.npy"], "cannot write no/folder/out.npy: No such file"),
        (["encode", "texts.txt", "-o", "out.npy", "--batch-size", "0"], "batch_size is 0"),
        (["encode", "latin.txt", "-o", "out.npy"], "latin.txt is not UTF-8"),
        (["encode", "broken.jsonl", "--field", "text", "-o", "out.npy"], "broken.jsonl, line 2: this is not JSON"),
        (["encode", "broken.jsonl", "--field", "body", "-o", "out.npy"], "line 1: no field 'body'; there is 'text'"),
        (
            ["encode", "null.jsonl", "--field", "text", "-o", "out.npy"],
            "line 1: field 'text' is None, expected a string",
        ),
        (["encode", "short.csv", "--column", "b", "-o", "out.npy"], "short.csv, line 3: found 1 cells, expected 2"),
        (
            ["encode", "short.csv", "--column", "c", "-o", "out.npy"],
            "short.csv, line 1: this has no 'c', and may be a header or data: 'a', 'b'",
        ),
        (["encode", "quote.csv", "--column", "b", "-o", "out.npy"], "quote.csv, line"),
        (["encode", ".", "-o", "out.npy"], ". is a folder, expected a file"),
        (["similarity", "one text"], "found 1 texts"),
        (["similarity", "--pairwise", "texts.txt", "latin.txt"], "latin.txt is not UTF-8"),
        (["similarity", "--pairwise", "texts.txt", "quote.csv"], "4 lines and quote.csv has 2; pairs need as many"),
        (["search", "query", "latin.txt"], "not UTF-8"),
        (["search", "query", "empty.txt"], "no text"),
        (["inspect", "."], "modules.json does not exist"),
        (["verify", "./nowhere"], "./nowhere is not a folder"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_errors_are_one_plain_line(arguments: list[str], message: str, lines: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(lines.parent)
    Path("latin.txt").write_bytes("déjà vu".encode("latin-1"))
    Path("broken.jsonl").write_text('{"text": "fine"}\n{"text": "brok\n')
    Path("null.jsonl").write_text('{"text": null}\n')
    Path("short.csv").write_text("a,b\n1,2\n3\n")
    Path("quote.csv").write_text('a,b\n1,"never closed\n')
    Path("empty.txt").write_text("\n \n")
    before = sorted(Path().iterdir())
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.startswith(f"minilm {arguments[0]}: ")
    assert err.count("\n") == 1
    assert sorted(Path().iterdir()) == before


def test_an_older_output_survives_a_failure(tmp_path: Path, capsys) -> None:
    output = tmp_path / "out.jsonl"
    output.write_text("precious")
    (tmp_path / "bad.jsonl").write_text('{"text": "fine"}\n{')
    assert run(capsys, "encode", tmp_path / "bad.jsonl", "--field", "text", "-o", output)[0] == 2
    assert output.read_text() == "precious"


def minilm(*arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "minilm.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, timeout=120, **options)


def test_standard_input_to_standard_output(model: SentenceEncoder) -> None:
    done = minilm("encode", "--output", "-", input="\n".join(TEXTS).encode())
    records = [json.loads(line) for line in done.stdout.decode().splitlines()]
    assert [record["text"] for record in records] == TEXTS
    assert done.stderr == b""


def test_a_reader_that_has_seen_enough(lines: Path) -> None:
    big = lines.with_name("big.txt")
    big.write_text("a line\n" * 3000)
    done = subprocess.run(
        f"{sys.executable} -m minilm.cli encode {big} -o - | head -c 100 > /dev/null", shell=True, capture_output=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_leaves_nothing(lines: Path) -> None:
    """RLIMIT_FSIZE makes the system refuse to write more, as a full disk does."""
    code = f"""
import resource, signal, sys
from minilm.cli import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
sys.exit(main(["encode", {str(lines)!r}, "-o", "x.npy"]))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=lines.parent, capture_output=True, text=True)
    assert done.returncode == 2
    assert "cannot write x.npy: File too large; nothing was changed" in done.stderr
    assert list(lines.parent.iterdir()) == [lines]


def test_help_of_every_command(capsys) -> None:
    for arguments in (["--help"], *([name, "--help"] for name in COMMANDS)):
        with pytest.raises(SystemExit) as exit_status:
            main(arguments)
        assert exit_status.value.code == 0
        assert "usage: minilm" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out.startswith("minilm 0.")
