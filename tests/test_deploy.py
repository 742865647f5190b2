"""What an operator is given fits the server: flags, ports, probes, metrics; and is sound by the tools' own rules.

The checks by Kubernetes' schemas, hadolint and PromQL's grammar are skipped where their wheels are not installed.

    pytest tests/test_deploy.py
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import click
import pytest
import yaml

from burnish_serve.cli.serve import command as serve
from burnish_serve.config import configure
from burnish_serve.errors import InputError
from burnish_serve.http.app import App
from burnish_serve.http.config import ServeConfig
from burnish_serve.http.metrics import Metrics

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
KUBERNETES, KSERVE = DEPLOY / "kubernetes", DEPLOY / "kserve"
PAGE = (ROOT / "docs" / "deploying.md").read_text(encoding="utf-8")
ADAPTER = KUBERNETES / "prometheus-adapter.yaml"
BOARD = json.loads((DEPLOY / "grafana" / "burnish.json").read_text(encoding="utf-8"))
DOCKERFILES = sorted(DEPLOY.glob("*Dockerfile"))
OLDEST, NEWEST = "1.31", "1.37"
ADMIN = 9090


def objects(path: Path) -> list[dict]:
    return [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]


MANIFESTS = {path: objects(path) for folder in (KUBERNETES, KSERVE) for path in sorted(folder.glob("*.yaml"))}
KINDS = {one["kind"]: one for found in MANIFESTS.values() for one in found if "kind" in one}
POD = KINDS["Deployment"]["spec"]["template"]
RUNTIME = KINDS["ServingRuntime"]["spec"]
SERVER, KSERVE_SERVER = POD["spec"]["containers"][0], RUNTIME["containers"][0]
SERVERS = pytest.mark.parametrize("server", [SERVER, KSERVE_SERVER], ids=["kubernetes", "kserve"])


# The image


def instructions(path: Path) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions, each as a pair of its name and the rest."""
    text = re.sub(r"^\s*#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [
        (name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines() if line)
    ]


