"""A vocabulary trimmed to the rows: the same pieces and logits for what it holds, and smaller pieces for all else."""

from __future__ import annotations

import itertools
import json
import random
import re
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from burnish_serve.errors import InputError
from burnish_train.data import Example, Splits
from burnish_train.methods.trim import keep_rows, trim
from burnish_train.methods.trim_pieces import cut
from test_architectures import MORE, SMALL

pytestmark = pytest.mark.usefixtures("one_thread")
SENTENCES = [
    "the weather of tomorrow is rainy",
    "play the newest songs of the week",
    "wake me up when the rain has stopped",
    "what would the weather have been yesterday",
    "stopping and starting, waking and weathering!",
    "Überall schöne Lieder zum Wecken",
]
HELD = ["the newest weather", "wake the songs of the week when the rain has stopped"]
OTHER = ["unweatherable newness restarted", "playing yesterday", "schöne Lieder zum Wecken"]
ONLY_KNOWN_LETTERS = st.text(sorted(set("".join(SENTENCES))), min_size=1, max_size=30)


def wordpiece() -> Tokenizer:
    words = sorted({word for text in SENTENCES for word in re.findall(r"\w+", text)})
    pieces = [piece for word in words for piece in (word[:7], word[:3], f"##{word[3:]}", f"##{word[-2:]}")]
    letters = [piece for letter in sorted(set("".join(SENTENCES)) - {" "}) for piece in (letter, f"##{letter}")]
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    known = dict.fromkeys([*special, *pieces, *letters])
    known.pop("##", None)
    vocabulary = {piece: number for number, piece in enumerate(known)}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 4), ("[CLS]", 3))
    return tokenizer


def bpe() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420, min_frequency=1, show_progress=False, special_tokens=special, initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.add_special_tokens(["<mask>"])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    return tokenizer


def unigram() -> Tokenizer:
    words = [f"▁{word}" for text in SENTENCES for word in text.split()]
    spans = {word[i:j] for word in words for i, j in itertools.combinations(range(len(word) + 1), 2) if j - i < 6}
    chance = random.Random(0)
    scores = [(piece, -10 + 0.5 * len(piece) - chance.random()) for piece in sorted(spans)]
    special = [(token, 0.0) for token in ("<s>", "<pad>", "</s>", "<unk>")]
    tokenizer = Tokenizer(models.Unigram([*special, *scores], unk_id=3))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<mask>"])
    around = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=around
    )
    return tokenizer


BERT = dict(zip(("pad", "unk", "cls", "sep", "mask"), ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True))
ROBERTA = {"pad": "<pad>", "unk": "<unk>", "cls": "<s>", "sep": "</s>", "bos": "<s>", "eos": "</s>", "mask": "<mask>"}
KINDS = {
    "WordPiece": (wordpiece, "bert", BERT),
    "Unigram": (unigram, "xlm-roberta", ROBERTA),
    "BPE": (bpe, "roberta", ROBERTA),
}


@pytest.fixture(scope="module", params=KINDS)
def pretrained(request, tmp_path_factory) -> Path:
    """Return the folder of a random masked language model with a tokenizer of each kind."""
    make, architecture, named = KINDS[request.param]
    folder = tmp_path_factory.mktemp(architecture)
    names = {f"{name}_token": token for name, token in named.items()}
    by_file = transformers.PreTrainedTokenizerFast(tokenizer_object=make(), model_max_length=64, **names)
    by_file.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        architecture,
        vocab_size=len(by_file) + 3,  # more than there are tokens, as of DeBERTa
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=80,
        initializer_range=0.3,
        **{
            f"{name}_token_id": by_file.convert_tokens_to_ids(token)
            for name, token in named.items()
            if name in ("pad", "bos", "eos")
        },
    )
    model = transformers.AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        model.get_output_embeddings().bias.normal_()
    model.save_pretrained(folder)
    # as the class of the architecture has it, which makes its tokenizer anew
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["tokenizer_class"] = {
        "bert": "BertTokenizer",
        "roberta": "RobertaTokenizer",
        "xlm-roberta": "XLMRobertaTokenizer",
    }[architecture]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert type(transformers.AutoTokenizer.from_pretrained(folder)) is not type(tokenizer)
    return folder


def splits(*texts: str) -> Splits:
    rows = [Example({"text": text}, (text,), None) for text in texts]
    return Splits(train=rows[:-1], dev=[], test=[], names=(), sources={}, warnings=(), domain=tuple(rows[-1:]))


@pytest.fixture(scope="module")
def both(pretrained, tmp_path_factory):
    """Return (tokenizer, model) as they were, and trimmed to what was held; the latter written and loaded again."""
    before = [
        cls.from_pretrained(pretrained) for cls in (transformers.AutoTokenizer, transformers.AutoModelForMaskedLM)
    ]
    folder = tmp_path_factory.mktemp("trimmed")
    tokenizer, model = (
        cls.from_pretrained(pretrained) for cls in (transformers.AutoTokenizer, transformers.AutoModelForMaskedLM)
    )
    smaller = trim(tokenizer, model, splits(*HELD), folder)
    model.save_pretrained(folder)
    smaller.save_pretrained(folder)
    after = [cls.from_pretrained(folder) for cls in (transformers.AutoTokenizer, transformers.AutoModelForMaskedLM)]
    return before, after


