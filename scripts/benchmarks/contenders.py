"""The contenders: how each library loads the model and encodes with it, at its best for a user.

sentence-transformers and minilm are called as anyone would call them. ONNX Runtime and OpenVINO get
the leanest way around their models: the fast tokenizer without its padding, texts sorted by tokens,
then mean and length in NumPy as in sentence-transformers, whose backends for the two spend more.
A library is imported in its own worker alone.
"""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from benchmarks.machine import peak_memory_mib
from benchmarks.worker import Settings

if TYPE_CHECKING:
    import numpy as np

LABELS = {"st": "sentence-transformers", "onnx": "ONNX Runtime", "openvino": "OpenVINO", "minilm": "minilm"}
NAMES = (
    "st-fp32 st-bf16 onnx-fp32 onnx-int8 openvino-fp32 openvino-bf16 openvino-int8 minilm-fp32 minilm-bf16 minilm-int8"
).split()


def label(name: str) -> str:
    """``"st-bf16"`` → ``"sentence-transformers bf16"``."""
    library, precision = name.split("-")
    return f"{LABELS[library]} {precision}"


def precision_of(name: str) -> str:
    """``"st-bf16"`` → ``"bf16"``."""
    return name.split("-")[1]


class Contender(ABC):
    """A library with the model loaded.

    Attributes:
        precision: in what the library says that it computes.
    """

    precision: str

    @abstractmethod
    def encode(self, texts: list[str], batch_size: int) -> np.ndarray:
        """float32 ``[n, D]``."""

    def encode_one(self, text: str) -> np.ndarray:
        """float32 ``[D]``: what a search does with a query."""
        return self.encode([text], 1)[0]


class SentenceTransformers(Contender):
    def __init__(self, settings: Settings, precision: str):
        import torch

        from minilm.parity import load_reference

        torch.set_num_threads(settings.threads)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        self.model = load_reference(settings.folder, dtype).to(settings.device)
        self.precision = _torch_precision(self.model)

    def encode(self, texts: list[str], batch_size: int) -> np.ndarray:
        return self.model.encode(texts, batch_size=batch_size, show_progress_bar=False)

    def encode_one(self, text: str) -> np.ndarray:
        return self.model.encode(text, show_progress_bar=False)


class Minilm(Contender):
    def __init__(self, settings: Settings, precision: str):
        import torch

        from minilm import SentenceEncoder

        torch.set_num_threads(settings.threads)
        options: dict[str, Any] = {
            "fp32": {"dtype": torch.float32},
            "bf16": {"dtype": torch.bfloat16},
            "int8": {"weight_precision": "int8"},
        }[precision]
        self.model = SentenceEncoder.from_pretrained(settings.folder, device=settings.device, **options)
        self.precision = _torch_precision(self.model) + (", int8 weights" if precision == "int8" else "")

    def encode(self, texts: list[str], batch_size: int) -> np.ndarray:
        return self.model.encode(texts, batch_size=batch_size, show_progress_bar=False, truncation="silent")

    def encode_one(self, text: str) -> np.ndarray:
        return self.model.encode(text, show_progress_bar=False, truncation="silent")


def _torch_precision(model: Any) -> str:
    import torch

    dtypes = {str(parameter.dtype).removeprefix("torch.") for parameter in model.parameters()}
    where = torch.backends.cpu.get_cpu_capability() if model.device.type == "cpu" else torch.cuda.get_device_name()
    return f"{' and '.join(sorted(dtypes))} ({where})"


class GraphContender(Contender):
    """Tokens, batches, mean and length around a model that was exported."""

    def __init__(self, settings: Settings):
        import tokenizers

        self.tokenizer = tokenizers.Tokenizer.from_file(os.path.join(settings.folder, "tokenizer.json"))
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(settings.max_seq_length)

    def encode(self, texts: list[str], batch_size: int) -> np.ndarray:
        import numpy as np

        rows = [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]
        vectors: list[Any] = [None] * len(texts)

        def keep(indices: list[int], mask: np.ndarray, hidden: np.ndarray) -> None:
            weights = mask[:, None, :].astype(np.float32)
            mean = (weights @ hidden)[:, 0] / weights.sum(axis=2)
            mean /= np.linalg.norm(mean, axis=1, keepdims=True)
            for index, vector in zip(indices, mean, strict=True):
                vectors[index] = vector

        self.run(_batches(rows, batch_size), keep)
        return np.stack(vectors)

    @abstractmethod
    def run(self, batches: Iterator[tuple[list[int], np.ndarray, np.ndarray]], keep: Callable[..., None]) -> None:
        """``keep(indices, mask, last hidden state)`` for each batch of (indices, token ids, mask)."""


def _batches(rows: list[list[int]], batch_size: int) -> Iterator[tuple[list[int], np.ndarray, np.ndarray]]:
    import numpy as np

    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        ids = np.zeros((len(indices), len(rows[indices[0]])), np.int64)
        mask = np.zeros_like(ids)
        for i, index in enumerate(indices):
            ids[i, : len(rows[index])] = rows[index]
            mask[i, : len(rows[index])] = 1
        yield indices, ids, mask


