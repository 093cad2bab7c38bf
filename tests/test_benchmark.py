"""The benchmark: its arithmetic, who is refused, and small runs of the real thing. Nothing is timed."""

import json
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from minilm import EncoderConfig, InputError
from minilm.tolerances import PACKED_FLOAT32

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "scripts"))

from benchmarks import machine, measure, report, texts  # noqa: E402
from benchmarks.contenders import label  # noqa: E402
from benchmarks.figures import Spread, check_vectors, flop, ratios  # noqa: E402
from benchmarks.gemm import Gemm  # noqa: E402
from benchmarks.worker import Settings, Worker, WorkerError  # noqa: E402

CORPUS = texts.Corpus("short", "a test", ["one", "two", "three"], [3, 3, 3])


class Fake:
    """A contender whose vectors and seconds are made up: ``seconds[batch_size]``, one after the other."""

    def __init__(self, name, vectors, seconds, wrong_at=()):
        self.name, self.right, self.wrong_at = name, vectors, wrong_at
        self.left = {size: iter(times) for size, times in seconds.items()}
        self.asked = []

    def call(self, method, *arguments):
        self.asked.append(method)
        if method == "vectors":
            return -self.right if arguments[1] in self.wrong_at else self.right
        return next(self.left[arguments[1]]) if method == "seconds" else None


@pytest.fixture(autouse=True)
def no_rest(monkeypatch):
    monkeypatch.setattr(measure, "REST", 0)


@pytest.fixture
def right():
    vectors = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def race(*workers, batch_sizes=(1, 2), rounds=3):
    return measure.measure_speed(
        {worker.name: worker for worker in workers},
        CORPUS,
        reference="st-fp32",
        baseline="st-fp32",
        rounds=rounds,
        batch_sizes=batch_sizes,
        say=lambda _: None,
    )


# A warm-up and a try in batches of 1, a try in batches of 2, then the rounds in the faster of the two.
def test_batch_size_median_spread_and_ratio(right):
    results = race(
        Fake("st-fp32", right, {1: [9, 4, 6, 8, 4], 2: [5]}),
        Fake("minilm-fp32", right, {1: [9, 4], 2: [3, 2, 2, 4]}),
    )
    assert [results[name]["batch_size"] for name in results] == [1, 2]
    assert results["minilm-fp32"]["seconds"] == [2, 2, 4]
    assert results["minilm-fp32"]["texts_per_second"] == Spread(1.5, 0.75, 1.5)
    assert results["minilm-fp32"]["tokens_per_second"] == Spread(4.5, 2.25, 4.5)
    # 6/2, 8/2, 4/4: the median of the ratios, not the ratio of the medians
    assert results["minilm-fp32"]["ratio"] == Spread(3, 1, 4)
    assert results["st-fp32"]["ratio"] == Spread(1, 1, 1)


def test_wrong_vectors_are_refused_and_not_timed(right):
    wrong = Fake("onnx-fp32", right[::-1], {1: [9, 1], 2: [1]})
    results = race(Fake("st-fp32", right, {1: [1] * 5, 2: [2]}), wrong)
    assert "cosine with float32" in results["onnx-fp32"]["refused"]
    assert not {"seconds", "ratio"} & set(results["onnx-fp32"])
    assert wrong.asked.count("seconds") == 3
    table = list(report.speed_table(CORPUS, results, "st-fp32"))
    assert not any("ONNX Runtime" in line and "REFUSED" not in line and "WRONG" not in line for line in table)
    assert any("ONNX Runtime fp32: REFUSED" in line for line in table)


def test_a_batch_size_with_wrong_vectors_is_passed_over(right):
    results = race(
        Fake("st-fp32", right, {1: [1] * 5, 2: [2]}),
        Fake("openvino-int8", right, {1: [9, 3, 3, 3, 3], 2: [1]}, wrong_at=(2,)),
    )
    assert results["openvino-int8"]["batch_size"] == 1
    assert results["openvino-int8"]["wrong_at"][0]["batch_size"] == 2
    assert any("batches of 2: WRONG VECTORS" in line for line in report.speed_table(CORPUS, results, "st-fp32"))


