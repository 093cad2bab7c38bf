"""EncodeBatch in the engines that it is for, each run here with local workers, and by itself."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from conftest import TinyFolder

from minilm import EncodeBatch, InputError, SentenceEncoder, TextTypeError, engines
from minilm.tolerances import PACKED_FLOAT32

ROWS = [{"id": i, "text": f"text {i} about nothing"} for i in range(50)]
TEXTS = [row["text"] for row in ROWS]


@pytest.fixture(scope="module")
def folder(tiny_folder: TinyFolder) -> Path:
    return tiny_folder()


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray:
    return SentenceEncoder.from_pretrained(folder, device="cpu").encode(TEXTS)


def close(found: Any, expected: np.ndarray) -> bool:
    found = np.stack([np.asarray(row, dtype=np.float32) for row in found])
    return found.shape == expected.shape and abs(found - expected).max() <= PACKED_FLOAT32


@pytest.mark.parametrize(
    "batch",
    [
        {"id": list(range(50)), "text": TEXTS},
        {"id": np.arange(50), "text": np.array(TEXTS, dtype=object)},
        pd.DataFrame(ROWS, index=range(100, 150)),
        pa.Table.from_pylist(ROWS),
        pa.RecordBatch.from_pylist(ROWS),
    ],
    ids=["lists", "arrays", "pandas", "pyarrow", "record batch"],
)
def test_every_kind_of_batch(batch: Any, folder: Path, expected: np.ndarray) -> None:
    encode = EncodeBatch(folder, device="cpu")
    for result in (encode(batch), encode(encode(batch))):  # the second time the column is there already
        assert isinstance(result, type(batch))
        assert list(
            result
            if isinstance(result, dict)
            else pd.DataFrame(result.to_pandas() if hasattr(result, "to_pandas") else result)
        ) == ["id", "text", "embedding"]
        assert close(result["embedding"].to_pylist() if hasattr(result, "schema") else result["embedding"], expected)
    other = EncodeBatch(folder, column="body", output_column="v", device="cpu", truncate_dim=16, precision="binary")
    renamed = {"body": batch["text"].to_pylist() if hasattr(batch, "schema") else list(batch["text"])}
    assert other(renamed)["v"].shape == (50, 2)


def test_a_series_gives_a_series(folder: Path, expected: np.ndarray) -> None:
    texts = pd.Series(TEXTS, index=range(7, 57))
    found = EncodeBatch(folder, device="cpu")(texts)
    assert close(found, expected)
    assert found.index.equals(texts.index)
    assert len(EncodeBatch(folder, device="cpu")(texts[:0])) == 0


def test_what_cannot_be_used(folder: Path) -> None:
    encode = EncodeBatch(folder, device="cpu")
    with pytest.raises(InputError, match="no column 'text'; there are 'id', 'body'"):
        encode({"id": [1], "body": ["a"]})
    with pytest.raises(InputError, match=r"batched=True"):
        encode({"text": "one"})
    with pytest.raises(InputError, match=r"the batch is list"):
        encode(["a", "b"])
    with pytest.raises(TextTypeError, match="column 'text': text 1 is NoneType"):
        encode({"text": ["a", None]})
    for options in ({"precision": "int8"}, {"output": "x.npy"}, {"output_value": None}, {"num_threads": 0}):
        with pytest.raises(InputError, match=next(iter(options)) if "precision" not in options else "depend on its"):
            EncodeBatch(folder, **options)


def test_it_is_small_to_send_and_loads_the_model_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "_models", {})
    encode = EncodeBatch(folder, device="cpu")
    encode({"text": TEXTS})
    sent = pickle.dumps(encode)
    assert len(sent) < 1000
    again = pickle.loads(sent)
    again({"text": TEXTS}, 3)
    assert len(engines._models) == 1


@pytest.mark.usefixtures("one_thread")  # restores the number
def test_datasets_map(folder: Path, expected: np.ndarray) -> None:
    torch.set_num_threads(2)
    dataset = datasets.Dataset.from_list(ROWS)
    encode = EncodeBatch(folder, device="cpu")
    one = dataset.map(encode, batched=True, batch_size=20, load_from_cache_file=False)
    assert one.column_names == ["id", "text", "embedding"]
    assert close(one["embedding"], expected)
    same = EncodeBatch(folder, device="cpu")
    assert dataset.map(same, batched=True, batch_size=20)._fingerprint == one._fingerprint  # so that it can be cached

    def with_threads(batch: Any, rank: int) -> Any:
        return {**encode(batch, rank), "threads": [torch.get_num_threads()] * len(batch["text"])}

    two = dataset.map(with_threads, batched=True, num_proc=2, with_rank=True, load_from_cache_file=False)
    assert close(two["embedding"], expected)
    assert two["id"] == list(range(50))
    assert set(two["threads"]) == {1}  # of a fork's other threads none is there, and waiting for them never ends
    with pytest.raises(Exception, match="a forked process can have 1"):
        dataset.map(EncodeBatch(folder, num_threads=2), batched=True, num_proc=2, load_from_cache_file=False)


RAY = """
import sys
import numpy as np, ray
from minilm import EncodeBatch
ray.init(num_cpus=2, include_dashboard=False, configure_logging=False, object_store_memory=100_000_000)
ray.data.DataContext.get_current().enable_progress_bars = False
settings = {"model_name_or_path": sys.argv[1], "device": "cpu"}
texts = ray.data.from_items([{"id": i, "text": f"text {i} about nothing"} for i in range(50)])
vectors = texts.map_batches(EncodeBatch, fn_constructor_kwargs=settings, batch_size=20, concurrency=2)
rows = sorted(vectors.take_all(), key=lambda row: row["id"])
np.save(sys.argv[2], np.stack([row["embedding"] for row in rows]))
"""

SPARK = """
import sys
from collections.abc import Iterator
import numpy as np, pandas as pd
from pyspark.sql import SparkSession
from pyspark.sql.functions import pandas_udf
from minilm import EncodeBatch

settings = {"spark.ui.enabled": "false", "spark.driver.bindAddress": "127.0.0.1", "spark.driver.host": "127.0.0.1"}
spark = SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
encode = EncodeBatch(sys.argv[1], device="cpu", num_threads=1)

@pandas_udf("array<float>")
def embed(texts: Iterator[pd.Series]) -> Iterator[pd.Series]:
    return map(encode, texts)

frame = spark.createDataFrame([(i, f"text {i} about nothing") for i in range(50)], "id int, text string")
rows = sorted(frame.withColumn("embedding", embed("text")).collect(), key=lambda row: row.id)
np.save(sys.argv[2], np.array([row.embedding for row in rows], dtype=np.float32))
spark.stop()
"""


@pytest.mark.parametrize("script", [RAY, SPARK], ids=["ray", "spark"])
def test_workers_of_the_engine_give_the_vectors_of_encode(
    script: str, folder: Path, expected: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, str(tmp_path / "script.py"), str(folder), str(tmp_path / "out.npy")]
    env = {
        **os.environ,
        "PYTHONPATH": str(Path(engines.__file__).parents[1]),
        "PYSPARK_PYTHON": sys.executable,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    assert close(np.load(tmp_path / "out.npy"), expected)
