"""The losses: worked examples, every option against sentence-transformers to the bit, two processes."""

import doctest
import itertools
import math
import random
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sentence_transformers import SentenceTransformer, util
from sentence_transformers.sentence_transformer import losses as reference_losses
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

import minilm
from minilm import Encoder, EncoderConfig, InputError, PaddedBatch, SentenceEncoder, Tokenizer
from minilm.tolerances import LOSS_FLOAT64, LOSS_REORDERED
from minilm.training import losses
from minilm.training.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    duplicate_ids,
)

WORDS = "the cat sat on a mat dog ran far away from home red blue green old new what is where when how".split()

ALL_DIRECTIONS = ("query_to_doc", "query_to_query", "doc_to_query", "doc_to_doc")
HARDNESS = [(None, 0.0), ("in_batch_negatives", 9.0), ("hard_negatives", 5.0), ("all_negatives", 2.0)]
# Every set of directions with every way to join them that is defined.
PARTITIONS = [
    (("query_to_doc", *extra), mode)
    for count in range(4)
    for extra in itertools.combinations(ALL_DIRECTIONS[1:], count)
    for mode in ("joint", "per_direction")
    if mode == "joint" or not {"query_to_query", "doc_to_doc"} & set(extra)
]
OPTIONS = [
    {"directions": directions, "partition_mode": mode, "hardness_mode": hardness, "hardness_strength": strength}
    for directions, mode in PARTITIONS
    for hardness, strength in HARDNESS
]
SOME_OPTIONS = [
    {},
    {"directions": ALL_DIRECTIONS, "hardness_mode": "all_negatives", "hardness_strength": 2.0},
    {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small gain nothing from threads, and lose much where the processor is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def random_columns(batch: int, negatives: int, dimensions: int = 24, seed: int = 0, **options) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, dimensions, generator=generator, **options) for _ in range(2 + negatives)]


def random_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(count)]


def value_and_gradients(loss: Callable[[list[Tensor]], Tensor], columns: list[Tensor]) -> list[Tensor]:
    columns = [column.clone().requires_grad_() for column in columns]
    value = loss(columns)
    value.backward()
    return [value.detach(), *(column.grad for column in columns)]


