"""What the eight steps share: the environment, the weights, the comparison with the model, the docstrings."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import environment


def enter():
    """Goes on in the project's own environment, .venv, made on first use (scripts/environment.py)."""
    environment.enter()


def read_weights(dtype=None):
    """The tensors of all-MiniLM-L6-v2's model.safetensors, by the names that they have there."""
    from minilm.checkpoint import read_tensors
    from minilm.hub import find_model

    tensors = read_tensors(find_model() / "model.safetensors")
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}


def read_vocabulary():
    """vocab.txt, one piece a line → piece: id, the line's number from 0."""
    from minilm.hub import find_model

    with open(find_model() / "vocab.txt", encoding="utf-8") as file:
        return {line.rstrip("\n"): number for number, line in enumerate(file)}


def model_run(text, dtype=None):
    """What minilm's own model computes for one text: its token ids, the embeddings and the output of each
    layer ``[T, D]``, the attention probabilities of each layer ``[H, T, T]``, the sentence vector ``[D]``."""
    import torch

    from minilm import SentenceEncoder

    model = SentenceEncoder.from_pretrained(device="cpu", dtype=dtype)
    batch = model.tokenize([text])
    with torch.no_grad():
        output = model(batch, attention="eager", output_hidden_states=True, output_attentions=True)
    hidden_states = [hidden[0] for hidden in output.hidden_states]
    attentions = [blocks[0][0] for blocks in output.attentions]
    return batch.input_ids[0].tolist(), hidden_states, attentions, output.sentence_embedding[0]


def compare(what, mine, theirs):
    """Prints the largest difference of two tensors, and whether it can be rounding."""
    import torch

    from minilm.tolerances import BY_HAND_FLOAT32, BY_HAND_FLOAT64

    if mine.shape != theirs.shape:
        print(f"  {what:34} DIFFERENT: shape {list(mine.shape)}, expected {list(theirs.shape)}")
        return
    most = BY_HAND_FLOAT64 if theirs.dtype == torch.float64 else BY_HAND_FLOAT32
    difference = (mine - theirs).abs().max().item()
    same = difference <= most  # not so where it is not a number
    print(f"  {what:34}{difference:8.1e}  {'rounding' if same else 'DIFFERENT'} (at most {most:.0e})")


LIBRARIES = {
    "python": """argparse asyncio bisect calendar codecs collections contextlib copy csv datetime decimal difflib
        email.message enum fractions functools glob gzip hashlib heapq html http.client inspect io ipaddress itertools
        json logging math os os.path pathlib pickle queue random re shelve shutil smtplib socket statistics
        string struct subprocess sys tarfile tempfile textwrap threading time tokenize types unittest urllib.parse
        urllib.request uuid weakref xml.etree.ElementTree zipfile zlib builtins""",
    "numpy": "numpy numpy.linalg numpy.fft numpy.random numpy.ma numpy.polynomial numpy.char",
    "torch": """torch torch.linalg torch.fft torch.special torch.nn torch.nn.functional torch.nn.init torch.optim
        torch.optim.lr_scheduler torch.utils.data torch.autograd torch.distributions""",
}


def docstrings():
    """Docstrings of Python, numpy and torch as pairs of summary line and rest, in an order that is fixed and mixed:
    those to learn from, and those held out, whose functions (and their near copies) do not occur among the first.

    The first part of a pair's name is its library. ``minilm.training.docstrings.docstring_pairs`` finds half as
    many more, for which it parses every source; this takes a second.
    """
    import hashlib

    from minilm.training.docstrings import split, split_docstring

    pairs = {}  # by summary and by rest: no text occurs twice
    for library, modules in LIBRARIES.items():
        for name, thing in _documented(modules.split()):
            pair = split_docstring(f"{library}.{name}", thing.__doc__)
            if pair and pair.summary not in pairs and pair.rest not in pairs:
                pairs[pair.summary] = pairs[pair.rest] = pair
    train, held_out = split(sorted(set(pairs.values()), key=lambda pair: pair.name))

    def chance(pair):  # nearly the same order where other versions have a few texts more or less
        return hashlib.sha256(pair.name.encode()).digest()

    return sorted(train, key=chance), sorted(held_out, key=chance)


def _documented(modules):
    """Name and object of all public functions, classes and methods that have a docstring."""
    import importlib
    import inspect

    for module in modules:
        for name, thing in list(vars(importlib.import_module(module)).items()):
            inside = vars(thing).items() if inspect.isclass(thing) else []
            for path, found in [(f"{module}.{name}", thing), *((f"{module}.{name}.{k}", v) for k, v in inside)]:
                public = not any(part.startswith("_") for part in path.split("."))
                if public and callable(found) and isinstance(getattr(found, "__doc__", None), str):
                    yield path, found
