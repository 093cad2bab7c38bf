"""Tables of text: what is read, and how what is broken is named."""

import csv
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from minilm.errors import InputError
from minilm.tables import read_table
from minilm.text_files import count_lines, read_lines, read_texts

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
        ("1,t\ny,u\n", ["t", "u"]),
        ("1\ny\n", [None, None]),
        ("title,text\nt,1\nu,y\n", ["t", "u"]),
    ):
        table = read_table(write("t.csv", content), ["text"], optional=["title"])
        assert table.columns == {"text": ["1", "y"], "title": titles}
    with pytest.raises(InputError, match="line 2: found 1 cells, expected 2: 'text', 'title'"):
        read_table(write("t.csv", "1,t\ny\n"), ["text"], optional=["title"])
    with pytest.raises(InputError, match="line 1: found 3 cells, expected 2: 'text', 'title'"):
        read_table(write("t.csv", "1,t,z\n"), ["text"], optional=["title"])


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
        ("t.pdf", "a", "ends in '.pdf', expected one of .jsonl"),
        ("t.csv.gz", "a", "ends in '.gz', expected one of .jsonl"),
        ("t.csv", "news,1,a,b,2.5\n", "line 1: found 5 cells, expected 3: 'sentence1'"),
        ("t.csv", b"a,b,1\r\rc,\xff,2\n", "line 3: these bytes are not UTF-8"),
        (
            "t.jsonl",
            '{"sentence1": "a", "sentence1": "b"}',
            "line 1: this is not JSON: it has 'sentence1' more than once",
        ),
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


# ---- which line is a header ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "names"),
    [
        ("anchor,positive", ["anchor", "positive"]),
        ("Sentence 1,Sentence 2", ["Sentence 1", "Sentence 2"]),
        (" question , answer ", ["question", "answer"]),
        ("text_a,text_b", ["text_a", "text_b"]),
        ("sourceText,rest", ["sourceText", "rest"]),
        (",sentence1", ["", "sentence1"]),
        ("A man is eating.,b", None),
        ("Is it?,no", None),
        ("a dog,2.5", None),
        ("0001,a", None),
        ("The question of the text,answer me now", None),
    ],
)
def test_a_first_line_is_a_header_or_data(write, first, names):
    table = read_table(write("t.csv", f"{first}\nx,y\n"))
    assert table.header is (names is not None)
    if names is None:
        assert table.columns == {"1": [first.split(",")[0], "x"], "2": [first.split(",")[1], "y"]}
    else:
        assert table.columns == dict(zip(names, [["x"], ["y"]], strict=True))


@pytest.mark.parametrize("first", ["cat,kitten", "a cat,a kitten", "0,1", "text,A man is eating.", "frage,antwort"])
def test_what_may_be_a_header_or_data_is_neither_lost_nor_made_up(write, first):
    file = write("t.csv", f"{first}\nx,y\n")
    with pytest.raises(InputError, match=r"line 1: this may be a header or data: .* by number: 1 2"):
        read_table(file)
    assert read_table(file, first.split(",")).columns == dict(zip(first.split(","), [["x"], ["y"]], strict=True))
    if first != "0,1":
        assert read_table(file, ["2", "1"]).columns == {
            "2": [first.split(",")[1], "y"],
            "1": [first.split(",")[0], "x"],
        }


def test_columns_by_number(write):
    file = write("t.csv", "a cat,a dog,2.5\nx,y,1\n")
    assert read_table(file, STS, called=["2", "1", "3"]).columns["sentence1"] == ["a dog", "y"]
    assert read_table(file, [2, 3]).columns == {"2": ["a dog", "y"], "3": ["2.5", "1"]}
    with pytest.raises(InputError, match="the row has no '4'; its columns are '1', '2', '3'"):
        read_table(file, ["1", "4"])
    with pytest.raises(InputError, match="2 columns are asked for, 1 2, expected 3: 'sentence1', 'sentence2', 'score'"):
        read_table(file, STS, called=["1", "2"])
    with pytest.raises(InputError, match="'1' is asked for more than once"):
        read_table(file, ["1", "1"])
    with pytest.raises(InputError, match="this is a header: 'anchor', 'positive'; ask for columns by name"):
        read_table(write("t.csv", "anchor,positive\na,b\n"), ["1", "2"])


def test_a_table_says_what_was_read(write):
    table = read_table(write("t.csv", "id,premise,claim,score\n1,a,b,2\n"), STS, called=["premise", "claim", "score"])
    assert str(table).endswith("t.csv: 1 rows; columns sentence1 = premise, sentence2 = claim, score")
    assert str(read_table(write("t.csv", "a,b,1\n"), STS)).endswith(
        "1 rows without a header; columns sentence1, sentence2, score"
    )
    with pytest.raises(
        InputError, match="line 1: the header has no 'sentence1', 'sentence2', 'score'; its columns are"
    ):
        read_table(write("t.csv", "premise,hypothesis,similarity\na,b,1\n"), STS)


# ---- data sets as they are distributed ----------------------------------------------------------

