"""Uploads, against a fake hub on this machine that speaks the part of its protocol that an upload needs.

``HF_ENDPOINT`` is read when huggingface_hub is imported, so uploads run in processes of their own. The fake serves
the LFS road (``HF_HUB_DISABLE_XET``), where the content of large files can be seen.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_models import tiny_model

from minilm import SentenceEncoder
from minilm.errors import CheckpointError
from minilm.push import push_to_hub

GOOD, READER = "hf_good", "hf_reader"


class FakeHub(ThreadingHTTPServer):
    """Repositories are dicts of files; a name with ``failNNN`` in it makes the commit answer NNN."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.large, self.requests = {}, {}, []
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, content=None):
        body = json.dumps(content or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if status >= 400:
            self.send_header("X-Error-Message", (content or {}).get("error", "no reason given"))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        hub, path = self.server, self.path.split("?")[0]
        length = int(self.headers.get("Content-Length") or 0)
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(length)
        hub.requests.append((self.command, path))
        if self.command == "HEAD":
            return self.answer(200)
        if self.command == "PUT":
            oid = path.rsplit("/", 1)[1]
            hub.large[oid] = body
            return self.answer(200)
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in (GOOD, READER):
            return self.answer(401, {"error": "Invalid username or password."})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'user'}/{asked['name']}"
            if token == READER:
                return self.answer(403, {"error": "You don't have the rights to create a model"})
            if "fail500" in name:
                return self.answer(500, {"error": "Internal"})
            known = name in hub.repos
            hub.repos.setdefault(
                name, {"private": asked.get("visibility") == "private", "files": {}, "branches": ["main"]}
            )
            return self.answer(409 if known else 200, {"url": f"{hub.url}/{name}", "error": "exists"})
        if path == "/api/validate-yaml":
            wrong = "wrong front matter" in json.loads(body)["content"]
            return self.answer(
                400 if wrong else 200, {"errors": [{"message": "tags is wrong"}] * wrong, "warnings": []}
            )
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**o, "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}}
                for o in json.loads(body)["objects"]
            ]
            return self.answer(200, {"transfer": "basic", "objects": objects})
        parts = path.removeprefix("/api/models/").split("/")
        name, action = "/".join(parts[:2]), parts[2] if len(parts) > 2 else ""
        repo = hub.repos.get(name)
        if repo is None:
            return self.answer(404, {"error": "Repository not found"})
        if action == "":
            return self.answer(200, {"id": name, "private": repo["private"], "siblings": [], "tags": []})
        if action == "branch":
            repo["branches"].append(parts[3])
            return self.answer(200)
        if action == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular"}
                for f in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": [{**f, "shouldIgnore": False} for f in files]})
        if action == "commit":
            if "fail" in name:
                status = int(name.split("fail")[1][:3])
                return self.answer(status, {"error": f"commit says {status}"})
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    repo["files"][value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    repo["files"][value["path"]] = hub.large[value["oid"]]
                elif line["key"] == "header":
                    repo["message"], repo["revision"] = value["summary"], parts[3]
            url = f"{hub.url}/{name}/commit/{'a' * 40}"
            return self.answer(200, {"success": True, "commitOid": "a" * 40, "commitUrl": url})
        return self.answer(404, {"error": path})

    do_GET = do_HEAD = do_POST = do_PUT = handle_any  # noqa: N815


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with a card and a receipt, and beside it what must stay at home."""
    folder = tmp_path_factory.mktemp("push") / "model"
    tiny_model().save_pretrained(folder)
    (folder / "README.md").write_text("---\ntags: [x]\n---\n# A model\n")
    (folder / "training_receipt.json").write_text("{}")
    (folder / ".env").write_text("SECRET=1")
    (folder / "pairs.jsonl").write_text("{}")
    (folder / "checkpoint-1").mkdir()
    (folder / "checkpoint-1" / "model.safetensors").write_bytes(b"1")
    return folder


def push(calls, hub_url, **environment):
    """Runs push_to_hub once for each call in one process; the results, or the errors as texts."""
    program = """
import argparse, contextlib, io, json, sys
from minilm import push
for call in json.loads(sys.stdin.read()):
    try:
        if "argv" in call:
            parser = argparse.ArgumentParser()
            push.add_arguments(parser)
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                push.run(parser.parse_args(call["argv"]))
            print(json.dumps(printed.getvalue()))
            continue
        result = push.push_to_hub(**call)
        print(json.dumps([result.url, result.repo_id, result.files, result.left_out]))
    except Exception as error:
        print(json.dumps(type(error).__name__ + ": " + str(error)))
"""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING", "TRANSFORMERS"))}
    root = Path(__file__).resolve().parent.parent
    settings = {"HF_ENDPOINT": hub_url, "HF_HUB_DISABLE_XET": "1", "PYTHONPATH": str(root), "HF_HOME": "/nonexistent"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        input=json.dumps(calls),
        capture_output=True,
        text=True,
        env=kept | settings | environment,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.fixture(scope="module")
def outcome(folder, tmp_path_factory):
    """One process that pushes to many repositories, and the hub as it is afterwards."""
    hub = FakeHub()
    hub.repos["user/public"] = {"private": False, "files": {}, "branches": ["main"]}
    broken = tmp_path_factory.mktemp("broken") / "model"
    broken.mkdir()
    (broken / "README.md").write_text("no model")
    wrong = tmp_path_factory.mktemp("wrong") / "model"
    shutil.copytree(folder, wrong)
    (wrong / "README.md").write_text("---\nwrong front matter\n---\n")
    calls = {
        "new": {"folder": str(folder), "repo_id": "user/new"},
        "again": {"folder": str(folder), "repo_id": "user/new", "commit_message": "Second"},
        "short": {"folder": str(folder), "repo_id": "short", "private": True, "revision": "dev"},
        "command": {"argv": [str(folder), "user/command", "--private", "--commit-message", "By hand"]},
        "public": {"folder": str(folder), "repo_id": "user/public", "private": True},
        "broken": {"folder": str(broken), "repo_id": "user/broken"},
        "wrong card": {"folder": str(wrong), "repo_id": "user/wrong"},
        "missing": {"folder": str(folder / "none"), "repo_id": "user/missing"},
        "bad name": {"folder": str(folder), "repo_id": "a b/c"},
        "wrong token": {"folder": str(folder), "repo_id": "user/x", "token": "hf_wrong"},
        "reader": {"folder": str(folder), "repo_id": "user/y", "token": READER},
        "fail403": {"folder": str(folder), "repo_id": "user/fail403"},
        "fail404": {"folder": str(folder), "repo_id": "user/fail404"},
        "fail500": {"folder": str(folder), "repo_id": "user/fail500"},
    }
    results = dict(zip(calls, push(list(calls.values()), hub.url, HF_TOKEN=GOOD), strict=True))
    yield hub, results
    hub.shutdown()
    hub.server_close()


def test_the_files_of_a_model_arrive_and_no_others(outcome, folder):
    hub, results = outcome
    url, repo_id, files, left_out = results["new"]
    assert (url, repo_id) == (f"{hub.url}/user/new/commit/{'a' * 40}", "user/new")
    assert left_out == [".env", "checkpoint-1/model.safetensors", "pairs.jsonl"]
    arrived = hub.repos["user/new"]["files"]
    assert sorted(arrived) == sorted(files)
    assert {"README.md", "model.safetensors", "1_Pooling/config.json", "training_receipt.json"} <= set(files)
    for name in files:
        assert hashlib.sha256(arrived[name]).digest() == hashlib.sha256((folder / name).read_bytes()).digest()


def test_what_arrived_loads(outcome, folder, tmp_path):
    for name, content in outcome[0].repos["user/new"]["files"].items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    texts = ["cat dog", "sun"]
    arrived, sent = SentenceEncoder.from_pretrained(tmp_path), SentenceEncoder.from_pretrained(folder)
    assert (arrived.encode(texts) == sent.encode(texts)).all()


def test_a_repository_that_exists_takes_another_commit(outcome):
    hub, results = outcome
    assert results["again"][1] == "user/new" and hub.repos["user/new"]["message"] == "Second"


def test_a_private_one_on_a_branch(outcome):
    hub, results = outcome
    assert results["short"][1] == "user/short"
    repo = hub.repos["user/short"]
    assert repo["private"] and repo["revision"] == "dev" and "dev" in repo["branches"]


def test_private_is_not_quietly_public(outcome):
    hub, results = outcome
    assert "user/public exists and is public" in results["public"]
    assert not hub.repos["user/public"]["files"]


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("broken", r"CheckpointError: .*modules.json does not exist"),
        ("wrong card", r"PushError: the hub refused the upload to user/wrong. .*README.md. - tags is wrong"),
        ("missing", r"CheckpointError: .*none is not a folder"),
        ("bad name", r"PushError: 'a b/c' is no name for a repository"),
        ("wrong token", r"PushError: the hub does not accept the access token.*No commit was made.*401"),
        ("reader", r"PushError: the access token may not write to user/y.*You don't have the rights"),
        ("fail403", r"PushError: the access token may not write to user/fail403.*commit says 403"),
        ("fail404", r"PushError: the hub has no user/fail404.*404"),
        ("fail500", r"PushError: the hub failed; try again. No commit was made. \[500"),
    ],
)
def test_errors_say_what_to_do(outcome, case, error):
    hub, results = outcome
    assert re.match(error, results[case]), results[case]
    assert GOOD not in results[case]
    assert not any(
        repo["files"] for name, repo in hub.repos.items() if name not in ("user/new", "user/short", "user/command")
    )


def test_a_folder_that_does_not_load_asks_the_hub_nothing(outcome):
    assert not any("broken" in path or "missing" in path for _, path in outcome[0].requests)


def test_no_token_and_no_network(folder):
    call = {"folder": str(folder), "repo_id": "user/x"}
    no_token, no_network = push([call, call | {"token": GOOD}], "http://127.0.0.1:9")
    assert "there is no access token" in no_token and "hf auth login" in no_token
    assert "http://127.0.0.1:9 does not answer; nothing was uploaded" in no_network


def test_an_encoder_in_a_folder_of_its_own_is_not_left_out(folder, tmp_path):
    apart = tmp_path / "model"
    shutil.copytree(folder, apart)
    (apart / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "sentence_bert_config.json", "tokenizer.json"):
        (apart / name).rename(apart / "0_Transformer" / name)
    modules = json.loads((apart / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (apart / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(CheckpointError, match="save it anew with save_pretrained"):
        push_to_hub(apart, "user/x")


def test_offline_switch(folder):
    (said,) = push([{"folder": str(folder), "repo_id": "user/x"}], "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert said.startswith("PushError") and "HF_HUB_OFFLINE" in said


def test_the_command(outcome):
    hub, results = outcome
    assert f"→ {hub.url}/user/command/commit/" in results["command"]
    assert hub.repos["user/command"]["private"] and hub.repos["user/command"]["message"] == "By hand"
