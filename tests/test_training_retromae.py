"""RetroMAE: losses, visibility and batches, against the decoder written with loops."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from retromae_reference import (
    MASK,
    PAD,
    gradients,
    make_backbone,
    make_batch,
    make_model,
    slow_labels,
    slow_losses,
    slow_visible,
    vocabulary,
)
from torch import Tensor

from m3search.model.modeling import Pooling
from m3search.training.retromae import (
    Masked,
    RetroMAE,
    decoder_labels,
    make_masked,
    visible_positions,
)


@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "electra"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_losses_and_gradients_equal_those_of_whole_matrices(kind: str, pooling: Pooling) -> None:
    model, batch = make_model(kind, pooling, row_block=5, token_block=4), make_batch()
    model.head.bias.data.normal_()
    found, (encoder, decoder) = model(batch), slow_losses(model, batch)
    torch.testing.assert_close(found.encoder, encoder)
    torch.testing.assert_close(found.decoder, decoder)
    torch.testing.assert_close(found.total, encoder + decoder)
    predicted = [int((labels >= 0).sum()) for labels in (batch.labels, slow_labels(batch))]
    part = model(batch, (3 * predicted[0], predicted[1] / 2))  # of a step of other sizes
    torch.testing.assert_close((part.encoder, part.decoder), (encoder / 3, 2 * decoder))
    torch.testing.assert_close(part.total, encoder / 3 + 2 * decoder)
    wanted, got = gradients(model, encoder / 3 + 2 * decoder), gradients(model, part.total)
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


def test_what_hides_a_text_is_its_own() -> None:
    texts = make_batch((30, 20)).ids.numpy()
    texts = [texts[0], texts[1, :20]]

    def masked(*rows: int, width: int | None = None) -> Masked:
        rngs = [np.random.default_rng(row) for row in rows]
        return make_masked([texts[row] for row in rows], vocabulary(), rngs, masks=25, width=width)

    together, alone = masked(0, 1, width=40), masked(1)
    assert together.masks.shape == (2, 25, 40) and alone.masks.shape == (1, 20, 20)
    assert torch.equal(together.encoder_ids[1, :20], alone.encoder_ids[0])
    assert torch.equal(together.labels[1, :20], alone.labels[0])
    assert torch.equal(together.choice[1, :20], alone.choice[0])
    assert torch.equal(together.masks[1, :20, :20], alone.masks[0])
    assert (together.labels[1, 20:] == -100).all() and not together.attention_mask[1, 20:].any()
