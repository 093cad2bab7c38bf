#!/usr/bin/env python3
"""Step 6: a linear probe, text classification on vectors that were never trained for it.

Is a docstring's first line from Python's library, from numpy or from torch? The encoder stays as it is; all that
is learnt is one matrix and one vector on top, by softmax regression (n texts, C = 3 classes, y one-hot):

    P = softmax(X Aᵀ + b)        loss = -(1/n) Σ y log P + (λ/2) ‖A‖²        ∂loss/∂A = (1/n) (P - y)ᵀ X + λ A

Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes"
(https://arxiv.org/abs/1610.01644). What it is worth shows only beside simpler answers: the most frequent class,
and the same regression on counts of words.
"""

import lesson

lesson.enter()

import re
from collections import Counter

import torch

from minilm import SentenceEncoder

CLASSES = list(lesson.LIBRARIES)
DECAY = 1e-4  # λ

learn, held_out = lesson.docstrings()
learn, held_out = learn[:900], held_out[:400]
print("1. The data")
labels = torch.tensor([CLASSES.index(pair.name.split(".")[0]) for pair in learn])  # [900]
answers = torch.tensor([CLASSES.index(pair.name.split(".")[0]) for pair in held_out])  # [400]
print(f"  {len(learn)} to learn from, {len(held_out)} held out; no function is in both")
for pair in held_out[:4]:
    print(f"  {pair.name.split('.')[0]:8}{pair.summary}")

print("\n2. Two ways to make a text a row of numbers")
model = SentenceEncoder.from_pretrained(device="cpu")
dense = [torch.from_numpy(model.encode([pair.summary for pair in pairs])) for pairs in (learn, held_out)]


def words(pair):
    return re.findall(r"\w+", pair.summary.lower())


known = sorted({word for pair in learn for word in words(pair)})
column = {word: place for place, word in enumerate(known)}
counts = [torch.zeros(len(pairs), len(known)) for pairs in (learn, held_out)]
for rows, pairs in zip(counts, (learn, held_out), strict=True):
    for row, pair in zip(rows, pairs, strict=True):
        for word, times in Counter(words(pair)).items():
            if word in column:
                row[column[word]] = times / len(words(pair)) ** 0.5
print(f"  vectors of the model  {list(dense[0].shape)}\n  counts of words       {list(counts[0].shape)}")

print("\n3. Softmax regression by hand; the gradient, against torch's own")


def fit(x, y, steps=1500, rate=2.0):
    """Gradient descent from zero: texts ``[n, D]`` and classes ``[n]`` → A ``[C, D]`` and b ``[C]``."""
    A, b = torch.zeros(len(CLASSES), x.shape[1]), torch.zeros(len(CLASSES))
    for _ in range(steps):
        grad_A, grad_b = gradient(x, y, A, b)
        A, b = A - rate * grad_A, b - rate * grad_b
    return A, b


def gradient(x, y, A, b):
    P = (x @ A.T + b).softmax(dim=1)  # [n, C]
    error = (P - torch.nn.functional.one_hot(y, len(CLASSES))) / len(y)  # [n, C]
    return error.T @ x + DECAY * A, error.sum(dim=0)


def accuracy(x, y, A, b):
    return ((x @ A.T + b).argmax(dim=1) == y).double().mean().item()


A = torch.full((3, 384), 0.01, requires_grad=True)
b = torch.zeros(3, requires_grad=True)
loss = torch.nn.functional.cross_entropy(dense[0] @ A.T + b, labels) + DECAY / 2 * (A**2).sum()
loss.backward()
for what, mine, theirs in zip("Ab", gradient(dense[0], labels, A.detach(), b.detach()), (A.grad, b.grad), strict=True):
    lesson.compare(f"the gradient in {what}", mine, theirs)

print("\n4. Accuracy on the held-out lines, by the number of lines to learn from")
most_frequent = labels.bincount().argmax()
print(f"  always {CLASSES[most_frequent]!r}: {(answers == most_frequent).double().mean():.3f}")
print("  lines    words  vectors")
for n in (30, 100, 300, 900):
    scores = [accuracy(test, answers, *fit(train[:n], labels[:n])) for train, test in (counts, dense)]
    print(f"  {n:5}    {scores[0]:.3f}    {scores[1]:.3f}")

print("\n5. Which classes it mixes up: of the lines from the library at the left, the share called as above")
A, b = fit(dense[0], labels)
given = (dense[1] @ A.T + b).argmax(dim=1)  # [400]
print("          " + "".join(f"{name:>8}" for name in CLASSES))
for i, name in enumerate(CLASSES):
    print(f"  {name:8}" + "".join(f"{(given[answers == i] == j).double().mean():8.3f}" for j in range(3)))

# Questions (answers.md has the answers)
# 1. Why are 300 lines more to the vectors than 900 to the words?
# 2. Print ``accuracy(dense[0], labels, *fit(dense[0], labels))`` beside the held-out one. Which of the two numbers
#    may stand in a report, and why is the other higher?
# 3. ``lesson.docstrings`` holds out whole families of functions. What would happen to the accuracy if lines were
#    held out by chance, and which of the two figures would you trust for a new library?
# 4. Set DECAY to 0.01. What becomes of both columns, and of the matrix A?
# 5. The probe finds the library in the vectors. Does it follow that the model uses it?