IMAGE = instructions(DEPLOY / "Dockerfile")
ENTRYPOINT = json.loads(next(rest for name, rest in IMAGE if name == "ENTRYPOINT"))
CMD = json.loads(next(rest for name, rest in IMAGE if name == "CMD"))
ENVIRONMENT = dict(pair.partition("=")[::2] for name, rest in IMAGE if name == "ENV" for pair in shlex.split(rest))


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_has_nothing_to_say(path):
    hadolint = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([hadolint, "--no-color", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_images_are_pinned_and_run_by_a_number_that_is_not_root(path):
    found = instructions(path)
    arguments = dict(rest.partition("=")[::2] for name, rest in found if name == "ARG")
    stages = {rest.split()[-1] for name, rest in found if name == "FROM" and " AS " in rest}
    bases = [
        re.sub(r"\$\{(\w+)}", lambda one: arguments[one[1]], rest.split()[0]) for name, rest in found if name == "FROM"
    ]
    assert bases
    for base in bases:
        assert base in stages or re.fullmatch(r"[\w./-]+:\d[\w.-]*", base), f"{base} is not pinned"
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", [rest for name, rest in found if name == "USER"][-1])
    assert "ADD" not in {name for name, _ in found}


def test_the_server_gets_its_signals_and_writes_nowhere_else():
    assert ENTRYPOINT[:2] == ["burnish", "serve"], "a shell before it would keep SIGTERM to itself"
    assert ("STOPSIGNAL", "SIGTERM") in IMAGE
    (writable,) = {ENVIRONMENT[name] for name in ("HOME", "TMPDIR", "XDG_CACHE_HOME")}
    assert any(rest.split()[-1] == writable and "--chown=" in rest for name, rest in IMAGE if name == "COPY")
    assert ENVIRONMENT["PYTHONDONTWRITEBYTECODE"] == "1"
    for server in (SERVER, KSERVE_SERVER):
        assert writable in {mount["mountPath"] for mount in server["volumeMounts"]}
    assert writable in PAGE


def test_onnxruntime_sends_nothing_to_its_maker():
    assert ENVIRONMENT["ORT_DISABLE_TELEMETRY"] == "1"


def test_the_image_is_built_from_what_the_ignore_file_lets_through():
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {source for name, rest in IMAGE if name == "COPY" and "--from" not in rest for source in rest.split()[:-1]}
    assert "*" in lines
    assert copied == allowed
    assert all((ROOT / source).exists() for source in copied)
    packages = re.search(r"^packages = (\[.*])$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert set(json.loads(packages[1])) <= copied
    assert "torch" not in (DEPLOY / "Dockerfile").read_text(encoding="utf-8").lower()


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_the_health_check_asks_whether_the_server_is_ready(status, healthy):
    asked = []

    class Ready(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *words):
            pass

    check = json.loads(next(rest for name, rest in IMAGE if name == "HEALTHCHECK").partition(" CMD ")[2])
    assert check[0] == "python"
    with HTTPServer(("127.0.0.1", 0), Ready) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert str(ADMIN) in check[-1]
        code = check[-1].replace(str(ADMIN), str(server.server_port))
        done = subprocess.run([sys.executable, *check[1:-1], code], timeout=30)
        thread.join(30)
    assert (done.returncode == 0) is healthy
    assert asked == ["/v2/health/ready"]


# Flags


def flags() -> set[str]:
    return {flag for one in serve.params if isinstance(one, click.Option) for flag in (*one.opts, *one.secondary_opts)}


def settings(*arguments: str) -> dict:
    """Return the settings and the bundles that the server has in a container with these arguments."""
    given = serve.make_context("serve", [*ENTRYPOINT[2:], *arguments]).params
    known = {name: value for name, value in given.items() if name in ServeConfig.__dataclass_fields__}
    return {**vars(configure(ServeConfig, {}, **known)), "bundles": given["bundles"]}


def test_every_flag_that_is_named_exists():
    places = [*DEPLOY.rglob("*.yaml"), DEPLOY / "grafana" / "burnish.json"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in places)
    tables_and_prose = re.sub(r"^```.*?^```$", "", PAGE, flags=re.MULTILINE | re.DOTALL)
    others = {"--read-only", "--tmpfs", "--cpus", "--memory", "--stop-timeout", "--build-arg", "--gpus"}
    named = set(re.findall(r"--[a-z][\w-]+", f"{text}{tables_and_prose}{ENTRYPOINT}")) - others
    assert {"--tokens", "--drain"} <= named
    assert named <= flags(), f"burnish serve has no {sorted(named - flags())}"


@SERVERS
def test_the_server_takes_its_arguments(server):
    given = settings(*server["args"])
    assert given["admin_port"] == ADMIN
    assert given["bundles"]


def test_the_image_does_not_start_for_everybody_by_itself():
    with pytest.raises(InputError, match="--tokens"):
        settings(*CMD)


def test_the_documented_docker_command_is_one_of_the_server():
    (run,) = re.findall(r"^docker run (.*?[^\\])$", PAGE, re.MULTILINE | re.DOTALL)
    arguments = shlex.split(run.replace("\\\n", " "))
    given = settings(*arguments[arguments.index("burnish:0.1.0") + 1 :])
    mounted = re.findall(r"dst=([^,\s]+)", run)
    assert given["bundles"][0] in mounted
    assert str(given["tokens"]) in mounted
    assert int(arguments[arguments.index("--stop-timeout") + 1]) > ServeConfig().drain


# Manifests


CORE = sorted(kind for kind, one in KINDS.items() if not re.search(r"kustomize|kserve|coreos", one["apiVersion"]))


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("kind", CORE)
def test_manifests_are_what_kubernetes_takes(kind, version):
    pytest.importorskip("kubernetes_validate").validate(KINDS[kind], version, strict=True)


def test_the_kustomization_applies_what_stands_beside_it():
    kustomization = KINDS["Kustomization"]
    apart = {"kustomization.yaml", "podmonitor.yaml", ADAPTER.name}
    assert {*kustomization["resources"], *apart} == {path.name for path in KUBERNETES.iterdir()}
    used = {one["image"] for one in [*POD["spec"]["initContainers"], *POD["spec"]["containers"]]}
    assert {image["name"] for image in kustomization["images"]} == used
    assert all(re.match(r"\d", image["newTag"]) for image in kustomization["images"])
    assert re.search(r":\d[\w.]*$", KSERVE_SERVER["image"])


def test_pods_run_locked_down():
    pod = POD["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    user = [rest for name, rest in IMAGE if name == "USER"][-1]
    assert user == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    for container in (*pod["initContainers"], SERVER, KSERVE_SERVER):
        own = container["securityContext"]
        assert own["readOnlyRootFilesystem"] is True
        assert own["allowPrivilegeEscalation"] is False
        assert own["capabilities"] == {"drop": ["ALL"]}
    assert KSERVE_SERVER["securityContext"]["runAsNonRoot"] is True
    assert KSERVE_SERVER["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


@SERVERS
def test_the_request_is_the_limit_and_whole_processors(server):
    assert server["resources"]["requests"] == server["resources"]["limits"]
    assert float(server["resources"]["limits"]["cpu"]).is_integer()


@pytest.mark.parametrize(
    ("server", "grace"),
    [
        (SERVER, POD["spec"]["terminationGracePeriodSeconds"]),
        (KSERVE_SERVER, KINDS["InferenceService"]["spec"]["predictor"]["terminationGracePeriodSeconds"]),
    ],
    ids=["kubernetes", "kserve"],
)
def test_what_was_accepted_is_answered_before_the_pod_is_killed(server, grace):
    slept = int(server["lifecycle"]["preStop"]["exec"]["command"][-1])
    assert slept >= 2
    assert slept + settings(*server["args"])["drain"] < grace


def asked_without_a_token(path: str) -> int:
    """Return the status that a server of tokens answers with where none is brought."""
    sent: list[dict] = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b"", "more_body": False}

    scope = {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    asyncio.run(App({}, ServeConfig(), Metrics(), ["a-token"])(scope, receive, send))
    return sent[0]["status"]


@SERVERS
def test_probes_ask_addresses_that_need_no_token(server):
    assert asked_without_a_token("/v1/models") == 401
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = server[probe]["httpGet"]
        assert asked_without_a_token(asked["path"]) == 200
        assert ports.get(asked["port"], asked["port"]) == settings(*server["args"])["port"]
    assert server["livenessProbe"]["httpGet"]["path"].endswith("live")
    assert server["readinessProbe"]["httpGet"]["path"].endswith("ready")


def test_prometheus_is_sent_to_the_admin_port():
    ports = {port["name"]: port["containerPort"] for port in SERVER["ports"]}
    own, kserve = POD["metadata"]["annotations"], RUNTIME["annotations"]
    assert own["prometheus.io/port"] == kserve["prometheus.kserve.io/port"] == str(ADMIN)
    assert own["prometheus.io/path"] == kserve["prometheus.kserve.io/path"] == "/metrics"
    (monitored,) = KINDS["PodMonitor"]["spec"]["podMetricsEndpoints"]
    assert (ports[monitored["port"]], monitored["path"]) == (ADMIN, "/metrics")
    for server in (SERVER, KSERVE_SERVER):
        assert settings(*server["args"])["admin_host"] == "0.0.0.0"  # noqa: S104  # where the pod's address is
    assert [port["targetPort"] for port in KINDS["Service"]["spec"]["ports"]] == ["http"]
    (policy,) = (rule for rule in KINDS["NetworkPolicy"]["spec"]["ingress"] if rule["ports"][0]["port"] == "admin")
    assert policy["from"]


def test_everything_selects_the_pods_of_the_deployment():
    labels = POD["metadata"]["labels"]
    for kind, path in {
        "Deployment": ("selector", "matchLabels"),
        "Service": ("selector",),
        "PodDisruptionBudget": ("selector", "matchLabels"),
        "NetworkPolicy": ("podSelector", "matchLabels"),
        "PodMonitor": ("selector", "matchLabels"),
    }.items():
        found = KINDS[kind]["spec"]
        for step in path:
            found = found[step]
        assert found.items() <= labels.items(), kind
        assert found, kind
    assert KINDS["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"] == KINDS["Deployment"]["metadata"]["name"]
    assert "replicas" not in KINDS["Deployment"]["spec"]


def test_what_is_mounted_is_what_the_server_is_given():
    mounts = {mount["mountPath"]: mount for mount in SERVER["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == set(volumes)
    given = settings(*SERVER["args"])
    (bundle,) = map(Path, given["bundles"])
    assert mounts[str(bundle.parent)]["readOnly"] is True
    assert "secret" in volumes[mounts[str(given["tokens"].parent)]["name"]]
    (copying,) = POD["spec"]["initContainers"]
    assert copying["volumeMounts"][0]["name"] == mounts[str(bundle.parent)]["name"]
    assert f"{bundle.parent}/${{NAME}}" in (DEPLOY / "bundle.Dockerfile").read_text(encoding="utf-8")


def test_kserve_asks_for_the_name_that_the_model_has():
    service = KINDS["InferenceService"]
    (bundle,) = settings(*KSERVE_SERVER["args"])["bundles"]
    assert bundle == "/mnt/models/{{.Name}}", "KServe puts the service's name there"
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == KINDS["ServingRuntime"]["metadata"]["name"]
    assert model["modelFormat"]["name"] in {known["name"] for known in RUNTIME["supportedModelFormats"]}
    assert model["protocolVersion"] in RUNTIME["protocolVersions"]
    # Another release's folder that begins alike would be fetched too.
    assert model["storageUri"].endswith("/")


# Metrics


def exported() -> dict[str, set[str]]:
    """Return the names of all series with their labels, as the server's own registry has them."""
    metrics = Metrics()
    metrics.requests.labels("/", "200").inc()
    metrics.refusals.labels("busy").inc()
    metrics.seconds.labels("/").observe(1)
    for gauge in (metrics.waiting, metrics.ready):
        gauge.labels("intent").set(1)
    metrics.info.labels("intent", "text-classification", "int8", "CPUExecutionProvider").set(1)
    metrics.of("intent").batch(waited=[0.1], tokenize=0.1, infer=0.1, tokens=9, padding=0.1, waiting=0)
    samples = [sample for family in metrics.registry.collect() for sample in family.samples]
    assert all(f"{sample.name}{{" in metrics.text().decode() for sample in samples)
    found: dict[str, set[str]] = {}
    for sample in samples:
        if not sample.name.endswith("_created"):
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


EXPRESSIONS = [target["expr"] for panel in BOARD["panels"] for target in panel.get("targets", [])]
QUERIES = [
    *EXPRESSIONS,
    *re.findall(r"`([^`]*burnish_[^`]*\{[^`]*)`", PAGE),
    *(rule["seriesQuery"] for rule in objects(ADAPTER)[0]["rules"]["custom"]),
    *(one["query"]["query"] for one in BOARD["templating"]["list"] if one["type"] == "query"),
]


def test_every_metric_that_is_asked_for_is_exported():
    series = exported()
    assert len(series) >= 9
    for query in QUERIES:
        names = re.findall(r"burnish_\w+", query)
        assert names, query
        assert set(names) <= set(series), query
    bases = set(re.findall(r"`(burnish_\w+)`", PAGE))
    known = {re.sub(r"_(bucket|sum|count)$", "", name) for name in series}
    assert bases == known, "the page's table has all of them and no others"


def test_every_label_that_is_asked_for_is_exported():
    series = exported()
    of_the_scrape = {"job", "instance", "namespace", "pod"}
    for query in QUERIES:
        for name, where in re.findall(r"(burnish_\w+)\{([^}]*)}", query):
            asked = set(re.findall(r"(\w+)(?:=~|!~|!=|=)\"", where))
            assert asked <= series[name] | of_the_scrape, query
        (grouped, *_) = [*re.findall(r"by \(([^)]*)\)", query), ""]
        labels = set().union(*(series[name] for name in re.findall(r"burnish_\w+", query)))
        assert set(re.findall(r"\w+", grouped)) <= labels, query


def test_the_table_of_metrics_names_their_labels():
    series = exported()
    for name, labels in re.findall(r"^\| `(burnish_\w+)` \| \w+ \| (.*?) \|", PAGE, re.MULTILINE):
        assert set(re.findall(r"\w+", labels)) == series.get(name, series.get(f"{name}_count"))


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_are_promql(expression):
    promql = pytest.importorskip("promql_parser")
    promql.parse(expression.replace("$__rate_interval", "5m"))


def test_the_dashboard_asks_the_data_source_that_was_chosen():
    assert BOARD["templating"]["list"][0]["type"] == "datasource"
    assert set(re.findall(r'"uid": "([^"]+)"', json.dumps(BOARD))) == {"${datasource}", BOARD["uid"]}
    variables = {one["name"] for one in BOARD["templating"]["list"]}
    for panel in BOARD["panels"]:
        assert {"x", "y", "w", "h"} == set(panel["gridPos"])
        for target in panel.get("targets", []):
            assert set(re.findall(r"\$(?!__)(\w+)", target["expr"])) <= variables
    numbers = [panel["id"] for panel in BOARD["panels"]]
    assert len(numbers) == len(set(numbers))


def test_the_autoscaler_asks_for_what_the_adapter_gives():
    (metric,) = KINDS["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (rule,) = objects(ADAPTER)[0]["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    assert int(metric["pods"]["target"]["averageValue"]) < ServeConfig().max_waiting / 2
    assert set(rule["resources"]["overrides"]) == {"namespace", "pod"}


def test_the_page_names_every_file():
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.suffix not in {".dockerignore"}:
            assert path.name in PAGE, path.name
