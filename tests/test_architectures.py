"""Every architecture with every head: proven, quantized, and fused as docs/architectures.md says.

The models are random and small, two layers each, with weights large enough that a fault shows in the logits. The
table of the page is made from them; this writes it anew where a version of PyTorch or ONNX Runtime changes it:

    python tests/test_architectures.py
"""

from __future__ import annotations

import functools
import gc
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers

from burnish_export import calibration, fusion, graph, proof, quantize
from burnish_export.architectures import FAMILIES
from burnish_export.network import Network, TorchSession
from burnish_serve.session import create_session
from burnish_serve.text import Encoded
from tiny_model import on_one_thread

pytestmark = pytest.mark.usefixtures("one_thread")
PAGE = Path(__file__).parents[1] / "docs" / "architectures.md"
VOCABULARY, SPREAD = 120, 0.2
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 80,
    "initializer_range": SPREAD,
}
# What a configuration has beside that; for DeBERTa as DeBERTa-v3 has it.
MORE: dict[str, dict[str, Any]] = {
    "albert": {"embedding_size": 16},
    "bert": {},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 16,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "position_biased_input": False,
        "type_vocab_size": 0,
    },
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    "electra": {"embedding_size": 16},
    "modernbert": {
        **{f"{name}_token_id": number for number, name in enumerate(("pad", "bos", "eos"))},
        "cls_token_id": 1,
        "sep_token_id": 2,
        "global_attn_every_n_layers": 2,
        "local_attention": 16,
    },
    "mpnet": {},
    "roberta": {},
    "xlm-roberta": {},
}
SPAN = ("start_logits", "end_logits")
HEADS = {
    "text": (transformers.AutoModelForSequenceClassification, 5, ("logits",)),
    "token": (transformers.AutoModelForTokenClassification, 5, ("logits",)),
    "question answering": (transformers.AutoModelForQuestionAnswering, 2, SPAN),
}
PAIRS = [(architecture, head) for architecture in MORE for head in HEADS]
every_pair = pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: "-".join(pair).replace(" ", "-"))


class Made(NamedTuple):
    """An architecture with a head, exported and quantized."""

    network: Network
    fp32: Path
    int8: Path
    products: int
    """Products that are integer in `int8`."""


def make_network(architecture: str, head: str, **changes: Any) -> Network:
    """Return a random model; whatever starts as 0 or 1 (biases, normalizations) is random too, else none is missed."""
    cls, labels, outputs = HEADS[head]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(architecture, **{**SMALL, **MORE[architecture], **changes})
    config.num_labels = labels
    model = cls.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(SPREAD * torch.randn_like(parameter))
    return Network.of(model, config, outputs=outputs)


def make_rows(count: int, longest: int, seed: int = 0) -> list[Encoded]:
    """Return random rows of random lengths."""
    random = np.random.default_rng(seed)
    lengths = random.integers(1, longest + 1, count)
    return [
        Encoded(random.integers(0, VOCABULARY, length), random.integers(0, 2, length), truncated=False)
        for length in lengths
    ]


def make(folder: Path, architecture: str, head: str) -> Made:
    network = make_network(architecture, head)
    fp32, int8 = (folder / f"{architecture} {head} {name}.onnx" for name in ("fp32", "int8"))
    graph.to_onnx(network, fp32)
    observed = calibration.observe(fp32, network, make_rows(60, 40), folder)
    done = quantize.quantize_static(fp32, observed, quantize.Recipe(), int8)
    return Made(network, fp32, int8, done.products)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Iterator[Callable[[tuple[str, str]], Made]]:
    """Return a function that makes a pair, each once."""
    folder = tmp_path_factory.mktemp("architectures")
    gc.disable()  # an export leaves little behind and spends a quarter of its time on looking for it
    yield functools.cache(lambda pair: make(folder, *pair))
    gc.enable()


def logits_of(session: Any, network: Network, feed: dict[str, Any]) -> list[np.ndarray]:
    """Return the logits of each output, those of padding left out."""
    real = feed["attention_mask"].astype(bool)
    found = session.run(network.outputs, feed)
    of_texts = found[0].ndim == 2 and network.outputs == ("logits",)
    return [array if of_texts else array[real] for array in found]


# Each pair