def test_a_contender_that_fails_is_named_and_the_others_go_on(right):
    class Failing(Fake):
        def call(self, method, *arguments):
            if method == "vectors":
                raise WorkerError("RuntimeError: out of luck", "")
            return super().call(method, *arguments)

    results = race(Fake("st-fp32", right, {1: [1] * 5, 2: [2]}), Failing("onnx-int8", right, {1: [1, 1], 2: [1]}))
    assert results["onnx-int8"] == {"refused": "RuntimeError: out of luck"}
    assert "ratio" in results["st-fp32"]


def test_everyone_has_a_turn_in_each_round_and_the_first_changes():
    order = list(measure.turns("abc", 4))
    assert [name for _, name in order] == list("abcbcacababc")


def test_what_each_precision_allows(right):
    noise = np.random.default_rng(1).normal(size=right.shape).astype(np.float32)
    for size, allowed in ((1e-6, {"fp32", "bf16", "int8"}), (3e-3, {"bf16", "int8"}), (3e-2, {"int8"}), (1.0, set())):
        found = right + size * noise
        assert {p for p in ("fp32", "bf16", "int8") if check_vectors(found, right, p).problem is None} == allowed
    check = check_vectors(right + np.float32(0.5), right, "int8")
    assert check.largest_difference == pytest.approx(0.5)


def test_what_is_no_vector_is_wrong(right):
    found = right.copy()
    found[1, 1] = np.nan
    assert "1 of 3 texts" in check_vectors(found, right, "int8").problem
    assert "shape (2, 8), expected (3, 8)" in check_vectors(right[:2], right, "int8").problem
    assert check_vectors(right * 0, right, "int8").problem


def test_statistics():
    assert Spread.of([3, 1, 2, 10]) == Spread(2.5, 1, 10)
    assert ratios([2, 9], [1, 3]) == Spread(2.5, 2, 3)
    with pytest.raises(ValueError):
        ratios([1, 2], [1])


def test_operations_are_what_the_modules_do(model):
    config = EncoderConfig()
    assert round(flop(config, [1]) / 1e6, 1) == 21.2
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model(
            model.tokenize(["a b c d", "a b"], layout="padded"), attention="eager"
        )  # the second is padded to 6 tokens
    assert flop(config, [6, 6]) == counter.get_total_flops()


def test_texts_of_exact_length(model):
    for length in (2, 5, 14, 256):
        assert [len(ids) for ids in model.tokenizer([texts.text_of_length(length, model.tokenizer)]).ids] == [length]


def test_texts_of_a_file_are_distinct_and_not_blank(tmp_path, model):
    (tmp_path / "lines.txt").write_text("b\n\na\nb\n  \nc\n")
    found = texts.read_file(str(tmp_path / "lines.txt"), None)
    assert sorted(found) == ["a", "b", "c"]
    corpus = texts.make_corpus("short", "lines.txt", found, 2, model.tokenizer)
    assert (corpus.texts, corpus.lengths) == (found[:2], [3, 3])
    (tmp_path / "pairs.csv").write_text('"one, two",b,1.0\nc,b,2.0\n')
    assert sorted(texts.read_file(str(tmp_path / "pairs.csv"), (1, 2))) == ["b", "c", "one, two"]
    with pytest.raises(InputError, match=r"pairs.csv, row 1 has 3 columns, expected at least 4"):
        texts.read_file(str(tmp_path / "pairs.csv"), (1, 4))
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(InputError, match="has no text"):
        texts.read_file(str(tmp_path / "empty.txt"), None)


def test_calibration_texts_are_not_among_those_measured(docstrings):
    assert len(docstrings.calibration) == texts.CALIBRATION_TEXTS
    assert set(docstrings.calibration).isdisjoint([*docstrings.summaries, *docstrings.bodies])
    assert len(set(docstrings.sentences)) == len(docstrings.sentences) > 10_000


def test_forced_instruction_sets_reach_torch(weights):
    settings = Settings("minilm-fp32", str(weights), "cpu", 1, 256, {})
    with Worker(settings, machine.forced_environment("avx2")) as worker:
        assert worker.call("about")["precision"] == "float32 (AVX2)"


def test_a_worker_that_cannot_start_or_dies_says_why(weights):
    with Worker(Settings("onnx-fp32", str(weights), "cpu", 1, 256, {})) as worker:
        error = pytest.raises(WorkerError, match=r"KeyError|No module named 'onnxruntime'")  # with the package, without
        with error:
            worker.call("about")
    with Worker(Settings("minilm-fp32", str(weights), "cpu", 1, 256, {})) as worker:
        worker._process.kill()
        with pytest.raises(WorkerError, match="process of minilm-fp32 ended with status -9"):
            worker.call("about")


