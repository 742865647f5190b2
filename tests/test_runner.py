"""The runner must give each row its own answer: in order, however rows are batched, and from any number of threads."""

from __future__ import annotations

import dataclasses
import json
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from burnish_serve import TASKS, BundleError, DeviceError, InputError, Runner, load, open_bundle, runner
from burnish_serve.text import TextEncoder

WORDS = ["great", "dull", "film", "never", "boring", "the", "nice", "unknown", "e" * 7, "!"]
texts = st.lists(st.sampled_from(WORDS), max_size=25).map(" ".join)


class TokenCounter:
    """A session whose logits are ``[-n, n]`` for a row of n tokens, and which remembers what it was given."""

    def __init__(self) -> None:
        self.batches: list[dict] = []

    def run(self, output_names, input_feed):
        """Count the tokens of each row."""
        assert tuple(output_names) == ("logits",)
        self.batches.append(input_feed)
        tokens = input_feed["attention_mask"].sum(axis=1, dtype=np.float32)
        return [np.stack([-tokens, tokens], axis=1)]


def make_runner(tiny_bundle, session, **changes) -> Runner:
    return Runner(
        **{
            "task": TASKS["text-classification"],
            "labels": ("few", "many"),
            "encoder": TextEncoder(tiny_bundle / "tokenizer.json", 16),
            "session": session,
            "inputs": ("input_ids", "attention_mask"),
            "pad_token_id": 0,
            "variant": "counter",
            **changes,
        }
    )


def test_the_readmes_example(tiny_bundle):
    model = load(tiny_bundle)
    good, bad = model(["great film", "dull"])
    assert (good["label"], bad["label"]) == ("positive", "negative")
    assert 0.9 < good["score"] < 1
    assert 0.9 < bad["score"] < 1
    assert json.loads(json.dumps([good, bad])) == [good, bad]


@given(rows=st.lists(texts, max_size=30), max_batch_tokens=st.integers(1, 300))
def test_any_split_into_batches_gives_each_row_the_answer_it_has_alone(tiny_model, rows, max_batch_tokens):
    model = make_runner_like(tiny_model, max_batch_tokens)
    assert model(rows) == [tiny_model(row)[0] for row in rows]


def make_runner_like(model: Runner, max_batch_tokens: int) -> Runner:
    names = ("task", "labels", "encoder", "session", "inputs", "pad_token_id", "variant")
    return Runner(**{name: getattr(model, name) for name in names}, max_batch_tokens=max_batch_tokens)


@given(counts=st.lists(st.integers(0, 13), max_size=40), max_batch_tokens=st.integers(1, 100))
def test_order_is_kept_for_any_lengths(tiny_bundle, counts, max_batch_tokens):
    session = TokenCounter()
    model = make_runner(tiny_bundle, session, max_batch_tokens=max_batch_tokens)
    assert model.logits(["film " * count for count in counts])[:, 1].tolist() == [count + 2 for count in counts]
    assert sum(len(batch["input_ids"]) for batch in session.batches) == len(counts)
    for batch in session.batches:
        assert batch["input_ids"].size <= max_batch_tokens or len(batch["input_ids"]) == 1


def test_the_session_gets_the_inputs_that_it_names(tiny_bundle):
    session = TokenCounter()
    model = make_runner(tiny_bundle, session, pad_token_id=4, inputs=("attention_mask", "token_type_ids", "input_ids"))
    model(["great film", "dull"])
    (batch,) = session.batches
    assert {name: array.dtype for name, array in batch.items()} == dict.fromkeys(
        ["attention_mask", "token_type_ids", "input_ids"], np.int64
    )
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert batch["input_ids"][1, 3] == 4
    assert not batch["token_type_ids"].any()


def test_stream_answers_as_a_call_does_and_reads_only_a_window_ahead(tiny_model, monkeypatch):
    monkeypatch.setattr(runner, "WINDOW", 8)
    rows = [random.Random(n).choice(WORDS) for n in range(50)]
    taken = 0

    def source():
        nonlocal taken
        for row in rows:
            taken += 1
            yield row

    answers = []
    stream = tiny_model.stream(source())
    assert taken == 0
    for answer in stream:
        answers.append(answer)
        assert taken - len(answers) < 8
    assert answers == tiny_model(rows)


