"""Makes ``tests/tiny_bundle/``: a whole bundle of a few kilobytes, so that the runner is tested without PyTorch.

Its model is a bag of words with weights written by hand: each token's vector is its word's weight times one direction,
and the logits are the mean over tokens along that direction. All numbers are short binary fractions and the division
by the number of tokens comes last, so every sum is exact: any machine and any batch give the same bits, and running
this again gives the same bytes.

    python tests/make_tiny_bundle.py
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from burnish_serve.batching import mask, pad
from burnish_serve.bundle import MANIFEST, Manifest, Variant, describe_file
from burnish_serve.text import TextEncoder

FOLDER = Path(__file__).parent / "tiny_bundle"
LABELS = ("negative", "positive")
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
MAX_LENGTH = 16
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# A word's weight: above 0 is praise. `e`, `x` and their continuations let tests write words of any length.
PLAIN_WORDS = """
    the a an and or but of in it is was this that i he she we they you
    film movie plot actor scene story music end day food service room price
    . , ! ? ' - e x ##e ##x ##s ##ly ##ing
"""
WORDS = {
    **dict.fromkeys(PLAIN_WORDS.split(), 0.0),
    "not": -1.53125,
    "never": -1.28125,
    "great": 6.34375,
    "good": 4.21875,
    "nice": 3.15625,
    "love": 5.09375,
    "fun": 4.40625,
    "best": 5.78125,
    "fresh": 2.28125,
    "warm": 2.03125,
    "dull": -6.21875,
    "bad": -4.34375,
    "worst": -5.84375,
    "slow": -2.90625,
    "boring": -5.40625,
    "cold": -2.15625,
    "hate": -5.03125,
    "awful": -5.71875,
}
DIRECTION = np.array([1, -1, 0.5, -0.5, 1, -1, 0.5, 0.5], dtype=np.float32)
BIAS = np.array([0.125, 0.0], dtype=np.float32)
# What one step of int8 is worth: coarse enough that the int8 variant answers a little differently.
STEP = np.float32(0.0625)
GOLDEN_ROWS = ({"text": "great film"}, {"text": "dull"}, {"text": "It was never boring, and the music is nice!"})
CARD = """# Tiny bundle

Made by `tests/make_tiny_bundle.py` for Burnish's own tests: English words with weights written by hand, labels
`negative` and `positive`. It was trained on nothing and is good for nothing else.
"""


def main(folder: Path = FOLDER) -> None:
    """Write the bundle into a folder."""
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    vocabulary = {word: number for number, word in enumerate((*SPECIAL, *WORDS))}
    tokenizer(vocabulary).save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": MAX_LENGTH,
            "model_input_names": list(INPUTS),
            **{f"{token[1:-1].lower()}_token": token for token in SPECIAL},
        },
    )
    write_json(
        folder / "config.json",
        {
            "model_type": "bert",
            "problem_type": "single_label_classification",
            "id2label": {str(number): label for number, label in enumerate(LABELS)},
            "label2id": {label: number for number, label in enumerate(LABELS)},
            "max_position_embeddings": MAX_LENGTH,
            "pad_token_id": vocabulary["[PAD]"],
            "vocab_size": len(vocabulary),
        },
    )
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    names = {"fp32": "onnx/model.onnx", "int8": "onnx/model_int8.onnx"}
    for name, file in names.items():
        (folder / file).write_bytes(graph(name).SerializeToString(deterministic=True))
    answers = {name: golden_outputs(folder, file) for name, file in names.items()}
    manifest = Manifest(
        task="text-classification",
        labels=LABELS,
        max_length=MAX_LENGTH,
        pad_token_id=vocabulary["[PAD]"],
        inputs=INPUTS,
        outputs=("logits",),
        variants={
            name: Variant(
                file=file,
                precision=name,
                batch_invariant=True,
                providers=("CPUExecutionProvider",),
                right_with=(),
                fast_with=(),
                latency_ms=None,
                texts_per_second=None,
                max_difference=float(np.abs(answers[name] - answers["fp32"]).max()),
                label_changes=0,
                score=None,
                golden_outputs=tuple(map(tuple, answers[name].tolist())),
                golden_tolerance=0.001,
            )
            for name, file in names.items()
        },
        defaults={"CPUExecutionProvider": ("int8", "fp32"), "CUDAExecutionProvider": ("fp32",)},
        files={
            path.relative_to(folder).as_posix(): describe_file(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file() and path.name != MANIFEST
        },
        golden_rows=GOLDEN_ROWS,
        reference_score=None,
        evaluation_rows=0,
        provenance={"base_model": "weights written by hand in tests/make_tiny_bundle.py"},
    )
    (folder / MANIFEST).write_bytes(manifest.to_bytes())


def tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    """Return BERT's tokenizer over a small vocabulary."""
    made = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")],
    )
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(list(SPECIAL))
    return made


