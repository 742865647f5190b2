"""What an operator does to a server: another port, workers, swaps, spans; and what memory and bad will do to it."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

import load as generator
import serving
import started
from http_process import JSON, Process, start

__all__ = ["start"]  # a fixture

TEXTS = ["great film", "dull"]
ALL_ADDRESSES = "0.0.0.0"  # noqa: S104  # with a token, or refused
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\n"
TOKEN = "a-token-of-the-test"  # noqa: S105  # opens nothing
# Bodies of each property; more in the long run of `make load`.
EXAMPLES = int(os.environ.get("BURNISH_EXAMPLES", "150"))


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as found:
        return int(found.getsockname()[1])


def predicted(server: Process):
    return server.post("/v1/predict", {"rows": TEXTS})


# The admin port


def test_metrics_and_swaps_have_a_port_of_their_own(start, tiny_bundle, tmp_path, edit_manifest):
    folder = tmp_path / "bundle"
    shutil.copytree(tiny_bundle, folder)
    server = start(folder, "--variant", "int8", "--admin-port", "0")
    admin = server.admin
    before = predicted(server)[2]["answers"]
    assert server.get("/metrics")[0] == server.post("/v1/reload", {})[0] == 404
    assert b'burnish_requests_total{route="/v1/predict",status="200"} 1.0' in admin.get("/metrics")[2]
    assert predicted(admin)[0] == admin.get("/")[0] == 404
    assert admin.get("/v2/health/ready")[2] == {"ready": True}

    labels = json.loads((folder / "manifest.json").read_text())["labels"]
    edit_manifest(folder, labels=[label.upper() for label in labels])
    status, _, said = admin.post("/v1/reload", b"")
    assert (status, said) == (200, {"models": [{"name": "bundle", "replaced": True}]})
    after = predicted(server)[2]["answers"]
    assert after == [{**answer, "label": answer["label"].upper()} for answer in before]

    (folder / "manifest.json").write_bytes(b"{}")
    status, _, said = admin.post("/v1/reload", b"")
    assert (status, said) == (409, {"models": [{"name": "bundle", "replaced": False}]})
    assert predicted(server)[2]["answers"] == after
    assert server.end() == 0


def test_a_swap_wants_the_token_and_metrics_on_their_own_port_do_not(start, tiny_bundle, tmp_path):
    (tmp_path / "tokens").write_text(TOKEN)
    server = start(tiny_bundle, "--tokens", tmp_path / "tokens", "--admin-port", "0", "--admin-host", ALL_ADDRESSES)
    admin = server.admin
    assert admin.get("/metrics")[0] == admin.get("/v2/health/live")[0] == 200
    assert admin.post("/v1/reload", b"")[0] == 401
    assert admin.post("/v1/reload", b"", {"Authorization": f"Bearer {TOKEN}"})[0] == 200


def test_metrics_on_the_port_of_all_want_the_token(start, tiny_bundle, tmp_path):
    (tmp_path / "tokens").write_text(TOKEN)
    server = start(tiny_bundle, "--tokens", tmp_path / "tokens")
    assert server.get("/metrics")[0] == 401


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--admin-port", "0", "--admin-host", ALL_ADDRESSES], "whoever reaches 0.0.0.0 could ask"),
        (["--workers", "2", "--port", "0"], "share a port that is named"),
        (["--workers", "2", "--port", "8080", "--admin-port", "0"], "share a port that is named"),
    ],
)
def test_what_would_be_unsafe_or_cannot_be_is_said(run_burnish, tiny_bundle, arguments, said):
    done = run_burnish("serve", tiny_bundle, *arguments)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_port_that_is_taken_is_said(run_burnish, tiny_bundle):
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        for flags in (["--port", port], ["--port", port, "--workers", 2], ["--port", 0, "--admin-port", port]):
            done = run_burnish("serve", tiny_bundle, *flags)
            assert done.returncode == 1
            assert "is it in use?" in done.stderr
            assert "Traceback" not in done.stderr


# Swaps


def test_a_model_is_called_as_the_link_that_leads_to_it(start, tiny_bundle, tmp_path):
    link = tmp_path / "intent"
    serving.point(link, tiny_bundle)
    server = start(link)
    assert [one["name"] for one in server.get("/v1/models")[2]["models"]] == ["intent"]


def test_swaps_under_load_lose_and_mix_nothing(tiny_bundle, tmp_path, edit_manifest):
    other = tmp_path / "other"
    shutil.copytree(tiny_bundle, other)
    labels = json.loads((other / "manifest.json").read_text())["labels"]
    edit_manifest(other, labels=[label.upper() for label in labels])
    found = serving.swapped(tiny_bundle, other, TEXTS * 80, 6)
    assert (found["errors"], found["mixed"]) == (0, 0)
    assert found["old"] > 0
    assert found["new"] > 0


# Workers


def test_workers_share_a_port_their_figures_and_their_fate(start, tiny_bundle):
    port, admin = free_port(), free_port()
    server = start(tiny_bundle, "--variant", "int8", "--workers", 2, "--port", port, "--admin-port", admin)
    server.until(lambda: len(re.findall("is ready", server.log.read_text())) == 2)
    right = predicted(server)[2]["answers"]
    workers = re.findall(r"Started server process \[(\d+)\]", server.log.read_text())
    assert len(workers) == 2
    url = f"http://127.0.0.1:{port}/v1/predict"
    requests = generator.requests_of(url, TEXTS, 1, None)
    assert uvloop.run(generator.counted(url, requests, 16, 400)) == {200: 400}
    assert f'route="/v1/predict",status="200"}} {401.0}'.encode() in server.admin.get("/metrics")[2]
    assert server.admin.post("/v1/reload", b"")[0] == 202
    server.until(lambda: len(re.findall("was replaced", server.log.read_text())) == 2)
    os.kill(int(workers[0]), signal.SIGKILL)
    server.until(lambda: server.said("ended with status -9 and is started again"))
    server.until(lambda: len(re.findall("is ready", server.log.read_text())) == 3)
    assert [predicted(server)[2]["answers"] for _ in range(8)] == [right] * 8
    assert server.end() == 0


def workers_of(server: Process) -> list[int]:
    return [int(pid) for pid in re.findall(r"Started server process \[(\d+)\]", server.log.read_text())]


def gone(pid: int) -> bool:
    try:
        return "State:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True


def two_workers(start, bundle: Path) -> Process:
    server = start(bundle, "--variant", "int8", "--workers", 2, "--port", free_port(), "--admin-port", free_port())
    server.until(lambda: len(re.findall("is ready", server.log.read_text())) == 2)
    return server


def test_a_swap_while_a_worker_starts_reaches_it_when_it_is_ready(start, tiny_bundle):
    server = two_workers(start, tiny_bundle)
    os.kill(workers_of(server)[0], signal.SIGKILL)
    server.until(lambda: server.said("is started again"))
    server.process.send_signal(signal.SIGHUP)  # the new one imports its modules
    server.until(lambda: len(re.findall("is ready", server.log.read_text())) == 3)
    server.until(lambda: len(re.findall("was replaced", server.log.read_text())) == 2)
    assert predicted(server)[0] == 200
    assert server.end() == 0


def test_a_terminals_interrupt_lets_workers_answer_what_came(start, tiny_bundle):
    server = two_workers(start, tiny_bundle)
    body = json.dumps({"rows": TEXTS * 10}).encode()
    request = HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=20)) for _ in range(40)
        ]
        for client in clients:
            client.sendall(request)
        time.sleep(0.1)  # all are accepted
        os.killpg(server.process.pid, signal.SIGINT)
        assert {client.recv(12) for client in clients} == {b"HTTP/1.1 200"}
    assert server.process.wait(30) == 0
    assert len(re.findall("Finished server process", server.log.read_text())) == 2


def test_workers_end_with_the_process_that_started_them(start, tiny_bundle):
    server = two_workers(start, tiny_bundle)
    server.process.kill()
    server.process.wait()
    ends = time.monotonic() + 20
    while not all(map(gone, workers_of(server))):
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_each_worker_tells_the_others_that_it_is_ready(tiny_bundle, tmp_path):
    flags = ["--workers", 2, "--port", free_port(), "--admin-port", free_port()]
    variables = {**os.environ, "TMPDIR": str(tmp_path)}
    server = Process(Path(sys.executable).parent / "burnish", variables, tmp_path, tiny_bundle, *flags)
    server.until(lambda: len(re.findall("is ready", server.log.read_text())) == 2)
    registry = CollectorRegistry()  # of what they keep for each other; none of them was asked
    MultiProcessCollector(registry, str(next(tmp_path.glob("burnish-*"))))
    assert registry.get_sample_value("burnish_model_ready", {"model": "tiny_bundle"}) == 1
    assert server.end() == 0


def test_workers_that_cannot_begin_say_why_once(run_burnish, bundle_copy):
    (bundle_copy / "onnx" / "model.onnx").write_bytes(b"damaged")
    done = run_burnish("serve", bundle_copy, "--workers", 2, "--port", free_port())
    assert done.returncode == 5
    assert done.stderr.count("damaged") == 1
    assert "Traceback" not in done.stderr


# Spans


def test_spans_are_sent_under_the_clients_trace(start, tiny_bundle):
    pytest.importorskip("opentelemetry.instrumentation.asgi")
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    spans = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"])))
            spans.extend(one for some in sent.resource_spans for scope in some.scope_spans for one in scope.spans)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Collector) as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        place = f"http://127.0.0.1:{collector.server_address[1]}"
        server = start(tiny_bundle, "--opentelemetry", OTEL_EXPORTER_OTLP_ENDPOINT=place, OTEL_BSP_SCHEDULE_DELAY="50")
        trace = "0af7651916cd43dd8448eb211c80319c"
        headers = {"traceparent": f"00-{trace}-b7ad6b7169203331-01"}
        assert server.post("/v1/predict", {"rows": ["a secret text"]}, headers)[0] == 200
        server.until(lambda: spans)
        assert server.end() == 0
        collector.shutdown()
    (span,) = spans
    assert span.trace_id.hex() == trace
    assert "/v1/predict" in str(span.attributes)
    assert "secret" not in str(span)


# Memory

LEAKING = """
import sys
from burnish_serve.http import batches
taken, kept = batches.Batches._take, []
def take(self):
    found = taken(self)
    kept.extend(bytes(4000) for _ in found)
    return found