def test_stream_of_endless_rows(tiny_model, monkeypatch):
    monkeypatch.setattr(runner, "WINDOW", 4)
    stream = tiny_model.stream("great" for _ in iter(int, 1))
    assert {next(stream)["label"] for _ in range(10)} == {"positive"}


def test_stream_has_top_k_and_takes_rows(tiny_model):
    (answer,) = tiny_model.stream([{"text": "great", "id": 7}], top_k=2)
    assert [found["label"] for found in answer] == ["positive", "negative"]
    assert list(tiny_model.stream([])) == []


def test_texts_and_rows_are_asked_alike(tiny_model):
    text = ["great film"]
    assert tiny_model("great film") == tiny_model(text) == tiny_model([{"text": "great film", "other": 1}])
    assert tiny_model(tuple(text)) == tiny_model(text)


def test_one_row_alone_is_a_list_of_one(tiny_model):
    assert tiny_model({"text": "great film"}) == tiny_model("great film")


def test_no_rows_have_no_answers(tiny_model):
    assert tiny_model([]) == []
    assert tiny_model([], top_k=None) == []
    assert tiny_model.logits([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["ok", {"body": "x"}], "row 2: no column 'text'; the columns there are: 'body'"),
        ([{"text": None}], "row 1: column 'text' must hold text, not null"),
        (["ok", 3], "row 2"),
        ([None], "row 1"),
        (["ok", "\ud800"], "half of a surrogate pair"),
    ],
)
def test_rows_without_text_are_said_by_number(tiny_model, rows, said):
    with pytest.raises(InputError, match=said):
        tiny_model(rows)


def test_a_task_of_pairs_reads_two_columns(tiny_bundle):
    task = dataclasses.replace(TASKS["text-classification"], columns=(("first", "second"),))
    session = TokenCounter()
    model = make_runner(tiny_bundle, session, task=task, inputs=("attention_mask", "token_type_ids"))
    model([{"first": "great film", "second": "dull"}])
    assert session.batches[0]["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1]]
    with pytest.raises(InputError, match="row 1 is a text; text-classification needs the columns first, second"):
        model(["great film"])


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_cut_texts_are_marked(tiny_model, top_k):
    whole, cut = tiny_model(["film " * 14, "film " * 15], top_k=top_k)
    for answers, marked in ((whole, False), (cut, True)):
        for answer in [answers] if top_k == 1 else answers:
            assert answer.get("truncated", False) is marked
            assert set(answer) == {"label", "score"} | ({"truncated"} if marked else set())


def test_several_threads_at_once(tiny_model):
    rows = [" ".join(random.Random(n).choices(WORDS, k=n % 15)) for n in range(400)]
    expected = tiny_model(rows, top_k=None)
    orders = [random.Random(n).sample(range(len(rows)), 80) for n in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda order: tiny_model([rows[i] for i in order], top_k=None), orders))
    assert found == [[expected[i] for i in order] for order in orders]


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_each_variant_can_be_asked_for(tiny_bundle, variant):
    model = load(tiny_bundle, variant=variant, device="cpu", threads=1, max_batch_tokens=7)
    assert (model.variant, model.max_batch_tokens) == (variant, 7)
    manifest = open_bundle(tiny_bundle).manifest
    np.testing.assert_array_equal(
        model.logits(manifest.golden_rows), np.float32(manifest.variants[variant].golden_outputs)
    )


def test_the_manifest_names_the_variant_for_the_device(tiny_bundle):
    assert load(tiny_bundle, device="cpu").variant == "int8"


def test_an_unknown_variant_names_those_there_are(tiny_bundle):
    with pytest.raises(InputError, match="has no variant 'fp16'; it has: fp32, int8"):
        load(tiny_bundle, variant="fp16")


