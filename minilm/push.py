"""Uploads a model folder to the hub: the files that belong to a model, in one commit.

  minilm push out/ user/name --private

The access token comes from HF_TOKEN or from 'hf auth login'; on a command line others could read it.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from minilm.errors import CheckpointError, PushError
from minilm.terminal import is_terminal, note, say

# What a model folder may hold, beside the files of the modules that it names; anything else in it (checkpoints,
# notes, keys …) stays at home.
MODEL_FILES = (
    "README.md",
    "modules.json",
    "config.json",
    "config_sentence_transformers.json",
    "sentence_bert_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "1_Pooling/config.json",
    "2_Normalize/config.json",
    "training_receipt.json",
    "training_log.jsonl",
    "training_log.png",
)


@dataclass(frozen=True)
class PushResult:
    """What an upload did.

    Attributes:
        url: of the commit.
        repo_id: with the user's or organisation's name.
        files: the files uploaded, and ``left_out`` those of the folder that were not.
    """

    url: str
    repo_id: str
    files: list[str]
    left_out: list[str]


def push_to_hub(
    folder: str | os.PathLike[str],
    repo_id: str,
    token: str | None = None,
    private: bool = False,
    revision: str | None = None,
    commit_message: str = "Upload a sentence embedding model with minilm",
) -> PushResult:
    """Uploads a model folder, whole or not at all: one commit holds all files.

    The repository is created when it is missing. ``HF_ENDPOINT`` names another hub.

    Args:
        folder: one that ``SentenceEncoder.from_pretrained`` loads.
        repo_id: ``"user/name"``, or ``"name"`` for the token's own user.
        token: the hub's access token; None takes ``HF_TOKEN`` or the one stored by ``hf auth login``.
        private: create the repository as a private one.
        revision: the branch, created when it is missing; None means ``main``.

    Raises:
        CheckpointError: the folder does not load, or its files lie elsewhere in it; nothing was sent.
        PushError: uploads are switched off, there is no token, the hub refused or did not answer.
    """
    folder = Path(folder)
    files = _checked(folder)

    import huggingface_hub
    from huggingface_hub import constants

    from minilm.hub import hub_answers

    if constants.HF_HUB_OFFLINE:
        raise PushError("the hub is switched off by HF_HUB_OFFLINE; unset it to upload")
    if not (token or huggingface_hub.get_token()):
        raise PushError("there is no access token: set HF_TOKEN, or run 'hf auth login', with a token that may write")
    if not hub_answers():
        raise PushError(f"{constants.ENDPOINT} does not answer; nothing was uploaded. Try again with a network.")
    api = huggingface_hub.HfApi(token=token)
    with _clear_errors(repo_id, revision), _quiet_in_a_pipe():
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if private and not api.model_info(repo_id).private:
            raise PushError(
                f"{repo_id} exists and is public, so the upload would be public too; nothing was uploaded. "
                "Make it private on the hub, choose another name, or leave out private."
            )
        if revision:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        operations = [huggingface_hub.CommitOperationAdd(name, folder / name) for name in files]
        commit = api.create_commit(repo_id, operations, commit_message=commit_message, revision=revision)
    found = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return PushResult(str(commit.commit_url), repo_id, files, [name for name in found if name not in files])


def _checked(folder: Path) -> list[str]:
    """The files to upload, once the folder has loaded."""
    from minilm.folder import model_files, read_folder
    from minilm.sentence_encoder import SentenceEncoder

    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder")
    SentenceEncoder.from_pretrained(folder)
    if (encoder := read_folder(folder).transformer_dir) != folder:
        raise CheckpointError(
            f"{folder} has its encoder in {encoder}, expected in the folder itself; load the model, save it anew with "
            "save_pretrained, and push that folder"
        )
    of_modules = [name for name in model_files(folder) if name not in MODEL_FILES]
    files = [name for name in (*MODEL_FILES, *of_modules) if (folder / name).is_file()]
    inside = Path(os.path.realpath(folder))
    blobs = inside.parent.parent / "blobs"  # of the hub's cache, where a snapshot's files are links
    for name in files:
        target = Path(os.path.realpath(folder / name))
        if not (target.is_relative_to(inside) or target.parent == blobs):
            raise CheckpointError(
                f"{folder / name} is a link to {target}, outside the folder; nothing outside is uploaded. "
                "Put a copy in its place, or remove it"
            )
    return files


@contextmanager
def _clear_errors(repo_id: str, revision: str | None) -> Iterator[None]:
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    # The base is the HTTP library's own error, whichever library it is.
    network: tuple[type[Exception], ...] = (*HfHubHTTPError.__bases__, OSError)
    try:
        yield
    except PushError:
        raise
    except HFValidationError as error:
        raise PushError(f"{repo_id!r} is no name for a repository: {error}") from None
    except (
        Exception
    ) as error:  # the library wraps its errors in RuntimeError and ValueError, and the HTTP client's vary
        cause = error if isinstance(error, network) else error.__cause__ or error
        status = getattr(getattr(cause, "response", None), "status_code", 0)
        where = f"{repo_id}{f' at {revision}' if revision else ''}"
        if isinstance(cause, network):
            reason = _REASONS.get(status) or (
                "the hub refused the upload to {where}"
                if 400 <= status < 500
                else f"{'the hub failed' if status else 'the connection to the hub broke'}; try again"
            )
        elif isinstance(error, (RuntimeError, ValueError)):
            reason = (
                "the hub cannot take the upload to {where}"  # for instance, it finds README.md's front matter wrong
            )
        else:
            raise
        said = getattr(cause, "server_message", None) or str(cause) or type(cause).__name__
        said = " ".join((said if error is cause else f"{error} {said}").split())
        status_said = f"{status}: " if status else ""
        raise PushError(f"{reason.format(where=where)}. No commit was made. [{status_said}{said[:300]}]") from error


_REASONS = {
    401: "the hub does not accept the access token; make a new one, with the right to write",
    403: "the access token may not write to {where}; use one that may, or another name",
    404: "the hub has no {where}, or hides it from this token; check the name",
    409: "the hub reports a conflict at {where}: somebody else is changing it; try again",
    413: "the hub finds the files too large",
    429: "the hub asks for a pause: too many requests; try again later",
}


@contextmanager
def _quiet_in_a_pipe() -> Iterator[None]:
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    quiet = not is_terminal(sys.stderr) and not are_progress_bars_disabled()
    if quiet:
        disable_progress_bars()
    try:
        yield
    finally:
        if quiet:
            enable_progress_bars()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="a model folder")
    parser.add_argument("repo_id", metavar="REPO_ID", help="user/name on the hub; created when it is missing")
    parser.add_argument("--private", action="store_true", help="create the repository as a private one")
    parser.add_argument("--revision", metavar="BRANCH", help="the branch to upload to (default: main)")
    parser.add_argument("--commit-message", metavar="TEXT", default="Upload a sentence embedding model with minilm")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    result = push_to_hub(
        args.folder,
        args.repo_id,
        private=args.private,
        revision=args.revision,
        commit_message=args.commit_message,
    )
    say(f"{len(result.files)} files → {result.url}")
    if result.left_out:
        note(f"left out, being no part of a model: {', '.join(result.left_out)}")
    return 0
