"""Look inside: every step of the road from text to vector, to be read, changed and asked.

**Trace.** ``model.trace(texts, names)`` keeps intermediate results by name (:data:`ACTIVATIONS` lists
them) and leaves the output's bits as they are:

>>> trace = model.trace(["a cat", "a kitten"], "*.probabilities")
>>> trace.text(0).tokens
['[CLS]', 'a', 'cat', '[SEP]']
>>> trace.text(0)["layers.0.attention.probabilities"].shape
torch.Size([12, 4, 4])

**Intervene.** Within ``with model.intervene({name: action}):`` activations are replaced, scaled, ablated
or patched from another text's trace, by text, position, head and dimension; a function of one's own is
an action too. Gradients flow:

>>> with model.intervene({"layers.5.attention.head_output": ablate(head=3)}):
...     model.encode("a cat")

**Attribute.** What made the score of two texts? :func:`token_pairs` splits it over pairs of contextual
tokens, exactly; :func:`integrated_gradients`, :func:`gradient_x_input` and :func:`occlusion` go to the
word pieces put in; :func:`deletion_curve` says whether to trust them. :func:`component_table` takes away
each head and each feed-forward in turn, on pairs of one's own (:func:`read_pairs`); and
:func:`layer_by_layer` gives the vector after each layer.

>>> token_pairs(model, "a cat", "a kitten").matrix.sum()
tensor(0.7663, dtype=torch.float64)

**Compare.** :func:`compare` says what changed between two checkpoints, from the bits of their tensors
to the pairs of texts whose score moved most:

>>> compare("all-MiniLM-L6-v2", "tuned").verdict

**Explain.** :func:`explain` puts all of it together for one text or two, and writes it as a page; ``minilm
explain`` is the same on the command line. The results show themselves in notebooks, and ``.plot()`` draws them.

>>> explain(model, "a cat", "a kitten").write_html("page.html")
"""

from minilm.internals.activations import ACTIVATIONS, Activation
from minilm.internals.attribution import (
    TokenAttribution,
    TokenPairs,
    gradient_x_input,
    integrated_gradients,
    occlusion,
    token_pairs,
)
from minilm.internals.compare import Comparison, compare
from minilm.internals.components import Component, ComponentTable, Pairs, component_table, read_pairs
from minilm.internals.explanation import Explanation, TextSteps, explain
from minilm.internals.faithfulness import DeletionCurve, deletion_curve
from minilm.internals.intervene import Place, ablate, at, intervene, patch, replace, scale
from minilm.internals.layers import LayerByLayer, layer_by_layer
from minilm.internals.trace import TextTrace, Trace, trace

__all__ = [
    "ACTIVATIONS",
    "Activation",
    "Comparison",
    "Component",
    "ComponentTable",
    "DeletionCurve",
    "Explanation",
    "LayerByLayer",
    "Pairs",
    "Place",
    "TextSteps",
    "TextTrace",
    "TokenAttribution",
    "TokenPairs",
    "Trace",
    "ablate",
    "at",
    "compare",
    "component_table",
    "deletion_curve",
    "explain",
    "gradient_x_input",
    "integrated_gradients",
    "intervene",
    "layer_by_layer",
    "occlusion",
    "patch",
    "read_pairs",
    "replace",
    "scale",
    "token_pairs",
    "trace",
]
