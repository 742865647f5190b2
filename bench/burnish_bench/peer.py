"""Another way to answer texts, in a process of its own: run by a Python that has it and knows nothing of burnish.

The first line of standard input is a JSON object of settings. Each line after it is the number of a text to answer
alone, or ``all``. Each answer is a line of JSON on standard output: ``{"labels": [...], "seconds": 0.1}`` with the time
between the two, or ``{"error": "..."}``.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

Answer = Callable[[Sequence[str]], list[str]]
"""``texts -> labels``, tokenization included."""
BATCH = 32
CALIBRATION = 300


def labels_of(settings: dict[str, Any]) -> list[str]:
    """Return the labels in the order of the logits."""
    config = json.loads((Path(settings["bundle"]) / "config.json").read_text(encoding="utf-8"))
    return [config["id2label"][str(number)] for number in range(len(config["id2label"]))]


def batches(texts: Sequence[str], encode: Callable[[Sequence[str]], list[Any]]) -> list[tuple[list[int], list[Any]]]:
    """Return the rows of each batch with their encodings, sorted by length."""
    encoded = encode(texts)
    order = sorted(range(len(texts)), key=lambda row: len(encoded[row].ids))
    some = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    return [(rows, [encoded[row] for row in rows]) for rows in some]


def padded(encoded: Sequence[Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the int64 arrays ``[rows, longest]`` of a batch, by input name."""
    import numpy as np

    longest = max(len(row.ids) for row in encoded)
    arrays = {name: np.zeros((len(encoded), longest), dtype=np.int64) for name in names}
    for line, row in enumerate(encoded):
        arrays["input_ids"][line, : len(row.ids)] = row.ids
        arrays["attention_mask"][line, : len(row.ids)] = 1
    return arrays


