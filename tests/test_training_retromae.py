"""RetroMAE: the decoder against one written with loops, and its memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    BertConfig,
    BertModel,
    DebertaV2Config,
    DebertaV2Model,
    ElectraConfig,
    ElectraModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from m3search.errors import ArtifactError
from m3search.model.modeling import Pooling
from m3search.training.masking import Vocabulary
from m3search.training.retromae import (
    Masked,
    RetroMAE,
    chunked_cross_entropy,
    decoder_labels,
    make_masked,
    visible_positions,
)

WORDS = 60
PAD, FIRST, LAST, MASK = 1, 0, 2, 4
SIZES: dict[str, Any] = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 40,
    "pad_token_id": PAD,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "initializer_range": 0.3,
}


def vocabulary() -> Vocabulary:
    """60 ids, the first five special; every third piece begins a word."""
    ids = np.arange(WORDS)
    return Vocabulary(ids % 3 == 0, ids < 5, mask_id=MASK, pad_id=PAD)


def make_backbone(kind: str = "bert", **sizes: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    settings = SIZES | sizes
    if kind == "xlm-roberta":
        return XLMRobertaModel(XLMRobertaConfig(**settings), add_pooling_layer=False)
    if kind == "electra":
        return ElectraModel(ElectraConfig(embedding_size=6, **settings))
    return BertModel(BertConfig(**settings), add_pooling_layer=False)


def make_model(kind: str = "bert", pooling: Pooling = "cls", **blocks: int) -> RetroMAE:
    backbone = make_backbone(kind)
    torch.manual_seed(1)
    return RetroMAE(backbone, pooling=pooling, **blocks).eval()


def make_batch(lengths: tuple[int, ...] = (12, 7), masks: int = 5, seed: int = 0) -> Masked:
    rng = np.random.default_rng(seed)
    texts = [np.array([FIRST, *rng.integers(5, WORDS, n - 2), LAST]) for n in lengths]
    return make_masked(texts, vocabulary(), rng, masks=masks)


def slow_visible(batch: Masked) -> Tensor:
    texts, length = batch.ids.shape
    visible = torch.zeros(texts, length, length, dtype=torch.bool)
    for b in range(texts):
        for i in range(length):
            for j in range(length):
                hidden = bool(batch.masks[b, int(batch.choice[b, i]), j])
                real = bool(batch.attention_mask[b, j])
                visible[b, i, j] = j == 0 or (real and j != i and not hidden)
    return visible


def slow_losses(model: RetroMAE, batch: Masked) -> tuple[Tensor, Tensor]:
    """Both losses with the whole matrices, one head of attention at a time."""
    backbone: Any = model.backbone
    output = backbone(input_ids=batch.encoder_ids, attention_mask=batch.attention_mask)[0]
    real = batch.attention_mask.bool()
    if model.pooling == "cls":
        sentence = output[:, 0]
    else:
        sentence = torch.stack([o[r].mean(dim=0) for o, r in zip(output, real, strict=True)])
    length = batch.ids.shape[1]
    parts, shift = backbone.embeddings, getattr(backbone.embeddings, "padding_idx", -1) + 1
    place = parts.position_embeddings.weight[shift : shift + length]
    place = place + parts.token_type_embeddings.weight[0]
    words = parts.word_embeddings.weight
    memory = parts.LayerNorm(words[batch.ids] + place)
    if hasattr(backbone, "embeddings_project"):
        memory = backbone.embeddings_project(memory)
        queries = sentence[:, None] + backbone.embeddings_project(parts.LayerNorm(place))
    else:
        queries = parts.LayerNorm(sentence[:, None] + place)
    memory = torch.cat([sentence[:, None], memory[:, 1:]], dim=1)
    layer, visible = model.decoder, slow_visible(batch)
    q, k, v = layer.query(queries), layer.key(memory), layer.value(memory)
    joined = []
    for head in range(2):
        of = slice(8 * head, 8 * head + 8)
        scores = q[..., of] @ k[..., of].transpose(1, 2) / math.sqrt(8)
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        joined.append(weights @ v[..., of])
    states = layer.attention_norm(queries + layer.joined(torch.cat(joined, dim=-1)))
    wide = functional.gelu(layer.widened(states))
    states = layer.output_norm(states + layer.narrowed(wide))
    losses = []
    for rows, wanted in ((output, batch.labels), (states, slow_labels(batch))):
        transformed = model.head.norm(functional.gelu(model.head.dense(rows)))
        logits = transformed @ words.T + model.head.bias
        losses.append(functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()))
    return losses[0], losses[1]


def slow_labels(batch: Masked) -> Tensor:
    labels = torch.full_like(batch.ids, -100)
    for b, length in enumerate(batch.attention_mask.sum(dim=1).tolist()):
        labels[b, 1 : length - 1] = batch.ids[b, 1 : length - 1]
    return labels


def gradients(model: RetroMAE, loss: Tensor) -> dict[str, Tensor]:
    names, parameters = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "electra"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_losses_and_gradients_equal_those_of_whole_matrices(kind: str, pooling: Pooling) -> None:
    model, batch = make_model(kind, pooling, row_block=5, token_block=4), make_batch()
    model.head.bias.data.normal_()
    found, (encoder, decoder) = model(batch), slow_losses(model, batch)
    torch.testing.assert_close(found.encoder, encoder)
    torch.testing.assert_close(found.decoder, decoder)
    torch.testing.assert_close(found.total, encoder + decoder)
    wanted, got = (
        gradients(model, encoder + 2 * decoder),
        gradients(model, found.encoder + 2 * found.decoder),
    )
    assert wanted.keys() == got.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(got[name], gradient, atol=1e-5, rtol=1e-4, msg=name)


def test_blocks_change_nothing() -> None:
    batch = make_batch((19, 23, 3))
    whole = make_model(row_block=1000, token_block=1000)
    one = whole(batch)
    expected = gradients(whole, one.total)
    for row_block, token_block in ((1, 1), (7, 3), (23, 21)):
        model = make_model(row_block=row_block, token_block=token_block)
        found = model(batch)
        torch.testing.assert_close(tuple(found), tuple(one))
        for name, gradient in gradients(model, found.total).items():
            torch.testing.assert_close(gradient, expected[name], atol=1e-5, rtol=1e-4, msg=name)


def test_dropout_is_drawn_alike_when_blocks_are_computed_again() -> None:
    """Else the gradient would not be the slope of the loss, which has one fixed draw here."""
    model = make_model(row_block=5, token_block=4).train()
    model.decoder.dropout.p = model.decoder.attention_dropout.p = 0.3
    batch, weight = make_batch(), model.decoder.widened.weight

    def loss() -> Tensor:
        torch.manual_seed(5)
        return model(batch).total

    (gradient,) = torch.autograd.grad(loss(), weight)
    step = 0.02 * gradient / gradient.norm()
    with torch.no_grad():
        weight += step
        above = loss()
        weight -= 2 * step
        below = loss()
    assert float(above - below) / 0.04 == pytest.approx(float(gradient.norm()), rel=0.02)
    model.decoder.dropout.p = 0.0
    assert float(loss().detach()) != pytest.approx(float(model.eval()(batch).total.detach()))


def test_a_row_sees_the_sentence_and_what_its_mask_leaves_but_never_itself() -> None:
    batch = make_batch((9, 14, 2), masks=6)
    expected = slow_visible(batch)
    torch.testing.assert_close(visible_positions(batch, 0, 14), expected)
    torch.testing.assert_close(visible_positions(batch, 4, 9), expected[:, 4:9])
    assert expected[:, :, 0].all()
    assert not expected[:, range(1, 14), range(1, 14)].any()
    assert 0.3 < expected[1, 1:, 1:].float().mean() < 0.7


@pytest.mark.parametrize("kind", ["bert", "electra"])
def test_changing_one_token_changes_only_the_rows_that_see_it(kind: str) -> None:
    model, batch = make_model(kind, row_block=4), make_batch((12, 9))
    sentence = torch.randn(2, 16)
    visible = slow_visible(batch)
    with torch.no_grad():
        before = model.decode(sentence, batch)
        for j in range(1, 12):
            ids = batch.ids.clone()
            ids[:, j] = torch.where(ids[:, j] == 7, 8, 7)
            after = model.decode(sentence, batch._replace(ids=ids))
            changed = (after != before).any(dim=-1)
            torch.testing.assert_close(changed, visible[:, :, j])
        ids = batch.ids.clone()
        ids[:, 0] = 9  # position 0 holds the sentence vector, whatever the text has there
        assert torch.equal(model.decode(sentence, batch._replace(ids=ids)), before)


def test_every_row_sees_the_sentence_vector_even_where_all_else_is_hidden() -> None:
    model, batch = make_model(), make_batch((8, 8))
    batch = batch._replace(masks=torch.ones_like(batch.masks))
    visible = visible_positions(batch, 0, 8)
    queries, memory = torch.randn(2, 8, 16), torch.randn(2, 8, 16)
    with torch.no_grad():
        before = model.decoder(queries, *model.decoder.memorise(memory), visible)
        memory[:, 1:] = 0
        assert torch.equal(model.decoder(queries, *model.decoder.memorise(memory), visible), before)
        memory[:, 0] = 0
        after = model.decoder(queries, *model.decoder.memorise(memory), visible)
    assert (after != before).any(dim=-1).all()


def test_the_decoder_is_a_layer_of_bert_where_queries_are_keys() -> None:
    model = make_model()
    bert: Any = make_backbone().encoder.layer[0]
    pairs = (
        (bert.attention.self.query, "query"), (bert.attention.self.key, "key"),
        (bert.attention.self.value, "value"), (bert.attention.output.dense, "joined"),
        (bert.attention.output.LayerNorm, "attention_norm"), (bert.intermediate.dense, "widened"),
        (bert.output.dense, "narrowed"), (bert.output.LayerNorm, "output_norm"),
    )  # fmt: skip
    for module, name in pairs:
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        getattr(model.decoder, name).load_state_dict(module.state_dict())
    states = torch.randn(2, 6, 16)
    everything = torch.ones(2, 6, 6, dtype=torch.bool)
    with torch.no_grad():
        found = model.decoder(states, *model.decoder.memorise(states), everything)
        expected = bert.eval()(states)
    torch.testing.assert_close(found, expected if isinstance(expected, Tensor) else expected[0])


def test_new_weights_are_drawn_as_the_encoder_draws_its_own() -> None:
    model = RetroMAE(make_backbone(hidden_size=128, intermediate_size=256, initializer_range=0.07))
    for module in (model.head.dense, model.decoder.query, model.decoder.narrowed):
        assert float(module.weight.detach().std()) == pytest.approx(0.07, rel=0.05)
        assert not module.bias.detach().any()


@pytest.mark.parametrize("block", [1, 4, 11, 50])
def test_cross_entropy_in_blocks_equals_the_plain_one(block: int) -> None:
    torch.manual_seed(2)
    states, labels = torch.randn(11, 8, requires_grad=True), torch.randint(0, 30, (11,))
    head = torch.nn.Linear(8, 30)
    plain = functional.cross_entropy(head(states), labels)
    found = chunked_cross_entropy(states, head, labels, block)
    torch.testing.assert_close(found, plain)
    inputs = (states, head.weight, head.bias)
    torch.testing.assert_close(
        torch.autograd.grad(3 * found, inputs), torch.autograd.grad(3 * plain, inputs)
    )


def test_cross_entropy_is_taken_in_float32() -> None:
    torch.manual_seed(2)
    states, labels = torch.randn(11, 8).bfloat16(), torch.randint(0, 30, (11,))
    head = torch.nn.Linear(8, 30).bfloat16()
    plain = functional.cross_entropy(head(states).float(), labels)
    torch.testing.assert_close(chunked_cross_entropy(states, head, labels, 4), plain)


def test_the_cross_entropy_of_nothing_is_zero() -> None:
    states = torch.zeros(0, 8, requires_grad=True)
    loss = chunked_cross_entropy(
        states, torch.nn.Linear(8, 30), torch.zeros(0, dtype=torch.long), 4
    )
    loss.backward()
    assert float(loss.detach()) == 0


def test_a_text_without_words_costs_nothing() -> None:
    model = make_model()
    losses = model(make_batch((2, 2)))
    losses.total.backward()
    assert [float(part.detach()) for part in losses] == [0, 0, 0]


def test_a_batch_holds_the_texts_and_hides_whole_words_of_them() -> None:
    lengths = (400, 150)
    batch = make_batch(lengths, masks=128)
    real = batch.attention_mask.bool()
    assert real.sum(dim=1).tolist() == list(lengths)
    assert (batch.ids[~real] == PAD).all() and (batch.encoder_ids[~real] == PAD).all()
    special = batch.ids < 5
    predicted = batch.labels != -100
    assert not (predicted & special).any()
    assert torch.equal(batch.labels[predicted], batch.ids[predicted])
    assert torch.equal(batch.encoder_ids[~predicted], batch.ids[~predicted])
    assert abs(predicted.sum().item() - 0.3 * (sum(lengths) - 4)) < 16
    assert (batch.encoder_ids[predicted] == MASK).float().mean() > 0.7
    assert batch.masks.shape == (2, 128, 400)
    assert not (batch.masks & special[:, None]).any()
    for row, length in enumerate(lengths):
        share = batch.masks[row].sum(dim=1) / (length - 2)
        assert float(share.mean()) == pytest.approx(0.5, abs=0.01)
    assert batch.choice.min() == 0 and batch.choice.max() == 127
    assert len(torch.unique(batch.choice)) > 120
    torch.testing.assert_close(decoder_labels(batch), slow_labels(batch))


def test_a_short_text_needs_no_more_masks_than_tokens() -> None:
    batch = make_batch((6, 9), masks=128)
    assert batch.masks.shape == (2, 9, 9)
    assert batch.choice.max() < 9


def test_a_batch_is_drawn_again_from_the_same_seed() -> None:
    first, again, other = (make_batch((30, 20), seed=seed) for seed in (3, 3, 4))
    assert all(map(torch.equal, first, again))
    assert not torch.equal(first.labels, other.labels)


def test_a_batch_moves_as_a_whole() -> None:
    batch = make_batch()
    moved = batch.to("meta")
    assert [tensor.device.type for tensor in moved] == ["meta"] * 6
    assert [tensor.shape for tensor in moved] == [tensor.shape for tensor in batch]


def test_long_texts_are_masked_in_full() -> None:
    batch = make_batch((8192,), masks=8)
    assert (batch.labels != -100).sum() == pytest.approx(0.3 * 8190, abs=8)
    counts = batch.masks.sum(dim=-1)
    assert counts.shape == (1, 8)
    assert (counts - 0.5 * 8190).abs().max() <= 8


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation makes, forwards and backwards."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes() // tensor.element_size()
                self.elements = max(self.elements, size)
        return made


@pytest.mark.parametrize("lengths", [(2048,), (2048, 100)])
def test_memory_is_linear_in_the_length_of_a_text(lengths: tuple[int, ...]) -> None:
    backbone = make_backbone(max_position_embeddings=2048)
    model = RetroMAE(backbone, row_block=128, token_block=64).train()
    batch, sentence = make_batch(lengths, masks=32), torch.randn(len(lengths), 16)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        if len(lengths) == 1:  # where texts are padded the encoder's own attention makes a mask
            model(batch).total.backward()
        else:
            model.decode(sentence, batch).sum().backward()
    assert max(saved) <= 2048 * max(24, WORDS)
    assert largest.elements <= len(lengths) * 128 * 2048 * 2  # rows of a block, seen by two heads


def test_logits_are_never_whole() -> None:
    states, labels = torch.randn(400, 8, requires_grad=True), torch.randint(0, 300, (400,))
    head = torch.nn.Linear(8, 300)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with LargestTensor() as largest, torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        chunked_cross_entropy(states, head, labels, 16).backward()
    assert largest.elements == 16 * 300
    assert sum(saved) < 400 * 300


def test_a_few_steps_lower_both_losses() -> None:
    torch.manual_seed(3)
    model = make_model().train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rng = np.random.default_rng(0)
    texts = [np.array([FIRST, *([10 + n] * 8), LAST]) for n in range(8)]
    history = []
    for _ in range(25):
        losses = model(make_masked(texts, vocabulary(), rng))
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        history.append((float(losses.encoder.detach()), float(losses.decoder.detach())))
    first, last = np.mean(history[:3], axis=0), np.mean(history[-3:], axis=0)
    assert (last < 0.5 * first).all()


def test_the_backbone_learns_from_both_losses() -> None:
    model = make_model("xlm-roberta")
    losses = model(make_batch())
    for loss in (losses.encoder, losses.decoder):
        (gradient,) = torch.autograd.grad(
            loss, [model.backbone.encoder.layer[0].output.dense.weight], retain_graph=True
        )
        assert gradient.abs().sum() > 0


def test_losses_are_float32_under_autocast() -> None:
    model, batch = make_model(), make_batch()
    plain = model(batch)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(batch)
    losses.total.backward()
    for loss, exact in zip(losses, plain, strict=True):
        assert loss.dtype == torch.float32
        assert float(loss.detach()) == pytest.approx(float(exact.detach()), rel=0.03)
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_an_encoder_without_learned_positions_is_refused() -> None:
    plain = {name: SIZES[name] for name in SIZES if "dropout" not in name}
    rotary = ModernBertModel(ModernBertConfig(**plain, cls_token_id=FIRST, sep_token_id=LAST))
    with pytest.raises(ArtifactError, match=r"modernbert.* found no layer_norm_eps"):
        RetroMAE(rotary)
    relative = DebertaV2Model(DebertaV2Config(**SIZES, position_biased_input=False))
    with pytest.raises(ArtifactError, match="no table of positions in its embeddings"):
        RetroMAE(relative)
