"""`Encoder`: order, batches, truncation and MCLS, each against the plain way of doing it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy
from scipy import sparse as sp
from tiny_models import write_bert

from m3search.encoder import Encoder
from m3search.errors import ArtifactError, ConfigError
from m3search.model.checkpoint import CheckpointInfo, load_checkpoint, save_checkpoint
from m3search.model.modeling import Outputs
from m3search.model.terms import lexical_matrix
from m3search.records import Encoded


@pytest.fixture(scope="module")
def encoder(tiny_checkpoint: Path) -> Encoder:
    return Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def texts(sample_texts: list[str]) -> list[str]:
    return ["", *sample_texts[:20], "word", "ein zwei drei " * 60]


def assert_close(a: Encoded, b: Encoded, atol: float = 2e-6) -> None:
    np.testing.assert_allclose(a.dense, b.dense, rtol=0, atol=atol)
    np.testing.assert_allclose(a.sparse.toarray(), b.sparse.toarray(), rtol=0, atol=atol)
    for one, other in zip(a.multi, b.multi, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=atol)


def test_shapes_types_and_norms(encoder: Encoder, texts: list[str]) -> None:
    encoded = encoder.encode(texts)
    identity = encoder.identity
    assert encoded.dense.shape == (len(texts), identity.dim)
    assert encoded.sparse.shape == (len(texts), identity.vocabulary)
    assert (encoded.sparse.data > 0).all()
    assert encoded.sparse.has_sorted_indices
    arrays = [encoded.dense, encoded.sparse.data, *encoded.multi]
    assert {array.dtype for array in arrays} == {np.dtype(np.float32)}
    for rows in (encoded.dense, *encoded.multi):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_batching_order_and_windows_change_nothing(
    encoder: Encoder, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = Encoded.concatenate([encoder.encode([text]) for text in texts])
    assert_close(encoder.encode(texts, batch_tokens=1), expected)
    assert_close(encoder.encode(texts, batch_tokens=100_000), expected)
    backwards = encoder.encode(texts[::-1])
    assert_close(backwards[::-1], expected)
    monkeypatch.setattr("m3search.model.windows.WINDOW", 4)
    assert_close(encoder.encode(texts), expected)
    assert [len(part) for part in encoder.stream(iter(texts))] == [4, 4, 4, 4, 4, 3]


def test_a_batch_too_large_for_the_device_is_halved(
    encoder: Encoder, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = encoder.encode(texts)
    sizes: list[int] = []
    forward = encoder.model.forward

    def with_room_for_three(ids: torch.Tensor, *rest: torch.Tensor) -> Outputs:
        sizes.append(len(ids))
        if len(ids) > 3:
            raise torch.OutOfMemoryError
        return forward(ids, *rest)

    monkeypatch.setattr(encoder.model, "forward", with_room_for_three)
    assert_close(encoder.encode(texts, batch_tokens=100_000), expected)
    assert sizes[0] == len(texts) and sizes.count(1) + 2 * sizes.count(2) + 3 * sizes.count(
        3
    ) == len(texts)


def test_no_texts(encoder: Encoder) -> None:
    encoded = encoder.encode([])
    assert len(encoded) == 0
    assert encoded.sparse.shape == (0, encoder.identity.vocabulary)


def test_progress_counts_every_text_once(encoder: Encoder, texts: list[str]) -> None:
    seen: list[int] = []
    encoder.encode(texts, batch_tokens=200, progress=seen.append)
    assert sum(seen) == len(texts)
    assert len(seen) > 1


def test_long_texts_are_cut_and_marked(tiny_checkpoint: Path) -> None:
    short = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32, max_length=16)
    fits, long = "a b c", " ".join("abcdefghijklmnopqrstuvwxyz")
    encoded = short.encode([long, fits])
    assert encoded.truncated.tolist() == [True, False]
    assert len(encoded.multi[0]) == 15  # 16 tokens, and the first gives no vector
    cut_text = long[: short.tokens(long)[-2].end]
    assert_close(encoded[:1], short.encode([cut_text]))
    assert not short.encode([cut_text]).truncated.any()


def test_queries_are_cut_at_512_tokens(encoder: Encoder) -> None:
    text = "one two three " * 400
    assert len(encoder.encode([text], "query").multi[0]) == 511
    assert len(encoder.encode([text], "document").multi[0]) > 511
    assert encoder.encode([text], "query").truncated.all()


def test_tokens_stand_behind_the_vectors(encoder: Encoder, texts: list[str]) -> None:
    for text, vectors in zip(texts, encoder.encode(texts).multi, strict=True):
        tokens = encoder.tokens(text)
        assert [token.row for token in tokens] == list(range(len(vectors)))
        assert tokens[-1].text == "</s>"
        for token in tokens[:-1]:
            assert text[token.start : token.end].strip() or token.text == "▁"


@settings(max_examples=60, deadline=None)
@given(
    st_numpy.arrays(np.int64, (3, 6), elements=st.integers(0, 8)),
    st_numpy.arrays(np.float32, (3, 6), elements=st.sampled_from([0.0, 0.25, 0.5, 1.5])),
    st_numpy.arrays(np.bool_, (3, 6)),
)
def test_lexical_matrix_keeps_the_largest_weight_of_each_term(
    ids: np.ndarray, weights: np.ndarray, kept: np.ndarray
) -> None:
    expected = np.zeros((3, 9), np.float32)
    for text in range(3):
        for position in range(6):
            if kept[text, position]:
                term = ids[text, position]
                expected[text, term] = max(expected[text, term], weights[text, position])
    matrix = lexical_matrix(ids, weights, kept, 9, None)
    np.testing.assert_array_equal(matrix.toarray(), expected)
    assert matrix.nnz == np.count_nonzero(expected)
    assert isinstance(matrix, sp.csr_array)


@pytest.mark.parametrize("repeats", [1, 50, 51, 200])
def test_mcls_is_the_mean_state_of_a_cls_every_256_tokens(
    tiny_checkpoint: Path, repeats: int
) -> None:
    """Against a sequence put together by hand; 51 repeats end with </s> at position 256."""
    text = "a b c d e " * repeats
    plain = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32)
    mcls = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32, mcls=True)
    pieces = [token.id for token in plain.tokens(text)[:-1]]
    sequence: list[int] = []
    for piece in pieces:
        if len(sequence) % 256 == 0:
            sequence.append(0)
        sequence.append(piece)
    sequence.append(2)
    places = [i for i in range(0, len(sequence), 256) if sequence[i] == 0]
    with torch.inference_mode():
        ids = torch.tensor([sequence])
        states = plain.model.backbone(input_ids=ids, attention_mask=torch.ones_like(ids))[0][0]
    mean = states[places].mean(dim=0)
    encoded = mcls.encode([text])
    np.testing.assert_allclose(encoded.dense[0], mean / mean.norm(), rtol=0, atol=1e-5)
    assert len(encoded.multi[0]) == len(pieces) + 1  # no inserted CLS among the vectors
    assert 0 not in encoded.sparse.indices
    if len(places) == 1:
        assert_close(encoded, plain.encode([text]))
    else:
        assert np.abs(encoded.dense - plain.encode([text]).dense).max() > 1e-3


def test_mcls_stays_within_the_limit(tiny_checkpoint: Path) -> None:
    for length in (256, 257, 258, 600):
        mcls = Encoder.load(tiny_checkpoint, device="cpu", max_length=length, mcls=True)
        text = "a " * 2000
        inserted = -(-(length - 1) // 256)
        assert len(mcls.encode([text]).multi[0]) == length - inserted
        assert len(mcls.tokens(text)) == length - inserted


def test_half_precision_is_close(tiny_checkpoint: Path, texts: list[str]) -> None:
    half = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.bfloat16).encode(texts)
    full = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32).encode(texts)
    assert (np.einsum("nd,nd->n", half.dense, full.dense) > 0.995).all()
    assert half.dense.dtype == np.float32


def test_queries_do_not_depend_on_what_is_encoded_beside_them(
    tiny_checkpoint: Path, texts: list[str]
) -> None:
    """In half precision, where documents do: to a rounding, and the ranking with them."""
    half = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.bfloat16)
    alone = Encoded.concatenate([half.encode([text], "query") for text in texts])
    assert_close(half.encode(texts, "query"), alone)
    full = Encoder.load(tiny_checkpoint, device="cpu", dtype=torch.float32)
    assert_close(full.encode(texts, "query"), alone)
    assert np.abs(half.encode(texts).dense - full.encode(texts).dense).max() > 1e-5


def test_mcls_is_refused_for_mean_pooling(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    save_checkpoint(tmp_path, model, tokenizer, CheckpointInfo("mean", 512))
    with pytest.raises(ConfigError, match="pools by mean"):
        Encoder.load(tmp_path, mcls=True)


def test_one_text_without_a_list_is_refused(encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match=r"encode\(\[text\]\)"):
        encoder.encode("one text")
    with pytest.raises(ConfigError, match="'passage'"):
        encoder.encode(["one text"], "passage")  # type: ignore[arg-type]


def test_lexical_weights_are_named_by_their_pieces(encoder: Encoder) -> None:
    encoded = encoder.encode(["lighthouse lighthouse bread", ""])
    first, empty = encoder.lexical_weights(encoded)
    pieces = {token.id: token.text for token in encoder.tokens("lighthouse lighthouse bread")}
    line = encoded.sparse[[0], :].tocoo()
    named = {pieces[int(term)]: float(w) for term, w in zip(line.coords[1], line.data, strict=True)}
    assert first == named
    assert list(first.values()) == sorted(named.values(), reverse=True)
    assert empty == {}


def test_windows_are_bounded_by_characters_too(
    encoder: Encoder, texts: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("m3search.model.windows.WINDOW_CHARACTERS", 1000)
    parts = list(encoder.stream(texts))
    assert sum(map(len, parts)) == len(texts)
    assert len(parts) > 5
    assert_close(Encoded.concatenate(parts), encoder.encode(texts))


def test_a_precision_has_a_name(tiny_checkpoint: Path, encoder: Encoder) -> None:
    named = Encoder.load(tiny_checkpoint, device="cpu", dtype="fp32")
    assert_close(named.encode(["some text"]), encoder.encode(["some text"]))
    assert Encoder.load(tiny_checkpoint, dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="Did you mean 'float32'"):
        Encoder.load(tiny_checkpoint, dtype="float23")


def test_mean_pooling_leaves_padding_out(tiny_checkpoint: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = load_checkpoint(tiny_checkpoint)
    model.pooling = "mean"
    save_checkpoint(tmp_path, model, tokenizer, CheckpointInfo("mean", 512))
    mean = Encoder.load(tmp_path, device="cpu", dtype=torch.float32)
    assert mean.identity.pooling == "mean"
    together = mean.encode(["short", "a much longer text " * 20])
    assert_close(together[:1], mean.encode(["short"]))


@pytest.mark.parametrize("length", [2, 0, -1, 8193])
def test_an_impossible_length_is_refused(tiny_checkpoint: Path, length: int) -> None:
    with pytest.raises(ConfigError, match="3 to 8192"):
        Encoder.load(tiny_checkpoint, max_length=length)


def test_names_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        Encoder.load("m3-mimi")
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="found a file"):
        Encoder.load(tmp_path / "file")
    with pytest.raises(ArtifactError, match=r"neither \(\w*EntryNotFound.* Go online once"):
        Encoder.load("m3search-tests/no-such-model")


def test_what_is_no_text_is_named(encoder: Encoder) -> None:
    for wrong in (None, 3, ("a",)):
        with pytest.raises(ConfigError, match="texts: expected strings, found"):
            encoder.encode(["fine", wrong])  # type: ignore[list-item]


def test_a_text_of_unknown_pieces_alone_is_not_known(
    tmp_path: Path, sample_texts: list[str]
) -> None:
    plain = write_bert(tmp_path / "plain", sample_texts)
    encoder = Encoder.load(plain, device="cpu", modes=("dense",), pooling="mean")
    assert encoder.knows("tea \U0001f9a6")
    assert not encoder.knows("\U0001f9a6 \U0001f9a6")
    assert not encoder.knows("")
