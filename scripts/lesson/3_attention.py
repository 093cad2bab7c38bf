#!/usr/bin/env python3
"""Step 3: attention, the only place where tokens see each other.

Each token asks (query), each token has a label (key) and something to give (value), all three linear maps of
its vector. The better the label fits the question, the more of the value is taken (T tokens, d = 32):

    s_j = q · k_j / √d        p_j = exp(s_j) / Σ_i exp(s_i)        context = Σ_j p_j v_j

Twelve heads do this side by side, each with its own 32 dimensions of the three maps (Vaswani et al. 2017).
"""

import lesson

lesson.enter()

import math

import torch
from forward import attention, embed

W = lesson.read_weights()
TEXT = "The ferry passed the other ferry."
ids, hidden_states, attentions, _ = lesson.model_run(TEXT)
names = list(lesson.read_vocabulary())
tokens = [names[i] for i in ids]

print(f"1. One head of the first layer by hand: what the second {tokens[6]!r} looks at")
HEAD, QUERY = 8, 6
hidden = embed(ids, W)  # [T, 384]
own = slice(HEAD * 32, HEAD * 32 + 32)  # the head's rows of the three matrices
name = "encoder.layer.0.attention.self"
q, k, v = (
    hidden @ W[f"{name}.{part}.weight"][own].T + W[f"{name}.{part}.bias"][own]  # [T, 32]
    for part in ("query", "key", "value")
)
scores = [sum(a * b for a, b in zip(q[QUERY].tolist(), key, strict=True)) / math.sqrt(32) for key in k.tolist()]
total = sum(math.exp(score) for score in scores)
probabilities = torch.tensor([math.exp(score) / total for score in scores])  # [T]
for token, score, p in zip(tokens, scores, probabilities.tolist(), strict=True):
    print(f"  {token:8}{score:8.3f}{p:8.3f}")
context = sum(p * value for p, value in zip(probabilities, v, strict=True))  # [32]
print(f"  context  {' '.join(f'{number:.3f}' for number in context[:4])} … ({len(context)} numbers)")

print("\n2. All twelve heads at once, the same as the model?")
lesson.compare("one row of one head, by hand", probabilities, attentions[0][HEAD, QUERY])
maps = []
for i in range(6):  # each layer on what the model gave it; step 4 goes on with what we gave
    _, every = attention(hidden_states[i], W, f"encoder.layer.{i}.attention")  # [12, T, T]
    lesson.compare(f"forward.attention, layer {i}", every, attentions[i])
    maps.append(every)

print("\n3. Maps: from the token at the left to the token above; ░ from 0.06, ▒ 0.2, ▓ 0.4, █ 0.6")


def draw(layer, head, what):
    print(f"  layer {layer}, head {head}: {what}\n          {' '.join(f'{token:>6}' for token in tokens)}")
    for token, row in zip(tokens, maps[layer][head].tolist(), strict=True):
        shades = ["·░▒▓█"[sum(p >= bound for bound in (0.06, 0.2, 0.4, 0.6))] for p in row]
        print(f"  {token:8}" + "".join(f"{shade * 3:>7}" for shade in shades))


draw(0, 2, "the token before")
draw(0, 8, "the same word elsewhere")
draw(1, 8, "the token after")
draw(2, 7, "[CLS], whatever the token: a place to look at when there is nothing to find")

print("\n4. The mean probability of each layer's twelve heads")
print("           itself  before   after   [CLS]   [SEP]")
place = torch.arange(len(ids))
for i, p in enumerate(maps):
    parts = p[:, place, place], p[:, place[1:], place[:-1]], p[:, place[:-1], place[1:]], p[..., 0], p[..., -1]
    print(f"  layer {i}" + "".join(f"{part.mean():8.3f}" for part in parts))

# Questions (answers.md has the answers)
# 1. Head 2 of layer 0 looks at the token before with a probability of nearly 1. How can it, if attention does
#    not see order? What does [CLS], which has no token before it, look at?
# 2. In ``forward.attention``, leave out the division by √d. Which maps get sharper, and why was it put in?
# 3. Leave out ``- scores.max(...)``. Does the comparison still hold? When would it not?
# 4. A batch fills short texts up with [PAD]. What has to happen to the scores of these columns before the
#    softmax, and why not to the probabilities after it?
# 5. How many multiplications do the scores of 256 tokens take in one layer, and how many those of 512?
