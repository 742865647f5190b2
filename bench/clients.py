"""The server asked by clients that others wrote: tritonclient, and KServe's Python SDK, in an environment of their own.

KServe wants dozens of packages, so there are two halves. The first runs in ``.venv`` and writes down how our runner
answers. The second runs in ``.venv-clients``, imports nothing of Burnish, asks a server by the Open Inference Protocol,
and ends with one sentence at the first answer that is another.

    python bench/clients.py run --python .venv-clients/bin/python BUNDLE=rows.jsonl BUNDLE=rows.jsonl
    python bench/clients.py ours BUNDLE=rows.jsonl
    .venv-clients/bin/python bench/clients.py theirs http://127.0.0.1:8080
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import click

WORK = Path("runs/clients")
EXPECTED = WORK / "expected.json"
LOG = WORK / "server.log"
NUM_ROWS = 100
ROWS_OF_REQUEST = 32
SECONDS = 120.0  # for a server to be ready, or to end
# Exact answers need one provider on both sides, and a variant whose answers depend on no neighbours.
PROVIDER = "cpu"
ENCODINGS = ("json", "binary")


class DifferentError(click.ClickException):
    """A client was told something else than was expected; the message is one sentence."""


@click.group()
def main() -> None:
    """Compare what clients of others are answered with what our runner answers."""


# In our environment


@main.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE=DATA…")
def ours(bundles: tuple[str, ...]) -> None:
    """Write down what is expected of each BUNDLE for the first rows of its file DATA."""
    from burnish_serve import BurnishError

    WORK.mkdir(parents=True, exist_ok=True)
    try:
        expected = [write_down(*split(one)) for one in bundles]
    except BurnishError as error:
        raise click.ClickException(str(error)) from error
    EXPECTED.write_text(json.dumps(expected, ensure_ascii=False), encoding="utf-8")


def split(given: str) -> tuple[str, str]:
    """Return the bundle and the file of ``BUNDLE=DATA``."""
    bundle, _, data = given.partition("=")
    if not bundle or not data:
        raise click.UsageError(f"{given!r} is not BUNDLE=DATA")
    return bundle, data


def write_down(bundle: str, data: str) -> dict[str, Any]:
    """Return rows of a file, and the metadata and the tensors that a client must be given for them."""
    from burnish_serve import BurnishError, load, open_bundle
    from burnish_serve.rows import read_rows

    model = load(bundle, provider=PROVIDER)
    if not open_bundle(bundle).manifest.variants[model.variant].batch_invariant:
        raise BurnishError(f"{bundle}: the answers of {model.variant} depend on the batch, so none can be expected")
    found = [row for _, row in itertools.islice(read_rows(data), NUM_ROWS)]
    if not found:
        raise BurnishError(f"{data} has no rows")
    inputs = columns_of(model.task.columns, found[0], data)
    rows = [{column: row[column] for column in inputs} for row in found]
    labels = {"label": "BYTES", "score": "FP32"} if model.task.pipeline == "text-classification" else {}
    return {
        "name": Path(bundle).resolve().name,
        "inputs": dict.fromkeys(inputs, "BYTES"),
        "outputs": {**labels, "answer": "BYTES"},
        "rows": rows,
        "answers": [tensors_of(answer) for answer in model(rows)],
    }


def columns_of(known: Sequence[Sequence[str]], row: dict[str, Any], data: str) -> list[str]:
    """Return the columns of text that a row has of those that a task reads."""
    for columns in known:
        if all(isinstance(row.get(column), str) for column in columns):
            return list(columns)
    raise click.ClickException(f"{data}: the rows have none of: {'; '.join(', '.join(some) for some in known)}")


def tensors_of(answer: Any) -> dict[str, Any]:
    """Return what a row's outputs hold: the whole answer, and label and score of the best."""
    best = answer if isinstance(answer, dict) else next(iter(answer), {})
    return {"label": best.get("label", ""), "score": best.get("score", 0.0), "answer": answer}


@main.command()
@click.argument("bundles", nargs=-1, required=True, metavar="BUNDLE=DATA…")
@click.option("--python", required=True, help="python of the environment that has the clients")
@click.pass_context
def run(context: click.Context, bundles: tuple[str, ...], python: str) -> None:
    """Do it all: write down, serve all BUNDLEs together at a free port, and let the clients ask."""
    context.invoke(ours, bundles=bundles)
    with serving([split(one)[0] for one in bundles]) as url:
        status = subprocess.run([python, __file__, "theirs", url], check=False).returncode
    sys.exit(status)


@contextmanager
def serving(bundles: Sequence[str]) -> Iterator[str]:
    """Run a server of bundles and give its address; its log is a file of the work folder."""
    burnish = str(Path(sys.executable).with_name("burnish"))
    command = [burnish, "serve", *bundles, "--port", "0", "--provider", PROVIDER]
    with LOG.open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield address(process)
    finally:
        process.terminate()
        try:
            status = process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
    if status:
        raise click.ClickException(f"the server ended with status {status}; {LOG} says why")


