"""The training set from docstrings: what is a pair, and that the split is fair and fixed."""

import json
import sys

import pytest

from minilm.training.docstrings import DocstringPair, docstring_pairs, families, split, split_docstring, write_pairs

WORDS = "one two three four five six seven eight nine ten"


@pytest.fixture(scope="module")
def pairs():
    return docstring_pairs()


def pair(name, rest):
    return DocstringPair(name, f"Summary of {name}, long enough.", rest)


def distinct(name, n=30):
    return " ".join(f"{name}{i}" for i in range(n))


def test_summary_and_rest():
    found = split_docstring("a.b", f"Opens the file\n    and reads it.\n\n    {WORDS}\n\n    {WORDS}")
    assert found == DocstringPair("a.b", "Opens the file and reads it.", f"{WORDS}\n\n{WORDS}")


def test_a_signature_before_the_summary_is_dropped():
    found = split_docstring("torch.f", f"f(input, *,\n  out=None) -> Tensor\n\nDoes what it says.\n\n{WORDS} {WORDS}")
    assert found.summary == "Does what it says."


@pytest.mark.parametrize(
    "docstring", ["", "One line and no more.", f"Too short.\n\n{WORDS} {WORDS}", f"Four words are here.\n\n{WORDS}"]
)
def test_too_short_is_no_pair(docstring):
    assert split_docstring("a.b", docstring) is None


def test_a_class_and_its_methods_and_numbered_variants_are_one_family():
    given = [pair(n, distinct(n)) for n in ("m.Reader", "m.Reader.read", "n.nn.AvgPool1d", "n.nn.AvgPool2d", "m.write")]
    assert families(given) == [0, 0, 2, 2, 4]


def test_near_copies_are_one_family_and_shared_boilerplate_is_not():
    text = distinct("word")
    changed = text.replace("word7 ", "other ")
    given = [pair("a.first", text), pair("b.second", changed), pair("c.third", distinct("else"))]
    assert families(given) == [0, 0, 2]
    boilerplate = [pair(f"m.{letter * 4}", f"{distinct(letter)} {text}") for letter in "abcdefghijklmnopq"]
    assert families(boilerplate) == list(range(17))


def test_enough_pairs_of_each_source_and_no_two_alike(pairs):
    assert len(pairs) > 1_500
    sources = [p.name.split(".")[0] for p in pairs]
    assert min(sources.count("numpy"), sources.count("torch")) > 200
    assert len({p.summary for p in pairs}) == len({p.rest for p in pairs}) == len(pairs)
    assert [p.name for p in pairs] == sorted(p.name for p in pairs)


def test_building_them_runs_no_module(pairs):
    assert not {"antigravity", "this", "tkinter", "turtle", "idlelib"} & set(sys.modules)


def test_no_family_is_on_both_sides(pairs):
    train, held_out = split(pairs)
    assert sorted([*train, *held_out], key=lambda p: p.name) == pairs
    assert 0.15 < len(held_out) / len(pairs) < 0.35
    family = dict(zip((p.name for p in pairs), families(pairs), strict=True))
    assert not {family[p.name] for p in train} & {family[p.name] for p in held_out}


def test_files(tmp_path):
    train, held_out = [pair("m.f", WORDS), pair("m.g", "é\n\u2028“x”")], [pair("m.h", distinct("h"))]
    write_pairs(tmp_path / "a", train, held_out)
    write_pairs(tmp_path / "b", train, held_out)
    files = sorted(p.relative_to(tmp_path / "a").as_posix() for p in (tmp_path / "a").rglob("*") if p.is_file())
    assert files == [
        "heldout.jsonl",
        "heldout/corpus.jsonl",
        "heldout/qrels/test.tsv",
        "heldout/queries.jsonl",
        "train.jsonl",
    ]
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    with open(tmp_path / "a" / "train.jsonl", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == [{"anchor": p.summary, "positive": p.rest} for p in train]
    assert (tmp_path / "a/heldout/qrels/test.tsv").read_text() == "query-id\tcorpus-id\tscore\nm.h\tm.h\t1\n"
    corpus = json.loads((tmp_path / "a/heldout/corpus.jsonl").read_text())
    assert corpus == {"_id": "m.h", "title": "", "text": held_out[0].rest}
    assert json.loads((tmp_path / "a/heldout/queries.jsonl").read_text()) == {"_id": "m.h", "text": held_out[0].summary}
