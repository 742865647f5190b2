"""A student learns from a teacher's scores, and from what the teacher thinks on the way."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from burnish_serve import TASKS
from burnish_serve.errors import InputError
from burnish_train import TrainConfig, checkpoint, train
from burnish_train.losses import softmax_divergence
from burnish_train.methods.teacher import Seen, inner_distances
from burnish_train.trainer import TaskTrainer
from tiny_model import labelled_rows, make_encoder, write_rows
from tiny_tasks import WAYS
from training import record_of, rows_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_student_of_scores_alone_answers_as_its_teacher(train_config, tiny_checkpoint, tmp_path):
    texts = [row["text"] for row in labelled_rows(300, seed=5)]
    write_rows(tmp_path / "texts.jsonl", [{"text": text, "label": "ignored"} for text in texts])
    wrong = [{**row, "label": "music"} if number % 2 else row for number, row in enumerate(labelled_rows(60))]
    write_rows(tmp_path / "wrong.jsonl", wrong)
    train(
        train_config(
            train=str(tmp_path / "wrong.jsonl"),
            unlabelled=str(tmp_path / "texts.jsonl"),
            teacher=(str(tiny_checkpoint),),
            distill_alpha=1.0,
            keep_layers=1,
            dev_fraction=0.0,
            num_train_epochs=10.0,
        )
    )
    student, teacher = (checkpoint.load(folder, device="cpu") for folder in (train_config().out, tiny_checkpoint))
    assert student.outputs(student.examine(["wake"])).shape == (1, 3)
    held = [row["text"] for row in labelled_rows(100, seed=9)]
    same = [one["label"] == other["label"] for one, other in zip(student(held), teacher(held), strict=True)]
    assert np.mean(same) > 0.9, "half of its labels were wrong, and counted for nothing"
    record = record_of(train_config().out)
    assert record["data"]["unlabelled"]["rows"] == 300
    config = json.loads((train_config().out / "config.json").read_text())
    assert config["num_hidden_layers"] == 1
    transformers.AutoModelForSequenceClassification.from_pretrained(train_config().out)


def test_the_loss_is_made_of_the_labels_and_of_the_mean_of_all_teachers(
    train_config, tiny_checkpoint, make_checkpoint, monkeypatch
):
    other = make_checkpoint(seed=7, num_train_epochs=1.0)
    seen = []
    compute = TaskTrainer.compute_loss

    def watched(self, model, inputs, *given, **named):
        batch = dict(inputs)
        state = torch.get_rng_state()
        loss = compute(self, model, inputs, *given, **named)
        if "rows" in batch and model.training and not seen:
            torch.set_rng_state(state)
            labels, rows = batch.pop("labels"), batch.pop("rows")
            texts = [self.runner.encoder.tokenizer.decode(ids.tolist()) for ids in batch["input_ids"]]
            seen.append((float(loss.detach()), model(**batch).logits.detach(), labels, rows.tolist(), texts))
        return loss

    monkeypatch.setattr(TaskTrainer, "compute_loss", watched)
    train(
        train_config(
            teacher=(str(tiny_checkpoint), str(other)),
            distill_alpha=0.3,
            distill_temperature=4.0,
            num_train_epochs=1.0,
            dev_fraction=0.0,
        )
    )
    loss, logits, labels, rows, texts = seen[0]
    asked = [row["text"] for row in rows_of_train(train_config)]
    assert [asked[row] for row in rows] == texts, "each window is taught by its own row"
    both = [np.asarray(one.outputs(one.examine(texts))) for one in map(loaded, (tiny_checkpoint, other))]
    wanted = softmax_divergence(logits, torch.tensor(np.mean(both, axis=0)), 4.0)
    right = torch.nn.functional.cross_entropy(logits, labels)
    assert loss == pytest.approx(0.7 * float(right) + 0.3 * float(wanted), rel=1e-3)


def loaded(folder):
    return checkpoint.load(folder, device="cpu")


def rows_of_train(train_config):
    return rows_of(Path(train_config().train))


def test_hidden_states_and_attention_come_nearer(train_config, tiny_checkpoint, tmp_path):
    found = {}
    for weight in (0.0, 10.0):
        settings = {"distill_hidden": weight, "distill_attention": weight, "teacher": (str(tiny_checkpoint),)}
        out = tmp_path / f"run-{weight}"
        train(train_config(**settings, keep_layers=1, reinit_layers=1, out=out, num_train_epochs=4.0))
        student, teacher = (checkpoint.load_model(folder) for folder in (out, tiny_checkpoint))
        for model in (student, teacher):
            model.set_attn_implementation("eager")
        looks = Seen(student), Seen(teacher)
        ids = torch.randint(5, 60, (8, 9), generator=torch.Generator().manual_seed(0))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        student(**inputs), teacher(**inputs)
        ours, theirs = (look.take() for look in looks)
        assert [len(part) for part in (*ours, *theirs)] == [1, 1, 2, 2]
        found[weight] = [float(part.detach()) for part in inner_distances(ours, theirs, inputs["attention_mask"])]
    assert found[10.0][0] < 0.7 * found[0.0][0]
    assert found[10.0][1] < found[0.0][1]


def test_layers_that_go_together_are_compared_where_words_are():
    vectors = [torch.full((1, 3, 2), float(number)) for number in range(6)]
    scores = [torch.full((1, 2, 3, 3), float(number)) for number in range(6)]
    mask = torch.tensor([[1, 1, 0]])
    vectors[2][0, 2] = scores[2][0, :, 2] = 99.0  # padding
    hidden, attention = inner_distances(([vectors[0], vectors[5]], [scores[0], scores[5]]), (vectors, scores), mask)
    assert float(hidden) == 2.0  # the first of two goes with the third of six, the last with the last
    assert float(attention) == 2.0**2 * 3 / 2


COMPARED = [name for name, way in WAYS.items() if way.task not in ("fill-mask", "feature-extraction")]


@pytest.mark.parametrize("name", COMPARED)
def test_every_kind_of_answer_can_be_learned_from_a_teacher(name, tiny_settings, tmp_path):
    way = WAYS[name]
    write_rows(tmp_path / "train.jsonl", way.rows(160, 0))
    write_rows(tmp_path / "test.jsonl", way.rows(60, 1))
    data = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")}
    config = {**tiny_settings, **data, "max_length": 32, **way.settings, "task": way.task}
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    first = train(TrainConfig(**{**config, "out": teacher}))
    taught = {"teacher": (str(teacher),), "distill_alpha": 1.0, "rdrop_alpha": 0.1, "out": student}
    second = train(TrainConfig(**{**config, **taught}))
    metric = TASKS[way.task].metric
    reached = [record["metrics"]["test"][metric] for record in (first, second)]
    assert reached[1] >= min(way.reached, reached[0]) - 0.1, "what a teacher knows is enough to learn from"


def test_what_is_no_teacher_is_said(train_config, tiny_checkpoint, tiny_encoder, tmp_path):
    rows = [{**row, "label": row["label"] + "s"} for row in labelled_rows(60)]
    write_rows(tmp_path / "others.jsonl", rows)
    for settings, message in (
        ({"teacher": (str(tiny_encoder),)}, "has no burnish.json"),
        (
            {"teacher": (str(tiny_checkpoint),), "train": str(tmp_path / "others.jsonl"), "test": None},
            "has other labels than the rows: 'alarm', 'alarms'",
        ),
        ({"teacher": (str(tiny_checkpoint),), "unlabelled": str(tmp_path / "none.jsonl")}, "no such file"),
    ):
        with pytest.raises(InputError, match=message):
            train(train_config(**settings))
        assert not train_config().out.exists()


def test_a_student_with_other_vectors_cannot_look_into_its_teacher(train_config, tiny_checkpoint, tmp_path):
    narrow = make_encoder(tmp_path / "narrow")
    config = json.loads((narrow / "config.json").read_text())
    small = transformers.BertConfig(**{**config, "hidden_size": 16})
    transformers.BertModel(small).save_pretrained(narrow)
    with pytest.raises(InputError, match="the teacher's have 32 elements and the student's 16"):
        train(train_config(model=str(narrow), teacher=(str(tiny_checkpoint),), distill_hidden=1.0))
