"""What is shipped as m3-mini: many languages, three live heads, other libraries that load it."""

from __future__ import annotations

import contextlib
import io
import warnings
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import stating

import m3search as m3
from m3search.corpus import read_corpus, read_qrels, read_queries
from m3search.encoder import Encoder
from m3search.model.word_numbers import WORD_COLUMNS
from m3search.records import Document, Encoded

FOLDER = Path(str(resources.files("m3search") / "models" / "m3-mini"))
SAMPLE = Path(__file__).parent.parent / "eval" / "sample"
LANGUAGES = ["en", "zh", "es", "ar", "hi", "ru", "ja", "sw"]
SCRIPTS = (
    "ეს არის ქართული. Это русский. Αυτά είναι ελληνικά. זה עברית. ይህ አማርኛ ነው። ဒါဟာ မြန်မာ။ "
    "នេះជាខ្មែរ។ ນີ້ແມ່ນລາວ. ᏣᎳᎩ ᎦᏬᏂᎯᏍᏗ. ⵜⴰⵎⴰⵣⵉⵖⵜ. 𐌲𐌿𐍄𐌹𐍃𐌺. ꦧꦱꦗꦮ. 🦦 ☃ ∮ 𓀀"
)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(device="cpu", dtype=torch.float32)


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return list(read_corpus(SAMPLE / "corpus.jsonl"))


@pytest.fixture(scope="module")
def encoded(encoder: Encoder, documents: list[Document]) -> Encoded:
    return encoder.encode([f"{document.title}\n{document.text}" for document in documents])


def of_language(documents: list[Document], language: str) -> list[int]:
    return [i for i, document in enumerate(documents) if document.metadata["lang"] == language]


def test_size_and_limits(encoder: Encoder) -> None:
    assert (FOLDER / "model.safetensors").stat().st_size <= 48_000_000
    identity = encoder.identity
    assert (identity.dim, identity.multi_dim, identity.max_length) == (384, 128, 8192)
    assert identity.fusion_weights == (0.5, 1.0, 1.0)


def test_no_text_of_any_script_is_unknown(encoder: Encoder) -> None:
    for text in SCRIPTS.split():
        pieces = encoder.tokens(text)[:-1]
        assert pieces and not any(piece.text == "[UNK]" for piece in pieces), text
        assert encoder.knows(text)
    covered = {i for piece in encoder.tokens(SCRIPTS) for i in range(piece.start, piece.end)}
    missed = {SCRIPTS[i] for i in range(len(SCRIPTS)) if i not in covered}
    assert not any(character.isalnum() for character in missed)


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_passage_has_terms_and_few_of_them_count(
    documents: list[Document], encoded: Encoded, language: str
) -> None:
    rows = of_language(documents, language)
    assert len(rows) == 40
    for row in rows:
        weights = encoded.sparse[[row]].data
        assert 3 <= len(weights) <= 200
        assert weights.std() > 0.2 * weights.mean()


def test_passages_that_answer_are_found_in_every_language(
    encoder: Encoder, documents: list[Document], encoded: Encoded
) -> None:
    """Questions in words of their own, eight a language, among 40 passages."""
    queries = list(read_queries(SAMPLE / "queries.jsonl"))
    qrels = read_qrels(SAMPLE / "qrels" / "test.tsv")
    asked = encoder.encode([query.text for query in queries], "query")
    right: dict[str, list[bool]] = {language: [] for language in LANGUAGES}
    for i, query in enumerate(queries):
        language = query.id.split("-")[1]
        rows = of_language(documents, language)
        dense = encoded.dense[rows] @ asked.dense[i]
        sparse = (encoded.sparse[rows] @ asked.sparse[[i]].T).toarray()[:, 0]
        multi = [np.mean((asked.multi[i] @ encoded.multi[row].T).max(axis=1)) for row in rows]
        best = rows[int((0.5 * dense + sparse + np.array(multi)).argmax())]
        right[language].append(qrels[query.id].get(documents[best].id) == 2)
    assert np.mean([np.mean(of) for of in right.values()]) >= 0.6  # by chance 0.025
    assert min(map(sum, right.values())) >= 2
    assert sum(right["en"]) >= 6


def test_passages_on_one_subject_are_near_in_all_languages(
    documents: list[Document], encoded: Encoded
) -> None:
    """By dense and by token vectors, from each language to the 40 English passages."""
    english = of_language(documents, "en")
    shares: dict[str, list[float]] = {"dense": [], "multi": []}
    for language in LANGUAGES[1:]:
        rows = of_language(documents, language)
        near = {
            "dense": encoded.dense[rows] @ encoded.dense[english].T,
            "multi": np.array(
                [
                    [
                        np.mean((encoded.multi[row] @ encoded.multi[e].T).max(axis=1))
                        for e in english
                    ]
                    for row in rows
                ]
            ),
        }
        for mode, scores in near.items():
            best = scores.argmax(axis=1)
            same = [
                documents[row].metadata["topic"] == documents[english[place]].metadata["topic"]
                for row, place in zip(rows, best, strict=True)
            ]
            shares[mode].append(float(np.mean(same)))
    for mode, least in (("dense", 0.65), ("multi", 0.7)):
        assert np.mean(shares[mode]) >= least, mode
        assert min(shares[mode]) >= 0.3, mode


