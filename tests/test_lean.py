"""The runner loads without PyTorch: fresh processes tell what they imported, and missing packages name their extra."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "onnx", "onnxscript", "optimum", "datasets", "accelerate", "starlette", "pyarrow")
HEAVY += ("sklearn", "scipy", "matplotlib", "pandas", "model_signing", "cryptography")
RUN = """
import json, sys
from importlib.abc import MetaPathFinder

blocked, arguments = json.loads(sys.argv[1])

class Block(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Block())
status = 0
if arguments is None:
    import burnish_serve
else:
    from burnish_serve.cli import main
    try:
        main(arguments)
    except SystemExit as end:
        status = end.code
modules = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"status": status, "modules": modules}), file=sys.stderr)
"""


@pytest.fixture
def run_lean(environment, tmp_path):
    """Return a function that runs the command without some packages; it gives status, output and what was imported."""

    def run(arguments, blocked=()):
        process = subprocess.run(
            [sys.executable, "-c", RUN, json.dumps([list(blocked), arguments and [str(item) for item in arguments]])],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        *said, last = process.stderr.splitlines()
        found = json.loads(last)
        return found["status"] or 0, process.stdout, "\n".join(said), set(found["modules"])

    return run


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        ["--help"],
        ["--version"],
        ["train", "--help"],
        ["doctor"],
        ["inspect", "BUNDLE"],
        ["verify", "BUNDLE"],
        ["predict", "BUNDLE", "--text", "great film"],
    ],
    ids=lambda arguments: "import" if arguments is None else " ".join(arguments),
)
def test_nothing_heavy_is_imported(run_lean, tiny_bundle, arguments):
    arguments = arguments and [tiny_bundle if item == "BUNDLE" else item for item in arguments]
    status, output, said, modules = run_lean(arguments)
    assert status == 0, said
    assert bool(output) == (arguments is not None)
    assert "burnish_serve" in modules
    assert not modules & set(HEAVY)


def test_the_guard_sees_what_is_imported(run_lean, tiny_bundle, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "great", "label": "positive"}\n')
    *_, modules = run_lean(["evaluate", tiny_bundle, "--data", "rows.jsonl"])
    assert "sklearn" in modules


def test_predicting_works_where_nothing_heavy_is_installed(run_lean, tiny_bundle, tmp_path):
    (tmp_path / "rows.csv").write_text("text\ngreat film\n")
    status, output, said, _ = run_lean(["predict", tiny_bundle, "rows.csv"], HEAVY)
    assert (status, said) == (0, "")
    assert json.loads(output)["answer"]["label"] == "positive"


@pytest.mark.parametrize(
    ("arguments", "blocked", "extra"),
    [
        (["predict", "BUNDLE", "rows.parquet"], ["pyarrow"], "files"),
        (["predict", "BUNDLE", "rows.jsonl", "--out", "out.parquet"], ["pyarrow"], "files"),
        (["evaluate", "BUNDLE", "--data", "rows.jsonl"], ["sklearn"], "eval"),
        (["evaluate", "checkpoint", "--data", "rows.jsonl"], ["torch", "transformers"], "train"),
        (["predict", "BUNDLE", "rows.jsonl"], ["onnxruntime"], "cpu"),
        (["inspect", "BUNDLE", "--require-signature", "key.pub"], ["model_signing"], "sign"),
        (["serve", "BUNDLE"], ["starlette", "uvicorn", "prometheus_client"], "http"),
        (
            ["train", "--model", "x", "--train", "rows.jsonl", "--out", "o", "--task", "text-classification"],
            ["torch", "transformers", "accelerate", "datasets"],
            "train",
        ),
    ],
    ids=[
        "read parquet",
        "write parquet",
        "evaluate",
        "evaluate a checkpoint",
        "runtime",
        "signature",
        "serve",
        "train",
    ],
)
def test_what_is_missing_is_said_as_an_extra(run_lean, tiny_bundle, tmp_path, arguments, blocked, extra):
    (tmp_path / "rows.jsonl").write_text('{"text": "great", "label": "positive"}\n' * 8)
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text("{}")
    status, output, said, _ = run_lean([tiny_bundle if item == "BUNDLE" else item for item in arguments], blocked)
    assert status == 1
    assert f"pip install 'burnish[{extra}]'" in said
    assert "Traceback" not in said
    assert output == ""
    assert not (tmp_path / "out.parquet").exists()
