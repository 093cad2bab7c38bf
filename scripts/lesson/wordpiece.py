"""Your own tokenizer (step 1): characters → words → pieces → ids, as BERT's does it.

Wu et al. 2016, "Google's Neural Machine Translation System" (https://arxiv.org/abs/1609.08144), section 4.1,
for the pieces; the reference is BERT's tokenization.py, whose order of steps this follows.
"""

import unicodedata

LONGEST_WORD = 100  # characters; a longer word becomes [UNK], as in the reference


def normalise(text):
    """Invisible characters out, every white space a blank, accents off, lower case."""
    text = "".join(c for c in text if c in "\t\n\r" or not is_invisible(c))
    text = "".join(" " if c.isspace() else f" {c} " if is_chinese(c) else c for c in text)
    text = unicodedata.normalize("NFD", text)  # é becomes e and a combining accent, category Mn
    text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    return "".join(c.lower() for c in text)  # one by one: "ΟΔΟΣ".lower() would end in another sigma


def is_invisible(c):
    """Control and format characters, those for private use, and the mark for a broken character."""
    return unicodedata.category(c) in ("Cc", "Cf", "Co") or c == "\ufffd"


def is_chinese(c):
    """Whether each such character is to be a word by itself; Japanese kana and Korean are not."""
    blocks = [(0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF)]
    return any(first <= ord(c) <= last for first, last in [*blocks, (0x2F800, 0x2FA1F)])


def is_punctuation(c):
    """All of ASCII that is neither letter nor digit, "$" and "+" included, and Unicode's punctuation."""
    return (c.isascii() and not c.isalnum() and not c.isspace()) or unicodedata.category(c).startswith("P")


def words(normalised):
    """Splits at blanks; each punctuation character is a word by itself."""
    return "".join(f" {c} " if is_punctuation(c) else c for c in normalised).split()


def pieces(word, vocabulary):
    """Greedy, longest match first: the longest beginning that is in the vocabulary, then the same for the
    rest, whose pieces carry "##". If there is none at some place, the whole word is [UNK]."""
    if len(word) > LONGEST_WORD:
        return ["[UNK]"]
    found, start = [], 0
    while start < len(word):
        for end in range(len(word), start, -1):
            piece = ("##" if start else "") + word[start:end]
            if piece in vocabulary:
                break
        else:
            return ["[UNK]"]
        found.append(piece)
        start = end
    return found


def tokenize(text, vocabulary, most=256):
    """A text → its token ids: [CLS], at most ``most - 2`` pieces, [SEP]."""
    body = [piece for word in words(normalise(text)) for piece in pieces(word, vocabulary)]
    return [vocabulary[piece] for piece in ["[CLS]", *body[: most - 2], "[SEP]"]]