def address(process: subprocess.Popen[bytes]) -> str:
    """Return where a server listens, once its log says so."""
    ends = time.monotonic() + SECONDS
    while not (found := re.search(r"running on (http://\S+)", LOG.read_text(encoding="utf-8"))):
        if process.poll() is not None or time.monotonic() > ends:
            raise click.ClickException(f"the server does not listen; {LOG} says why")
        time.sleep(0.1)
    return found[1]


# In the clients' environment


class Answered(NamedTuple):
    """What a client makes of a response."""

    model: str
    id: str
    binary: bool
    """Whether its tensors came as bytes."""
    tensors: dict[str, Any]


class Triton:
    """tritonclient, which names a model's version in its requests.

    Args:
        url: where the server listens.
        name: the model's.
    """

    package = "tritonclient"

    def __init__(self, url: str, name: str) -> None:
        from tritonclient.http import InferenceServerClient

        self.name = name
        self.client = InferenceServerClient(urlsplit(url).netloc)

    def told(self) -> dict[str, Any]:
        """Return what the server says of itself and of the model."""
        metadata = self.client.get_model_metadata(self.name)
        return {
            "live": self.client.is_server_live(),
            "ready": self.client.is_server_ready(),
            "server": self.client.get_server_metadata()["name"],
            "metadata": {key: metadata[key] for key in ("name", "inputs", "outputs")},
            "model ready": self.client.is_model_ready(self.name, metadata["versions"][0]),
            "no such model": self.client.is_model_ready(f"no-{self.name}"),
        }

    def refused(self, inputs: dict[str, list[str]]) -> tuple[int, str]:
        """Return status and sentence of a request's refusal."""
        from tritonclient.utils import InferenceServerException

        try:
            self.infer(inputs, [], "", binary=False)
        except InferenceServerException as error:
            return int(error.status()), error.message()
        return 200, ""

    def infer(self, inputs: dict[str, list[str]], outputs: Sequence[str], number: str, *, binary: bool) -> Answered:
        """Ask for answers; where it names no outputs it asks for all as bytes."""
        import numpy as np
        from tritonclient.http import InferInput, InferRequestedOutput

        tensors = [InferInput(column, [len(texts)], "BYTES") for column, texts in inputs.items()]
        for tensor, texts in zip(tensors, inputs.values(), strict=True):
            tensor.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)
        wanted = None if binary else [InferRequestedOutput(output, binary_data=False) for output in outputs]
        found = self.client.infer(self.name, tensors, model_version="1", outputs=wanted, request_id=number)
        said = found.get_response()
        names = [output["name"] for output in said["outputs"]]
        as_bytes = not any("data" in output for output in said["outputs"])
        return Answered(said["model_name"], said["id"], as_bytes, {name: found.as_numpy(name) for name in names})


class KServe:
    """The client of KServe's Python SDK.

    Args:
        url: where the server listens.
        name: the model's.
    """

    package = "kserve"

    def __init__(self, url: str, name: str) -> None:
        from kserve import InferenceRESTClient, RESTConfig

        self.url, self.name = url, name
        self.client = InferenceRESTClient(RESTConfig(protocol="v2"))
        self.run = asyncio.Runner().run

    def told(self) -> dict[str, Any]:
        """Return what the server says; metadata this client cannot ask for, and the SDK's own types read them."""
        import httpx
        from kserve.protocol.rest.v2_datamodels import ModelMetadataResponse, ServerMetadataResponse

        server = httpx.get(f"{self.url}/v2").raise_for_status()
        model = httpx.get(f"{self.url}/v2/models/{self.name}").raise_for_status()
        metadata = ModelMetadataResponse.model_validate_json(model.content, strict=True)
        return {
            "live": self.run(self.client.is_server_live(self.url)),
            "ready": self.run(self.client.is_server_ready(self.url)),
            "server": ServerMetadataResponse.model_validate_json(server.content, strict=True).name,
            "metadata": metadata.model_dump(include={"name", "inputs", "outputs"}),
            "model ready": self.run(self.client.is_model_ready(self.url, self.name)),
            "no such model": self.run(self.client.is_model_ready(self.url, f"no-{self.name}")),
        }

    def refused(self, inputs: dict[str, list[str]]) -> tuple[int, str]:
        """Return status and sentence of a request's refusal."""
        import httpx

        try:
            self.infer(inputs, [], "", binary=False)
        except httpx.HTTPStatusError as error:
            return error.response.status_code, str(error)
        return 200, ""

    def infer(self, inputs: dict[str, list[str]], outputs: Sequence[str], number: str, *, binary: bool) -> Answered:
        """Ask for answers; where it names no outputs it asks for all as JSON."""
        import numpy as np
        from kserve import InferInput, InferRequest
        from kserve.protocol.infer_type import RequestedOutput

        tensors = [InferInput(column, [len(texts)], "BYTES") for column, texts in inputs.items()]
        for tensor, texts in zip(tensors, inputs.values(), strict=True):
            tensor.set_data_from_numpy(np.array(texts, dtype=np.object_), binary_data=binary)
        wanted = [RequestedOutput(output, {"binary_data": True}) for output in outputs] if binary else None
        asked = InferRequest(self.name, tensors, number, request_outputs=wanted)
        headers: dict[str, str] = {}
        said = self.run(self.client.infer(self.url, asked, model_name=self.name, response_headers=headers))
        as_bytes = headers["content-type"] == "application/octet-stream"
        return Answered(said.model_name, said.id, as_bytes, {one.name: one.as_numpy() for one in said.outputs})