class OnnxRuntime(GraphContender):
    def __init__(self, settings: Settings, precision: str):
        super().__init__(settings)
        import onnxruntime

        options = onnxruntime.SessionOptions()  # all graph optimisations are on by default, BERT's fusions too
        options.intra_op_num_threads = settings.threads
        providers = ["CPUExecutionProvider" if settings.device == "cpu" else "CUDAExecutionProvider"]
        self.session = onnxruntime.InferenceSession(settings.exports[f"onnx-{precision}"], options, providers=providers)
        int8 = "u8 activations, scaled per call; 8-bit weights per channel; the rest float32"
        self.precision = (int8 if precision == "int8" else "float32") + " (kernels by CPUID)"

    def run(self, batches: Iterator[tuple[list[int], np.ndarray, np.ndarray]], keep: Callable[..., None]) -> None:
        for indices, ids, mask in batches:
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
            keep(indices, mask, self.session.run(None, inputs)[0])


class OpenVINO(GraphContender):
    """Batches run side by side, one to a stream, which is the library's advice where throughput
    counts; a single query runs in a second model, compiled for latency."""

    def __init__(self, settings: Settings, precision: str):
        super().__init__(settings)
        from benchmarks.machine import has_bfloat16

        self.threads = settings.threads
        self.path = settings.exports["openvino-int8" if precision == "int8" else "onnx-fp32"]
        # What int8 leaves over is computed in bfloat16 where the processor can, as the library does by default.
        low = precision == "bf16" or (precision == "int8" and "ONEDNN_MAX_CPU_ISA" not in os.environ and has_bfloat16())
        self.hint = "bf16" if low else "f32"
        self.one: Any = None
        import openvino

        self.model = self.compile("THROUGHPUT")
        self.queue = openvino.AsyncInferQueue(self.model)
        self.precision = self.in_use()

    def compile(self, purpose: str) -> Any:
        import openvino

        config = {
            "INFERENCE_PRECISION_HINT": self.hint,
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": purpose,
        }
        return openvino.Core().compile_model(self.path, "CPU", config)

    def in_use(self) -> str:
        """The precisions of the matrix products in the graph that runs, as the library states them."""
        products: Counter[str] = Counter()
        kernels = set()
        for operation in self.model.get_runtime_model().get_ops():
            facts = operation.get_rt_info()
            if facts["layerType"].astype(str) in ("FullyConnected", "MatMul"):
                products[facts["runtimePrecision"].astype(str)] += 1
            kernels |= {
                part for part in facts["primitiveType"].astype(str).split("_") if part.startswith(("avx", "amx"))
            }
        counted = ", ".join(f"{count} products in {kind}" for kind, count in products.most_common())
        streams = self.model.get_property("NUM_STREAMS")
        return f"{counted}; the rest {self.hint} ({'/'.join(sorted(kernels))}, {streams} streams)"

    def run(self, batches: Iterator[tuple[list[int], np.ndarray, np.ndarray]], keep: Callable[..., None]) -> None:
        def done(request: Any, of: tuple[list[int], np.ndarray]) -> None:
            keep(*of, request.get_output_tensor(0).data)

        self.queue.set_callback(done)
        for indices, ids, mask in batches:
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
            self.queue.start_async(inputs, (indices, mask))
        self.queue.wait_all()

    def encode_one(self, text: str) -> np.ndarray:
        self.one = self.one or OneAtATime(self)
        return self.one.encode([text], 1)[0]


class OneAtATime(GraphContender):
    """OpenVINO's model with all threads at work on one batch."""

    def __init__(self, whole: OpenVINO):
        self.tokenizer = whole.tokenizer
        self.request = whole.compile("LATENCY").create_infer_request()

    def run(self, batches: Iterator[tuple[list[int], np.ndarray, np.ndarray]], keep: Callable[..., None]) -> None:
        for indices, ids, mask in batches:
            inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": ids * 0}
            keep(indices, mask, self.request.infer(inputs, share_inputs=True, share_outputs=True)[0])


LIBRARIES: dict[str, Callable[[Settings, str], Contender]] = {
    "st": SentenceTransformers,
    "onnx": OnnxRuntime,
    "openvino": OpenVINO,
    "minilm": Minilm,
}


class Encodings:
    """What a contender's worker does."""

    def __init__(self, settings: Settings):
        library, precision = settings.name.split("-")
        start = time.perf_counter()
        self.contender = LIBRARIES[library](settings, precision)
        self.load_seconds = time.perf_counter() - start
        self.texts: dict[str, list[str]] = {}
        self.device = settings.device

    def about(self) -> dict[str, Any]:
        return {
            "precision": self.contender.precision,
            "load_seconds": self.load_seconds,
            "loaded_memory_mib": self.peak_memory_mib(),
        }

    def put(self, corpus: str, texts: list[str]) -> None:
        self.texts[corpus] = texts

    def seconds(self, corpus: str, batch_size: int) -> float:
        start = time.perf_counter()
        self.contender.encode(self.texts[corpus], batch_size)
        return time.perf_counter() - start

    def vectors(self, corpus: str, batch_size: int) -> np.ndarray:
        return self.contender.encode(self.texts[corpus], batch_size)

    def query_seconds(self, text: str, repeats: int) -> list[float]:
        """Of one text at a time, after as many that are not counted, at most ten."""
        times = []
        for _ in range(min(repeats, 10) + repeats):
            start = time.perf_counter()
            self.contender.encode_one(text)
            times.append(time.perf_counter() - start)
        return times[-repeats:]

    def peak_memory_mib(self) -> float:
        """The most memory held so far."""
        return peak_memory_mib(self.device)
