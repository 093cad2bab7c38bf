#!/usr/bin/env python3
"""Step 4: a layer, then six: the whole forward pass.

A layer is attention, then a feed-forward network that treats every token by itself. What each of them gives
is added to its input (the residual), and the sum is normalised ("post-norm", as BERT has it; most newer models
normalise the input instead):

    h ← LayerNorm(h + attention(h))        h ← LayerNorm(h + W₂ gelu(W₁ h + b₁) + b₂)
"""

import lesson

lesson.enter()

import torch
from forward import LAYERS, attention, forward, gelu, layer, layer_norm, linear

W = lesson.read_weights()
TEXT = "The pilot brings the tanker past the sandbank at high tide."
ids, hidden_states, _, _ = lesson.model_run(TEXT)

print("1. The non-linearity")
for x in (-3.0, -1.0, -0.1, 0.0, 0.1, 1.0, 3.0):
    print(f"  gelu({x:4.1f}) = {gelu(torch.tensor(x)):7.4f}")

print("\n2. One layer, written out; the length of a token's vector, on average")
h = hidden_states[0]  # [T, 384]
print(f"  in                 {h.norm(dim=1).mean():8.3f}")
attended, _ = attention(h, W, "encoder.layer.0.attention")  # [T, 384]
print(f"  from attention     {attended.norm(dim=1).mean():8.3f}")
h = layer_norm(h + attended, W, "encoder.layer.0.attention.output.LayerNorm")
print(f"  sum, normalised    {h.norm(dim=1).mean():8.3f}")
inner = gelu(linear(h, W, "encoder.layer.0.intermediate.dense"))  # [T, 1536]
print(f"  1536 wide          {inner.norm(dim=1).mean():8.3f}   {(inner < 0).float().mean():.0%} of them below 0")
outer = linear(inner, W, "encoder.layer.0.output.dense")  # [T, 384]
print(f"  from feed-forward  {outer.norm(dim=1).mean():8.3f}")
h = layer_norm(h + outer, W, "encoder.layer.0.output.LayerNorm")
print(f"  out                {h.norm(dim=1).mean():8.3f}")
lesson.compare("written out, layer 0", h, hidden_states[1])
lesson.compare("forward.layer, layer 0", layer(hidden_states[0], W, 0), hidden_states[1])

print("\n3. The whole forward pass, from the ids on, beside the model")
for dtype in (torch.float32, torch.float64):
    print(f"  {str(dtype).removeprefix('torch.')}")
    _, theirs, _, _ = lesson.model_run(TEXT, dtype)
    mine = forward(ids, lesson.read_weights(dtype))
    for i in range(LAYERS + 1):
        lesson.compare(f"after layer {i - 1}" if i else "embeddings", mine[i], theirs[i])

print("\n4. How alike the tokens of one text are: the mean cosine of two of them")
for i, h in enumerate(forward(ids, W)):
    unit = h / h.norm(dim=1, keepdim=True)  # [T, 384]
    T = len(ids)
    mean = ((unit @ unit.T).sum() - T) / (T * T - T)  # without each token's cosine of 1 with itself
    print(f"  {f'after layer {i - 1}' if i else 'embeddings':14}{mean:6.3f}")

print("\n5. Where the numbers are")
parts = {"embeddings": "embeddings.", "attention": ".attention.", "feed-forward": "", "not used": "pooler."}
count = dict.fromkeys(parts, 0)
for name, tensor in W.items():
    if name != "embeddings.position_ids":
        part = next((part for part in ("embeddings", "attention", "not used") if parts[part] in name), "feed-forward")
        count[part] += tensor.numel()
for part, numbers in count.items():
    print(f"  {part:14}{numbers:12,}")

# Questions (answers.md has the answers)
# 1. The differences of part 3 are nine orders smaller in float64. What would a mistake in, say, layer 3 look like in
#    the two lists?
# 2. Take the tanh form of gelu, 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), which many models use. How large is
#    the error after six layers? Is this a bug that a test with a tolerance of 1e-2 would find?
# 3. Leave both residuals out of ``forward.layer`` (``layer_norm(attended, …)``, ``layer_norm(outer, …)``). What
#    becomes of the vectors of different tokens?
# 4. Swap the two tokens "high" and "tide" in ``ids``. Which rows of ``forward(ids, W)[1]`` change, and would
#    any change but these two if layer 0 had no attention?
# 5. In which of the two halves of a layer are more numbers? Which takes more time for a text of 12 tokens, and
#    which for one of 512?