def test_a_device_that_does_not_work_is_an_error_when_asked_for_and_passed_over_in_auto(tiny_bundle, monkeypatch):
    monkeypatch.setattr("burnish_serve.session.probe", lambda provider: f"{provider} has no library")
    with pytest.raises(DeviceError, match="cannot run on cuda: CUDAExecutionProvider has no library") as caught:
        load(tiny_bundle, device="cuda")
    assert caught.value.exit_status == 6
    assert load(tiny_bundle, device="auto").session.get_providers() == ["CPUExecutionProvider"]


def test_an_unknown_device_names_those_there_are(tiny_bundle):
    with pytest.raises(DeviceError, match=r"'gpu'.*auto, cpu, cuda"):
        load(tiny_bundle, device="gpu")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"variants": {}}, "variant"),
        ({"defaults": {"CPUExecutionProvider": ("int8", "int4")}}, "int4"),
        ({"task": "fortune-telling"}, "fortune-telling"),
        ({"inputs": ("input_ids", "pixel_values")}, "pixel_values"),
        ({"labels": ("negative", "neutral", "positive")}, "labels"),
        ({"files": "without tokenizer"}, r"tokenizer\.json"),
    ],
    ids=["no variants", "default", "task", "inputs", "labels", "tokenizer"],
)
def test_a_manifest_that_does_not_fit_its_files_is_a_damaged_bundle(bundle_copy, edit_manifest, changes, said):
    if "files" in changes:
        files = open_bundle(bundle_copy).manifest.files
        changes = {"files": {name: file for name, file in files.items() if name != "tokenizer.json"}}
        (bundle_copy / "tokenizer.json").unlink()
    edit_manifest(bundle_copy, **changes)
    with pytest.raises(BundleError, match=said):
        load(bundle_copy, device="cpu")("great film")


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("onnx/model_int8.onnx", lambda data: b"not what it says"),
        ("onnx/model_int8.onnx", lambda data: data.replace(b"Gather", b"Gothar")),
        ("tokenizer.json", lambda data: b"not what it says"),
        ("tokenizer.json", lambda data: b"{}"),
    ],
    ids=["no graph", "an unknown operator", "no JSON", "no tokenizer"],
)
def test_a_file_that_does_not_load_is_a_damaged_bundle(bundle_copy, edit_manifest, file, spoil):
    from burnish_serve.bundle import describe_file

    files = open_bundle(bundle_copy).manifest.files
    (bundle_copy / file).write_bytes(spoil((bundle_copy / file).read_bytes()))
    edit_manifest(bundle_copy, files={**files, file: describe_file(bundle_copy / file)})
    with pytest.raises(BundleError, match=f"{file} (is not|cannot)"):
        load(bundle_copy, device="cpu")


@pytest.fixture(scope="module")
def pipeline():
    """Return transformers' pipeline over a random model with the tiny bundle's tokenizer."""
    torch = pytest.importorskip("torch")
    from transformers import BertConfig, BertForSequenceClassification, TextClassificationPipeline

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=100,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        id2label={0: "negative", 1: "positive"},
    )
    return lambda tokenizer: TextClassificationPipeline(
        model=BertForSequenceClassification(config).eval(), tokenizer=tokenizer, device="cpu"
    )


def shape_of(answers):
    """Return the nesting of lists and dicts with their keys and types, and no values."""
    if isinstance(answers, list):
        return [shape_of(answer) for answer in answers]
    return {key: type(value) for key, value in answers.items()}


@pytest.mark.parametrize(
    ("rows", "options"),
    [
        ("great film", {}),
        (["great film", "dull"], {}),
        (["great film"], {}),
        (["great film", "dull"], {"top_k": 2}),
        (["great film", "dull"], {"top_k": None}),
    ],
    ids=str,
)
def test_answers_have_the_shape_of_transformers_pipeline(tiny_model, tiny_bundle, pipeline, rows, options):
    from transformers import AutoTokenizer

    theirs = pipeline(AutoTokenizer.from_pretrained(tiny_bundle))(rows, **options)
    assert shape_of(tiny_model(rows, **options)) == shape_of(theirs)
