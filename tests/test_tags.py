"""What a tagger learns from: tags of first pieces, in windows too, the loss over them, and what is told of the rows."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest
import torch
import transformers

from burnish_serve.tasks import TASKS, Asked
from burnish_serve.text import TextEncoder
from burnish_train import TrainConfig
from burnish_train.config import read_recipe
from burnish_train.data import Example, read_splits
from burnish_train.kinds import KINDS
from burnish_train.tags import Tags
from tiny_model import make_tokenizer, write_rows
from tiny_tagger import byte_level

TASK = TASKS["token-classification"]
RECIPE = Path(__file__).parents[1] / "train" / "recipes" / "entities.toml"


def target_on(text, right, *, tokens=None, max_length=64, stride=0, tmp_path, tokenizer=make_tokenizer, **changes):
    """Return a target, one row of it, and the tags, by name, that it gives each window of the row."""
    tokenizer().save_pretrained(tmp_path)
    encoder = TextEncoder(tmp_path / "tokenizer.json", max_length, on_long="window", stride=stride, offsets=True)
    asked = {"tokens": tokens} if tokens else {"text": text}
    (windows,) = encoder([(text,)])
    example = Example(asked, (text,), right)
    config = TrainConfig(model="m", task=TASK.name, train="t", out=tmp_path / "out", **changes)
    target = Tags(TASK, config, Tags.labels_of(sorted({kind for *_, kind in right}), config), [example])
    row = Asked(asked, (text,), windows)
    named = [
        None if value is None else [target.labels[tag] if tag >= 0 else "" for tag in value.tolist()]
        for value in target.values(example, row)
    ]
    return target, example, row, named


def test_the_first_piece_of_each_word_gets_the_tag_of_its_span(tmp_path):
    text = "We wakes songs-raining now!"  # [CLS] we wake ##s song ##s - rain ##ing now ! [SEP]
    spans = ((3, 14, "a"), (15, 22, "b"), (25, 26, "c"))  # the last begins inside a word
    _, _, _, (found,) = target_on(text, spans, tmp_path=tmp_path)
    assert found == ["", "O", "B-a", "", "I-a", "", "O", "B-b", "", "O", "O", ""]
    _, _, _, (found,) = target_on(text, spans, tmp_path=tmp_path, tag_scheme="BIOES")
    assert found == ["", "O", "B-a", "", "E-a", "", "O", "S-b", "", "O", "O", ""]


@pytest.mark.parametrize(
    ("inner", "tags"),
    [
        (True, ["", "O", "B-a", "", "I-a", "", "I-a", "I-a", "", "O", "O", ""]),
        (False, ["", "O", "B-a", "", "I-a", "", "", "", "", "O", "", ""]),
    ],
)
def test_of_a_rows_token_each_word_gets_a_tag_or_the_first_alone(tmp_path, inner, tags):
    tokens = ["We", "wakes", "songs-raining", "now!"]  # [CLS] we wake ##s song ##s - rain ##ing now ! [SEP]
    right = ((3, 22, "a"),)
    *_, (found,) = target_on(" ".join(tokens), right, tokens=tokens, tmp_path=tmp_path, label_inner_words=inner)
    assert found == tags


@pytest.mark.parametrize("tokens", [None, ["home", "home", "home"]])
@pytest.mark.parametrize("trim_offsets", [True, False])
def test_pieces_that_hold_the_space_before_them_are_tagged_too(tmp_path, trim_offsets, tokens):
    *_, (found,) = target_on(
        "home home home",
        ((5, 9, "a"),),
        tokens=tokens,
        label_inner_words=False,
        tmp_path=tmp_path,
        tokenizer=lambda: byte_level(trim_offsets=trim_offsets),
    )
    assert [tag for tag in found if tag] == ["O", "B-a", "O"]


def test_of_spans_that_overlap_the_longest_is_learned(tmp_path):
    _, _, _, (found,) = target_on("we set it now", ((0, 6, "a"), (3, 13, "b")), tmp_path=tmp_path)
    assert found == ["", "O", "B-b", "I-b", "I-b", ""]


def test_windows_have_the_tags_of_the_whole_text(tmp_path):
    text = "we wakes songs now " + "songs" + "s" * 20
    _, _, _, found = target_on(text, ((3, 14, "a"),), max_length=5, stride=1, tmp_path=tmp_path)
    assert found[:5] == [
        ["", "O", "B-a", "", ""],
        ["", "", "I-a", "", ""],  # begins with the second piece of a word
        ["", "", "O", "O", ""],
        ["", "O", "", "", ""],
        None,  # inside the last word, which has 22 pieces
    ]


def test_the_loss_is_that_of_torch_over_the_words(tmp_path):
    target, example, row, _ = target_on("we set it now", ((3, 6, "a"),), tmp_path=tmp_path)
    items = target.items([example], [row])
    batch = target.batch(items + items, ("input_ids",), 0)
    assert batch["labels"].tolist() == [[-100, 0, 1, 0, 0, -100]] * 2
    logits = torch.randn(2, 6, 3)
    outputs = transformers.modeling_outputs.TokenClassifierOutput(logits=logits)
    wanted = torch.nn.CrossEntropyLoss()(logits[:, 1:5].reshape(-1, 3), batch["labels"][:, 1:5].reshape(-1))
    assert target.loss(outputs, batch["labels"], {}).item() == pytest.approx(wanted.item(), abs=1e-6)


def test_padding_counts_for_nothing(tmp_path):
    target, example, row, _ = target_on("we set it now", ((3, 6, "a"),), tmp_path=tmp_path)
    _, other, shorter, _ = target_on("we set", ((3, 6, "a"),), tmp_path=tmp_path)
    batch = target.batch(target.items([example, other], [row, shorter]), ("input_ids",), 0)
    assert batch["labels"].tolist() == [[-100, 0, 1, 0, 0, -100], [-100, 0, 1, -100, -100, -100]]


def test_tags_are_weighed_by_how_often_they_stand_in_train(tmp_path):
    target, example, row, _ = target_on("we set it now", ((3, 6, "a"),), tmp_path=tmp_path, class_weights="balanced")
    target.items([example], [row])
    assert target.weights.tolist() == pytest.approx([4 / (3 * 3), 4 / (3 * 1), 4 / (3 * 1)])


def test_overlaps_are_told(tmp_path):
    rows = [
        {"text": "now tonight", "spans": [{"start": 0, "end": 11, "type": "a"}, {"start": 4, "end": 11, "type": "b"}]},
        {"text": "now", "spans": [{"start": 0, "end": 3, "type": "a"}]},
        {"text": "tonight", "spans": [{"start": 0, "end": 7, "type": "b"}]},
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    splits = read_splits(TrainConfig(model="m", task=TASK.name, train=str(path), out=tmp_path / "out"))
    assert "train: 1 row with spans that overlap, of which only the longest are learned" in splits.warnings


@pytest.mark.parametrize(
    ("tags", "told"),
    [
        (["O", "B-a", "I-a"], False),
        (["B-a", "E-a", "S-b"], False),
        (["O", "I-a", "I-a"], True),
        (["B-a", "I-b", "O"], True),
        (["B-a", "E-a", "E-a"], True),
    ],
)
def test_tags_that_were_repaired_are_told(tmp_path, tags, told):
    rows = [{"tokens": ["on", "the", "desk"], "tags": tags}, {"tokens": ["now", "it"], "tags": ["B-a", "B-b"]}]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    splits = read_splits(TrainConfig(model="m", task=TASK.name, train=str(path), out=tmp_path / "out"))
    said = "train: 1 row with tags that go on where no span stands (I-PER behind O), read as the beginning of one"
    assert (said in splits.warnings) is told


def test_tag_numbers_of_a_dataset_become_their_names(tmp_path):
    names = ["O", "B-PER", "I-PER"]
    features = datasets.Features(
        {
            "tokens": datasets.Sequence(datasets.Value("string")),
            "ner_tags": datasets.Sequence(datasets.ClassLabel(names=names)),
        }
    )
    rows = [{"tokens": ["Ada", "King", "ran"], "ner_tags": [1, 2, 0]}, {"tokens": ["home"], "ner_tags": [0]}]
    folder = tmp_path / "people"
    folder.mkdir()
    datasets.Dataset.from_list(rows, features).to_parquet(folder / "train.parquet")
    config = {"model": "m", "task": TASK.name, "out": tmp_path / "out", "dev_fraction": 0.0}
    splits = read_splits(TrainConfig(train=str(folder), label_column="ner_tags", **config))
    assert [row.right for row in splits.train] == [((0, 8, "PER"),), ()]
    assert splits.train[0].label == ["B-PER", "I-PER", "O"]


def test_the_recipe_is_for_this_task():
    config = read_recipe(RECIPE, model="m", train="t", out=Path("o"))
    assert KINDS[config.task] is Tags
