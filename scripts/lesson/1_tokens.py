#!/usr/bin/env python3
"""Step 1: characters → words → pieces → ids.

The model knows 30,522 pieces, the lines of vocab.txt, and nothing else: every text has to become a row of
them. Rules first (no accents, lower case, punctuation apart), then WordPiece: of the word that is left, take
the longest beginning that is in the vocabulary. Your functions are in wordpiece.py.
"""

import lesson

lesson.enter()

import random

from texts import TEXTS
from wordpiece import normalise, pieces, tokenize, words

from minilm import SentenceEncoder

vocabulary = lesson.read_vocabulary()  # piece → id
names = list(vocabulary)  # id → piece

print("1. From characters to words")
text = "Café №7, Zürich: don’t panic — 東京!"
print(f"  text        {text}")
print(f"  normalised  {normalise(text)}")
print(f"  words       {words(normalise(text))}")

print("\n2. From a word to pieces, the longest match first")
word, start = "sourdough", 0
while start < len(word):
    tries = [("##" if start else "") + word[start:end] for end in range(len(word), start, -1)]
    hit = next(i for i, piece in enumerate(tries) if piece in vocabulary)
    print(f"  at {start}: {' '.join(tries[: hit + 1])}  ← in the vocabulary")
    start += len(tries[hit].removeprefix("##"))

print("\n3. From pieces to ids")
for word in ("ferry", "sourdough", "unhelpfulness", "2026", "tokenizer", "🦜"):
    found = pieces(word, vocabulary)
    print(f"  {word:15}{' '.join(found):26}{[vocabulary[piece] for piece in found]}")
print("  " + " ".join(f"{i} {names[i]}" for i in tokenize("The ferry leaves.", vocabulary)))

print("\n4. The same as the model's tokenizer?")
tokenizer = SentenceEncoder.from_pretrained(device="cpu").tokenizer
dice = random.Random(0)
ordinary = [piece.removeprefix("##") for piece in names[1000:]]  # before these: special and unused ones, digits …
ALPHABETS = [(0x20, 0x300), (0x370, 0x530), (0x3040, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0x1F300, 0x1F650)]


def made_up():
    """A text of pieces, blanks and single characters of many scripts, put together by chance."""
    parts = [dice.choice(ordinary) for _ in range(20)]
    parts += [chr(dice.randrange(*dice.choice(ALPHABETS))) for _ in range(10)] + [" "] * 20
    return "".join(dice.sample(parts, dice.randrange(len(parts))))


for what, some in [("sentences", TEXTS), ("made-up texts", [made_up() for _ in range(2000)])]:
    theirs = tokenizer(some).ids
    different = [text for text, ids in zip(some, theirs, strict=True) if tokenize(text, vocabulary) != ids]
    print(f"  {what:15}{len(some) - len(different):,} of {len(some):,} are the same")
    if different:
        raise SystemExit(f"  the first that is not: {different[0]!r}")

# Questions (answers.md has the answers)
# 1. Which two different texts can the model not tell apart, because they have the same ids?
# 2. WordPiece is greedy. Find a word for which fewer pieces are possible than the longest match gives.
# 3. In wordpiece.py, let ``normalise`` lower the whole text at once: ``return text.lower()`` in place of the last
#    line's ``"".join(...)``. Which script makes the difference, and why only at the ends of words?
# 4. What do you and what does the tokenizer make of the text "[SEP]"? Which of the two is dangerous where the
#    texts are written by strangers?
# 5. ``LONGEST_WORD`` is 100. What happens to a text without blanks, in Thai, say, or to a long link?
