"""The README says what is true: its snippets run and print what stands there, its commands work, its
map names every file."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from minilm.tolerances import PRINTED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def same_but_for_rounding(found: str, stated: str) -> bool:
    """Whether two texts agree word for word, numbers to the last printed digit, "…" with anything."""
    if "…" in stated:
        before, _, after = stated.partition("…")
        return found.startswith(before) and found.rstrip().endswith(after.strip())
    if NUMBER.sub("#", found).split() != NUMBER.sub("#", stated).split():
        return False
    numbers = zip(NUMBER.findall(found), NUMBER.findall(stated), strict=True)
    return all(abs(float(a) - float(b)) <= PRINTED for a, b in numbers)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the snippets read, and the commands on the path."""
    (tmp_path / "notes.txt").write_text(
        "The ferry leaves at seven.\n\nPrune the roses in March.\n\nThe library closes at noon on Fridays.\n"
    )
    pairs = [
        {"question": f"When does ferry number {i} leave?", "answer": f"Ferry number {i} leaves at {i} o'clock."}
        for i in range(1, 9)
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_python_snippets_print_what_stands_below_them(index: int, folder: Path) -> None:
    code = blocks("python")[index]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    after = README.partition(f"```python\n{code}```\n")[2].lstrip()
    if after.startswith("```text\n"):
        stated = after.removeprefix("```text\n").partition("```")[0]
        assert same_but_for_rounding(done.stdout, stated), done.stdout


@pytest.mark.parametrize("block", blocks("console"), ids=lambda block: block.split("\n")[0])
def test_commands_print_what_stands_below_them(block: str, folder: Path) -> None:
    """Each line that begins with "$ " is run, one after the other in the same folder."""
    for part in block.split("$ ")[1:]:
        command, _, stated = part.partition("\n")
        done = subprocess.run(command, shell=True, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        assert same_but_for_rounding(done.stdout, stated), f"{command}\n{done.stdout}"


def test_the_demo_prints_what_the_readme_shows() -> None:
    (shown,) = (block for block in blocks("text") if "import minilm" in block)
    done = subprocess.run([ROOT / "scripts" / "demo"], capture_output=True, text=True, cwd="/")
    assert done.returncode == 0, done.stderr
    times = re.compile(r" *[\d,]+ ms")
    assert same_but_for_rounding(times.sub("", done.stdout), times.sub("", shown)), done.stdout


def test_the_map_names_every_file() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    names = {name for name in listed.stdout.splitlines() if name.startswith(("minilm/", "scripts/", "weights/"))}
    names = {name for name in names if not name.endswith(("__init__.py", "py.typed"))}
    (file_map,) = (block for block in blocks("text") if block.startswith("minilm/\n"))
    stack: list[str] = []
    mapped = []
    for line in file_map.splitlines():
        if not (entry := re.match(r"( *)(\S+)", line)):
            continue
        depth = len(entry[1]) // 4
        stack = [*stack[:depth], entry[2]]
        if not entry[2].endswith("/"):
            mapped.append("".join(stack))
    assert len(mapped) == len(set(mapped))
    assert names - set(mapped) == set()
    assert {name for name in mapped if not (ROOT / name).exists()} == set()
