"""Files that somebody else put there, and those of processes that were killed."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest
from tiny_models import PAIRS, tiny_model

from minilm import CheckpointError, InputError, SentenceEncoder
from minilm.push import push_to_hub
from minilm.training import PairDataset, TrainingRecipe, train
from minilm.training.log import TrainingLog


def test_a_pipe_in_a_model_s_folder_is_refused(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    for name in ("config.json", "modules.json", "tokenizer.json", "model.safetensors"):
        kept = (tmp_path / "model" / name).rename(tmp_path / name)
        os.mkfifo(tmp_path / "model" / name)
        with pytest.raises(CheckpointError):
            SentenceEncoder.from_pretrained(tmp_path / "model")
        (tmp_path / "model" / name).unlink()
        kept.rename(tmp_path / "model" / name)


def test_a_link_to_a_file_outside_is_not_uploaded(tmp_path: Path) -> None:
    tiny_model().save_pretrained(tmp_path / "model")
    (tmp_path / "key").write_text("secret")
    (tmp_path / "model" / "README.md").symlink_to(tmp_path / "key")
    with pytest.raises(CheckpointError, match=r"README.md is a link to .*key, outside"):
        push_to_hub(tmp_path / "model", "user/name")


@pytest.mark.parametrize("name", ["v.npy.part", "v.npy.part.json.tmp"])
def test_vectors_are_not_written_through_a_link(tmp_path: Path, name: str) -> None:
    (tmp_path / "other").write_text("kept")
    (tmp_path / name).symlink_to(tmp_path / "other")
    with pytest.raises(OSError, match="cannot write"):
        tiny_model().encode(["cat"], output=tmp_path / "v.npy")
    assert (tmp_path / "other").read_text() == "kept"


def test_saving_keeps_modes_and_clears_what_killed_processes_left(tmp_path: Path) -> None:
    folder, old = tmp_path / "model", tmp_path / ".model.killed.tmp"
    old.mkdir()
    os.utime(old, (time.time() - 3600,) * 2)
    before = os.umask(0o027)
    try:
        tiny_model().save_pretrained(folder)
        assert {stat.S_IMODE(p.stat().st_mode) for p in folder.rglob("*") if p.is_file()} == {0o640}
        (folder / "config.json").chmod(0o604)
        tiny_model().save_pretrained(folder)
    finally:
        os.umask(before)
    assert stat.S_IMODE((folder / "config.json").stat().st_mode) == 0o604
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_two_runs_do_not_train_in_one_folder(tmp_path: Path) -> None:
    pairs = PairDataset("pairs", PAIRS)
    recipe = TrainingRecipe.trainer(max_steps=1, per_device_train_batch_size=2, resume_from_checkpoint=True)
    with TrainingLog(tmp_path), pytest.raises(InputError, match="another process"):
        train(tiny_model(), pairs, recipe, output_dir=tmp_path)
    assert train(tiny_model(), pairs, recipe, output_dir=tmp_path).global_step == 1