def test_flagembedding_reads_the_same_from_it(encoder: Encoder, tmp_path: Path) -> None:
    """All but the stems: the pieces weigh what they do where its m3.json has no word_terms."""
    texts = ["Tea from Assam", "灯台は岬に立つ", SCRIPTS]
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        from FlagEmbedding import BGEM3FlagModel

        theirs = BGEM3FlagModel(
            str(FOLDER), pooling_method="mean", colbert_dim=128, use_fp16=False, devices="cpu"
        ).encode(texts, return_dense=True, return_sparse=True, return_colbert_vecs=True)
    ours = encoder.encode(texts)
    np.testing.assert_allclose(ours.dense, theirs["dense_vecs"], rtol=0, atol=1e-5)
    for vectors, other in zip(ours.multi, theirs["colbert_vecs"], strict=True):
        np.testing.assert_allclose(vectors, other, rtol=0, atol=1e-5)
    plain = Encoder.load(
        stating(FOLDER, tmp_path, word_terms="none"), device="cpu", dtype=torch.float32
    )
    pieces = plain.encode(texts).sparse
    for row, weights in enumerate(theirs["lexical_weights"]):
        line = pieces[[row]].tocoo()
        mine = dict(zip(line.coords[1].tolist(), line.data.tolist(), strict=True))
        assert mine == pytest.approx({int(k): float(v) for k, v in weights.items()}, abs=1e-5)
    without_stems = ours.sparse[:, : pieces.shape[1]]
    assert (without_stems - pieces).min() >= 0
    tea = encoder.terms("Tea")  # is its own stem
    assert list(tea.values()) == ["▁tea"]
    column = next(iter(tea))
    assert ours.sparse[0, column] == pytest.approx(3**0.5 * pieces[0, column], rel=1e-5)


@pytest.mark.parametrize(
    ("one", "other"),
    [("fahrradwerkstatt", "fahrräder"), ("पुस्तकालयाध्यक्ष", "पुस्तकों"), ("தமிழ்நாட்டில்", "தமிழ்"),
     ("библиотекаршами", "библиотека"), ("ዩኒቨርሲቲዎች", "ዩኒቨርሲቲ"), ("lights", "light")],
)  # fmt: skip
def test_two_forms_of_a_word_have_its_stem_in_common(
    encoder: Encoder, one: str, other: str
) -> None:
    found = encoder.encode([one, other, "2,500"]).sparse
    scores = (found @ found.T).toarray()
    assert scores[0, 1] > 0.2 * scores[1, 1] and scores[0, 2] == scores[1, 2] == 0


def test_a_stem_that_is_a_piece_has_its_name_and_its_column(encoder: Encoder) -> None:
    (column,) = encoder.terms("light")
    text = "lighthouses light"
    assert encoder.terms(text)[column] == "▁light"
    assert encoder.lexical_weights(encoder.encode([text]), [text])[0]["▁light"] > 0
    tokens = encoder.tokens(text)
    assert [token.text for token in tokens] == ["▁lighthouse", "s", "▁light", "[SEP]"]
    found = encoder.token_weights(tokens, {column: 0.8})
    assert found == pytest.approx([0.8 / 2**0.5, 0.8 / 2**0.5, 0.8, 0.0])
    whole = encoder.tokens("catfish")  # whose first piece is not its stem, catfi*
    assert not any(encoder.token_weights(whole, {column: 0.8}))


def test_pieces_of_scripts_without_spaces_are_no_words(encoder: Encoder) -> None:
    pieces = encoder.identity.vocabulary - WORD_COLUMNS
    assert max(encoder.terms("東京都庁舎の展望台 กรุงเทพมหานคร ភ្នំពេញ")) < pieces


def test_transformers_loads_its_encoder() -> None:
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(FOLDER), AutoModel.from_pretrained(FOLDER)
    assert type(model).__name__ == "ElectraModel"
    assert model.config.max_position_embeddings == 8192
    assert tokenizer.decode(tokenizer("a lighthouse")["input_ids"][1:-1]).strip() == "a lighthouse"


def test_a_long_text_is_read_to_its_end(encoder: Encoder) -> None:
    text = "Notes on the weather of the day. " * 600 + "The ferry to Gotland was cancelled."
    (found,) = encoder.encode([text]).multi
    query = encoder.encode(["Gotland ferry"], "query")
    assert [token.text for token in encoder.tokens("Gotland ferry")][:2] == ["▁got", "land"]
    products = (query.multi[0] @ found.T)[:2]
    last = len(encoder.encode(["The ferry to Gotland was cancelled."]).multi[0])
    assert len(found) > 4000
    there, elsewhere = products[:, -last:].max(axis=1), products[:, :-last].max(axis=1)
    assert (there > 0.35).all() and (there > 2 * elsewhere).all()
    searched = m3.Encoder.load(device="cpu", max_length=512).encode([text])
    assert (query.sparse @ searched.sparse.T).toarray()[0, 0] < 0.5 * float(
        (query.sparse @ encoder.encode([text]).sparse.T).toarray()[0, 0]
    )
