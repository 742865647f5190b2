"""Taggers of a few kilobytes with random weights, over tokenizers of two kinds, and texts that are hard to point into.

Their answers mean nothing and change at every word, so a difference in how tokens become spans is seen at once.

    python -c "import tiny_tagger; print(len(tiny_tagger.TEXTS))"
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from tiny_model import FILLERS, VOCABULARY

CHINESE = tuple("我们在北京上海工作学习今天明天的是了不有人大中国文，。")
WORDS = (*VOCABULARY, *CHINESE, *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh"), "##’", "”", "😀", "e", "##́")
BIO = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-creative-work", "I-creative-work")
HARD = (
    "",
    " ",
    "\t\n",
    "I'm home, aren't you? O'Hara's car-room",
    "我们今天在北京工作。",
    "我在NYC的room里abc",
    "全角ＡＢＣ１２３　的ｗｏｒｋ",
    "👨‍👩‍👧‍👦 family and 👍🏽 thumbs 😀😀",
    "😀home😀",
    "🇫🇷🇩🇪 we 🏳️‍🌈 at home",
    "cafe\u0301 e\u0301a\u0300 naïve résumé",
    "\u0301\u0300 home",
    "𝒜𝓁𝒾𝒸ℯ 𐐷𐐷 𠮷野家 at home",
    "tab\tand\nnewline\r\nand\u00a0space\u2003em\u200bzero",
    "zzzz xylophone qqq home zzzz",
    "wakes raining wakes’ ”abcdefgh” bcd",
    "<unk> [UNK] </s> [SEP] [MASK] home",
    "İstanbul ŞŞ ßß ŒŒ Ǆ",
    "مرحبا بالعالم home שלום",
    "नमस्ते दुनिया",
    "ﬁnd ﬀ home\u0000now\ufffdnow",
    "x" * 120 + " home",
    "  two  spaces   home  ",
    "!!! ... ,,, '''",
)


def texts(count: int = 100, seed: int = 0) -> list[str]:
    """Return the hard texts, and others of words, Chinese, emoji and pieces glued together at random."""
    words = random.Random(seed)
    parts = (*FILLERS, *CHINESE, "😀", "👍🏽", "e\u0301", "abcd", "wakes", "zq", "'s", "-", ",", "𠮷", "Ａ", "the")
    more = [
        "".join(words.choice(parts) + words.choice((" ", " ", "", "\n", "\u3000")) for _ in range(words.randint(1, 18)))
        for _ in range(count)
    ]
    return [*HARD, *more]


TEXTS = texts()


def wordpiece() -> Any:
    """Return BERT's tokenizer: case and accents are dropped, Chinese is split by character."""
    from transformers import BertTokenizerFast

    from make_tiny_bundle import tokenizer

    words = dict.fromkeys(WORDS)
    return BertTokenizerFast(
        tokenizer_object=tokenizer({word: number for number, word in enumerate(words)}), model_max_length=512
    )


def byte_level(*, trim_offsets: bool = True) -> Any:
    """Return a byte-level BPE tokenizer as RoBERTa's, trained on the texts."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=trim_offsets, add_prefix_space=False
    )
    named = dict(zip(("bos_token", "pad_token", "eos_token", "unk_token", "mask_token"), special, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=512, cls_token="<s>", sep_token="</s>", **named
    )


def make_tagger(folder: Path, tokenizer: Any, *, labels: tuple[str, ...] = BIO, seed: int = 0) -> Path:
    """Write a BERT for tags (2 layers, 32 wide) with random weights, as any Hugging Face user has it.

    Little of a word's vector is lost among its neighbours', so that neighbours get other tags.
    """
    import torch
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=512,
        initializer_range=0.1,
        pad_token_id=tokenizer.pad_token_id,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        model.classifier.weight *= 10
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
