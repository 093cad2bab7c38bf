"""A training set that every machine has: the docstrings of the standard library, numpy and torch.

A pair is a docstring's summary line (anchor) and the rest of it (positive). Python sources are
parsed and never imported, so nothing runs: no browser opens, no window, no network. The functions
written in C have their docstrings in the compiled module alone; those of numpy and torch, which
minilm needs anyway, and of ``builtins`` are read from there.

The split is by object. Everything that belongs to one class or function, and everything whose text
is nearly the same (``AvgPool1d`` and ``AvgPool2d``, ``numpy.sum`` and ``ndarray.sum``), forms one
family, and a family goes to one side as a whole. The side depends on a hash of the family's names,
not on its place, so the split is fixed for given versions of Python, numpy and torch.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import json
import os
import re
import sysconfig
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minilm.checkpoint import atomic_path

SUMMARY_WORDS = (4, 30)
REST_WORDS = 20
HELD_OUT = 0.25  # of the families

# Two texts are near-copies when they share this part of the shorter one's runs of SHINGLE words.
SHINGLE = 5
NEAR_COPY = 0.5
BOILERPLATE = 12

# Large parts of torch that few use directly; without them each of the three sources gives about a third.
TORCH_LEFT_OUT = ("ao", "distributed", "fx", "mps", "mtia", "onnx", "testing", "utils", "xpu")

# Objects written in C, whose docstrings no Python source has; reached by attribute alone.
COMPILED = (
    ("builtins", ""),
    ("numpy", ""),
    ("numpy", "ndarray"),
    ("numpy", "random.Generator"),
    ("numpy", "random.RandomState"),
    ("torch", ""),
    ("torch", "Tensor"),
    ("torch", "nn.functional"),
    ("torch", "linalg"),
    ("torch", "special"),
    ("torch", "fft"),
    ("torch", "sparse"),
)


@dataclass(frozen=True)
class DocstringPair:
    """One docstring.

    Attributes:
        name: of the object, e.g. ``"pathlib.Path.glob"``.
        summary: its first paragraph on one line, the anchor.
        rest: everything after it, the positive.
    """

    name: str
    summary: str
    rest: str


def docstring_pairs() -> list[DocstringPair]:
    """The pairs of this machine's standard library, numpy and torch, sorted by name.

    A summary has 4 to 30 words, a rest at least 20. Of equal summaries, and of equal rests, the
    first stays: two right answers to one question would make the measurement unfair.
    """
    import numpy
    import torch

    found = dict(_compiled())
    for package, root in (
        ("", Path(sysconfig.get_path("stdlib"))),
        ("numpy", Path(inspect.getfile(numpy)).parent),
        ("torch", Path(inspect.getfile(torch)).parent),
    ):
        found.update(_parsed(root, package))
    pairs: list[DocstringPair] = []
    summaries, rests = set(), set()
    for name in sorted(found):
        pair = split_docstring(name, found[name])
        if pair is None or (summary := _plain(pair.summary)) in summaries or (rest := _plain(pair.rest)) in rests:
            continue
        summaries.add(summary)
        rests.add(rest)
        pairs.append(pair)
    return pairs


def docstring_summaries(count: int) -> list[str]:
    """``count`` summary lines out of this Python's standard library, spread evenly over its names."""
    found = dict(_parsed(Path(sysconfig.get_path("stdlib")), ""))
    pairs = (split_docstring(name, found[name]) for name in sorted(found))
    summaries = list(dict.fromkeys(pair.summary for pair in pairs if pair is not None))
    return summaries[:: max(1, len(summaries) // count)][:count]


def split_docstring(name: str, docstring: str) -> DocstringPair | None:
    """Summary and rest of a docstring, or None where one of them is too short or too long."""
    paragraphs = re.split(r"\n\s*\n", inspect.cleandoc(docstring).strip(), maxsplit=1)
    if len(paragraphs) == 2 and re.match(r"[\w.]+\(.*\)", paragraphs[0].replace("\n", " ")):
        paragraphs = re.split(r"\n\s*\n", paragraphs[1], maxsplit=1)  # a signature stands before the summary
    if len(paragraphs) < 2:
        return None
    summary, rest = " ".join(paragraphs[0].split()), paragraphs[1].strip()
    fits = SUMMARY_WORDS[0] <= len(summary.split()) <= SUMMARY_WORDS[1] and len(rest.split()) >= REST_WORDS
    return DocstringPair(name, summary, rest) if fits else None


def families(pairs: Sequence[DocstringPair]) -> list[int]:
    """The family of each pair, as the index of its first member."""
    parent = list(range(len(pairs)))

    def find(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    def join(i: int, j: int) -> None:
        i, j = find(i), find(j)
        parent[max(i, j)] = min(i, j)

    first: dict[str, int] = {}
    for i, pair in enumerate(pairs):
        join(first.setdefault(_object(pair.name), i), i)
    for i, j in _near_copies([pair.rest for pair in pairs]):
        join(i, j)
    return [find(i) for i in range(len(pairs))]


def split(
    pairs: Sequence[DocstringPair], held_out: float = HELD_OUT
) -> tuple[list[DocstringPair], list[DocstringPair]]:
    """The pairs to train on and the pairs held out; no family is in both.

    Args:
        held_out: the share of families to hold out.
    """
    train: list[DocstringPair] = []
    test: list[DocstringPair] = []
    for pair, family in zip(pairs, families(pairs), strict=True):
        digest = hashlib.sha256(_object(pairs[family].name).encode()).digest()
        (test if int.from_bytes(digest[:8], "big") < held_out * 2**64 else train).append(pair)
    return train, test


def write_pairs(
    folder: str | os.PathLike[str], train: Sequence[DocstringPair], held_out: Sequence[DocstringPair]
) -> None:
    """Writes ``train.jsonl``, ``heldout.jsonl`` and ``heldout/`` in BEIR's layout
    (``corpus.jsonl``, ``queries.jsonl``, ``qrels/test.tsv``; identifiers are the objects' names)."""
    folder = Path(folder)
    (folder / "heldout" / "qrels").mkdir(parents=True, exist_ok=True)
    _write_jsonl(folder / "train.jsonl", [{"anchor": p.summary, "positive": p.rest} for p in train])
    _write_jsonl(folder / "heldout.jsonl", [{"anchor": p.summary, "positive": p.rest} for p in held_out])
    _write_jsonl(folder / "heldout" / "corpus.jsonl", [{"_id": p.name, "title": "", "text": p.rest} for p in held_out])
    _write_jsonl(folder / "heldout" / "queries.jsonl", [{"_id": p.name, "text": p.summary} for p in held_out])
    with atomic_path(folder / "heldout" / "qrels" / "test.tsv") as file:
        file.write_bytes(
            "".join(["query-id\tcorpus-id\tscore\n", *(f"{p.name}\t{p.name}\t1\n" for p in held_out)]).encode()
        )


def _write_jsonl(path: Path, rows: Sequence[dict[str, str]]) -> None:
    with atomic_path(path) as file:
        file.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


# ---- reading ------------------------------------------------------------------------------------


def _parsed(root: Path, package: str) -> Iterator[tuple[str, str]]:
    """Name and docstring of every public class and function in the sources under ``root``."""
    for file in sorted(root.rglob("*.py")):
        inside = file.relative_to(root).with_suffix("").parts
        if _is_left_out(inside, package):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # invalid escapes in other people's strings
                tree = ast.parse(file.read_bytes())
        except (SyntaxError, ValueError, OSError):
            continue  # a source for another version of Python
        module = [*filter(None, [package]), *(part for part in inside if part != "__init__")]
        yield from _documented(tree, ".".join(module))


def _is_left_out(inside: tuple[str, ...], package: str) -> bool:
    folders = inside[:-1]
    if "test" in inside or "tests" in inside or "site-packages" in folders or "dist-packages" in folders:
        return True
    if package == "torch":  # its compiler and its internal tools, larger than all that it documents
        return any(part.startswith("_") for part in folders) or inside[0] in TORCH_LEFT_OUT
    return not package and inside[0] in ("idlelib", "lib2to3", "turtledemo", "ensurepip")


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.If, ast.Try)):
            yield from _documented(child, name)
        if not isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) or child.name.startswith("_"):
            continue
        if docstring := ast.get_docstring(child):
            yield f"{name}.{child.name}", docstring
        if isinstance(child, ast.ClassDef):
            yield from _documented(child, f"{name}.{child.name}")


