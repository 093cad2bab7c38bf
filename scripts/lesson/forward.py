"""Your own forward pass: token ids → sentence vector, from the tensors of model.safetensors and nothing else.

``embed`` belongs to step 2, ``attention`` to step 3, ``layer`` and ``forward`` to step 4, ``sentence_vector``
to step 5. Devlin et al. 2018, "BERT" (https://arxiv.org/abs/1810.04805). ``W`` is the dict of all tensors by
their names in the file.

    T  tokens of one text        H  attention heads [12]
    D  hidden size [384]         d  head size, D / H [32]
    F  feed-forward size [1536]
"""

import torch

HEADS = 12
LAYERS = 6
EPSILON = 1e-12  # config.json's layer_norm_eps


def linear(x, W, name):
    """x Aᵀ + b: ``[..., in]`` → ``[..., out]``; a matrix is stored as ``[out, in]``."""
    return x @ W[f"{name}.weight"].T + W[f"{name}.bias"]


def layer_norm(x, W, name):
    """Each vector to mean 0 and variance 1, then scaled and moved, dimension by dimension: ``[T, D]`` → ``[T, D]``.

    Ba et al. 2016, "Layer Normalization" (https://arxiv.org/abs/1607.06450)."""
    mean = x.mean(dim=-1, keepdim=True)  # [T, 1]
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)  # divided by D, not by D - 1
    return (x - mean) / (variance + EPSILON).sqrt() * W[f"{name}.weight"] + W[f"{name}.bias"]


def embed(ids, W):
    """Token ids, T of them → ``[T, D]``: word + position + type, normalised."""
    word = W["embeddings.word_embeddings.weight"][ids]  # [T, D]: row ids[t] of a table [30522, D]
    position = W["embeddings.position_embeddings.weight"][: len(ids)]  # [T, D]: row t of a table [512, D]
    kind = W["embeddings.token_type_embeddings.weight"][0]  # [D]: the first of two segments, for all
    return layer_norm(word + kind + position, W, "embeddings.LayerNorm")


def attention(hidden, W, name):
    """softmax(q kᵀ / √d) v in every head (Vaswani et al. 2017, equation 1, https://arxiv.org/abs/1706.03762):
    ``[T, D]`` → ``[T, D]``, and the probabilities ``[H, T, T]``."""
    T, D = hidden.shape
    q, k, v = (
        linear(hidden, W, f"{name}.self.{part}").view(T, HEADS, D // HEADS).transpose(0, 1)  # [H, T, d]
        for part in ("query", "key", "value")
    )
    scores = q @ k.transpose(1, 2) / (D // HEADS) ** 0.5  # [H, T, T]: from each token, to each token
    e = (scores - scores.max(dim=-1, keepdim=True).values).exp()  # the largest becomes exp(0): no overflow
    probabilities = e / e.sum(dim=-1, keepdim=True)
    context = (probabilities @ v).transpose(0, 1).reshape(T, D)  # [H, T, d] → [T, H · d]: heads side by side
    return linear(context, W, f"{name}.output.dense"), probabilities


def gelu(x):
    """x Φ(x), Φ the distribution function of the normal distribution (https://arxiv.org/abs/1606.08415)."""
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def layer(hidden, W, i):
    """Attention, then feed-forward, each added to its input and normalised: ``[T, D]`` → ``[T, D]``."""
    name = f"encoder.layer.{i}"
    attended, _ = attention(hidden, W, f"{name}.attention")
    hidden = layer_norm(hidden + attended, W, f"{name}.attention.output.LayerNorm")
    inner = gelu(linear(hidden, W, f"{name}.intermediate.dense"))  # [T, F]
    outer = linear(inner, W, f"{name}.output.dense")  # [T, D]
    return layer_norm(hidden + outer, W, f"{name}.output.LayerNorm")


def forward(ids, W):
    """Token ids → the embeddings and the output of each layer, seven tensors ``[T, D]``."""
    hidden = [embed(ids, W)]
    for i in range(LAYERS):
        hidden.append(layer(hidden[-1], W, i))
    return hidden


def sentence_vector(ids, W):
    """Token ids → ``[D]``: the mean of the last layer's vectors, [CLS] and [SEP] included, scaled to length one.

    Reimers and Gurevych 2019, "Sentence-BERT" (https://arxiv.org/abs/1908.10084), section 3."""
    mean = forward(ids, W)[-1].mean(dim=0)
    return mean / (mean**2).sum().sqrt()
