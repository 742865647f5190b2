"""What `make compat` asks, and of which bundles: rows of three tasks, and models whose heads are drawn at random.

Weights drawn at random need no training, and give scores that spread as those of a trained head do.

>>> rows("question-answering", sentences)[0]  # doctest: +SKIP
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

NUM_ROWS = 100
LABELS = ("anger", "fear", "joy", "sadness", "surprise")
TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
MARKERS = ("<e1>", "</e1>", "<e2>", "</e2>")
HEADS = {
    "text-classification": "SequenceClassification",
    "token-classification": "TokenClassification",
    "question-answering": "QuestionAnswering",
}
NAMES = {"text-classification": LABELS, "token-classification": TAGS, "question-answering": ("start", "end")}
# Rows of a flag's worth of tokens at the most; longer ones are cut, or read in windows.
MAX_LENGTHS = {"text-classification": 64, "token-classification": 96, "question-answering": 128}
# Empty, blank, not in the vocabulary, accents in both forms, emoji, one word without an end, markup, another script.
ODD = ["", " ", "☃", "naïve café in Zürich", "nai\u0308ve cafe\u0301", "👍🏽 great 😀😀", "x" * 600, "<b>bold</b>\t\n"]
ODD += ["東京タワー"]
CHINESE = [
    "北京是中华人民共和国的首都，位于华北平原的北部。",
    "2008年8月8日，第29届夏季奥林匹克运动会在北京开幕。",
    "他昨天在上海买了一部iPhone手机，花了八千元！",
    "我很喜欢这部电影😀，演员的表演非常自然👍🏽。",
    "《红楼梦》的作者曹雪芹出生在南京；书里写了四百多个人物。",
    "长江全长６３００多公里，是亚洲最长的河流。",
]
MARKED = [
    "The <e1>fire</e1> was caused by a <e2>candle</e2>.",
    "<e1>Ada</e1>'s <e2>machine</e2> 😀 in Zürich",
    "a<e1>b",
]


def rows(task: str, sentences: Sequence[str]) -> list[dict[str, str]]:
    """Return a hundred rows, the odd ones and long ones among them."""
    long = [" ".join(sentences[i : i + 12]) for i in range(0, 120, 12)]
    texts = [*ODD, *long, *sentences]
    if task == "token-classification":
        texts = [*ODD, *CHINESE, *MARKED, *long, *sentences]
    if task == "question-answering":
        chinese = ["".join(CHINESE * times) for times in (1, 3)]
        texts = [*filter(str.strip, ODD), *CHINESE, *chinese, *(one + " 😀 " + one for one in long), *sentences]
        return [_question(text) for text in texts[:NUM_ROWS]]
    return [{"text": text} for text in texts[:NUM_ROWS]]


def _question(context: str) -> dict[str, str]:
    """Return a question about a context: its middle word, or for one in Chinese a question in Chinese."""
    if any(character in context for character in "的是在"):
        return {"question": "这里说的是什么？", "context": context}
    words = context.split()
    return {"question": f"What is said of {words[len(words) // 2][:20]}?", "context": context}


def make_checkpoint(task: str, encoder: Path, folder: Path) -> None:
    """Write the encoder with a head drawn at random; that for tokens has markers in its vocabulary too."""
    import torch
    import transformers

    from burnish_train.vocabulary import add_tokens

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.manual_seed(0)
    names = NAMES[task]
    labels = {"id2label": dict(enumerate(names)), "label2id": {label: i for i, label in enumerate(names)}}
    model = getattr(transformers, f"AutoModelFor{HEADS[task]}").from_pretrained(encoder, **labels)
    head = model.qa_outputs if task == "question-answering" else model.classifier
    torch.nn.init.normal_(head.weight, std=0.3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
    if task == "token-classification":
        add_tokens(tokenizer, model, MARKERS)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def lists(outputs: Any) -> Any:
    """Return arrays, or lists of them, as JSON has them."""
    return [lists(one) for one in outputs] if isinstance(outputs, list) else outputs.tolist()