CLIENTS: tuple[type[Triton] | type[KServe], ...] = (Triton, KServe)


@main.command()
@click.argument("url")
def theirs(url: str) -> None:
    """Ask the server at URL with each client, and print a JSON line for each client and bundle."""
    if not EXPECTED.is_file():
        raise click.ClickException(f"there is no {EXPECTED}: `ours` writes it")
    wait(url)
    for bundle, kind in itertools.product(json.loads(EXPECTED.read_text(encoding="utf-8")), CLIENTS):
        who = f"{kind.package} {version(kind.package)}, {bundle['name']}"
        try:
            line = check(kind(url, bundle["name"]), bundle, who)
        except DifferentError:
            raise
        except Exception as error:  # what their libraries raise where they do not understand what they are told
            said = str(error).strip().splitlines() or [""]
            raise click.ClickException(f"{who}: it cannot ask: {type(error).__name__}: {said[0]}") from error
        print(json.dumps({"client": kind.package, "version": version(kind.package), **line}), flush=True)


def wait(url: str) -> None:
    """Wait until a server says to tritonclient that it is ready."""
    from tritonclient.http import InferenceServerClient

    ends = time.monotonic() + SECONDS
    try:
        with InferenceServerClient(urlsplit(url).netloc) as client:
            while not client.is_server_ready():
                if time.monotonic() > ends:
                    raise click.ClickException(f"the server at {url} was not ready within {SECONDS:.0f} seconds")
                time.sleep(0.2)
    except OSError as error:
        raise click.ClickException(f"nothing answers at {url}: {error}") from error


def check(client: Triton | KServe, bundle: dict[str, Any], who: str) -> dict[str, Any]:
    """Compare all that a client is told of a bundle, and return what was compared."""
    told, inputs, outputs = client.told(), list(bundle["inputs"]), list(bundle["outputs"])
    sides = {
        side: [{"name": key, "datatype": kind, "shape": [-1]} for key, kind in bundle[side].items()]
        for side in ("inputs", "outputs")
    }
    expected = {"live": True, "ready": True, "server": "burnish", "metadata": {"name": bundle["name"], **sides}}
    expected |= {"model ready": True, "no such model": False}
    for what, value in expected.items():
        same(who, what, told[what], value)
    status, sentence = client.refused({"no-such-input": ["a"]})
    same(who, "the refusal of an input that is none", (status, inputs[0] in sentence), (400, True))
    rows: Counter[str] = Counter()
    for encoding, start in itertools.product(ENCODINGS, range(0, len(bundle["rows"]), ROWS_OF_REQUEST)):
        some, number = bundle["rows"][start : start + ROWS_OF_REQUEST], f"from-{start}"
        asked = {column: [row[column] for row in some] for column in inputs}
        found = client.infer(asked, outputs, number, binary=encoding == "binary")
        same(who, "model, id and encoding", found[:3], (bundle["name"], number, encoding == "binary"))
        rows[encoding] += same_answers(f"{who}, {encoding}", found.tensors, bundle, start, len(some))
    return {"bundle": bundle["name"], "told": [*expected, "refusal"], "rows": rows, "outputs": outputs}


def same(who: str, what: str, found: object, expected: object) -> None:
    """Raise where a client was told something else than was expected."""
    if found != expected:
        raise DifferentError(f"{who}: {what} is {found!r}, not {expected!r}")


def same_answers(who: str, tensors: dict[str, Any], bundle: dict[str, Any], start: int, count: int) -> int:
    """Return how many rows were compared, of which the first is at a place; raise where one is answered otherwise."""
    import numpy as np

    same(who, "the list of outputs", list(tensors), list(bundle["outputs"]))
    answers = bundle["answers"][start : start + count]
    for name, tensor in tensors.items():
        kind = np.dtype(np.float32 if bundle["outputs"][name] == "FP32" else np.object_)
        same(who, f"shape and type of {name}", (tensor.shape, tensor.dtype), ((count,), kind))
        for number, (value, answer) in enumerate(zip(tensor, answers, strict=True), start + 1):
            expected = np.float32(answer[name]) if name == "score" else answer[name]
            same(who, f"{name} of row {number}", decoded(name, value), expected)
    return len(answers)


def decoded(name: str, value: Any) -> Any:
    """Return an element of a tensor: JSON where it is an answer, text where it is a label, a float32 as it is."""
    if name == "score":
        return value
    text = value.decode() if isinstance(value, bytes) else value
    return json.loads(text) if name == "answer" else text


if __name__ == "__main__":
    main()