def graph(variant: str) -> onnx.ModelProto:
    """Return the model, ``[batch, length]`` to ``[batch, labels]``; ``int8`` holds its embeddings as int8 with a scale.

    The head's weights stay float32: ONNX Runtime would multiply int8 ones by kernels that round as the processor likes.
    It has the three inputs of BERT and does not use the last: it knows no segments.
    """
    embeddings = np.outer([0.0] * len(SPECIAL) + list(WORDS.values()), DIRECTION).astype(np.float32)
    weights = np.stack([-DIRECTION, DIRECTION], axis=1) / 4
    constants = [
        numpy_helper.from_array(weights, "weights"),
        numpy_helper.from_array(BIAS, "bias"),
        numpy_helper.from_array(np.array([1], dtype=np.int64), "length_axis"),
        numpy_helper.from_array(np.array([2], dtype=np.int64), "last_axis"),
    ]
    nodes = []
    if variant == "fp32":
        constants.append(numpy_helper.from_array(embeddings, "embeddings"))
    else:
        steps = np.clip(np.round(embeddings / STEP), -127, 127).astype(np.int8)
        constants += [numpy_helper.from_array(steps, "steps"), numpy_helper.from_array(np.array(STEP), "step")]
        nodes.append(helper.make_node("DequantizeLinear", ["steps", "step"], ["embeddings"]))
    nodes += [
        helper.make_node("Gather", ["embeddings", "input_ids"], ["vectors"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last_axis"], ["mask_of_vectors"]),
        helper.make_node("Mul", ["vectors", "mask_of_vectors"], ["read"]),
        helper.make_node("ReduceSum", ["read", "length_axis"], ["sum"], keepdims=0),
        helper.make_node("MatMul", ["sum", "weights"], ["sum_of_logits"]),
        helper.make_node("ReduceSum", ["mask", "length_axis"], ["tokens"], keepdims=1),
        helper.make_node("Div", ["sum_of_logits", "tokens"], ["mean_of_logits"]),
        helper.make_node("Add", ["mean_of_logits", "bias"], ["logits"]),
    ]
    inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "length"]) for name in INPUTS]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(LABELS)])
    model = helper.make_model(
        helper.make_graph(nodes, "bag_of_words", inputs, [output], constants),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model, full_check=True)
    return model


def golden_outputs(folder: Path, file: str) -> np.ndarray:
    """Return the logits of the golden rows as ONNX Runtime computes them, all in one batch."""
    encoded = TextEncoder(folder / "tokenizer.json", MAX_LENGTH)([(row["text"],) for row in GOLDEN_ROWS])
    ids = [row.ids for (row,) in encoded]
    arrays = {
        "input_ids": pad(ids, 0),
        "attention_mask": mask(ids),
        "token_type_ids": pad([row.type_ids for (row,) in encoded], 0),
    }
    session = onnxruntime.InferenceSession(str(folder / file), providers=["CPUExecutionProvider"])
    return session.run(["logits"], arrays)[0]


def write_json(path: Path, values: dict) -> None:
    """Write a JSON file as transformers does."""
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
