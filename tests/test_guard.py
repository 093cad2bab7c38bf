"""What you read is what runs: any change of the model shows in the very next encode, whatever made it."""

import ctypes
import threading
import types
import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import TinyFolder
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize, prune
from torch.overrides import TorchFunctionMode

from minilm import EngineWarning, InputError, SentenceEncoder, guard, pages
from minilm import encoder as plain
from minilm import fused as engine
from minilm import sentence_encoder as pipeline
from minilm.int8 import input_sizes
from minilm.tolerances import PACKED_FLOAT32

TEXTS = ["The cat sat on the mat", "a", "two dogs about nothing", "three"]
Change = Callable[[SentenceEncoder, pytest.MonkeyPatch], object]


@pytest.fixture
def small(tiny_folder: TinyFolder, one_thread: None) -> SentenceEncoder:
    """Its matrices cover whole pages of memory, and parts of pages."""
    return SentenceEncoder.from_pretrained(tiny_folder(hidden_size=96, intermediate_size=200), device="cpu")


def forward(model: SentenceEncoder) -> np.ndarray:
    """What the plain modules say."""
    with torch.inference_mode():
        return model(model.tokenize(TEXTS, "packed")).sentence_embedding.numpy()


# ---- numbers, by every way of writing them --------------------------------------------------------


def first(model: SentenceEncoder) -> nn.Parameter:
    return model.encoder.layers[0].attention.query.weight


