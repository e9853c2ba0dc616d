"""Small checkpoints of random weights, in the layouts that users bring."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    BertConfig,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from m3search.model.checkpoint import load_checkpoint, save_checkpoint

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]
HIDDEN, MULTI_DIM = 32, 24


def sentencepiece_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A unigram tokenizer with the special ids of XLM-R: four at the start, <mask> last."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=4000, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_max_length=8192,
    )


def write_xlm_roberta(folder: Path, texts: list[str], positions: int = 8194) -> Path:
    """An M3 checkpoint without m3.json, as BAAI/bge-m3 comes."""
    torch.manual_seed(7)
    tokenizer = sentencepiece_tokenizer(texts)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        type_vocab_size=1,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
        initializer_range=0.3,
    )
    XLMRobertaModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_heads(folder)
    return folder


def write_heads(folder: Path, hidden: int = HIDDEN, multi_dim: int = HIDDEN) -> None:
    """Random heads under the names of the reference, in half precision as on the hub."""
    for name, rows in (("sparse_linear.pt", 1), ("colbert_linear.pt", multi_dim)):
        head = torch.nn.Linear(hidden, rows)
        torch.save({k: v.half() for k, v in head.state_dict().items()}, folder / name)


def write_bert(
    folder: Path, texts: list[str], hidden: int = HIDDEN, seed: int = 11, positions: int = 128
) -> Path:
    """A plain BERT encoder without heads, as a training starts from."""
    torch.manual_seed(seed)
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    trainer = trainers.WordPieceTrainer(
        vocab_size=2000, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def stating(checkpoint: Path, folder: Path, **stated: Any) -> Path:
    """A copy of a checkpoint in the folder, whose m3.json says something else."""
    model, tokenizer, info = load_checkpoint(checkpoint)
    save_checkpoint(folder, model, tokenizer, replace(info, **stated))
    return folder