def same_bits(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def close(ours: list[Tensor], theirs: list[Tensor], tolerance: float = LOSS_REORDERED) -> bool:
    return len(ours) == len(theirs) and all(
        torch.allclose(a, b, rtol=tolerance, atol=tolerance) for a, b in zip(ours, theirs, strict=True)
    )


def test_the_default_loss_is_the_two_lines_of_its_documentation():
    assert doctest.testmod(losses, raise_on_error=True).attempted


# ---- worked examples --------------------------------------------------------------------------------

ANCHORS = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
POSITIVES = torch.tensor([[3.0, 0.0], [0.6, 0.8]])
NEGATIVES = torch.tensor([[0.0, 1.0], [0.8, 0.6]])
# cos(anchors, positives) = [[1, 0.6], [0, 0.8]]; cos(anchors, negatives) = [[0, 0.8], [1, 0.6]]
# cos(anchors, anchors) = [[1, 0], [0, 1]];        cos(positives, positives) = [[1, 0.6], [0.6, 1]]


def log_sum(*scores: float) -> float:
    return math.log(sum(math.exp(score) for score in scores))


@pytest.mark.parametrize(
    ("options", "columns", "rows"),
    [
        ({}, 2, [log_sum(1, 0.6) - 1, log_sum(0, 0.8) - 0.8]),
        ({"scale": 10}, 2, [log_sum(10, 6) - 10, log_sum(0, 8) - 8]),
        ({}, 3, [log_sum(1, 0.6, 0, 0.8) - 1, log_sum(0, 0.8, 1, 0.6) - 0.8]),
        ({"directions": ("query_to_doc", "query_to_query")}, 2, [log_sum(1, 0.6, 0) - 1, log_sum(0, 0.8, 0) - 0.8]),
        (
            {"directions": ("query_to_doc", "doc_to_query")},
            2,
            [log_sum(1, 0.6, 1, 0) - 1, log_sum(0, 0.8, 0.6, 0.8) - 0.8],
        ),
        ({"directions": ("query_to_doc", "doc_to_doc")}, 2, [log_sum(1, 0.6, 0.6) - 1, log_sum(0, 0.8, 0.6) - 0.8]),
        (
            {"directions": ("query_to_doc", "doc_to_query"), "partition_mode": "per_direction"},
            2,
            [(log_sum(1, 0.6) + log_sum(1, 0)) / 2 - 1, (log_sum(0, 0.8) + log_sum(0.6, 0.8)) / 2 - 0.8],
        ),
        (
            {"hardness_mode": "in_batch_negatives", "hardness_strength": 2},
            3,
            [log_sum(1, 3 * 0.6, 0, 3 * 0.8) - 1, log_sum(0, 0.8, 3 * 1, 0.6) - 0.8],
        ),
        (
            {"hardness_mode": "hard_negatives", "hardness_strength": 2},
            3,
            [log_sum(1, 0.6, 3 * 0, 0.8) - 1, log_sum(0, 0.8, 1, 3 * 0.6) - 0.8],
        ),
        (
            {"hardness_mode": "all_negatives", "hardness_strength": 2},
            3,
            [log_sum(1, 3 * 0.6, 3 * 0, 3 * 0.8) - 1, log_sum(3 * 0, 0.8, 3 * 1, 3 * 0.6) - 0.8],
        ),
    ],
)
def test_worked_examples(options, columns, rows):
    loss = MultipleNegativesRankingLoss(**{"scale": 1.0, **options})([ANCHORS, POSITIVES, NEGATIVES][:columns])
    assert loss.item() == pytest.approx(sum(rows) / 2, abs=LOSS_REORDERED)


def test_a_single_pair_has_no_wrong_answer():
    assert MultipleNegativesRankingLoss()([ANCHORS[:1], POSITIVES[:1]]).item() == 0
    assert MultipleNegativesRankingLoss(directions=ALL_DIRECTIONS)([ANCHORS[:1], POSITIVES[:1]]).item() > 0


def spelled_out(columns: list[Tensor], texts: list[list[str]] | None, options: dict, scale: float) -> float:
    """The loss as its documentation states it, one number at a time."""
    vectors = torch.nn.functional.normalize(torch.stack(columns), dim=2).tolist()
    rows, kinds = range(len(columns[0])), range(1, len(columns))

    def cos(a, b):
        return sum(x * y for x, y in zip(vectors[a[0]][a[1]], vectors[b[0]][b[1]], strict=True))

    def right(i):  # the texts that are known to be right for row i
        if texts is None:
            return set()
        pairs = [{texts[0][j], texts[1][j]} for j in rows]
        return set().union(*(pair for pair in pairs if pair & pairs[i]))

    strength, mode = options.get("hardness_strength", 0.0), options.get("hardness_mode")

    def score(i, column, j):
        own, hard = j == i, column > 1
        harder = {
            None: False,
            "in_batch_negatives": not own,
            "hard_negatives": own and hard,
            "all_negatives": not own or hard,
        }[mode]
        return (scale + strength * harder) * cos((0, i), (column, j))

    total = 0.0
    for i in rows:
        allowed = {(c, j) for c in range(len(columns)) for j in rows if texts is None or texts[c][j] not in right(i)}
        documents = [(c, j) for c in kinds for j in rows]
        candidates = {
            "query_to_doc": [score(i, c, j) for c, j in documents if (c, j) == (1, i) or (c, j) in allowed],
            "query_to_query": [scale * cos((0, i), (0, j)) for j in rows if j != i and (0, j) in allowed],
            "doc_to_query": [scale * cos((1, i), (0, j)) for j in rows if j == i or (0, j) in allowed],
            "doc_to_doc": [scale * cos((1, i), (c, j)) for c, j in documents if j != i and (c, j) in allowed],
        }
        chosen = [candidates[direction] for direction in options.get("directions", ("query_to_doc",))]
        if options.get("partition_mode", "joint") == "joint":
            log_z = log_sum(*itertools.chain(*chosen))
        else:
            log_z = sum(log_sum(*scores) for scores in chosen) / len(chosen)
        total += log_z - scale * cos((0, i), (1, i))
    return total / len(rows)


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(OPTIONS),
    st.integers(1, 5).flatmap(
        lambda batch: st.lists(
            st.lists(st.sampled_from("abcdefgh"), min_size=batch, max_size=batch), min_size=2, max_size=4
        )
    ),
    st.integers(0, 99),
    st.booleans(),
)
def test_the_loss_is_what_its_documentation_says(options, texts, seed, masked):
    columns = random_columns(len(texts[0]), len(texts) - 2, 3, seed, dtype=torch.float64)
    ids = duplicate_ids(texts) if masked else None
    ours = MultipleNegativesRankingLoss(4.0, **options)(columns, ids).item()
    assert ours == pytest.approx(spelled_out(columns, texts if masked else None, options, 4.0), abs=LOSS_FLOAT64)