def one_number(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[1].feed_forward.down.weight.data[50, 70] += 3


def columns(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[1].attention.output.weight.data[:, :32] = 0


def a_numpy_view(model: SentenceEncoder, _: object) -> None:
    first(model).detach().numpy()[7] *= 4


def c_code(model: SentenceEncoder, _: object) -> None:
    ctypes.memset(first(model).data_ptr() + 5000, 0, 9000)


def heads_changed_over(model: SentenceEncoder, _: object) -> None:
    weight = model.encoder.layers[0].attention.output.weight.data
    weight[:, :64] = weight[:, torch.arange(64).roll(32)]


def rows_changed_over(model: SentenceEncoder, _: object) -> None:
    weight = first(model).data
    weight[:64] = weight[torch.arange(64).roll(32)]


def a_sparse_optimizer_step(model: SentenceEncoder, _: object) -> None:
    weight = model.encoder.layers[1].feed_forward.up.weight
    weight.grad = torch.zeros_like(weight)
    weight.grad[3] = 1
    torch.optim.AdamW([weight], lr=30.0, weight_decay=0, fused=True).step()


def the_first_and_the_last(model: SentenceEncoder, _: object) -> None:
    numbers = first(model).data.view(-1)
    numbers[0], numbers[-1] = 5, -5


def a_projection_s_bias(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].attention.value.bias.data[5] = 4


def a_bias(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].feed_forward.up.bias.data[5] = 4


def a_norm(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].attention_norm.weight.data[5] = 4


def a_piece(model: SentenceEncoder, _: object) -> None:
    model.encoder.embeddings.word.weight.data[model.tokenizer(["cat"]).ids[0][1]] = 0


def a_state(model: SentenceEncoder, _: object) -> None:
    model.load_state_dict({name: tensor * 1.1 for name, tensor in model.state_dict().items()})


def rounded_and_back(model: SentenceEncoder, _: object) -> None:
    """The new numbers may come to lie where the old ones were."""
    model.bfloat16().float()


NUMBERS = [
    one_number,
    columns,
    a_numpy_view,
    c_code,
    heads_changed_over,
    rows_changed_over,
    a_sparse_optimizer_step,
    the_first_and_the_last,
    a_projection_s_bias,
    a_bias,
    a_norm,
    a_piece,
    a_state,
    rounded_and_back,
]

# ---- tensors, attributes, modules ------------------------------------------------------------------


def another_parameter(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].attention.key.weight = nn.Parameter(first(model).detach().clone())


def transposed_where_it_is(model: SentenceEncoder, _: object) -> None:
    first(model).data = first(model).data.T


def eps(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].feed_forward_norm.eps = 0.5


def an_activation(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].feed_forward.activation = torch.relu


def an_activation_of_their_own(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[1].feed_forward.activation = lambda x: x * 0.5


def heads(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].attention.heads = (6, 16)


def layers_changed_over(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0], model.encoder.layers[1] = model.encoder.layers[1], model.encoder.layers[0]


def a_layer_less(model: SentenceEncoder, _: object) -> None:
    del model.encoder.layers[1]


def embeddings_cut_to_length(model: SentenceEncoder, _: object) -> None:
    model.encoder.embeddings.word.max_norm = 0.5


def another_norm(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].attention_norm = nn.LayerNorm(96, elementwise_affine=False)


def no_bias(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].feed_forward.down = nn.Linear(200, 96, bias=False)


def a_parametrisation(model: SentenceEncoder, _: object) -> None:
    class Half(nn.Module):
        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight / 2

    parametrize.register_parametrization(model.encoder.layers[0].attention.query, "weight", Half())


def pruned(model: SentenceEncoder, _: object) -> None:
    prune.random_unstructured(model.encoder.layers[0].feed_forward.up, "weight", 0.5)


def another_encoder(model: SentenceEncoder, _: object) -> None:
    model.encoder = plain.Encoder(model.encoder.config)


def another_pooling(model: SentenceEncoder, _: object) -> None:
    class First(nn.Module):
        def forward(self, hidden: torch.Tensor, batch: object) -> torch.Tensor:
            return torch.stack([text[0] for text in batch.texts(hidden)])

    model.pooling = First()


def no_normalisation(model: SentenceEncoder, _: object) -> None:
    model.normalize = nn.Identity()


# ---- functions and classes -------------------------------------------------------------------------


def a_method(_: object, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plain.FeedForward, "forward", lambda self, hidden: hidden * 0)


def the_body_of_a_method(_: object, patch: pytest.MonkeyPatch) -> None:
    """As IPython's autoreload does after a file was edited."""
    patch.setattr(plain.FeedForward.forward, "__code__", (lambda self, hidden: hidden * 0).__code__)


def the_embeddings_method(_: object, patch: pytest.MonkeyPatch) -> None:
    before = plain.Embeddings.forward
    patch.setattr(plain.Embeddings, "forward", lambda self, batch: before(self, batch) * 2)


def a_method_of_torch(_: object, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(nn.LayerNorm, "forward", lambda self, x: x)


def a_call(_: object, patch: pytest.MonkeyPatch) -> None:
    patch.setattr(plain.EncoderLayer, "__call__", lambda self, hidden, *_: (hidden, []))


def a_function_of_torch(_: object, patch: pytest.MonkeyPatch) -> None:
    before = F.scaled_dot_product_attention
    patch.setattr(F, "scaled_dot_product_attention", lambda *args, **options: before(*args, **options) * 2)


def a_name_in_the_module(_: object, patch: pytest.MonkeyPatch) -> None:
    changed = types.SimpleNamespace(**vars(F))
    changed.scaled_dot_product_attention = lambda q, k, v, *_, **__: v
    patch.setattr(plain, "F", changed)


def positions(_: object, patch: pytest.MonkeyPatch) -> None:
    zeros = property(lambda batch: torch.zeros_like(batch.input_ids))
    patch.setattr("minilm.layouts.PackedBatch.position_ids", zeros)


def the_pipeline_s_forward(_: object, patch: pytest.MonkeyPatch) -> None:
    before = SentenceEncoder.forward

    def flipped(self: SentenceEncoder, *args: object) -> object:
        output = before(self, *args)
        return pipeline.SentenceOutput(output.last_hidden_state, sentence_embedding=output.sentence_embedding.flip(1))

    patch.setattr(SentenceEncoder, "forward", flipped)


def a_hook(model: SentenceEncoder, _: object) -> None:
    model.encoder.layers[0].register_forward_pre_hook(lambda _, args: (args[0] * 0.5, *args[1:]))


def a_hook_with_keywords(model: SentenceEncoder, _: object) -> None:
    hook = model.encoder.layers[1].attention.output
    hook.register_forward_hook(lambda *_: _[-1] * 2, with_kwargs=True)


def a_forward_of_its_own(model: SentenceEncoder, _: object) -> None:
    linear = model.encoder.layers[0].feed_forward.down
    linear.forward = lambda x: nn.Linear.forward(linear, x) * 0.9


def another_class(model: SentenceEncoder, _: object) -> None:
    class Doubling(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model.encoder.layers[0].attention.key.__class__ = Doubling


OTHERS = [
    another_parameter,
    transposed_where_it_is,
    eps,
    an_activation,
    an_activation_of_their_own,
    heads,
    layers_changed_over,
    a_layer_less,
    embeddings_cut_to_length,
    another_norm,
    no_bias,
    a_parametrisation,
    pruned,
    another_encoder,
    another_pooling,
    no_normalisation,
    a_method,
    the_body_of_a_method,
    the_embeddings_method,
    a_method_of_torch,
    a_call,
    a_function_of_torch,
    a_name_in_the_module,
    positions,
    the_pipeline_s_forward,
    a_hook,
    a_hook_with_keywords,
    a_forward_of_its_own,
    another_class,
]


def check_that_it_shows(model: SentenceEncoder, change: Change, patch: pytest.MonkeyPatch) -> None:
    before = model.encode(TEXTS)
    assert model.why_plain() is None
    change(model, patch)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EngineWarning)
        alone = np.stack([model.encode(text) for text in TEXTS])  # the very next call is of one text
        together = model.encode(TEXTS)
    expected = forward(model.eval())
    assert abs(expected - before).max() > 50 * PACKED_FLOAT32
    size = abs(expected).max() / abs(before).max()
    assert abs(alone - expected).max() <= 3 * PACKED_FLOAT32 * size
    assert abs(together - expected).max() <= 3 * PACKED_FLOAT32 * size


@pytest.mark.parametrize("change", [*NUMBERS, *OTHERS])
def test_a_change_shows_in_the_very_next_call(
    small: SentenceEncoder, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_that_it_shows(small, change, monkeypatch)


@pytest.mark.parametrize("change", NUMBERS)
def test_numbers_are_read_where_the_kernel_does_not_tell(
    small: SentenceEncoder, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_this_kernel", lambda: None)
    check_that_it_shows(small, change, monkeypatch)


@pytest.mark.parametrize("change", NUMBERS)
def test_memory_that_processes_share(small: SentenceEncoder, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    check_that_it_shows(small.share_memory(), change, monkeypatch)


@pytest.mark.parametrize("change", NUMBERS)
def test_changes_in_a_row(small: SentenceEncoder, change: Change, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each change there is a new engine, which is watched as the first one was."""
    for other in (change, columns, change):
        other(small, monkeypatch)
        expected = forward(small)
        assert abs(small.encode(TEXTS) - expected).max() <= 3 * PACKED_FLOAT32
    assert small.why_plain() is None


def test_two_models_with_the_same_weights(small: SentenceEncoder) -> None:
    """Each learns of a change, whoever looks first."""
    other = SentenceEncoder(plain.Encoder(small.encoder.config), small.tokenizer)
    other.encoder.layers = small.encoder.layers
    other.eval()
    for _ in range(2):
        for model in (small, other):
            model.encode(TEXTS)
        columns(small, None)
        first(small).data[3] += 1
        for model in (small, other, small):
            assert abs(model.encode(TEXTS) - forward(model)).max() <= PACKED_FLOAT32


def test_what_changes_nothing_keeps_the_engine(small: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    small.encode(TEXTS)
    made = engine.fused(small.encoder)
    first(small).data.mul_(1)
    small.train()
    small.encode(TEXTS)
    with small.intervene({}):
        small.encode(TEXTS)
    handle = small.encoder.register_forward_hook(lambda *_: None)
    assert small.why_plain() == "Encoder has a forward hook"
    handle.remove()
    with monkeypatch.context() as patch:
        a_method(small, patch)
        assert small.why_plain() == "FeedForward.forward was replaced"
    assert engine.fused(small.encoder) is made


# ---- the engine proves itself, and can be chosen -----------------------------------------------------


def test_an_engine_that_disagrees_steps_aside(small: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    right = small.encode(TEXTS)
    attend = engine._FusedLayer.attend
    monkeypatch.setattr(engine._FusedLayer, "attend", lambda *args: attend(*args) * 1.001)
    columns(small, None)
    with pytest.warns(EngineWarning, match=r"plain encoder: .* differ by \d\.\de-\d\d of their length") as caught:
        found = small.encode(TEXTS)
    assert caught[0].filename == __file__
    assert (found == forward(small)).all()
    assert abs(found - right).max() > PACKED_FLOAT32
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        small.encode(TEXTS)
    assert "disagrees" in small.why_plain()


def test_an_engine_that_cannot_be_made_steps_aside(small: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "can_prepack", lambda dtype: 1 / 0)
    with pytest.warns(EngineWarning, match="ZeroDivisionError"):
        found = small.encode(TEXTS)
    assert (found == forward(small)).all()


def test_an_edited_file_is_what_runs(small: SentenceEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "SOURCE_SHA256", "of another text")
    assert (small.encode(TEXTS) == forward(small)).all()
    assert small.why_plain() == "encoder.py or layouts.py was edited"


def test_the_engine_was_written_from_this_encoder() -> None:
    """After a change of encoder.py or layouts.py: see that fused.py does the same, then put the new value in place."""
    assert guard.source_sha256() == guard.SOURCE_SHA256


def test_engines_can_be_chosen(tiny_folder: TinyFolder, one_thread: None) -> None:
    model = SentenceEncoder.from_pretrained(tiny_folder(), device="cpu", engine="plain")
    expected = forward(model)
    assert (model.encode(TEXTS) == expected).all()
    assert model.why_plain() == "the engine is 'plain'"
    assert model.why_plain(engine="fast") is None
    fast = model.encode(TEXTS, engine="fast")
    assert (fast != expected).any()
    model.engine = "fast"
    assert (model.encode(TEXTS) == fast).all()
    assert (model.encode(TEXTS, engine="plain") == expected).all()
    assert "padded" in model.why_plain("padded")
    with pytest.raises(InputError, match="engine is 'quick', expected one of 'fast', 'plain'"):
        model.engine = "quick"
    with pytest.raises(InputError, match="engine is 'quick'"):
        model.encode(TEXTS, engine="quick")


def test_modes_around_torch_s_functions(small: SentenceEncoder) -> None:
    class Halved(TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            return result / 2 if function is F.linear else result

    before = small.encode(TEXTS)
    with Halved():
        assert small.why_plain() == "Halved is active"
        assert abs(small.encode(TEXTS) - before).max() > 100 * PACKED_FLOAT32
    with torch.device("cpu"):
        assert small.why_plain() is None
    assert (small.encode(TEXTS) == before).all()


def test_a_nan_stays_in_its_text(small: SentenceEncoder) -> None:
    piece = small.tokenizer(["cat"]).ids[0][1]
    for number in (float("nan"), float("inf")):
        small.encoder.embeddings.word.weight.data[piece, 3] = number
        found = small.encode(TEXTS, non_finite="silent")
        assert np.isfinite(found).all(axis=1).tolist() == ["cat" not in text for text in TEXTS]
        assert (found[1] == small.encode(TEXTS[1])).all()


# ---- threads ---------------------------------------------------------------------------------------


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    results: list[object] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = work(number)
        except BaseException as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_threads_after_a_change(small: SentenceEncoder) -> None:
    for _ in range(5):
        a_state(small, None)
        results = in_threads(8, lambda _: small.encode(TEXTS))
        assert all(isinstance(found, np.ndarray) for found in results), results
        assert all((found == small.encode(TEXTS)).all() for found in results)


def test_sizes_for_int8_are_of_their_own_batch(small: SentenceEncoder) -> None:
    """Another thread that runs the same modules adds nothing to them."""
    batch, other = (small.tokenize([text], "packed") for text in ("a", "two dogs about nothing at all"))
    alone = input_sizes(small.encoder, batch)
    done = threading.Event()

    def run_others() -> None:
        while not done.is_set():
            small(other)

    thread = threading.Thread(target=run_others)
    thread.start()
    try:
        for _ in range(20):
            found = input_sizes(small.encoder, batch)
            assert all(torch.equal(found[module], alone[module]) for module in alone)
    finally:
        done.set()
        thread.join()
