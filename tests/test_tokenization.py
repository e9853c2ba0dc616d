"""Very long texts are read in part, with the pieces that reading all of them gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from m3search.model.resolve import resolve
from m3search.model.tokenization import Tokenization

LONG = {
    "words": "The lighthouse at the cape warns every ship of the rocks. " * 3000,
    "no spaces": "灯塔警告每一艘船只注意海角的岩石" * 8000,
    "one word": "lighthouse" * 20_000,
    "unknown": "\U0001f9a6" * 150_000,
    "late start": " " * 300_000 + "keeper of the light " * 2000,
    "accents": "e\u0301te\u0301 la\u0300 " * 20_000,
    "mixed": ("море 海 sea\t\n" + "x" * 120 + " ") * 3000,
    "blank": "\n" * 200_000,
}


@pytest.fixture(scope="module", params=["unigram", "wordpiece"])
def tokenizer(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> PreTrainedTokenizerFast:
    folder = tiny_checkpoint if request.param == "unigram" else resolve(None)[1]
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return loaded


@pytest.mark.parametrize("max_length", [3, 64, 512])
@pytest.mark.parametrize("name", LONG)
def test_a_long_text_gives_the_pieces_of_the_whole(
    tokenizer: PreTrainedTokenizerFast, name: str, max_length: int
) -> None:
    text, short = LONG[name], "a ship"
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    room = max_length - 2
    read = Tokenization(tokenizer)
    ids, truncated = read.encode([short, text], max_length)
    np.testing.assert_array_equal(ids[1][1:-1], whole["input_ids"][:room])
    assert truncated[1] == (len(whole["input_ids"]) > room)
    tokens = read.tokens(text, max_length)[:-1]
    assert [(token.start, token.end) for token in tokens] == whole["offset_mapping"][:room]


def test_of_a_long_text_only_the_beginning_is_read(tokenizer: PreTrainedTokenizerFast) -> None:
    class Recording:
        longest = 0

        def __call__(self, texts: Any, **settings: Any) -> Any:
            Recording.longest = max([Recording.longest, *map(len, texts)])
            return tokenizer(texts, **settings)

        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

    read = Tokenization(Recording())  # type: ignore[arg-type]
    read.encode([LONG["words"]], 512)
    assert 0 < Recording.longest < len(LONG["words"]) // 10