def test_gemm_rate_is_a_rate(weights, one_thread):
    assert Gemm(Settings("gemm", str(weights), "cpu", 1, 256, {})).rate("float32", 0.0) > 0


@pytest.fixture(scope="module")
def docstrings():
    return texts.read_docstrings()


@pytest.fixture
def benchmark(request, monkeypatch, tmp_path):
    """The script as a module, its processes real, without what takes long: reading docstrings, a steady GEMM rate."""
    monkeypatch.setattr("environment.enter", lambda extras: None)
    loader = SourceFileLoader("benchmark", str(ROOT / "scripts" / "benchmark"))
    script = module_from_spec(spec_from_loader("benchmark", loader))
    loader.exec_module(script)
    call = Worker.call
    monkeypatch.setattr(Worker, "call", lambda *arguments: call(*arguments, *[0.0] * (arguments[1] == "rate")))
    monkeypatch.setattr(texts, "read_docstrings", lambda: request.getfixturevalue("docstrings"))
    monkeypatch.chdir(tmp_path)

    def run(*options):
        monkeypatch.setattr(sys, "argv", ["scripts/benchmark", *map(str, options)])
        script.main()

    return run


def test_quick_run(benchmark, tmp_path, weights, capfd):
    """Everything but the peers, on a handful of texts: the tables, the JSON, the picture."""
    out, picture = tmp_path / "speed.json", tmp_path / "speed.png"
    benchmark("--quick", "--threads", "1", "--json", out, "--picture", picture)
    printed, errors = capfd.readouterr()
    assert errors == ""
    found = json.loads(out.read_text())
    assert {"machine", "versions", "settings", "contenders", "texts", "gemm_gflops", "latency", "growth"} == set(found)
    assert found["settings"]["threads"] == 1
    for corpus in ("short", "long"):
        facts = found["texts"][corpus]
        assert set(facts["results"]) == {"st-fp32", "minilm-fp32"}
        for row in facts["results"].values():
            assert len(row["seconds"]) == found["settings"]["rounds"] == 2
            assert row["check"]["problem"] is None and row["check"]["largest_difference"] < 10 * PACKED_FLOAT32
            assert row["ratio"]["lowest"] <= row["ratio"]["median"] <= row["ratio"]["highest"]
            assert row["gemm_share"] > 0
        assert label("minilm-fp32") in printed
    assert found["contenders"]["minilm-fp32"]["precision"].startswith("float32")
    assert found["contenders"]["minilm-fp32"]["peak_memory_mib"] > 50
    assert set(found["latency"]["minilm-fp32"]) == {"5", "14", "32", "64", "128", "256"}
    assert set(found["growth"]["minilm-fp32"]) == {"1", "10"}
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_quick_training(benchmark, tmp_path, tiny_bert):
    benchmark("--quick", "--training", "--threads", "1", "--model", tiny_bert, "--json", tmp_path / "t.json")
    found = json.loads((tmp_path / "t.json").read_text())["training"]
    assert found["minilm-padded-fp32"]["same_losses"] is True
    assert found["st-fp32"]["ratio"] == {"median": 1, "lowest": 1, "highest": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--quick", "--only", "openvino-fp32"], "--quick runs without the packages of ONNX Runtime"),
        (["--quick", "--rounds", "0"], "0 is not at least 1"),
        (["--quick", "--parts", "speed,latancy"], "'latancy' is none of speed, latency, growth"),
        (["--quick", "--only", "minilm-fp23"], "minilm-fp32"),
        (["--quick", "--short", "nowhere.txt"], "nowhere.txt is not a file"),
        (["--quick", "--json", "nowhere/a.json"], "there is no folder nowhere"),
    ],
)
def test_bad_options(options, message, benchmark, capsys):
    with pytest.raises(SystemExit, match="2"):
        benchmark(*options)
    assert message in capsys.readouterr().err


def test_the_script_by_itself(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "benchmark", "--quick", "--model", tmp_path / "none"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("benchmark: ") and "Traceback" not in done.stderr
