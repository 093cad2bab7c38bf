"""Tables of text: what is read, and how what is broken is named."""

import csv
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.errors import InputError
from minilm.tables import read_table

STS = ("sentence1", "sentence2", "score")


@pytest.fixture
def write(tmp_path):
    def write(name, content):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def test_the_same_rows_from_every_format(write):
    rows = [["a cat", "a dog", 2.5], ["one, two", 'she said "no"', 0.0]]
    files = [
        write("t.csv", 'a cat,a dog,2.5\n"one, two","she said ""no""",0\n'),
        write("header.csv", 'sentence1,sentence2,score\na cat,a dog,2.5\n"one, two","she said ""no""",0\n'),
        write("t.tsv", 'a cat\ta dog\t2.5\none, two\t"she said ""no"""\t0\n'),
        write("t.jsonl", "".join(json.dumps(dict(zip(STS, row, strict=True))) + "\n" for row in rows)),
    ]
    for file in files:
        table = read_table(file, STS)
        assert list(table.columns) == list(STS)
        assert len(table) == 2
        columns = table.texts("sentence1"), table.texts("sentence2"), table.numbers("score")
        assert [list(row) for row in zip(*columns, strict=True)] == rows, file


def test_columns_by_name_in_any_order_and_case(write):
    table = read_table(write("t.csv", "id,Score,sentence2,sentence1\n7,1,b,a\n"), STS)
    assert table.columns == {"sentence1": ["a"], "sentence2": ["b"], "score": ["1"]}


def test_all_columns(write):
    expected = {"question": ["q"], "answer": ["a"]}
    assert read_table(write("t.csv", "question,answer\nq,a\n")).columns == expected
    assert read_table(write("t.jsonl", '{"question": "q", "answer": "a"}')).columns == expected


def test_optional_columns(write):
    table = read_table(write("t.jsonl", '{"text": "x"}\n{"text": "y", "title": "t"}'), ["text"], optional=["title"])
    assert table.columns == {"text": ["x", "y"], "title": [None, "t"]}
    assert read_table(write("t.csv", "text\nx\n"), ["text"], optional=["title"]).columns["title"] == [None]
    for content, titles in (
        ("x,t\ny,u\n", ["t", "u"]),
        ("x\ny\n", [None, None]),
        ("title,text\nt,x\nu,y\n", ["t", "u"]),
    ):
        table = read_table(write("t.csv", content), ["text"], optional=["title"])
        assert table.columns == {"text": ["x", "y"], "title": titles}
    with pytest.raises(InputError, match="line 2: found 1 cells, expected 2: 'text', 'title'"):
        read_table(write("t.csv", "x,t\ny\n"), ["text"], optional=["title"])
    with pytest.raises(InputError, match="line 1: found 3 cells, expected 2: 'text', 'title'"):
        read_table(write("t.csv", "x,t,z\n"), ["text"], optional=["title"])


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_byte_order_mark_line_ends_and_blank_lines(write, newline, bom):
    table = read_table(write("t.csv", bom + newline.join(["sentence1,sentence2,score", "", "a,b,1", "", "c,d,2"])), STS)
    assert table.columns["sentence1"] == ["a", "c"]
    assert table.lines == [3, 5]
    lines = ['{"text": "a"}', " ", '{"text": "b"}', ""]
    table = read_table(write("t.jsonl", bom + newline.join(lines)))
    assert (table.columns, table.lines) == ({"text": ["a", "b"]}, [1, 3])


def test_a_quoted_cell_spans_lines_and_later_lines_keep_their_numbers(write):
    table = read_table(write("t.csv", 'anchor,positive\n"one\ntwo",x\n"",y\n'))
    assert table.columns == {"anchor": ["one\ntwo", ""], "positive": ["x", "y"]}
    assert table.lines == [2, 4]


def test_a_cell_of_a_megabyte(write):
    text = "word " * 200_000
    assert read_table(write("t.csv", f"anchor,positive\n{text},b\n")).columns["anchor"] == [text]
    assert csv.field_size_limit() == 131_072


def test_line_separators_inside_json_strings_are_text(write):
    text = "a\u2028b\u0085c\x0cd"
    assert read_table(write("t.jsonl", json.dumps({"text": text}, ensure_ascii=False))).columns["text"] == [text]


