"""The model in ONNX and OpenVINO form, made once from the local folder and kept in minilm's cache.

optimum, through which sentence-transformers exports, does not go with the transformers release that
is measured, so each step is taken here as it takes it: torch's exporter with both axes dynamic,
onnxruntime's dynamic quantisation with the settings for the processor, nncf's static quantisation
for transformers.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import cpu_flags, versions
from benchmarks.worker import Settings
from minilm.checkpoint import WEIGHTS_FILE
from minilm.hub import cache_root

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
FILES = {"onnx-fp32": "model.onnx", "onnx-int8": "model.onnx", "openvino-int8": "model.xml"}
NEEDED = {  # by each contender
    "onnx-fp32": ("onnx-fp32",),
    "onnx-int8": ("onnx-fp32", "onnx-int8"),
    "openvino-fp32": ("onnx-fp32",),
    "openvino-bf16": ("onnx-fp32",),
    "openvino-int8": ("onnx-fp32", "openvino-int8"),
}


def export_paths(folder: Path, contenders: list[str], calibration: list[str]) -> dict[str, Path]:
    """Where the files that the contenders need are, or will be; another model, version or calibration
    has another place."""
    digest = hashlib.sha256((folder / WEIGHTS_FILE).read_bytes())
    digest.update(repr((versions(), calibration, _weight_type())).encode())
    root = cache_root() / "benchmark" / digest.hexdigest()[:16]
    kinds = dict.fromkeys(kind for name in contenders for kind in NEEDED.get(name, ()))
    return {kind: root / kind / FILES[kind] for kind in kinds}


class Exporter:
    """Runs in a worker, so that the contenders' memory is not burdened with it."""

    def __init__(self, settings: Settings):
        self.settings = settings
        self.folder = Path(settings.folder)

    def make(self, kind: str, calibration: list[str]) -> None:
        """Makes one file, all or nothing."""
        target = Path(self.settings.exports[kind])
        if target.exists():
            return
        makers: dict[str, Callable[[Path, list[str]], None]] = {
            "onnx-fp32": self.onnx,
            "onnx-int8": self.onnx_int8,
            "openvino-int8": self.openvino_int8,
        }
        target.parent.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent.parent))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                makers[kind](scratch / target.name, calibration)
            os.rename(scratch, target.parent)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def onnx(self, path: Path, _: list[str]) -> None:
        """torch's tracing exporter: attention is written out, which onnxruntime recognises and fuses."""
        import torch
        from transformers import BertModel

        bert = BertModel.from_pretrained(self.folder, attn_implementation="eager", add_pooling_layer=False).eval()

        class LastHiddenState(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.bert = bert

            def forward(self, *inputs: torch.Tensor) -> Any:
                return self.bert(**dict(zip(INPUTS, inputs, strict=True))).last_hidden_state

        ids = torch.randint(5, bert.config.vocab_size, (2, 16))
        mask = torch.ones_like(ids)
        mask[1, 8:] = 0
        names = [*INPUTS, "last_hidden_state"]
        torch.onnx.export(
            LastHiddenState(),
            (ids, mask, torch.zeros_like(ids)),
            str(path),
            input_names=list(INPUTS),
            output_names=names[-1:],
            dynamic_axes={name: {0: "texts", 1: "tokens"} for name in names},
            opset_version=17,
            dynamo=False,
        )

    def onnx_int8(self, path: Path, _: list[str]) -> None:
        """Dynamic quantisation of every matrix product with weights, as optimum's configuration for
        this processor has it: activations u8, weights symmetric per channel."""
        from onnxruntime.quantization import QuantType, quantize_dynamic

        quantize_dynamic(
            self.settings.exports["onnx-fp32"],
            path,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=False,
            weight_type=getattr(QuantType, _weight_type()),
            extra_options={"WeightSymmetric": True, "ActivationSymmetric": False},
        )

    def openvino_int8(self, path: Path, calibration: list[str]) -> None:
        """Static quantisation with nncf's scheme for transformers, the default of optimum's quantizer.
        Texts are not padded to 384 tokens for it, as they are there: it spoils the scales."""
        import nncf
        import numpy as np
        import openvino
        import tokenizers

        tokenizer = tokenizers.Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.settings.max_seq_length)
        rows = [np.array([encoding.ids]) for encoding in tokenizer.encode_batch_fast(calibration)]
        inputs = [dict(zip(INPUTS, (ids, np.ones_like(ids), np.zeros_like(ids)), strict=True)) for ids in rows]
        model = nncf.quantize(
            openvino.Core().read_model(self.settings.exports["onnx-fp32"]),
            nncf.Dataset(inputs),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(inputs),
        )
        openvino.save_model(model, path, compress_to_fp16=False)


def _weight_type() -> str:
    """Signed, but for AVX2 alone, as sentence-transformers' documentation advises."""
    flags = cpu_flags()
    return "QUInt8" if "avx2" in flags and "avx512f" not in flags else "QInt8"