batches.Batches._take = take
from burnish_serve.cli import main
sys.argv = ["burnish", "serve", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("leaks", [False, True])
def test_memory_does_not_grow_with_requests_and_a_leak_is_seen(tiny_bundle, leaks):
    command = [sys.executable, "-c", LEAKING] if leaks else [str(started.BURNISH), "serve"]
    found = serving.remembered(tiny_bundle, TEXTS * 10, 6000, command)
    assert (found["mib_per_10000_requests"] > 20) is leaks, found


# Bad will


def test_a_body_in_chunks_of_a_byte_is_refused_and_chunks_of_some_size_are_not(start, tiny_bundle):
    server = start(tiny_bundle)
    head = HEAD + b"Transfer-Encoding: chunked\r\n"
    body = json.dumps({"rows": ["great film " * 8000]}).encode()

    def chunked(size: int) -> bytes:
        parts = [body[start : start + size] for start in range(0, len(body), size)]
        return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"

    said = server.raw(head + b"\r\n" + chunked(1))
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_many_chunks"' in said
    assert server.raw(head + b"Connection: close\r\n\r\n" + chunked(64)).startswith(b"HTTP/1.1 200 ")
    assert predicted(server)[0] == 200


def test_who_was_refused_and_sends_no_more_is_closed(start, tiny_bundle):
    server = start(tiny_bundle)
    body = b"".join(b"1\r\n \r\n" for _ in range(4000)) + b"0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body)
        assert client.recv(12) == b"HTTP/1.1 413"
        time.sleep(3)
        for _ in range(50):
            with contextlib.suppress(ConnectionError):
                client.sendall(b" ")
                time.sleep(0.01)
                continue
            break
        else:
            pytest.fail("it is open still")


def test_who_sends_too_much_still_reads_why(start, tiny_bundle):
    server = start(tiny_bundle, "--max-body-bytes", 1000)
    body = b" " * 14_000_000  # more than sockets hold
    head = HEAD + b"Content-Length: %d\r\n\r\n" % len(body)
    for request in (head + body, b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 3_000_000):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
                client.sendall(request)  # all of it, before the answer is looked for
                assert client.recv(12) in {b"HTTP/1.1 413", b"HTTP/1.1 431"}


@pytest.mark.parametrize(("part", "pause"), [(b" " * 2**16, 0.0), (b" ", 0.05)])
def test_who_sends_on_for_ever_is_cut_off(start, tiny_bundle, part, pause):
    server = start(tiny_bundle, "--max-body-bytes", 1000)

    def send_on(client: socket.socket) -> None:
        for _ in range(1000):
            client.sendall(part)
            time.sleep(pause)

    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as client:
        client.sendall(HEAD + b"Content-Length: 9999999999\r\n\r\n")
        begun = time.monotonic()
        with pytest.raises(ConnectionError):
            send_on(client)
        assert time.monotonic() - begun < 5


@pytest.fixture(scope="module")
def server(start, tiny_bundle) -> Process:
    return start(tiny_bundle, "--variant", "int8", "--no-access-log")


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
rows = st.lists(st.text(max_size=80) | st.dictionaries(st.sampled_from(["text", "text_a", "text_b"]), values) | values)
tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["text", "text_a", "answer"]) | values,
        "datatype": st.sampled_from(["BYTES", "FP32"]) | values,
        "shape": st.lists(st.integers(-2, 5), max_size=3) | values,
        "data": st.lists(st.text(max_size=20), max_size=4) | values,
        "parameters": values,
    },
)
bodies = st.one_of(
    st.binary(max_size=200),
    values.map(json.dumps).map(str.encode),
    st.fixed_dictionaries(
        {}, optional={"rows": rows | values, "options": values, "model": values, "inputs": st.lists(tensors) | values}
    )
    .map(json.dumps)
    .map(str.encode),
    st.tuples(st.just(b'{"rows": ["'), st.binary(max_size=60)).map(b"".join),
)
NOTHING_KEPT = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


@pytest.mark.parametrize("path", ["/v1/predict", "/predict", "/v2/models/tiny_bundle/infer"])
def test_no_body_makes_the_server_fail(server, path):
    @settings(NOTHING_KEPT, max_examples=EXAMPLES)
    @given(bodies)
    def check(body: bytes) -> None:
        status, _, said = server.request("POST", path, body, JSON)
        assert status < 500, (status, said, body)
        if status != 200:
            assert set(said) == {"error", "code"}
            assert "Traceback" not in said["error"]

    check()
    assert "Traceback" not in server.log.read_text()


def test_the_document_is_true_of_all_that_schemathesis_sends(server):
    url = f"http://127.0.0.1:{server.port}/openapi.json"
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    command = [
        Path(sys.executable).with_name("schemathesis"),
        "run",
        url,
        "--no-color",
        "--seed",
        1,
        "--checks",
        checks,
    ]
    command += ["--max-examples", EXAMPLES // 5, "--generation-database", "none"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=server.log.parent)
    assert done.returncode == 0, done.stdout
    found = re.search(r"(\d+) generated", done.stdout)
    assert found
    assert int(found[1]) > 300
    assert "Traceback" not in server.log.read_text()