@every_pair
def test_float32_answers_as_the_model_does(pair, made):
    network, fp32, *_ = made(pair)
    reference, session = TorchSession(network), create_session(fp32)
    proven = proof.prove(proof.make_cases(reference, network, []), session, network.outputs, "fp32", exact=True)
    assert proven.scale > 0.5, "logits in which a fault would show"
    feed = network.feed(make_rows(7, 20))
    feed = {name: np.concatenate([array[:, :1], array[:, :0:-1]], 1) for name, array in feed.items()}
    assert feed["attention_mask"][:, 0].all(), "heads of texts read the first token"
    assert not feed["attention_mask"][:, 1].all(), "and the padding comes right behind it"
    for right, ours in zip(*(logits_of(each, network, feed) for each in (reference, session)), strict=True):
        assert np.abs(right - ours).max() <= proof.TOLERANCE * np.abs(right).max()


@every_pair
def test_int8_gives_the_same_bits_alone_and_beside_others(pair, made):
    network, fp32, int8, products = made(pair)
    session = create_session(int8)
    rows = make_rows(12, 30, seed=1)
    together = logits_of(session, network, network.feed(rows))
    alone = zip(*(logits_of(session, network, network.feed([row])) for row in rows), strict=True)
    exact = logits_of(create_session(fp32), network, network.feed(rows))
    for one, others, right in zip(together, alone, exact, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_array_equal(np.concatenate(others), one)
        assert 1e-4 < np.abs(one - right).max() / np.abs(right).max() < 0.1, "is it quantized, and well?"
    assert products >= 8


@every_pair
def test_fusions_are_those_of_the_page(pair, made):
    network, fp32, int8, products = made(pair)
    report = fusion.check(network, fp32, int8)
    assert (report.missing, report.warnings) == ((), ())
    counts = report.to_dict()
    assert counts["graph"] | counts["session"] == counts["expected"], "not one less than is due, and not one more"
    kernels = counts["int8_session"]
    assert kernels[fusion.QUANTIZED] == kernels["MatMulIntegerToFloat"] + kernels["QGemm"] == products
    assert kernels["DequantizeLinear"] == 0
    committed = {cells[:2]: cells for cells in cells_of(PAGE.read_text(encoding="utf-8"))}
    line = line_of(pair, report)
    assert committed[pair] == cells_of(line)[0], (
        f"docs/architectures.md says how to write its table; this is due:\n{line}"
    )


def test_rewritten_nodes_keep_the_name_of_their_module(made):
    names = [node.name for node in ir.load(made(("albert", "text")).fp32).graph if node.op_type == "Gelu"]
    assert [name.split(".")[-1] for name in names] == ["activation/Gelu", "activation/Gelu_2"]


def test_every_known_architecture_is_on_the_page_and_no_other():
    assert [cells[:2] for cells in cells_of(PAGE.read_text(encoding="utf-8"))] == PAIRS
    assert sorted(FAMILIES) == sorted(MORE)


# The table of the page

IN_BYTES = ("MatMulIntegerToFloat", "QGemm")
COLUMNS = (*fusion.IN_FILE, *fusion.IN_SESSION, *IN_BYTES)
TITLE = f"| model type | head | {' | '.join(COLUMNS)} |"


def line_of(pair: tuple[str, str], report: fusion.Report) -> str:
    """Return a pair's line of the table."""
    assert report.int8 is not None
    counts = [
        *(report.file[name] for name in fusion.IN_FILE),
        *(report.session[name] for name in fusion.IN_SESSION),
        *(report.int8[name] for name in IN_BYTES),
    ]
    return f"| {' | '.join((*pair, *map(str, counts)))} |"


def cells_of(text: str) -> list[tuple[str, ...]]:
    """Return the cells of the table's lines in a text, its title left out."""
    lines = [line for line in text.splitlines() if line.startswith("| ") and line != TITLE]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def write_page() -> None:
    """Write the table of docs/architectures.md anew; the rest of the page stays."""
    with tempfile.TemporaryDirectory() as folder, on_one_thread():
        lines = []
        for pair in PAIRS:
            network, fp32, int8, _ = make(Path(folder), *pair)
            lines.append(line_of(pair, fusion.check(network, fp32, int8)))
            print(lines[-1], flush=True)
    table = "\n".join([TITLE, f"|---|---|{'---:|' * len(COLUMNS)}", *lines, ""])
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(re.sub(r"^\| model type (.*\n)(\|.*\n)*", table, text, flags=re.MULTILINE), encoding="utf-8")


if __name__ == "__main__":
    write_page()
