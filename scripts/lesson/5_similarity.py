#!/usr/bin/env python3
"""Step 5: token vectors → one vector; similarity, search, and where they go wrong.

The mean of the last layer's T vectors, scaled to length one, stands for the text; the dot product of two such
vectors is the cosine of the angle between them, from -1 to 1:

    e = m / ‖m‖, m = (1/T) Σ_t h_t        cos(a, b) = e_a · e_b

This ends the road that began with characters: here everything from text to score is yours.
"""

import lesson

lesson.enter()

import torch
from forward import sentence_vector
from texts import TEXTS
from wordpiece import tokenize

from minilm import SentenceEncoder

W = lesson.read_weights()
vocabulary = lesson.read_vocabulary()
model = SentenceEncoder.from_pretrained(device="cpu")


def encode(texts):
    """Texts → ``[n, 384]``, by wordpiece.py and forward.py alone."""
    return torch.stack([sentence_vector(tokenize(text, vocabulary), W) for text in texts])


def show(pairs):
    for a, b in pairs:
        va, vb = encode([a, b])
        print(f"  {va @ vb:6.3f}  {a}\n          {b}")


print("1. From characters to vectors, the same as the model?")
vectors = encode(TEXTS)  # [60, 384]
lesson.compare("60 sentences", vectors, model.encode(TEXTS, convert_to_tensor=True))
lesson.compare("their 3,600 similarities", vectors @ vectors.T, model.similarity(vectors, vectors))

print("\n2. Search: the nearest of the sixty")
for query in ("What time does the boat sail?", "my seedlings were eaten", "an appeal to a higher judge"):
    scores = vectors @ encode([query])[0]  # [60]
    print(f"  {query}")
    for i in scores.topk(3).indices.tolist():
        print(f"    {scores[i]:6.3f}  {TEXTS[i]}")

print("\n3. How similar is similar? All pairs of the sixty")
off = (vectors @ vectors.T)[~torch.eye(60, dtype=torch.bool)]  # [60 · 59]
print(f"  smallest {off.min():.3f}, mean {off.mean():.3f}, largest {off.max():.3f}")

print("\n4. Where it goes wrong: each first pair means the opposite or something else, each second one the same")
show(
    [
        ("The ferry leaves today.", "The ferry does not leave today."),
        ("The ferry leaves today.", "The boat sets off today."),
        ("The fine is 50 euros.", "The fine is 5,000 euros."),
        ("The fine is 50 euros.", "You have to pay fifty euros."),
        ("The dog bit the judge.", "The judge bit the dog."),
        ("The dog bit the judge.", "The judge was bitten by the dog."),
    ]
)

print("\n5. What is cut off does not count")
opening = "The report goes on about the weather on the coast. " * 25
ids = [tokenize(text, vocabulary) for text in (opening, opening + "The captain was arrested for murder.")]
print(f"  {len(ids[0])} and {len(ids[1])} tokens; the same ids: {ids[0] == ids[1]}")
show([("The report goes on about the weather on the coast. The captain was arrested for murder.", "A murder case.")])
scores = encode([opening + "The captain was arrested for murder."]) @ encode(["A murder case."]).T
print(f"  {scores.item():6.3f}  the same with the weather 25 times in front")

# Questions (answers.md has the answers)
# 1. Which of the three wrong scores of part 4 would a search engine suffer from, and which a program that looks
#    for contradictions?
# 2. Take the vector of [CLS] in place of the mean (``forward(ids, W)[-1][0]`` in ``sentence_vector``). Is the
#    first hit of the three searches still the same? Why does this model not use it, though BERT's own paper did?
# 3. Does the mean of two sentences' vectors lie near the vector of the two sentences written one after the other?
# 4. "cos = 0.3": is that similar? Answer with part 3, and say what a threshold should be chosen by.
# 5. How would you search in documents of ten pages?
