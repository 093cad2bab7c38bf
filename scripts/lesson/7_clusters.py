#!/usr/bin/env python3
"""Step 7: clusters, topics found without a single label.

k-means (Lloyd 1982) goes to and fro between two steps: each vector joins the nearest of k centres, each centre
moves to the mean of its vectors; the sum of squared distances falls every time. It finds a good end only from a
good start: k-means++ (Arthur and Vassilvitskii 2007) draws each next centre with a probability in proportion to
the squared distance from those it has. Beside the known topics the result is measured by purity and by

    NMI = 2 I(cluster; topic) / (H(cluster) + H(topic))        I: mutual information, H: entropy
"""

import lesson

lesson.enter()

import math
import re
from collections import Counter

import torch
from texts import TEXTS, TOPIC_OF_TEXT, TOPICS

from minilm import SentenceEncoder


def squared_distances(x, y):
    """``[n, D]``, ``[m, D]`` → ``[n, m]``, from differences. The faster way, by a matrix product, rounds distances
    apart that are equal, as those of word counts often are; which of them is smaller then depends on the processor."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()


def plus_plus(x, k, dice):
    """k of the n rows of x ``[n, D]`` as first centres ``[k, D]``."""
    chosen = [int(torch.randint(len(x), (1,), generator=dice))]
    while len(chosen) < k:
        squared = squared_distances(x, x[chosen]).min(dim=1).values  # [n], to the nearest centre so far
        squared[chosen] = 0  # exactly, so that no row is drawn twice
        chosen.append(int(torch.multinomial(squared, 1, generator=dice)))
    return x[chosen]


def k_means(x, centres):
    """→ the cluster of each row ``[n]``, the centres ``[k, D]``, and the sum of squares before each move."""
    sums = []
    while len(sums) < 2 or sums[-1] < sums[-2] - 1e-9:
        distances = squared_distances(x, centres)  # [n, k]
        cluster = distances.argmin(dim=1)  # [n]
        sums.append(distances.min(dim=1).values.sum().item())
        members = [x[cluster == j] for j in range(len(centres))]
        centres = torch.stack([m.mean(dim=0) if len(m) else c for m, c in zip(members, centres, strict=True)])
    return cluster, centres, sums


def best_of(x, k, starts, first=plus_plus):
    """The run with the smallest sum of squares; each start has dice of its own."""
    runs = [k_means(x, first(x, k, torch.Generator().manual_seed(seed))) for seed in range(starts)]
    return min(runs, key=lambda run: run[2][-1]), [run[2][-1] for run in runs]


def purity(cluster):
    """The share of texts that have the most frequent topic of their cluster."""
    pairs = Counter(zip(cluster.tolist(), TOPIC_OF_TEXT, strict=True))
    return sum(max(n for (c, _), n in pairs.items() if c == j) for j in set(cluster.tolist())) / len(cluster)


def nmi(cluster):
    """Normalised mutual information, 0 for independent, 1 for the same up to the names."""

    def entropy(items):
        return -sum(n / len(items) * math.log(n / len(items)) for n in Counter(items).values())

    ours = cluster.tolist()
    together = entropy(list(zip(ours, TOPIC_OF_TEXT, strict=True)))
    total = entropy(ours) + entropy(TOPIC_OF_TEXT)
    return 2 * (total - together) / total


print("1. One run, from a start by k-means++")
vectors = torch.from_numpy(SentenceEncoder.from_pretrained(device="cpu").encode(TEXTS)).double()  # [60, 384]
k = len(TOPICS)
_, _, sums = k_means(vectors, plus_plus(vectors, k, torch.Generator().manual_seed(0)))
print("  sum of squares  " + "  ".join(f"{value:.3f}" for value in sums))

print("\n2. Twenty runs each: the smallest sum of squares, the mean, the largest")
at_random = best_of(vectors, k, 20, lambda x, k, dice: x[torch.randperm(len(x), generator=dice)[:k]])
(cluster, centres, _), ends = best_of(vectors, k, 20)
for what, some in (("k-means++", ends), ("any six rows", at_random[1])):
    print(f"  {what:14}{min(some):.3f}  {sum(some) / len(some):.3f}  {max(some):.3f}")

print("\n3. Beside the six topics: the model's vectors and counts of words")
known = sorted({word for text in TEXTS for word in re.findall(r"\w+", text.lower())})
counts = torch.tensor([[re.findall(r"\w+", t.lower()).count(word) for word in known] for t in TEXTS]).double()
(by_words, _, _), _ = best_of(counts / counts.norm(dim=1, keepdim=True), k, 20)
print("                purity     NMI")
for what, found in (("vectors", cluster), ("words", by_words)):
    print(f"  {what:14}{purity(found):.3f}   {nmi(found):.3f}")

print("\n4. Each cluster: its topics, the two texts nearest to its centre, and those of other topics")
similar = vectors @ (centres / centres.norm(dim=1, keepdim=True)).T  # [60, k]
for j in range(k):
    inside = (cluster == j).nonzero()[:, 0].tolist()
    topics = Counter(TOPIC_OF_TEXT[i] for i in inside).most_common()
    print("  " + ", ".join(f"{n} {topic}" for topic, n in topics))
    for i in sorted(inside, key=lambda i: -similar[i, j])[:2]:
        print(f"    {similar[i, j]:.3f}  {TEXTS[i]}")
    for i in inside:
        if TOPIC_OF_TEXT[i] != topics[0][0]:
            print(f"    {TOPIC_OF_TEXT[i]:>7}: {TEXTS[i]}")

# Questions (answers.md has the answers)
# 1. Which sentences landed in another topic's cluster? Is each of them a mistake?
# 2. Put k = 12. Which of purity and NMI goes up, and which of the two would reach 1 with k = 60?
# 3. The vectors have length one. Show that the squared distance is then 2 - 2 cos, so that k-means with
#    distances and search with cosines agree on what is near.
# 4. How would you choose k, if you did not know the topics?
# 5. Why does the sum of squares never rise from one step to the next?