DISTRIBUTED = {
    # the STS benchmark: tabs in a .csv, no header, no quoting, sources at the end of some lines
    "sts-train.csv": (
        'main-captions\tMSRvid\t2012test\t0001\t5.000\tA plane, taking off.\tAn "air plane" is taking off.\n'
        'main-news\theadlines\t2015\t0012\t1.200\t"Not now\tHe said "so".\thttp://a.b/c\tCC BY\n'
        'main-news\theadlines\t2015\t0013\t0.000\t"Quoted whole"\tNot so"\n',
        STS,
        ["6", "7", "5"],
        [("A plane, taking off.", 'An "air plane" is taking off.', "5.000"), ('"Not now', 'He said "so".', "1.200"),
         ('"Quoted whole"', 'Not so"', "0.000")],
    ),
    "SICK.txt": (
        "pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\tentailment_AB\tSemEval_set\r\n"
        "1\tA group of kids\tKids, playing\tNEUTRAL\t4.5\tA_neutral_B\tTRAIN\r\n",
        STS,
        ["sentence_A", "sentence_B", "relatedness_score"],
        [("A group of kids", "Kids, playing", "4.5")],
    ),
    "msr_paraphrase_train.txt": (
        "\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\r\n"
        '1\t702876\t702977\t"Amrozi accused his brother, of "it.\tReferring to him\r\n'
        '0\t2108705\t2108831\t"I did," he said.\t"No."\r\n',
        ("sentence1", "sentence2", "label"),
        ["#1 String", "#2 String", "Quality"],
        [('"Amrozi accused his brother, of "it.', "Referring to him", "1"), ('"I did," he said.', '"No."', "0")],
    ),
    "glue-sts.tsv": (
        "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
        '0\tmain-captions\tMSRvid\t2012test\t0001\tnone\tnone\t"a\tb\t5.000\n',
        STS,
        None,
        [('"a', "b", "5.000")],
    ),
    "quora.tsv": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n"
        '0\t1\t2\t"What\'s the ""best"" way?"\tHow?\t0\n1\t3\t4\t"Two\nlines"\tb\t1\n',
        ("sentence1", "sentence2", "label"),
        ["question1", "question2", "is_duplicate"],
        [('What\'s the "best" way?', "How?", "0"), ("Two\nlines", "b", "1")],
    ),
    "triplets.csv": (
        'anchor,positive,negative\n"A person, on a horse",He is outdoors,"""No"" one"\n',
        ("anchor", "positive", "negative"),
        None,
        [("A person, on a horse", "He is outdoors", '"No" one')],
    ),
    "semicolons.csv": (
        'sentence1;sentence2;score\na, b;"c; d";1\n',
        STS,
        None,
        [("a, b", "c; d", "1")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", DISTRIBUTED)
def test_data_sets_as_they_are_distributed(write, name):
    content, columns, called, rows = DISTRIBUTED[name]
    table = read_table(write(name, content), columns, called=called)
    assert list(zip(*table.columns.values(), strict=True)) == rows


WITHOUT_BREAKS = st.text(st.characters(codec="utf-8", exclude_characters="\0\t\r\n"))


@given(st.lists(st.tuples(WITHOUT_BREAKS, WITHOUT_BREAKS), min_size=1, max_size=5))
def test_tabs_alone_keep_every_quote(tmp_path_factory, rows):
    """Whatever its texts begin or end with: one bare quote says that nothing is quoted."""
    path = tmp_path_factory.mktemp("tables") / "t.tsv"
    rows = [*rows, ('"so', 'they say "this"')]
    path.write_text("anchor\tpositive\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8", newline="")
    assert list(zip(*read_table(path).columns.values(), strict=True)) == rows


@pytest.mark.parametrize("name", ["t.csv", "t.tsv"])
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_what_csv_writers_write(tmp_path_factory, name, rows):
    path = tmp_path_factory.mktemp("tables") / name
    delimiter = "," if name == "t.csv" else "\t"
    for quoting in (csv.QUOTE_MINIMAL, csv.QUOTE_NONNUMERIC, csv.QUOTE_ALL):
        with open(path, "w", newline="", encoding="utf-8") as file:
            csv.writer(file, delimiter=delimiter, quoting=quoting).writerows([("anchor", "positive"), *rows])
        assert list(zip(*read_table(path).columns.values(), strict=True)) == rows


def test_quotes_around_whole_cells_are_kept_where_nothing_else_is_quoted(write):
    table = read_table(write("t.tsv", 'anchor\tpositive\n"a b"\tc\nd\t"e"\n'))
    assert table.columns == {"anchor": ['"a b"', "d"], "positive": ["c", '"e"']}


# ---- lines --------------------------------------------------------------------------------------


@given(st.text("ab\r\n\x0b\x0c\x1c\x85\u2028\ufeff", max_size=30))
def test_every_reader_has_the_same_lines(tmp_path_factory, text):
    path = str(tmp_path_factory.mktemp("lines") / "t.txt")
    with open(path, "w", newline="", encoding="utf-8") as file:
        file.write(text)
    lines = read_lines(path)
    assert count_lines(path) == len(lines)
    expected = re.split("\r\n|\r|\n", text.removeprefix("\ufeff"))
    assert lines == (expected if expected[-1] else expected[:-1])


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_a_column_is_the_same_to_every_reader(write, newline):
    for name, content in (
        ("t.csv", 'id,text\n1,"a ""b"""\n\n2,c\n'),
        ("t.tsv", 'id\ttext\n1\t"a ""b"""\n2\tc\n'),
        ("t.txt", 'id;text\n1;"a ""b"""\n2;c'),
    ):
        file = write(name, content.replace("\n", newline))
        assert list(read_texts(str(file), column="text")) == read_table(file).columns["text"] == ['a "b"', "c"]
    file = write("t.jsonl", '{"text": "a\u2028b"}\n\n{"text": ""}'.replace("\n", newline))
    assert list(read_texts(str(file), field="text")) == read_table(file).columns["text"] == ["a\u2028b", ""]
    file = write("t.csv", "1,A man eats.\n2,b\n")
    assert list(read_texts(str(file), column="2")) == ["A man eats.", "b"]
