"""The bundle's files of tokenizer and configuration: what transformers 4.57 and 5 both load, and what the runner reads.

Truncation and padding of the original tokenizer are cleared, since they are the runner's to decide, and so is whatever
a configuration says of code that should be run.

>>> write_tokenizer(source, Path("bundle"))  # doctest: +SKIP
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer

from burnish_export.source import Source
from burnish_serve.integrity import CODE_KEYS

SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def write_tokenizer(source: Source, folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json``."""
    tokenizer = Tokenizer.from_str(source.tokenizer.backend_tokenizer.to_str())
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": source.network.max_length,
        "model_input_names": list(source.network.inputs),
        "padding_side": "right",
        "truncation_side": "right",
        "clean_up_tokenization_spaces": False,
        **{name: str(token) for name in SPECIAL if (token := getattr(source.tokenizer, name, None))},
    }
    text = json.dumps(settings, indent=1, ensure_ascii=False)
    (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")


def write_config(source: Source, folder: Path) -> None:
    """Write ``config.json``, without the keys that name code."""
    source.network.config.save_pretrained(folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8"))
    kept = {key: value for key, value in settings.items() if key not in CODE_KEYS}
    path.write_text(json.dumps(kept, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
