"""m3-mini's tokenizer from its pieces, and the folder that transformers loads it from."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from text_splitting import SPACE, make_normalizer, make_pre_tokenizer
from tokenizers import Tokenizer, decoders, models, processors
from transformers import PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""BERT's, with the ids 0 to 4"""
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""pieces of what no other piece spells"""
LONGEST_TEXT = 8192
"""tokens, for loaders that ask the tokenizer"""


def make_tokenizer(pieces: Sequence[tuple[str, float]]) -> Tokenizer:
    """The tokenizer of pieces with the logarithms of their probabilities."""
    lowest = min(score for _, score in pieces)
    vocabulary = [(piece, 0.0) for piece in SPECIAL] + [(piece, lowest) for piece in BYTES]
    tokenizer = Tokenizer(models.Unigram([*vocabulary, *pieces], unk_id=1, byte_fallback=True))
    tokenizer.normalizer = make_normalizer()
    tokenizer.pre_tokenizer = make_pre_tokenizer()
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(SPACE, prepend_scheme="always")]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    return tokenizer


def write_tokenizer(folder: Path, tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    """Writes tokenizer.json and tokenizer_config.json; the tokenizer as transformers has it.

    A text that spells a special token, such as "[SEP]", is read as any other.
    """
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        bos_token="[CLS]",
        sep_token="[SEP]",
        eos_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=LONGEST_TEXT,
        split_special_tokens=True,
    )
    fast.save_pretrained(folder)
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"  # what every release of theirs knows
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return fast
