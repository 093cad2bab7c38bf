"""The lesson: each step prints what its README shows, each changed line does what answers.md says, and a
mistake in a student's own forward pass is seen."""

import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest
import torch

from minilm.tolerances import LESSON_DOCSTRINGS, PRINTED

LESSON = Path(__file__).parent.parent / "scripts" / "lesson"
STEPS = sorted(LESSON.glob("[1-8]_*.py"))
DOCSTRINGS = ("6_probe.py", "8_fine_tune.py")  # their numbers depend on the versions of Python, numpy and torch
NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?![\w.]*e-)")
DIFFERENCE = re.compile(r"\d\.\de-\d\d")  # rounding, another on every processor; the script says whether it is


def shown(file: str, step: str, language: str = "text") -> list[str]:
    """The blocks of one step, a second-level section that names its script, in one of the two documents."""
    sections = (LESSON / file).read_text(encoding="utf-8").split("\n## ")[1:]
    (section,) = (text for text in sections if step in text.partition("\n")[0])
    blocks = re.findall(rf"^ *```{language}\n(.*?)^ *```$", section, flags=re.MULTILINE | re.DOTALL)
    return [dedent(block) for block in blocks]


def same(found: str, stated: str, tolerance: float) -> bool:
    """Whether two lines agree: words exactly, numbers to the tolerance, "…" at the end with anything."""
    if stated.endswith("…") and found.startswith(stated[:-1]):
        return True
    found, stated = DIFFERENCE.sub("≈", found), DIFFERENCE.sub("≈", stated)
    if NUMBER.sub("#", found).split() != NUMBER.sub("#", stated).split():
        return False
    numbers = zip(NUMBER.findall(found), NUMBER.findall(stated), strict=True)
    return all(a == b or ("." in a + b and abs(float(a) - float(b)) <= tolerance) for a, b in numbers)


@cache
def run(script: Path) -> str:
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The lesson in a folder of its own, to change; it runs in this environment."""
    (tmp_path / "environment.py").write_text("def enter():\n    pass\n")
    return Path(shutil.copytree(LESSON, tmp_path / "lesson"))


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{old!r} stands {text.count(old)} times in {file.name}"
    file.write_text(text.replace(old, new), encoding="utf-8")


def test_there_are_eight() -> None:
    assert [step.name[0] for step in STEPS] == list("12345678")


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.name)
def test_a_step_prints_what_a_student_should_see(step: Path) -> None:
    found = run(step)
    (stated,) = shown("README.md", step.name)
    tolerance = LESSON_DOCSTRINGS if step.name in DOCSTRINGS else PRINTED
    wrong = [
        f"found  {a}\nstated {b}"
        for a, b in zip(found.splitlines(), stated.splitlines(), strict=True)
        if not same(a, b, tolerance)
    ]
    assert not wrong, "\n".join(wrong)
    assert "DIFFERENT" not in found


def test_what_must_be_seen_whatever_the_docstrings_are() -> None:
    """Training helps, and where there are few lines to learn from, vectors are better than words."""
    before, after = re.findall(r"MRR (\d\.\d+)", run(LESSON / "8_fine_tune.py"))
    assert float(after) > float(before) + 0.01
    probed = run(LESSON / "6_probe.py")
    (most_frequent,) = re.findall(r"always '\w+': (\d\.\d+)", probed)
    lines = re.findall(r"^ +\d+ +(\d\.\d+) +(\d\.\d+)$", probed, flags=re.MULTILINE)
    assert all(float(words) < float(vectors) > float(most_frequent) for words, vectors in lines[:2])
    assert float(lines[-1][1]) > float(lines[0][1])


CHANGES = [(step.name, index) for step in STEPS for index in range(len(shown("answers.md", step.name, "diff")))]


@pytest.mark.parametrize(("step", "index"), CHANGES)
def test_a_changed_line_does_what_the_answer_says(step: str, index: int, copy: Path) -> None:
    """A ``diff`` block: the file, then lines out and lines in; the ``text`` block after it: lines to be printed."""
    diff = shown("answers.md", step, "diff")[index].splitlines()
    old = "\n".join(line[2:] for line in diff[1:] if line.startswith("- "))
    new = "\n".join(line[2:] for line in diff[1:] if line.startswith("+ "))
    change(copy / diff[0], old, new)
    done = subprocess.run([sys.executable, copy / step], capture_output=True, text=True)
    found = done.stdout.splitlines() + done.stderr.splitlines()
    tolerance = LESSON_DOCSTRINGS if step in DOCSTRINGS else PRINTED
    for stated in shown("answers.md", step)[index].splitlines():
        assert any(same(line, stated, tolerance) for line in found), f"{stated}\nis not in\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize(
    ("mine", "said"),
    [
        (torch.zeros(2, 3), "rounding"),
        (torch.full((2, 3), 2e-5), "DIFFERENT"),
        (torch.full((2, 3), 2e-5, dtype=torch.float64), "DIFFERENT"),
        (torch.full((2, 3), torch.nan), "DIFFERENT"),
        (torch.zeros(2, 1), "DIFFERENT: shape [2, 1], expected [2, 3]"),  # would broadcast
        (torch.zeros(3), "DIFFERENT: shape [3], expected [2, 3]"),
    ],
)
def test_a_students_mistake_is_seen(
    mine: torch.Tensor, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(LESSON))
    import lesson

    lesson.compare("a stage", mine, torch.zeros(2, 3, dtype=mine.dtype))
    assert said in capsys.readouterr().out
