"""The server as a process: what it answers, refuses and survives, asked over plain sockets and the standard library."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import signal
import socket
import struct
import threading
import time

import pytest

from burnish_serve import load
from http_process import JSON, Process, start

__all__ = ["start"]  # a fixture

TEXTS = ["great film", "dull", "great " * 9, "a dull film of great length", "电影 😀 e\u0301"]
TOKEN = "a-token-of-the-test"  # noqa: S105  # opens nothing


@pytest.fixture(scope="module")
def server(start, tiny_bundle) -> Process:
    """Return a server with small limits."""
    limits = ["--max-texts", 8, "--max-characters", 20_000, "--max-body-bytes", 60_000, "--slow-client", 1.5]
    return start(tiny_bundle, "--variant", "int8", *limits)


@pytest.fixture(scope="module")
def model(tiny_bundle):
    return load(tiny_bundle, device="cpu", variant="int8", threads=1)


# What it answers


def test_rows_are_answered_as_the_runner_does(server, model):
    status, headers, found = server.post("/v1/predict", {"rows": [*TEXTS, {"text": "dull"}]})
    assert status == 200
    assert found == {"model": "tiny_bundle", "answers": model([*TEXTS, "dull"])}
    assert headers["x-request-id"]
    _, _, found = server.post("/v1/predict", {"rows": TEXTS, "options": {"top_k": None}, "model": "tiny_bundle"})
    assert found["answers"] == model(TEXTS, top_k=None)
    assert server.post("/v1/predict", {"rows": []})[2]["answers"] == []


def test_many_clients_get_their_own_answers(server, model):
    right = {text: model([text]) for text in TEXTS}
    wrong: list[object] = []

    def ask(number: int) -> None:
        with contextlib.closing(server.connection()) as connection:
            for turn in range(30):
                text = TEXTS[(number + turn) % len(TEXTS)]
                connection.request("POST", "/v1/predict", json.dumps({"rows": [text]}), JSON)
                found = json.loads(connection.getresponse().read())
                if found.get("answers") != right[text]:
                    wrong.append(found)

    threads = [threading.Thread(target=ask, args=[number]) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def tensor(texts: list[str]) -> dict:
    return {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}


def test_tensors_are_answered(server, model):
    path = "/v2/models/tiny_bundle"
    asked = {"id": "7", "inputs": [tensor(TEXTS)], "parameters": {"top_k": 1}}
    status, _, found = server.post(f"{path}/infer", asked)
    assert status == 200
    assert (found["id"], found["model_name"]) == ("7", "tiny_bundle")
    by_name = {output["name"]: output for output in found["outputs"]}
    right = model(TEXTS, top_k=1)
    best = [answer[0] if isinstance(answer, list) else answer for answer in right]
    assert by_name["label"]["data"] == [answer["label"] for answer in best]
    assert by_name["score"] == {
        "name": "score",
        "datatype": "FP32",
        "shape": [len(TEXTS)],
        "data": [answer["score"] for answer in best],
    }
    assert [json.loads(answer) for answer in by_name["answer"]["data"]] == right
    assert server.get(path)[2]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert server.get(f"{path}/ready")[2] == {"name": "tiny_bundle", "ready": True}
    assert server.get("/v2/health/live")[:1] == (200,)
    assert "binary_tensor_data" in server.get("/v2")[2]["extensions"]


def test_tensors_of_bytes_are_answered_in_bytes(server, model):
    raw = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in TEXTS)
    source = {"name": "text", "datatype": "BYTES", "shape": [len(TEXTS)], "parameters": {"binary_data_size": len(raw)}}
    asked = {
        "inputs": [source],
        "outputs": [{"name": "score"}, {"name": "label", "parameters": {"binary_data": False}}],
    }
    head = json.dumps({**asked, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    status, headers, content = server.post("/v2/models/tiny_bundle/infer", head + raw, headers)
    assert status == 200
    length = int(headers["inference-header-content-length"])
    score, label = json.loads(content[:length])["outputs"]
    assert score["parameters"] == {"binary_data_size": 4 * len(TEXTS)}
    right = model(TEXTS)
    assert list(struct.unpack(f"<{len(TEXTS)}f", content[length:])) == [answer["score"] for answer in right]
    assert label["data"] == [answer["label"] for answer in right]


def test_what_text_embeddings_inference_answers(server, model):
    every = model(TEXTS, top_k=None)
    assert server.post("/predict", {"inputs": TEXTS[0]})[2] == every[0]
    assert server.post("/predict", {"inputs": [[text] for text in TEXTS]})[2] == every
    assert server.get("/info")[2]["model_id"] == "tiny_bundle"


def test_what_an_operator_sees(server):
    server.post("/v1/predict", {"rows": ["dull"]}, {"X-Request-Id": "mine-7", "traceparent": "00-ab-cd-01"})
    figures = server.get("/metrics")[2].decode()
    assert re.search(r'burnish_requests_total\{route="/v1/predict",status="200"\} \d', figures)
    assert re.search(r'burnish_stage_seconds_count\{model="tiny_bundle",stage="infer"\} [1-9]', figures)
    assert re.search(r'burnish_batch_tokens_count\{model="tiny_bundle"\} [1-9]', figures)
    assert 'variant="int8"' in figures
    line = json.loads(server.said(r'burnish: (\{.*"mine-7".*\})')[1])
    assert (line["route"], line["status"], line["traceparent"]) == ("/v1/predict", 200, "00-ab-cd-01")
    assert "dull" not in server.log.read_text()


def test_ids_of_requests_come_back_where_they_are_harmless(server):
    assert server.get("/v2", **{"X-Request-Id": "abc.1_2-3"})[1]["x-request-id"] == "abc.1_2-3"
    assert re.fullmatch(r"[0-9a-f]{16}", server.get("/v2", **{"X-Request-Id": "a b<c>"})[1]["x-request-id"])


# What it refuses


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "bad_json"),
        (b"{", 400, "bad_json"),
        (b"[]", 400, "bad_request"),
        (b'{"rows": "secret"}', 400, "bad_request"),
        (b'{"rows": ["secret"], "rows": []}', 400, "duplicate_key"),
        (b'{"rows": [NaN]}', 400, "not_a_number"),
        (b'{"rows": ["\xff"]}', 400, "bad_unicode"),
        (b'{"rows": ["\\ud800 secret"]}', 400, "bad_unicode"),
        (b"[" * 50_000, 400, "too_deep"),
        (b'{"rows": [{"texts": "secret"}]}', 422, "bad_row"),
        (b'{"rows": ["fine", 7]}', 422, "bad_row"),
        (b'{"rows": [{"text": {"secret": 1}}]}', 422, "bad_row"),
        (b'{"rows": ["a"], "options": {"top_k": 0}}', 422, "bad_option"),
        (b'{"rows": ["a"], "options": {"secret": 1}}', 422, "bad_option"),
        (b'{"rows": ["a"], "options": []}', 422, "bad_option"),
        (b'{"rows": ["a"], "model": "../secret"}', 404, "no_such_model"),
        (b'{"rows": ["a"], "model": 7}', 404, "no_such_model"),
        (json.dumps({"rows": ["a"] * 9}).encode(), 413, "too_many_rows"),
        (json.dumps({"rows": ["a" * 20_001]}).encode(), 413, "text_too_long"),
        (json.dumps({"rows": ["a" * 60_001]}).encode(), 413, "body_too_large"),
    ],
)
def test_bodies_that_are_refused(server, body, status, code):
    found, _, said = server.post("/v1/predict", body)
    assert (found, said["code"], set(said)) == (status, code, {"error", "code"})
    assert "secret" not in said["error"]
    assert not re.search(r"Traceback|\.py|burnish_serve", json.dumps(said))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"inputs": []},
        {"inputs": [7]},
        {"inputs": [{**tensor(["a"]), "datatype": "FP32"}]},
        {"inputs": [{**tensor(["a"]), "shape": [2]}]},
        {"inputs": [{**tensor(["a"]), "shape": [1, 2]}]},
        {"inputs": [{**tensor(["a"]), "data": [1]}]},
        {"inputs": [{**tensor(["a"]), "name": "secret"}]},
        {"inputs": [tensor(["a"]), tensor(["b"])]},
        {"inputs": [{**tensor(["a"]), "name": "text_a"}, {**tensor(["a", "b"]), "name": "text_b"}]},
        {"inputs": [tensor(["a"])], "outputs": [{"name": "secret"}]},
        {"inputs": [tensor(["a"])], "id": 7},
        {"inputs": [tensor(["a"])], "parameters": []},
        {"inputs": [{**tensor(["a"]), "parameters": {"binary_data_size": 4}}]},
    ],
)
def test_tensors_that_are_refused(server, body):
    status, _, said = server.post("/v2/models/tiny_bundle/infer", body)
    assert (status, said["code"]) == (400, "bad_request")
    assert "secret" not in said["error"]


@pytest.mark.parametrize("length", ["-1", "x", "999999", "9" * 400])
def test_a_wrong_length_of_the_head_is_refused(server, length):
    headers = {"Inference-Header-Content-Length": length}
    status, _, said = server.post("/v2/models/tiny_bundle/infer", {"inputs": [tensor(["a"])]}, headers)
    assert (status, said["code"]) == (400, "bad_request")


def test_elements_that_end_too_early_are_refused(server):
    for raw in (b"\x05\x00\x00\x00abc", b"\x01", b"\x01\x00\x00\x00\xff"):
        source = {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": len(raw)}}
        head = json.dumps({"inputs": [source]}).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        assert server.post("/v2/models/tiny_bundle/infer", head + raw, headers)[0] == 400
    head = json.dumps({"inputs": [tensor(["a"])]}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head))}
    assert server.post("/v2/models/tiny_bundle/infer", head + b"more", headers)[0] == 400


def test_compressed_bodies_and_other_kinds_are_refused(server):
    assert server.post("/v1/predict", b"x", {"Content-Encoding": "gzip"})[2]["code"] == "compressed_body"
    assert server.post("/v1/predict", b"x", {"Content-Type": "text/plain"})[0] == 415


def test_other_places_and_methods(server):
    assert (server.get("/none")[0], server.get("/v2/models/other")[2]["code"]) == (404, "no_such_model")
    status, headers, said = server.get("/v1/predict")
    assert (status, headers["allow"], said["code"]) == (405, "POST", "method")


HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"


def test_a_body_is_counted_while_it_comes(server):
    chunk = b"1000\r\n" + b"a" * 4096 + b"\r\n"
    found = server.raw(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 40)
    assert found.startswith(b"HTTP/1.1 413")
    assert b"body_too_large" in found
    found = server.raw(HEAD + b"Content-Length: 200000000\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 413"), "before any of it came"


def test_heads_have_a_limit(server):
    for head in (HEAD + b"X-Long: " + b"a" * 1_000_000, HEAD + b"X: a\r\n" * 200_000, b"GET /" + b"a" * 500_000):
        found = server.raw(head + b"\r\n\r\n")
        assert found.startswith((b"HTTP/1.1 431", b"")), found[:100]
    assert server.get("/v2/health/live")[0] == 200
    found = server.raw(HEAD + b"X-Long: " + b"a" * 30_000 + b"\r\n\r\n")
    assert found.startswith(b"HTTP/1.1 431")
    assert json.loads(found.split(b"\r\n\r\n")[1])["code"] == "header_too_large"


def test_slow_clients_are_closed_and_others_are_answered(server):
    slow = [socket.create_connection(("127.0.0.1", server.port), timeout=10) for _ in range(50)]
    try:
        for place, connection in enumerate(slow):
            connection.sendall([b"", HEAD, HEAD + b"Content-Length: 20\r\n\r\n{"][place % 3])
        started = time.monotonic()
        assert server.post("/v1/predict", {"rows": ["dull"]})[0] == 200
        assert time.monotonic() - started < 1
        for connection in slow:
            found = connection.recv(4096)
            assert found == b"" or found.startswith(b"HTTP/1.1 408"), found
        assert time.monotonic() - started < 8
    finally:
        for connection in slow:
            connection.close()


def test_what_is_no_http_is_refused(server):
    assert server.raw(b"\x16\x03\x01\x00\xff" * 10).startswith(b"HTTP/1.1 400")
    assert server.get("/v2/health/live")[0] == 200


# Who may ask


def test_a_token_is_asked_for_before_the_body(start, tiny_bundle, tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text(f"other\n\n{TOKEN}\n")
    server = start(tiny_bundle, "--tokens", tokens, "--variant", "int8")
    rows = {"rows": ["dull"]}
    assert server.post("/v1/predict", rows, {"Authorization": f"Bearer {TOKEN}"})[0] == 200
    assert server.post("/v1/predict", rows, {"Authorization": "bearer other"})[0] == 200
    for wrong in ("", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", "Bearer", f"Basic {TOKEN}", "Bearer é"):
        status, headers, said = server.post(
            "/v1/predict", rows, {"Authorization": wrong.encode("latin-1").decode("latin-1")}
        )
        assert (status, said["code"], headers["www-authenticate"]) == (401, "token", "Bearer")
    assert server.get("/metrics")[0] == 401
    assert server.get("/v2/health/ready")[0] == 200
    assert server.raw(HEAD + b"Content-Length: 200000000\r\n\r\n").startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--host", "0.0.0.0"],  # noqa: S104  # to be refused
            "whoever reaches 0.0.0.0 could ask",
        ),
        (["--tls-key", "key.pem"], "https needs both"),
        (["--tls-key", "key.pem", "--tls-certificate", "none.pem"], "no such file: none.pem"),
        (["--port", "70000"], "port must be below 65536"),
        (["--tokens", "none"], "none cannot be read as a file of tokens"),
    ],
)
def test_what_would_be_unsafe_or_cannot_be_is_said(run_burnish, tiny_bundle, arguments, said):
    done = run_burnish("serve", tiny_bundle, *arguments)
    assert done.returncode in {1, 2}
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_bundles_that_cannot_be_served_are_said(run_burnish, tiny_bundle, bundle_copy, tmp_path):
    (bundle_copy / "onnx" / "model.onnx").write_bytes(b"damaged")
    done = run_burnish("serve", bundle_copy, "--port", "0")
    assert (done.returncode, "damaged" in done.stderr or "not what" in done.stderr) == (5, True), done.stderr
    done = run_burnish("serve", tmp_path / "none", "--port", "0")
    assert (done.returncode, "no such bundle" in done.stderr) == (1, True)
    done = run_burnish("serve", tiny_bundle, tiny_bundle, "--port", "0")
    assert (done.returncode, "same folder name" in done.stderr) == (1, True)


# How it ends and begins again


def test_what_was_sent_before_the_signal_is_answered(start, tiny_bundle):
    server = start(tiny_bundle, "--variant", "int8", "--no-access-log")
    stop = threading.Event()
    sent, answered, lost = [], [], []

    def ask() -> None:
        with contextlib.closing(server.connection()) as connection:
            connection.connect()
            while not stop.is_set():
                try:
                    connection.request("POST", "/v1/predict", json.dumps({"rows": TEXTS}), JSON)
                except OSError:
                    return  # it had ended: not sent
                counted = not stop.is_set()
                sent.extend([1] * counted)
                try:
                    with connection.getresponse() as response:
                        response.read()
                except (OSError, http.client.HTTPException):
                    lost.extend([1] * counted)
                    return
                answered.append(response.status)
                if response.will_close:
                    return

    threads = [threading.Thread(target=ask) for _ in range(16)]
    for thread in threads:
        thread.start()
    time.sleep(1)
    stop.set()  # what is sent from here on is not counted
    server.process.send_signal(signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    assert server.process.wait(30) == 0
    assert len(sent) > 100
    assert not lost
    assert set(answered) == {200}


def test_what_was_sent_and_not_read_yet_is_answered(start, tiny_bundle):
    server = start(tiny_bundle, "--variant", "int8", "--no-access-log")
    body = json.dumps({"rows": TEXTS}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(200)
        ]
        for client in clients:
            client.sendall(request)
        server.process.send_signal(signal.SIGTERM)
        assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}
    assert server.process.wait(30) == 0


def test_a_second_signal_ends_it_at_once(start, tiny_bundle):
    server = start(tiny_bundle, "--variant", "int8", "--slow-client", 60)
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(HEAD + b"Content-Length: 20\r\n\r\n{")
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        assert server.process.poll() is None, "it waits for what was begun"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(2) == 1


def test_a_bundle_is_replaced_in_one_step_and_a_bad_one_is_not(start, tiny_bundle, tmp_path, edit_manifest):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    server = start(folder, "--variant", "int8")
    before = server.post("/v1/predict", {"rows": TEXTS})[2]["answers"]
    labels = json.loads((folder / "manifest.json").read_text())["labels"]
    edit_manifest(folder, labels=[label.upper() for label in labels])
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: server.said("was replaced"))
    after = server.post("/v1/predict", {"rows": TEXTS})[2]["answers"]
    assert after == [{**answer, "label": answer["label"].upper()} for answer in before]
    (folder / "manifest.json").write_bytes(b"{}")
    server.process.send_signal(signal.SIGHUP)
    server.until(lambda: server.said("was not replaced"))
    assert server.post("/v1/predict", {"rows": TEXTS})[2]["answers"] == after
    assert server.get("/v2/health/ready")[0] == 200
    assert server.end() == 0


def test_the_document_tells_every_address(server):
    found = server.get("/openapi.json")[2]
    for path, methods in found["paths"].items():
        for method in methods:
            status = server.request(method.upper(), path.replace("{name}", "tiny_bundle"))[0]
            assert status in {200, 400, 415}, (path, status)
            assert set(methods[method]["responses"]) >= {"200", "413", "429", "503"}
    assert (
        found["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"][
            "rows"
        ]["maxItems"]
        == 8
    )
    (known,) = server.get("/v1/models")[2]["models"]
    assert (known["name"], known["columns"], known["options"]) == ("tiny_bundle", ["text"], ["top_k", "reject_below"])