def _compiled() -> Iterator[tuple[str, str]]:
    """Name and docstring of the public objects of :data:`COMPILED` that are written in C."""
    for module, path in COMPILED:
        space: Any = importlib.import_module(module)
        for part in filter(None, path.split(".")):
            space = getattr(space, part)
        for name, thing in sorted(vars(space).items()):
            python = inspect.isfunction(thing) or inspect.ismodule(thing) or hasattr(thing, "__wrapped__")
            docstring = None if python or name.startswith("_") else inspect.getdoc(thing)
            if isinstance(thing, type) and thing.__flags__ & (1 << 9):  # Py_TPFLAGS_HEAPTYPE: a class of a source
                continue
            if isinstance(docstring, str) and docstring != inspect.getdoc(type(thing)):
                yield ".".join(filter(None, [module, path, name])), docstring


# ---- families -----------------------------------------------------------------------------------


def _object(name: str) -> str:
    """The class or function behind a name, without its package and digits: ``torch.nn.modules.
    pooling.AvgPool2d`` and ``torch.nn.AvgPool1d.forward`` are both ``avgpoold``."""
    parts = name.split(".")
    outer = next((part for part in parts[1:] if part[:1].isupper()), parts[-1])
    return re.sub(r"[\d_]", "", outer).lower() or name


def _plain(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _near_copies(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """The places of every two texts that share :data:`NEAR_COPY` of the shorter one's runs of
    words. What more than :data:`BOILERPLATE` texts say (``out : ndarray, optional …``) is no copy."""
    runs: list[set[str]] = []
    places: dict[str, list[int]] = defaultdict(list)
    for i, text in enumerate(texts):
        words = _plain(text).split()
        runs.append({" ".join(words[k : k + SHINGLE]) for k in range(max(1, len(words) - SHINGLE + 1))})
        for run in runs[i]:
            places[run].append(i)
    own = [{run for run in found if len(places[run]) <= BOILERPLATE} for found in runs]
    for i, found in enumerate(own):
        shared: dict[int, int] = defaultdict(int)
        for run in found:
            for j in places[run]:
                shared[j] += j < i
        for j, count in shared.items():
            if count and count >= NEAR_COPY * min(len(found), len(own[j])):
                yield j, i