def test_what_is_made_of_kept_tokens_has_the_same_pieces_and_logits(both):
    (old, full), (new, small) = both
    assert len(new) < 0.9 * len(old)
    numbers = [old.convert_tokens_to_ids(token) for token in new.convert_ids_to_tokens(range(len(new)))]
    texts = [*HELD, "the rain of the week", "weather when newest"]
    for text in texts:
        assert new.tokenize(text) == old.tokenize(text), text
    given = [tokenizer(texts, padding=True, return_tensors="pt") for tokenizer in (old, new)]
    with torch.inference_mode():
        right, found = (model.eval()(**rows).logits for model, rows in zip((full, small), given, strict=True))
    real = given[0]["attention_mask"].bool()
    torch.testing.assert_close(found[real], right[real][:, numbers])


def test_what_is_not_held_falls_to_smaller_pieces_and_is_never_unknown(both):
    (old, _), (new, _) = both
    changed = 0
    for text in [*OTHER, *SENTENCES]:
        assert new.unk_token_id not in new(text).input_ids
        assert new.decode(new(text).input_ids) == old.decode(old(text).input_ids)
        changed += new.tokenize(text) != old.tokenize(text)
        assert len(new.tokenize(text)) >= len(old.tokenize(text))
    assert changed > 3
    assert new("\U0001f9ff").input_ids.count(new.unk_token_id) == old("\U0001f9ff").input_ids.count(old.unk_token_id)


@given(text=ONLY_KNOWN_LETTERS)
def test_a_text_has_the_same_pieces_wherever_all_of_them_are_kept(both, text):
    (old, _), (new, _) = both
    pieces = old.tokenize(text)
    if set(pieces) <= set(new.get_vocab()):
        assert new.tokenize(text) == pieces
    assert old.unk_token in pieces or new.unk_token not in new.tokenize(text)


def test_special_tokens_have_their_new_numbers_everywhere(both):
    (old, full), (new, small) = both
    for name in ("pad", "unk", "cls", "sep", "mask"):
        assert str(getattr(new, f"{name}_token")) == str(getattr(old, f"{name}_token"))
        number = getattr(new, f"{name}_token_id")
        assert new.convert_ids_to_tokens(number) == getattr(new, f"{name}_token")
    for name in ("pad", "bos", "eos"):
        before = getattr(full.config, f"{name}_token_id")
        if before is not None:
            after = getattr(small.config, f"{name}_token_id")
            assert new.convert_ids_to_tokens(after) == old.convert_ids_to_tokens(before)
    assert (small.config.vocab_size, *small.get_input_embeddings().weight.shape) == (len(new), len(new), 32)
    assert small.get_input_embeddings().padding_idx == new.pad_token_id
    assert small.get_output_embeddings().weight is small.get_input_embeddings().weight
    assert sorted(new.get_vocab().values()) == list(range(len(new)))
    assert new.cls_token_id == new("rain").input_ids[0]
    assert new.sep_token_id == new("rain").input_ids[-1] == new("rain", "week").input_ids[-1]


def test_trimmed_again_by_the_same_rows_nothing_changes(both, tmp_path):
    _, (tokenizer, model) = both
    before = model.get_input_embeddings().weight.clone()
    again = trim(tokenizer, model, splits(*HELD), tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert torch.equal(model.get_input_embeddings().weight, before)


@pytest.mark.parametrize("architecture", sorted(MORE))
def test_guesses_of_every_architecture_keep_their_rows(architecture):
    torch.manual_seed(0)
    settings = {**SMALL, "vocab_size": 120, **MORE[architecture]}
    model = transformers.AutoModelForMaskedLM.from_config(
        transformers.AutoConfig.for_model(architecture, **settings)
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.normal_()
    named = {n for k, n in model.config.to_dict().items() if k.endswith("_token_id") and isinstance(n, int)}
    kept = sorted({*range(3), *range(3, 120, 2), *named})
    new = torch.zeros(120, dtype=torch.long)
    new[kept] = torch.arange(len(kept))
    ids = torch.tensor(kept)[torch.randint(3, len(kept), (2, 12))]
    with torch.inference_mode():
        right = model(input_ids=ids).logits[..., kept]
        keep_rows(model, kept)
        found = model(input_ids=new[ids]).logits
    torch.testing.assert_close(found, right)
    assert not [name for name, weight in model.named_parameters() if weight.shape[0] == 120]


def test_what_cannot_be_trimmed_is_said(train_config):
    with pytest.raises(InputError, match="vocabulary_texts is for a vocabulary that is trimmed: give --trim-voc"):
        train_config(vocabulary_texts=("texts.txt",))
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(InputError, match="is for tokenizers of WordPiece, Unigram, BPE, and the model's is WordLevel"):
        cut(json.loads(words.to_str()), {0})


def test_merges_and_marks_of_other_kinds_of_bpe_are_kept_where_they_are_needed():
    vocabulary = {
        token: i for i, token in enumerate(["a", "b", "c", "a</w>", "c</w>", "ab", "bc</w>", "abc</w>", "bc"])
    }
    merges = [("b", "c</w>"), ("a", "bc</w>"), ("a", "b"), ("b", "c")]
    words = Tokenizer(models.BPE(vocabulary, merges, end_of_word_suffix="</w>"))
    contents, kept = cut(json.loads(words.to_str()), {vocabulary["abc</w>"]})
    assert set(contents["model"]["vocab"]) == {"a", "b", "c", "a</w>", "c</w>", "bc</w>", "abc</w>"}
    assert contents["model"]["merges"] == [["b", "c</w>"], ["a", "bc</w>"]]
    assert [before for token, before in vocabulary.items() if token in contents["model"]["vocab"]] == kept
    assert Tokenizer.from_str(json.dumps(contents)).encode("abc").tokens == words.encode("abc").tokens == ["abc</w>"]
