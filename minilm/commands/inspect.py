"""Lists the tensors of a checkpoint: name, shape, type, L2 norm, SHA-256 of the raw numbers.

Two checkpoints with the same hash for a tensor have the same bits in it. Tensors in brackets are
in the file, but the encoder does not use them.
"""

from __future__ import annotations

import argparse
import dataclasses

from minilm.checkpoint import WEIGHTS_FILE, inspect_tensors
from minilm.folder import read_folder
from minilm.hub import find_model
from minilm.terminal import clean, say, say_json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", nargs="?", help="a folder, or a model's name on the hub (default: all-MiniLM-L6-v2)")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, with the whole hash")


def run(args: argparse.Namespace) -> int:
    """Runs the command."""
    folder = find_model(args.model)
    tensors = inspect_tensors(read_folder(folder).transformer_dir / WEIGHTS_FILE)
    if args.json:
        for tensor in tensors:
            say_json(dataclasses.asdict(tensor))
        return 0
    names = [clean(tensor.name if tensor.used else f"[{tensor.name}]") for tensor in tensors]
    width = max(map(len, ["tensor", *names]))
    say(f"{'tensor':{width}}  {'shape':>14}  {'type':8}  {'norm':>12}  sha256")
    for name, tensor in zip(names, tensors, strict=True):
        shape = " × ".join(map(str, tensor.shape))
        say(f"{name:{width}}  {shape:>14}  {tensor.dtype:8}  {tensor.norm:12.5f}  {tensor.sha256[:16]}")
    used = [tensor for tensor in tensors if tensor.used]
    parameters = sum(tensor.elements for tensor in used)
    say("", f"{len(tensors)} tensors, {len(used)} of them used: {parameters:,} parameters ({folder})")
    return 0