# Without NUL, which Python 3.10's csv refuses.
CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_any_text_survives(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("tables")
    expected = {"anchor": [a for a, _ in rows], "positive": [b for _, b in rows]}
    with open(folder / "t.jsonl", "w", encoding="utf-8") as file:
        file.writelines(json.dumps({"anchor": a, "positive": b}, ensure_ascii=False) + "\n" for a, b in rows)
    assert read_table(folder / "t.jsonl").columns == expected
    for name, delimiter in (("t.csv", ","), ("t.tsv", "\t")):
        with open(folder / name, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("anchor", "positive"), *rows])
        assert read_table(folder / name).columns == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "", "it is empty"),
        ("t.csv", "\ufeff\n\n", "it is empty"),
        ("t.jsonl", "\n", "it is empty"),
        ("t.csv", "sentence1,sentence2,score\n", "has no rows under its header"),
        ("t.txt", "a", "ends in '.txt', expected one of .jsonl"),
        ("t.csv", b"a,b,1\nc,\xff,2\n", "line 2: these bytes are not UTF-8"),
        ("t.csv", "a,b,1\n\nc,d\n", "line 3: found 2 cells, expected 3: 'sentence1'"),
        ("t.tsv", "a\tb\t1\nc\td\t2\t3\n", "line 2: found 4 cells"),
        ("t.csv", 'a,b,1\n"c,d,2\ne,f,3\n', "line 2: this cannot be split into cells"),
        ("t.csv", 'a,b,1\n"c"d,e,2\n', "line 2: this cannot be split into cells"),
        ("t.csv", "sentence1,label\na,b\n", "line 1: the header has no 'sentence2', 'score'; its columns are"),
        (
            "t.csv",
            "sentence1,sentence1,sentence2,score\na,b,c,1\n",
            "line 1: the header has 'sentence1' more than once",
        ),
        ("t.jsonl", '{"sentence1": "a", "sentence2": "b"}', "line 1: there is no 'score'"),
        ("t.jsonl", '{"sentence1": "a"\n', "line 1: this is not JSON"),
        ("t.jsonl", "[" * 100_000, "line 1: this is not JSON"),
        ("t.jsonl", "\n[1]", "line 2: found a list, expected an object"),
    ],
)
def test_what_is_broken_is_named(write, name, content, message):
    path = write(name, content)
    with pytest.raises(InputError, match=re.escape(str(path)) + ".*" + re.escape(message)):
        read_table(path, STS)


def test_every_object_has_the_columns_of_the_first(write):
    with pytest.raises(InputError, match=r"line 2: there is no 'b'"):
        read_table(write("t.jsonl", '{"a": "x", "b": "y"}\n{"a": "x"}'))
    with pytest.raises(InputError, match=r"line 3: there is a column 'c' that line 2 has not"):
        read_table(write("t.jsonl", '\n{"a": "x"}\n{"a": "x", "c": "y"}'))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match=r"cannot read .*none\.csv: No such file"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"cannot read .*folder\.csv: Is a directory"):
        read_table(tmp_path / "folder.csv")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ("null", "line 2: text is null, expected a text"),
        ("3", "line 2: text is 3, expected a text"),
        ('["a"]', "line 2: text is a list, expected a text"),
        ('"\\ud800"', "line 2: text has a lone surrogate"),
    ],
)
def test_cells_that_are_no_texts(write, cell, message):
    table = read_table(write("t.jsonl", '{"text": ""}\n{"text": ' + cell + "}"))
    with pytest.raises(InputError, match=message):
        table.texts("text")


@pytest.mark.parametrize("cell", ["null", '""', '"high"', "true", "NaN", '"nan"', "1e999", '"-inf"', "[1]"])
def test_cells_that_are_no_finite_numbers(write, cell):
    table = read_table(write("t.jsonl", '{"score": -1.5e0}\n{"score": ' + cell + "}"))
    with pytest.raises(InputError, match=r"line 2: score is .*, expected a finite number$"):
        table.numbers("score")


def test_a_header_with_other_names_is_pointed_out(write):
    table = read_table(write("t.csv", "premise,hypothesis,similarity\na,b,1\n"), STS)
    with pytest.raises(
        InputError, match=r"line 1: score is 'similarity', .*; if this line is a header, name the column"
    ):
        table.numbers("score")
