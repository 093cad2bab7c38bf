#!/usr/bin/env python3
"""Step 8: the contrastive loss by hand, and a minute of fine-tuning.

B pairs of an anchor a_i and its positive p_i; every other positive of the batch is a wrong answer. With cosines
c_ij = cos(a_i, p_j) and s = 20 the loss is a classification, "which of the B is mine?" (Henderson et al. 2017,
https://arxiv.org/abs/1705.00652, section 4.4; van den Oord et al. 2018, https://arxiv.org/abs/1807.03748):

    P_ij = exp(s c_ij) / Σ_k exp(s c_ik)      loss = -(1/B) Σ_i log P_ii      ∂loss/∂c_ij = (s/B) (P_ij - [i = j])
"""

import lesson

lesson.enter()

import math
import tempfile
import warnings

import torch

from minilm import SentenceEncoder
from minilm.training import MultipleNegativesRankingLoss, PairDataset, TrainingRecipe, train

print("1. Three pairs by hand")
SCALE = 20
cosines = [[0.50, 0.45, 0.10], [0.20, 0.60, 0.10], [0.40, 0.30, 0.40]]  # row: anchor, column: positive
P = []
for row in cosines:
    total = sum(math.exp(SCALE * c) for c in row)
    P.append([math.exp(SCALE * c) / total for c in row])
loss = -sum(math.log(P[i][i]) for i in range(3)) / 3
slope = [[SCALE / 3 * (P[i][j] - (i == j)) for j in range(3)] for i in range(3)]
print("       cosines                    P                          gradient")
for row, p, g in zip(cosines, P, slope, strict=True):
    print("  " + "   ".join("".join(f"{number:8.3f}" for number in part) for part in (row, p, g)))
print(f"  loss {loss:.4f}; by guessing it would be log 3 = {math.log(3):.4f}")

print("\n2. The gradient: by the formula, by torch, and by a small step to either side")
c = torch.tensor(cosines, dtype=torch.float64, requires_grad=True)


def loss_of(c):
    return torch.nn.functional.cross_entropy(SCALE * c, torch.arange(3))


loss_of(c).backward()
lesson.compare("the formula, against torch", torch.tensor(slope, dtype=torch.float64), c.grad)
step = torch.zeros(3, 3, dtype=torch.float64)
step[0, 1] = 1e-5
by_step = (loss_of(c + step) - loss_of(c - step)) / 2e-5
print(f"  ∂loss/∂c for anchor 0, positive 1   formula {slope[0][1]:.6f}   by a small step {by_step:.6f}")
torch.manual_seed(0)
a, p = torch.randn(3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
unit_a, unit_p = a / a.norm(dim=1, keepdim=True), p / p.norm(dim=1, keepdim=True)
lesson.compare("the loss, against minilm.training", loss_of(unit_a @ unit_p.T), MultipleNegativesRankingLoss()([a, p]))

print("\n3. The task: from a docstring's first line to the rest of it, among 300 that were held out")
learn, held_out = lesson.docstrings()
learn, held_out = learn[:256], held_out[:300]
model = SentenceEncoder.from_pretrained(device="cpu")
model.max_seq_length = 48  # tokens; for speed
warnings.filterwarnings("ignore", ".*over the limit")  # the rest of many a docstring is longer


def retrieval(model):
    """The mean of 1/rank of the right text (MRR), and how often it is the first."""
    queries = model.encode([pair.summary for pair in held_out], convert_to_tensor=True)  # [300, 384]
    documents = model.encode([pair.rest for pair in held_out], convert_to_tensor=True)
    scores = queries @ documents.T  # [300, 300]: the right one stands in the diagonal
    rank = 1 + (scores > scores.diagonal()[:, None]).sum(dim=1)  # [300]
    return f"MRR {(1 / rank).mean():.3f}, first {(rank == 1).double().mean():.3f}"


print(f"  before   {retrieval(model)}")

print(f"\n4. One pass over {len(learn)} pairs, 32 in a batch")
columns = {"anchor": [pair.summary for pair in learn], "positive": [pair.rest for pair in learn]}
recipe = TrainingRecipe.trainer(
    num_train_epochs=1,
    per_device_train_batch_size=32,
    learning_rate=1e-4,
    logging_steps=1,
    save_strategy="no",
    seed=42,
)
with tempfile.TemporaryDirectory() as folder:
    result = train(model, PairDataset("docstrings", columns), recipe, output_dir=f"{folder}/tuned")
print(f"  {result.global_step} steps, mean loss {result.training_loss:.3f}; by guessing, log 32 = {math.log(32):.3f}")
print(f"  after    {retrieval(model)}")

# Questions (answers.md has the answers)
# 1. Which of the nine numbers of the gradient is largest, and what will a step of training do to that pair?
# 2. Put SCALE = 1. How large is the loss of a perfect model (1 in the diagonal, -1 elsewhere) then, and with 20?
# 3. Add up each row of the gradient. Why is it zero?
# 4. Two anchors of a batch have the same positive text. What does the loss then ask for that cannot be had?
# 5. Is the held-out figure better because the model has learnt what these functions do? What else could it have
#    learnt from 256 docstrings, and how would you find out whether it got worse elsewhere?