# ---- the reference, to the bit ----------------------------------------------------------------------


@pytest.mark.parametrize(("batch", "negatives"), [(1, 0), (1, 2), (16, 0), (22, 1), (33, 2)])
@pytest.mark.parametrize("similarity", ["cos_sim", "dot_score", "euclidean_sim", "manhattan_sim"])
def test_value_and_gradients_are_the_references(similarity, batch, negatives):
    columns = random_columns(batch, negatives, seed=batch)
    for options in OPTIONS:
        scale = 20.0 if similarity == "cos_sim" else 0.3
        theirs = reference_losses.MultipleNegativesRankingLoss(None, scale, getattr(util, similarity), **options)
        ours = MultipleNegativesRankingLoss(scale, getattr(minilm, similarity), **options)
        assert same_bits(
            value_and_gradients(ours, columns),
            value_and_gradients(lambda x, loss=theirs: loss.compute_loss_from_embeddings(x, None), columns),
        ), options


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions_are_the_references_too(dtype):
    columns = random_columns(9, 1, dtype=dtype)
    theirs = reference_losses.MultipleNegativesRankingLoss(None, directions=ALL_DIRECTIONS)
    ours = MultipleNegativesRankingLoss(directions=ALL_DIRECTIONS)
    assert same_bits(
        value_and_gradients(ours, columns),
        value_and_gradients(lambda x: theirs.compute_loss_from_embeddings(x, None), columns),
    )


def test_the_options_by_name_are_the_references():
    theirs = reference_losses.MultipleNegativesRankingLoss(None).get_config_dict()
    assert MultipleNegativesRankingLoss().get_config_dict() == theirs
    del (theirs := reference_losses.CachedMultipleNegativesRankingLoss([None]).get_config_dict())[
        "mini_batch_num_tokens"  # not offered here
    ]
    assert CachedMultipleNegativesRankingLoss().get_config_dict() == theirs


# ---- properties -------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", SOME_OPTIONS)
def test_the_order_of_the_pairs_does_not_matter(options):
    columns = random_columns(11, 1)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(1))
    loss = MultipleNegativesRankingLoss(**options)
    value, *gradients = value_and_gradients(loss, columns)
    permuted, *permuted_gradients = value_and_gradients(loss, [column[order] for column in columns])
    assert close([permuted, *permuted_gradients], [value, *(gradient[order] for gradient in gradients)])


