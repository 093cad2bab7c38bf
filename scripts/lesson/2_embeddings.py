#!/usr/bin/env python3
"""Step 2: ids → vectors.

Each id picks a row of a table, the word embeddings. Attention, as step 3 shows, does not see order, so each
place adds a row of a second table, and every token the same row of a third, which told BERT's two sentences
apart. LayerNorm then brings each vector x of D numbers to the same scale (μ, σ² over the D numbers of x):

    y = (x - μ) / √(σ² + ε) · γ + β
"""

import lesson

lesson.enter()

import torch
from forward import EPSILON, embed

W = lesson.read_weights()
TEXT = "The ferry passed the other ferry."
ids, hidden_states, _, _ = lesson.model_run(TEXT)

print("1. The tables in the file")
for name in [name for name in W if name.startswith("embeddings.") and name != "embeddings.position_ids"]:
    print(f"  {name:42}{list(W[name].shape)}")
words = W["embeddings.word_embeddings.weight"]  # [30522, 384]
positions = W["embeddings.position_embeddings.weight"]  # [512, 384]
kinds = W["embeddings.token_type_embeddings.weight"]  # [2, 384]

print(f"\n2. The sum, for the two ferries of {TEXT!r}")
first, second = (place for place, i in enumerate(ids) if i == ids[2])
print(f"  ids {ids}: places {first} and {second}")
x = words[ids[first]] + kinds[0] + positions[first]  # [384]
other = words[ids[second]] + kinds[0] + positions[second]
print(f"  word      the same row for both, {' '.join(f'{number:.4f}' for number in words[ids[first]][:4])} …")
print(f"  sums      {(x - other).abs().mean():.4f} apart, on average of 384 numbers of size {x.abs().mean():.4f}")

print("\n3. LayerNorm by hand, for the first ferry")
mean = sum(x.tolist()) / 384
variance = sum((number - mean) ** 2 for number in x.tolist()) / 384
y = (x - mean) / (variance + EPSILON) ** 0.5  # [384]
print(f"  before    mean {mean:8.4f}   variance {variance:.4f}")
print(f"  after     mean {y.mean().abs():8.4f}   variance {y.var(correction=0):.4f}")
y = y * W["embeddings.LayerNorm.weight"] + W["embeddings.LayerNorm.bias"]
print(f"  γ, β      mean {y.mean():8.4f}   variance {y.var(correction=0):.4f}")

print("\n4. The same as the model?")
lesson.compare("one token, by hand", y, hidden_states[0][first])
lesson.compare("forward.embed, all tokens", embed(ids, W), hidden_states[0])
_, exact, _, _ = lesson.model_run(TEXT, torch.float64)
lesson.compare("the same in float64", embed(ids, lesson.read_weights(torch.float64)), exact[0])

print("\n5. What the table knows without any layer: the nearest rows by cosine")
names = list(lesson.read_vocabulary())  # id → piece
unit = words / words.norm(dim=1, keepdim=True)  # [30522, 384], length one
for word in ("ferry", "bread", "seven", "bank"):
    nearest = (unit @ unit[names.index(word)]).topk(6).indices.tolist()[1:]  # [30522], without the word itself
    print(f"  {word:8}{', '.join(names[i] for i in nearest)}")

# Questions (answers.md has the answers)
# 1. How many of the model's 22.6 million numbers are in the word table? Which part of it does one text read?
# 2. "bank" has one row. Where, then, can the model tell a river's bank from a savings bank?
# 3. Let ``variance`` in ``forward.layer_norm`` divide by D - 1 (``.sum(dim=-1, keepdim=True) / 383``). How large
#    is the error now, and would you have noticed it without a model to compare with?
# 4. Leave ``positions[...]`` out of ``x`` and ``other``. How far are the two ferries apart now?
# 5. EPSILON is 1e-12. With 1e-5, torch's default, does the comparison still hold in float32, and in float64?