def fast_tokenizer(settings: dict[str, Any]) -> Callable[[Sequence[str]], list[Any]]:
    """Return the tokenizer alone, cutting where the bundle cuts."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(settings["bundle"]) / "tokenizer.json"))
    tokenizer.enable_truncation(settings["max_length"])
    return lambda texts: tokenizer.encode_batch(list(texts))


def torch_model(settings: dict[str, Any]) -> Any:
    """Return the checkpoint's PyTorch model, as transformers loads it, with a pooled head where it has one."""
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers.modeling_outputs import SequenceClassifierOutput

    torch.set_num_threads(settings["threads"])
    folder = Path(settings["checkpoint"])
    head = folder / "head.safetensors"
    if not head.exists():
        return transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    encoder = transformers.AutoModel.from_pretrained(folder)

    class Pooled(type(encoder)):  # type: ignore[misc]  # a class of its own architecture
        def forward(self, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
            rest = {name: value for name, value in rest.items() if name == "token_type_ids"}
            hidden = super().forward(input_ids=input_ids, attention_mask=attention_mask, **rest).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            return SequenceClassifierOutput(logits=self.classifier((hidden * mask).sum(1) / mask.sum(1)))

    weights = load_file(head)
    encoder.classifier = torch.nn.Linear(*reversed(weights["weight"].shape))
    encoder.classifier.load_state_dict(weights)
    encoder.__class__ = Pooled
    return encoder.eval()


def hub_tokenizer(settings: dict[str, Any]) -> Any:
    """Return transformers' tokenizer of the bundle."""
    import transformers

    return transformers.AutoTokenizer.from_pretrained(settings["bundle"])


def pipeline(settings: dict[str, Any], model: Any) -> Answer:
    """Return transformers' pipeline around a model."""
    import transformers

    pipe = transformers.pipeline("text-classification", model=model, tokenizer=hub_tokenizer(settings), device="cpu")
    options = {"batch_size": BATCH, "truncation": True, "max_length": settings["max_length"]}
    return lambda texts: [answer["label"] for answer in pipe(list(texts), **options)]


def transformers_pipeline(settings: dict[str, Any]) -> Answer:
    """Return transformers' pipeline with the PyTorch model in float32."""
    return pipeline(settings, torch_model(settings))


def torch_compile(settings: dict[str, Any]) -> Answer:
    """Return the PyTorch model compiled by inductor, in batches sorted by length."""
    import torch

    model, labels, encode = torch_model(settings), labels_of(settings), fast_tokenizer(settings)
    compiled = torch.compile(model, dynamic=True)

    def answer(texts: Sequence[str]) -> list[str]:
        found = [""] * len(texts)
        with torch.inference_mode():
            for rows, encoded in batches(texts, encode):
                arrays = padded(encoded, ("input_ids", "attention_mask"))
                logits = compiled(**{name: torch.from_numpy(array) for name, array in arrays.items()}).logits
                for row, best in zip(rows, logits.argmax(-1).tolist(), strict=True):
                    found[row] = labels[best]
        return found

    return answer


def optimum_int8(settings: dict[str, Any]) -> Answer:
    """Return transformers' pipeline with optimum-onnx's model, quantized dynamically by optimum for AVX512-VNNI."""
    import onnxruntime
    from optimum.onnxruntime import ORTModelForSequenceClassification, ORTQuantizer
    from optimum.onnxruntime.configuration import AutoQuantizationConfig

    work = Path(settings["work"])
    plain = ORTModelForSequenceClassification.from_pretrained(
        settings["bundle"], subfolder="onnx", file_name="model.onnx"
    )
    quantizer = ORTQuantizer.from_pretrained(plain)
    quantizer.quantize(save_dir=work, quantization_config=AutoQuantizationConfig.avx512_vnni(is_static=False))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings["threads"]
    (file,) = work.glob("*.onnx")
    model = ORTModelForSequenceClassification.from_pretrained(work, file_name=file.name, session_options=options)
    return pipeline(settings, model)


def openvino_int8(settings: dict[str, Any], *, precision: str = "f32", streams: int = 1) -> Answer:
    """Return OpenVINO with NNCF's int8, by hand: batches sorted by length, so many of them at once."""
    import nncf
    import numpy as np
    import openvino

    labels, encode = labels_of(settings), fast_tokenizer(settings)
    core = openvino.Core()
    model = core.read_model(str(Path(settings["bundle"]) / "onnx" / "model.onnx"))
    names = [item.get_any_name() for item in model.inputs]
    texts = json.loads(Path(settings["calibration"]).read_text(encoding="utf-8"))[:CALIBRATION]
    items = [padded([encoded], names) for encoded in encode(texts)]
    with contextlib.redirect_stdout(sys.stderr):
        model = nncf.quantize(model, nncf.Dataset(items), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(items))
    compiled = core.compile_model(
        model,
        "CPU",
        {"INFERENCE_NUM_THREADS": settings["threads"], "NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": precision},
    )
    queue = openvino.AsyncInferQueue(compiled, streams)
    best: dict[int, str] = {}

    def done(request: Any, rows: list[int]) -> None:
        for row, label in zip(rows, np.argmax(request.get_output_tensor(0).data, axis=-1), strict=True):
            best[row] = labels[label]

    queue.set_callback(done)

    def answer(some: Sequence[str]) -> list[str]:
        for rows, encoded in batches(some, encode):
            queue.start_async(padded(encoded, names), rows)
        queue.wait_all()
        return [best[row] for row in range(len(some))]

    return answer


def sentence_transformers_onnx(settings: dict[str, Any]) -> Answer:
    """Return sentence-transformers' ONNX backend with the checkpoint's head on its vectors."""
    import numpy as np
    from safetensors.numpy import load_file
    from sentence_transformers import SentenceTransformer

    head = load_file(Path(settings["checkpoint"]) / "head.safetensors")
    model = SentenceTransformer(
        settings["checkpoint"], backend="onnx", model_kwargs={"provider": "CPUExecutionProvider", "export": True}
    )
    model.max_seq_length = settings["max_length"]
    labels = labels_of(settings)

    def answer(texts: Sequence[str]) -> list[str]:
        vectors = model.encode(list(texts), batch_size=BATCH, show_progress_bar=False)
        return [labels[best] for best in np.argmax(vectors @ head["weight"].T + head["bias"], axis=-1)]

    return answer


PEERS: dict[str, tuple[Callable[[dict[str, Any]], Answer], tuple[str, ...]]] = {
    "transformers": (transformers_pipeline, ("transformers", "torch")),
    "torch.compile": (torch_compile, ("torch",)),
    "optimum-onnx int8": (optimum_int8, ("optimum-onnx", "onnxruntime")),
    "openvino int8": (openvino_int8, ("openvino", "nncf")),
    "openvino int8+bf16": (lambda settings: openvino_int8(settings, precision="bf16"), ("openvino", "nncf")),
    "openvino int8 streams": (
        lambda settings: openvino_int8(settings, streams=settings["threads"]),
        ("openvino", "nncf"),
    ),
    "sentence-transformers onnx": (sentence_transformers_onnx, ("sentence-transformers", "onnxruntime")),
}
"""What makes each peer, and the packages whose versions are told."""


def main() -> None:
    """Answer what is asked until standard input ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes to standard error

    def tell(value: dict[str, Any]) -> None:
        out.write(json.dumps(value) + "\n")
        out.flush()

    settings = json.loads(sys.stdin.readline())
    make, packages = PEERS[settings["peer"]]
    with tempfile.TemporaryDirectory(prefix="burnish-peer-") as work:
        try:
            answer = make({**settings, "work": work})
            texts = json.loads(Path(settings["texts"]).read_text(encoding="utf-8"))
            tell({"versions": {name: importlib.metadata.version(name) for name in packages}})
            for line in sys.stdin:
                asked = texts if line.strip() == "all" else [texts[int(line)]]
                started = time.perf_counter()
                labels = answer(asked)
                tell({"labels": labels, "seconds": time.perf_counter() - started})
        except Exception as error:  # whatever a library raises is what its user would see
            tell({"error": f"{type(error).__name__}: {error}"})


if __name__ == "__main__":
    main()