def test_under_the_cosine_lengths_do_not_matter():
    columns = random_columns(6, 1)
    loss = MultipleNegativesRankingLoss()
    stretched = [column * torch.arange(1, 7)[:, None] for column in columns]
    assert close([loss(stretched)], [loss(columns)])
    _, *gradients = value_and_gradients(loss, columns)  # and so no gradient points along a vector
    assert all((g * c).sum(dim=1).abs().max() < LOSS_REORDERED for g, c in zip(gradients, columns, strict=True))


def test_every_hard_negative_makes_it_harder():
    columns = random_columns(6, 3)
    values = [MultipleNegativesRankingLoss()(columns[:count]).item() for count in (2, 3, 4, 5)]
    assert values == sorted(values)
    assert values[0] < values[-1]


# ---- texts that repeat ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_without_duplicates_in_the_batch_nothing_changes(options):
    columns = random_columns(5, 2)
    ids = duplicate_ids([[f"{column} {row}" for row in range(5)] for column in range(4)])
    loss = MultipleNegativesRankingLoss(**options)
    assert same_bits(value_and_gradients(lambda x: loss(x, ids), columns), value_and_gradients(loss, columns))


def test_a_repeated_question_does_not_push_its_other_answer_away():
    anchors, positives = random_columns(3, 0)
    anchors[2] = anchors[0]
    ids = duplicate_ids([["why?", "how?", "why?"], ["because", "so", "therefore"]])
    scores = 20 * minilm.cos_sim(anchors, positives)
    scores[0, 2] = scores[2, 0] = -math.inf
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(3))
    assert close([MultipleNegativesRankingLoss()([anchors, positives], ids)], [expected])


def test_a_question_with_four_answers_costs_log_4_even_a_perfect_model():
    perfect = torch.eye(4).repeat_interleave(4, dim=0)  # 4 questions, each 4 times, beside their answers
    ids = duplicate_ids([[f"question {row // 4}" for row in range(16)], [f"answer {row}" for row in range(16)]])
    loss = MultipleNegativesRankingLoss(scale=50.0)
    assert close([loss([perfect, perfect])], [torch.tensor(4.0).log()])
    assert close([loss([perfect, perfect], ids)], [torch.tensor(0.0)])


def test_a_batch_of_one_text_only_has_no_wrong_answer():
    columns = [torch.ones(4, 3)] * 3
    ids = duplicate_ids([["same"] * 4] * 3)
    for options in OPTIONS:
        loss, *gradients = value_and_gradients(
            lambda x, options=options: MultipleNegativesRankingLoss(**options)(x, ids), columns
        )
        assert torch.isfinite(loss)
        assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert MultipleNegativesRankingLoss()(columns, ids).item() == 0


def test_a_repeated_positive_gets_no_gradient_from_the_other_pair():
    # Two questions with one answer, and a hard negative that is the answer of the same question's other pair.
    texts = [["q1", "q2", "q1"], ["a", "a", "b"], ["b", "x", "y"]]
    columns = random_columns(3, 1)
    similarities = []

    def similarity(a: Tensor, b: Tensor) -> Tensor:
        similarities.append(minilm.cos_sim(a, b))
        similarities[-1].retain_grad()
        return similarities[-1].clone()

    columns = [column.requires_grad_() for column in columns]
    MultipleNegativesRankingLoss(similarity_fct=similarity)(columns, duplicate_ids(texts)).backward()
    counted = similarities[0].grad != 0  # rows: q1 q2 q1; columns: a a b | b x y
    assert counted.int().tolist() == [[1, 0, 0, 0, 1, 1], [0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 1]]


def test_equal_texts_have_equal_numbers_and_others_have_not():
    (first, second) = duplicate_ids([["a", "b", "a"], ["b", "c", "ä"]])
    assert first[0] == first[2] != first[1] == second[0]
    assert len({*first.tolist(), *second.tolist()}) == 4
    assert duplicate_ids([[[1, 2], [1, 2, 0], (1, 2)]])[0].unique().numel() == 2
    assert first.dtype == torch.int64
    assert first[0].item() == duplicate_ids([["a"]])[0].item() == 3405396810240292928  # in every process


