"""The fusion report: what is one operator in a graph and in ONNX Runtime's session, against what should be.

A fusion that goes missing changes no answer, so the proof cannot see it: the bundle is right, and slow. Therefore it is
counted, in the file and in what the session makes of it with the very optimizers that the runner uses. Less than
`architectures` says is an error. Of an unknown architecture nobody knows what is due: what was counted, and what looks
like pieces, goes into a warning.

>>> check(network, Path("model.onnx"), Path("model_int8.onnx")).warnings  # doctest: +SKIP
()
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from burnish_export.architectures import FAMILIES, PRODUCTS, due
from burnish_export.network import Network, PooledHead
from burnish_serve import machine
from burnish_serve.errors import FusionError
from burnish_serve.session import DISABLED_OPTIMIZERS, PROVIDERS, import_onnxruntime

QUANTIZED = "quantized products"
IN_FILE = (PRODUCTS, "LayerNormalization", "Gelu", "Softmax")
IN_SESSION = ("BiasGelu", "FastGelu", "FusedMatMul", "FusedGemm")
IN_INTEGERS = (QUANTIZED, "MatMulIntegerToFloat", "QGemm", "DequantizeLinear")
# Operators that are left where something did not become one, and what they are pieces of.
PIECES = {"Erf": "Gelu", "Exp": "Softmax", "ReduceMean": "LayerNormalization"}
HEADS = {
    "ForSequenceClassification": "text",
    "ForTokenClassification": "token",
    "ForQuestionAnswering": "token",
    PooledHead.__name__: "pooled",
    "Model": "none",
}


@dataclass(frozen=True, kw_only=True)
class Report:
    """What was counted and what is due."""

    file: Counter[str]
    """Operators of the float32 graph."""
    session: Counter[str]
    """Operators of the session that ONNX Runtime makes of it."""
    int8: Counter[str] | None
    """Operators of the session of the static int8 graph, and as `QUANTIZED` the products that its file has in bytes."""
    expected: Counter[str] | None
    """What is due in file and session; None for an unknown architecture."""
    missing: tuple[str, ...] = ()
    """What is not one operator, a clause each; empty where the architecture is known."""
    warnings: tuple[str, ...] = ()
    """For the manifest."""

    def to_dict(self) -> dict[str, dict[str, int] | None]:
        """Return the counts that matter, for the manifest."""

        def chosen(counts: Counter[str] | None, names: tuple[str, ...]) -> dict[str, int] | None:
            return None if counts is None else {name: counts[name] for name in names}

        return {
            "graph": chosen(self.file, IN_FILE),
            "session": chosen(self.session, IN_SESSION),
            "int8_session": chosen(self.int8, IN_INTEGERS),
            "expected": chosen(self.expected, (*IN_FILE, *IN_SESSION)),
        }


def count(path: Path) -> Counter[str]:
    """Return how many nodes of each operator a graph has, how many constant products, and how many of these in bytes.

    Args:
        path: an ONNX file.
    """
    graph = ir.load(path).graph
    found = Counter(node.op_type for node in graph)
    for node in graph:
        if node.op_type in {"MatMul", "Gemm"}:
            makers = [None if value is None else value.producer() for value in node.inputs[:2]]
            found[PRODUCTS] += node.inputs[1] is not None and node.inputs[1].const_value is not None
            found[QUANTIZED] += all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
    return found


def fused(path: Path) -> Counter[str]:
    """Return what `count` finds in the graph that ONNX Runtime makes of a file when it opens it on the CPU.

    The session is that of `burnish_serve.session.create_session` but for one thing: it writes its graph, beside the
    file and for a moment. No fusion that is reported hangs on the processor.
    """
    runtime = import_onnxruntime()
    provider = PROVIDERS["cpu"]
    with tempfile.TemporaryDirectory(prefix="fused-", dir=path.parent) as folder:
        options = runtime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3  # it would warn that the written graph fits this machine alone
        options.optimized_model_filepath = f"{folder}/fused.onnx"
        # Weights go beside the graph, which may hold no more than 2 GiB.
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights.data")
        disabled = DISABLED_OPTIMIZERS[provider]
        runtime.InferenceSession(str(path), options, providers=[provider], disabled_optimizers=disabled)
        return count(Path(folder) / "fused.onnx")


def expected(network: Network) -> Counter[str] | None:
    """Return what is due in the float32 graph and its session; None for an architecture or a head that is unknown."""
    name = type(network.module).__name__
    head = next((head for ending, head in HEADS.items() if name.endswith(ending)), None)
    return None if head is None else due(network.config, head)


def check(network: Network, fp32: Path, int8: Path | None = None) -> Report:
    """Count what is fused and hold it against what is due.

    Args:
        network: the model that was exported.
        fp32: its float32 graph.
        int8: its static int8 graph, where there is one.

    Raises:
        FusionError: the architecture is known, and something is in pieces that should be one operator.
    """
    model_type, wanted = network.config.model_type, expected(network)
    file, session = count(fp32), fused(fp32)
    integers = None
    if int8 is not None:
        integers = fused(int8)
        integers[QUANTIZED] = count(int8)[QUANTIZED]
    report = Report(file=file, session=session, int8=integers, expected=wanted)
    missing = tuple(_missing(report))
    if not missing and wanted is not None:
        return report
    if wanted is not None:
        versions = " and ".join(f"{name} {machine.version(name)}" for name in ("torch", "onnxruntime"))
        raise FusionError(
            f"the graph of this {model_type} model would answer rightly and slowly: {'; '.join(missing)}; that is a "
            f"fault of the export with {versions} and not of the model, and nothing was written"
        )
    counts = ", ".join(f"{file[name]} {name}" for name in IN_FILE)
    warning = (
        f"what should be fused in this {model_type} model is not known ({type(network.module).__name__}; known are "
        f"{', '.join(FAMILIES)}): its graph has {counts}; {'; '.join(missing) or 'nothing is known to be in pieces'}"
    )
    return Report(file=file, session=session, int8=integers, expected=None, missing=missing, warnings=(warning,))


def _missing(report: Report) -> Iterator[str]:
    """Yield what is not one operator, a clause each."""
    if report.expected is None:
        for piece, whole in PIECES.items():
            if report.file[piece]:
                yield f"the graph has {report.file[piece]} {piece}, a piece of {whole}"
    for where, counts, names in (("graph", report.file, IN_FILE), ("session", report.session, IN_SESSION)):
        for name in names:
            if report.expected is not None and counts[name] < report.expected[name]:
                yield f"the {where} has {counts[name]} {name} where {report.expected[name]} are due"
    if report.int8 is not None:
        wanted, plain, biased, left = (report.int8[name] for name in IN_INTEGERS)
        if plain + biased < wanted or left:
            kernels = " and ".join(f"{report.int8[name]} {name}" for name in IN_INTEGERS[1:3])
            yield f"the int8 session has {kernels} where {wanted} are due, and {left} {IN_INTEGERS[3]}"
