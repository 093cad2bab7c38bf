"""The package as others get it: what importing it costs, what it ships, how it works when installed."""

import json
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from minilm import hub

ROOT = Path(__file__).parent.parent


def test_import_brings_nothing_heavy() -> None:
    """What would cost time at every start: clients of the hub, compilers, and whatever is optional."""
    code = "import torch, sys; before = set(sys.modules); import minilm.api; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert packages - set(sys.stdlib_module_names) <= {
        "minilm",
        "numpy",
        "safetensors",
        "tokenizers",
        "torch",
        "huggingface_hub",
    }
    assert "torch._dynamo" not in done.stdout
    assert "huggingface_hub.hf_api" not in done.stdout


def test_encode_imports_no_reference_library(weights: Path) -> None:
    code = (
        "import sys; from minilm import SentenceEncoder; "
        f"SentenceEncoder.from_pretrained({str(weights)!r}, device='cpu').encode(['a', 'b']); "
        "print(json.dumps(sorted(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", "import json; " + code], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert "torch._dynamo" not in json.loads(done.stdout)  # torch's compiler: seconds at every start
    assert modules.isdisjoint({"sentence_transformers", "transformers", "sklearn", "scipy", "pandas", "datasets"})


def test_published_hashes_stand_in_one_form_only() -> None:
    lines = (ROOT / "weights" / "SHA256SUMS").read_text().splitlines()
    assert {name: digest for digest, name in (line.split("  ") for line in lines)} == hub.SHA256
    provenance = (ROOT / "weights" / "README.md").read_text()
    assert hub.REVISION in provenance
    assert hub.WHEEL.replace("==", "` ") in provenance


def test_five_runtime_packages_and_no_more() -> None:
    text = (ROOT / "setup.cfg").read_text()
    required = re.search(r"install_requires =\n((?:    .+\n)+)", text).group(1).split()
    assert [re.match(r"\w+", name).group() for name in required] == [
        "torch",
        "tokenizers",
        "safetensors",
        "huggingface_hub",
        "numpy",
    ]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel and a source distribution, from a copy of the files that a checkout has."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("minilm", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", ROOT / name, source], check=True)
    code = f"from setuptools import build_meta as b; b.build_wheel({str(out)!r}); b.build_sdist({str(out)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, capture_output=True)
    return out


def test_wheel_and_sdist_are_whole(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "minilm").rglob("*.py")}
    names = set(zipfile.ZipFile(wheel).namelist())
    assert modules | {"minilm/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts", "weights"))]
    assert any(name.endswith("licenses/LICENSE") for name in names)
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    assert modules | {"setup.cfg", "pyproject.toml", "README.md", "LICENSE"} <= packed


def test_installed_wheel_works_outside_the_checkout(built: Path, weights: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", site, wheel]
    subprocess.run(install, check=True)
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import minilm
assert minilm.__file__.startswith({str(site)!r})
print(minilm.SentenceEncoder.from_pretrained({str(weights)!r}, device="cpu").encode(["a", "b"]).shape)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert (done.stdout.strip(), done.stderr) == ("(2, 384)", "")
    assert (site / "bin" / "minilm").is_file()


def test_nothing_in_the_repository_is_large_or_generated() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    files = [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).exists()]
    assert files
    assert [file for file in files if file.stat().st_size > 500_000] == []
    assert [file for file in files if file.suffix in (".pyc", ".pkl", ".bin", ".npy")] == []