# ---- the cached loss --------------------------------------------------------------------------------


def tiny_model(dropout: float) -> SentenceEncoder:
    pieces = {piece: i for i, piece in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(0)
    config = EncoderConfig(
        vocab_size=len(pieces),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=32,
        initializer_range=0.3,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return SentenceEncoder(Encoder(config), Tokenizer(tokenizer, 16)).train()


def embedder(model: torch.nn.Module) -> Callable[[list[list[int]]], Tensor]:
    return lambda ids: model(PaddedBatch.from_ids(ids)).sentence_embedding


def gradients_of(model: torch.nn.Module) -> list[Tensor]:
    gradients = [parameter.grad.clone() for name, parameter in model.named_parameters() if "pooler" not in name]
    model.zero_grad()
    return gradients


@pytest.mark.parametrize("options", SOME_OPTIONS)
@pytest.mark.parametrize(("batch", "negatives", "size"), [(7, 0, 3), (8, 2, 4), (5, 1, 32), (1, 0, 2)])
def test_with_dropout_the_cached_loss_is_the_references(tmp_path: Path, options, batch, negatives, size):
    ours = tiny_model(dropout=0.1)
    ours.save_pretrained(tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu").train()
    columns = [random_texts(batch, seed) for seed in range(2 + negatives)]

    torch.manual_seed(1)
    features = [theirs.tokenize(column) for column in columns]
    their_loss = reference_losses.CachedMultipleNegativesRankingLoss(theirs, mini_batch_size=size, **options)
    their_value = their_loss(features, None)
    (their_value / 3).backward()  # as gradient accumulation divides it
    their_state = torch.get_rng_state()

    torch.manual_seed(1)
    our_loss = CachedMultipleNegativesRankingLoss(mini_batch_size=size, **options)
    our_value = our_loss(embedder(ours), [ours.tokenizer(column).ids for column in columns])
    (our_value / 3).backward()
    assert torch.equal(our_value, their_value)
    assert same_bits(gradients_of(ours), gradients_of(theirs))
    assert torch.equal(torch.get_rng_state(), their_state)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_cached_loss_is_the_plain_one(options, masked):
    columns = random_columns(10, 1)
    texts = [[str(row % 7) for row in range(10)], [str(row // 3 + 5) for row in range(10)], ["x"] * 10]
    ids = duplicate_ids(texts) if masked else None
    plain_weight, cached_weight = torch.eye(24).requires_grad_(), torch.eye(24).requires_grad_()
    plain = MultipleNegativesRankingLoss(**options)([column @ plain_weight for column in columns], ids)
    plain.backward()
    loss = CachedMultipleNegativesRankingLoss(mini_batch_size=4, **options)
    cached = loss(lambda part: part @ cached_weight, columns, ids)
    cached.backward()
    assert close([cached.detach(), cached_weight.grad], [plain.detach(), plain_weight.grad])


def test_the_second_pass_has_the_same_dropout():
    model = tiny_model(dropout=0.3)
    ids = [model.tokenizer(random_texts(6, seed)).ids for seed in (1, 2)]
    torch.manual_seed(3)
    loss = CachedMultipleNegativesRankingLoss(mini_batch_size=4)(embedder(model), ids)
    after = torch.get_rng_state()
    torch.rand(100)  # whatever is drawn in between
    between = torch.get_rng_state()
    loss.backward()
    assert torch.equal(torch.get_rng_state(), between)
    cached = gradients_of(model)
    torch.manual_seed(3)  # the same mini-batches, all kept
    embeddings = [torch.cat([embedder(model)(column[:4]), embedder(model)(column[4:])]) for column in ids]
    assert torch.equal(torch.get_rng_state(), after)
    plain = MultipleNegativesRankingLoss()(embeddings)
    plain.backward()
    assert close([loss.detach(), *cached], [plain.detach(), *gradients_of(model)])


def test_two_cached_losses_may_wait_for_their_backward_pass():
    model = tiny_model(dropout=0.1)
    ids = [model.tokenizer(random_texts(5, seed)).ids for seed in range(4)]
    loss = CachedMultipleNegativesRankingLoss(mini_batch_size=2)

    def run(together: bool) -> list[Tensor]:
        torch.manual_seed(4)
        first = loss(embedder(model), ids[:2])
        if not together:
            first.backward()
        second = loss(embedder(model), ids[2:])
        second.backward()
        if together:
            first.backward()
        return gradients_of(model)

    assert close(run(together=True), run(together=False))


def test_the_second_pass_runs_under_the_same_autocast():
    weight, seen = torch.eye(24).requires_grad_(), []

    def embed(part):
        seen.append((part @ weight).dtype)
        return part @ weight

    with torch.autocast("cpu", torch.bfloat16):
        loss = CachedMultipleNegativesRankingLoss()(embed, random_columns(3, 0))
    loss.backward()
    assert seen == [torch.bfloat16] * 4


def test_without_gradients_the_cached_loss_embeds_once():
    calls = []
    columns = random_columns(5, 0)
    with torch.no_grad():
        loss = CachedMultipleNegativesRankingLoss(mini_batch_size=2)(
            lambda part: calls.append(len(part)) or part, columns
        )
    assert calls == [2, 2, 1, 2, 2, 1]
    assert not loss.requires_grad
    assert close([loss], [MultipleNegativesRankingLoss()(columns)])


# ---- two processes ----------------------------------------------------------------------------------


def gather_configurations() -> list[tuple[dict, bool]]:
    return [(options, masked) for options in SOME_OPTIONS for masked in (False, True)]


PAIRS = 16
REPEATING = [
    [f"q{row % 11}" for row in range(PAIRS)],
    [f"d{row // 2}" for row in range(PAIRS)],
    [f"d{row % 5}" for row in range(PAIRS)],
]


def one_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    mine = slice(rank * PAIRS // 2, (rank + 1) * PAIRS // 2)
    columns = [column[mine] for column in random_columns(PAIRS, 1)]
    ids = duplicate_ids([column[mine] for column in REPEATING])
    results: dict[str, object] = {}

    results["embeddings"] = [
        value_and_gradients(
            lambda x, options=options, masked=masked: MultipleNegativesRankingLoss(
                gather_across_devices=True, **options
            )(x, ids if masked else None),
            columns,
        )
        for options, masked in gather_configurations()
    ]
    results["reference"] = [
        value_and_gradients(
            lambda x, options=options: reference_losses.MultipleNegativesRankingLoss(
                None, gather_across_devices=True, **options
            ).compute_loss_from_embeddings(x, None),
            columns,
        )
        for options in SOME_OPTIONS
    ]

    model = DistributedDataParallel(tiny_model(dropout=0.0))
    tokens = [model.module.tokenizer(random_texts(PAIRS, seed)).ids[mine] for seed in range(3)]
    plain = MultipleNegativesRankingLoss(gather_across_devices=True)
    loss = plain([embedder(model)(column) for column in tokens])
    loss.backward()
    results["ddp"] = [loss.detach(), *gradients_of(model)]

    cached = CachedMultipleNegativesRankingLoss(gather_across_devices=True, mini_batch_size=3)
    loss = cached(embedder(model), tokens, no_sync=model.no_sync)
    loss.backward()
    results["cached ddp"] = [loss.detach(), *gradients_of(model)]

    ours = tiny_model(dropout=0.1)
    ours.save_pretrained(f"{folder}/model {rank}")
    theirs = SentenceTransformer(f"{folder}/model {rank}", device="cpu").train()
    texts = [random_texts(PAIRS, seed)[mine] for seed in range(3)]
    torch.manual_seed(rank)
    loss = cached(embedder(ours), [ours.tokenizer(column).ids for column in texts])
    loss.backward()
    results["cached"] = [loss.detach(), *gradients_of(ours)]
    torch.manual_seed(rank)
    loss = reference_losses.CachedMultipleNegativesRankingLoss(theirs, gather_across_devices=True, mini_batch_size=3)(
        [theirs.tokenize(column) for column in texts], None
    )
    loss.backward()
    results["cached reference"] = [loss.detach(), *gradients_of(theirs)]

    try:
        MultipleNegativesRankingLoss(gather_across_devices=True)([column[rank:] for column in columns])
    except InputError as error:
        results["unequal"] = str(error)
    torch.save(results, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory) -> list[dict]:
    folder = str(tmp_path_factory.mktemp("processes"))
    torch.multiprocessing.spawn(one_process, (folder,), nprocs=2)
    return [torch.load(f"{folder}/{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(("index", "options", "masked"), [(i, *x) for i, x in enumerate(gather_configurations())])
def test_two_processes_of_8_pairs_are_one_of_16(two_processes, index, options, masked):
    ids = duplicate_ids(REPEATING) if masked else None
    whole = value_and_gradients(lambda x: MultipleNegativesRankingLoss(**options)(x, ids), random_columns(PAIRS, 1))
    (value0, *grads0), (value1, *grads1) = (process["embeddings"][index] for process in two_processes)
    # Each process's loss is the mean over its own anchors; the average of the two is what DDP follows.
    halves = [(value0 + value1) / 2, *(torch.cat(pair) / 2 for pair in zip(grads0, grads1, strict=True))]
    assert close(halves, whole)


def test_gathered_value_and_gradients_are_the_references(two_processes):
    for process in two_processes:
        plain = [
            result
            for result, (_, masked) in zip(process["embeddings"], gather_configurations(), strict=True)
            if not masked
        ]
        assert all(map(same_bits, plain, process["reference"]))


def test_the_gathered_cached_loss_is_the_references_with_gradients_in_another_order_of_sums(two_processes):
    for process in two_processes:
        assert torch.equal(process["cached"][0], process["cached reference"][0])
        assert close(process["cached"], process["cached reference"])


@pytest.mark.parametrize("kind", ["ddp", "cached ddp"])
def test_gradients_averaged_over_two_processes_are_those_of_one(two_processes, kind):
    model = tiny_model(dropout=0.0)
    whole = MultipleNegativesRankingLoss()(
        [embedder(model)(model.tokenizer(random_texts(PAIRS, seed)).ids) for seed in range(3)]
    )
    whole.backward()
    expected = gradients_of(model)
    (value0, *grads0), (value1, *grads1) = (process[kind] for process in two_processes)
    assert same_bits(grads0, grads1)
    assert close([(value0 + value1) / 2, *grads0], [whole.detach(), *expected])


def test_unequal_batches_are_an_error_in_every_process(two_processes):
    for process in two_processes:
        assert "3 of (8, 24), 3 of (7, 24)" in process["unequal"]


def test_gathering_in_a_single_process_changes_nothing():
    columns = random_columns(4, 1)
    gathered = MultipleNegativesRankingLoss(gather_across_devices=True)
    assert torch.equal(gathered(columns), MultipleNegativesRankingLoss()(columns))


# ---- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale": 0.0}, "scale is 0.0, expected a positive number"),
        ({"scale": math.nan}, "scale is nan"),
        ({"directions": ()}, '"query_to_doc" among them'),
        ({"directions": ("doc_to_query",)}, '"query_to_doc" among them'),
        ({"directions": ("query_to_doc", "doc_to_dog")}, "'doc_to_dog', expected one of"),
        ({"directions": "query_to_doc"}, r"expected a tuple such as \('query_to_doc',\)"),
        ({"partition_mode": "apart"}, "partition_mode is 'apart', expected one of 'joint', 'per_direction'"),
        ({"partition_mode": "per_direction", "directions": ALL_DIRECTIONS}, "undefined for"),
        ({"hardness_mode": "hard"}, "hardness_mode is 'hard', expected one of None, 'in_batch_negatives'"),
        ({"hardness_strength": -1.0}, "hardness_strength is -1.0"),
    ],
)
@pytest.mark.parametrize("loss", [MultipleNegativesRankingLoss, CachedMultipleNegativesRankingLoss])
def test_options_without_a_meaning_are_refused(loss, options, message):
    with pytest.raises(InputError, match=message):
        loss(**options)


def test_a_mini_batch_has_at_least_one_text():
    with pytest.raises(InputError, match="mini_batch_size is 0"):
        CachedMultipleNegativesRankingLoss(mini_batch_size=0)


def test_hardness_without_strength_is_warned_about():
    with pytest.warns(UserWarning, match="has no effect while hardness_strength is 0"):
        MultipleNegativesRankingLoss(hardness_mode="all_negatives")


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], r"found 0 column\(s\), expected at least an anchor and a positive"),
        ([(4, 3)], r"found 1 column\(s\)"),
        ([(4, 3), (5, 3)], r"\[4, 5\] rows"),
        ([(4, 3), (4, 3), (2, 3)], r"\[4, 4, 2\] rows"),
        ([(0, 3), (0, 3)], r"\[0, 0\] rows"),
        ([(4, 3), (4, 2)], "expected the same D"),
        ([(4,), (4,)], r"expected \[B, D\]"),
    ],
)
def test_columns_that_do_not_fit_are_refused(shapes, message):
    columns = [torch.zeros(shape) for shape in shapes]
    with pytest.raises(InputError, match=message):
        MultipleNegativesRankingLoss()(columns)
    with pytest.raises(InputError, match=message):
        CachedMultipleNegativesRankingLoss()(lambda part: part, columns)


def test_duplicates_need_a_number_for_each_text():
    with pytest.raises(InputError, match="duplicates has the shapes"):
        MultipleNegativesRankingLoss()(random_columns(4, 1), duplicate_ids([["a"] * 4] * 2))


MEMORY = """
import re, sys, torch
from pathlib import Path
from minilm import Encoder, EncoderConfig, PaddedBatch
from minilm.pooling import MeanPooling
from minilm.training import CachedMultipleNegativesRankingLoss, MultipleNegativesRankingLoss

def peak():  # in kB; not getrusage's, which begins with what the parent process had
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
kind, pairs = sys.argv[1], int(sys.argv[2])
encoder = Encoder(EncoderConfig(vocab_size=100, hidden_size=128, num_attention_heads=4, intermediate_size=512)).train()
columns = [[[2, *[(i + j + c) % 90 + 5 for j in range(62)], 3] for i in range(pairs)] for c in range(2)]

def embed(ids):
    batch = PaddedBatch.from_ids(ids)
    return MeanPooling()(encoder(batch).last_hidden_state, batch)

embed(columns[0][:8]).sum().backward()
before = peak()
if kind == "plain":
    loss = MultipleNegativesRankingLoss()([embed(column) for column in columns])
else:
    loss = CachedMultipleNegativesRankingLoss(mini_batch_size=32)(embed, columns)
loss.backward()
print(peak() - before)
"""


def test_cached_loss_takes_the_memory_of_a_small_batch() -> None:
    """1,024 pairs, cached, in no more than 32 pairs take without; the peak of a process of its own."""
    peak = {}
    for kind, pairs in (("plain", 32), ("cached", 1024)):
        command = [sys.executable, "-c", MEMORY, kind, str(pairs)]
        peak[kind] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert peak["plain"] > 50_000  # kB: enough to be told from noise
    assert peak["cached"] <= peak["plain"]
