"""The dashboard's and the alerts' queries against what a running service gives at ``/metrics``.

What is asked for must be there (names, labels, buckets), without any further package. Where Prometheus is installed
(Debian:
``prometheus``; or PROMETHEUS_HOME names the folder of its programs), ``promtool`` checks the rules and a real server,
fed by
a real service, answers every query of the dashboard.
"""

import json
import os
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from puma.serve import ServeSettings, create_app
from support.encoders import ToyEncoder

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
RULES = [
    rule for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"] for rule in group["rules"]
]
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
WORDS = {"sum", "by", "le", "route", "status", "modality", "instance", "rate", "deriv", "histogram_quantile", "up"}
OWN = frozenset({"instance", "job"})
"""Labels that Prometheus adds itself."""


def exercised(index_folder):
    """The text of ``/metrics`` after some of everything was asked for."""
    import puma

    encoder = ToyEncoder()
    index = puma.Index(index_folder, dim=encoder.dim, fingerprint=encoder.fingerprint)
    searcher = puma.Searcher(encoder, index)
    app = create_app({"things": searcher}, encoder=encoder, settings=ServeSettings())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        searcher.add([puma.Item(text="a fox")])
        for n in range(6):
            assert client.post("/v1/embeddings", json={"input": f"thing {n}"}).status_code == 200
            assert client.post("/search", json={"text": f"fox {n}"}).status_code == 200
        assert client.post("/v1/embeddings", json={"input": []}).status_code in (400, 422)
        return client.get("/metrics").text


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    return exercised(tmp_path_factory.mktemp("serve") / "things.index")


def series(text):
    """Labels' values by name of a sample."""
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = found.setdefault(sample.name, {})
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
    return found


def missing(query, found):
    """What a query asks for and the service does not have."""
    wrong = []
    bare = re.sub(r'"[^"]*"', '""', re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", query))
    names = set(re.findall(r"\b[a-z_][a-z_0-9]+", re.sub(r"by \([^)]*\)", "", bare))) - WORDS
    wrong += [f"name {name}" for name in names if name not in found]
    asked = {label for group in re.findall(r"by \(([^)]*)\)", query) for label in re.split(r",\s*", group)}
    held = set().union(*(found.get(name, {}) for name in names)) | OWN
    wrong += [f"label {label}" for label in asked - held]
    for name, inside in re.findall(r"([a-z_]+)\{([^}]*)\}", query):
        for label, kind, value in re.findall(r'([a-z_]+)(=~|=)"([^"]*)"', inside):
            if label in OWN:
                continue
            values = found.get(name, {}).get(label)
            if values is None:
                wrong.append(f"label {label} of {name}")
            elif label in ("route", "le"):
                wanted = value.split("|") if kind == "=~" else [value]
                wrong += [f"{label} {one}" for one in wanted if one not in values]
    return wrong


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_what_a_query_asks_for_is_there(query, metrics):
    assert missing(query, series(metrics)) == []


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_a_query_goes_by_model_where_the_service_counts_by_model(query, metrics):
    by_model = {name for name, labels in series(metrics).items() if "model" in labels}
    assert {"puma_encoder_seconds_total", "puma_queue_items", "puma_batch_items_sum"} <= by_model
    if by_model & set(re.findall(r"[a-z_]+", query)):
        assert all("model" in labels for labels in re.findall(r"by \(([^)]*)\)", query)), query
        assert "by (" in query


def test_what_is_not_there_is_found_missing(metrics):
    found = series(metrics)
    assert missing("rate(puma_http_request_total[5m])", found) == ["name puma_http_request_total"]
    assert missing("sum by (path) (rate(puma_http_requests_total[5m]))", found) == ["label path"]
    assert missing('rate(puma_http_request_seconds_bucket{route="/embed"}[5m])', found) == ["route /embed"]
    assert missing('rate(puma_batch_items_bucket{le="65.0"}[5m])', found) == ["le 65.0"]


def test_thresholds_are_bounds_of_buckets(metrics):
    """A quantile is interpolated within a bucket: a threshold inside one could not be computed from its bounds."""
    found = series(metrics)
    checked = 0
    for rule in RULES:
        for name in re.findall(r"([a-z_]+_bucket)", rule["expr"]):
            limit = float(rule["expr"].rsplit(">", 1)[1])
            assert limit in {float(value) for value in found[name]["le"]}
            checked += 1
    assert checked == 2


def test_every_alert_is_in_the_runbook():
    page = (MONITORING.parents[1] / "docs" / "operations.md").read_text()
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []


def test_every_metric_of_ours_is_shown_somewhere(metrics):
    shown = " ".join(QUERIES)
    ours = {re.sub(r"_(total|bucket|sum|count|created)$", "", name) for name in series(metrics) if "puma_" in name}
    assert {name for name in ours if name not in shown} == set()


def program(name):
    folder = os.environ.get("PROMETHEUS_HOME")
    found = shutil.which(name, path=folder) if folder else shutil.which(name)
    return found or pytest.skip(f"needs {name}: PROMETHEUS_HOME names no folder that has it")


def test_promtool_takes_rules_and_configuration(tmp_path):
    tool = program("promtool")
    done = subprocess.run([tool, "check", "rules", MONITORING / "alerts.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (MONITORING / "prometheus.yaml").read_text()
    text = text.replace("/etc/prometheus/alerts.yaml", str(MONITORING / "alerts.yaml"))
    (tmp_path / "token").write_text("secret")
    (tmp_path / "p.yaml").write_text(text.replace("/etc/puma/token", str(tmp_path / "token")))
    done = subprocess.run([tool, "check", "config", tmp_path / "p.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def test_promtool_fires_the_alerts_on_series_that_should(tmp_path):
    tool = program("promtool")
    bad = "puma_http_requests_total{job='puma',instance='a',route='/search',status='%s'}"
    fired = {"PumaErrors": ("20m", bad % 500), "PumaRefuses": ("20m", bad % 429)}
    tests = []
    for name, (when, one) in fired.items():
        rule = next(rule for rule in RULES if rule["alert"] == name)
        summary = rule["annotations"]["summary"].replace("{{ $labels.instance }}", "a")
        firing = {"exp_labels": {"instance": "a", **rule["labels"]}, "exp_annotations": {"summary": summary}}
        for growth, alerts in (("0+10x60", [firing]), ("0+0x60", [])):
            calm = [{"series": bad % 200, "values": "0+10x60"}]
            series_in = [*calm, {"series": one, "values": growth}]
            check = {"eval_time": when, "alertname": name, "exp_alerts": alerts}
            tests.append({"interval": "1m", "input_series": series_in, "alert_rule_test": [check]})
    document = {"rule_files": [str(MONITORING / "alerts.yaml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(document))
    done = subprocess.run([tool, "test", "rules", tmp_path / "test.yaml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout


def test_a_real_prometheus_answers_every_query(tmp_path):
    """Backfilled with a service's own output at growing times, so that rates have something to be rates of."""
    server, tool = program("prometheus"), program("promtool")
    text = exercised(tmp_path / "things.index")
    now = int(time.time())
    lines = []
    for family in text_string_to_metric_families(text):
        name = family.name
        lines.append(f"# TYPE {name} {family.type if family.type in ('counter', 'histogram', 'gauge') else 'unknown'}")
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = {**sample.labels, "job": "puma", "instance": "a"}
            shown = ",".join(f'{key}="{value}"' for key, value in labels.items())
            grows = family.type in ("counter", "histogram")
            for step in range(40):
                value = sample.value * (step + 1) if grows else sample.value
                lines.append(f"{sample.name}{{{shown}}} {value} {now - 600 + 15 * step}")
    (tmp_path / "metrics.txt").write_text("\n".join([*lines, "# EOF", ""]))
    data = tmp_path / "data"
    line = [tool, "tsdb", "create-blocks-from", "openmetrics", tmp_path / "metrics.txt", data]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (tmp_path / "p.yaml").write_text("global: {scrape_interval: 15s}\n")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [server, f"--config.file={tmp_path / 'p.yaml'}", f"--storage.tsdb.path={data}"]
    running = subprocess.Popen(
        [*line, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for query in QUERIES:
            answer = asked(port, query, now - 20)
            assert answer["status"] == "success"
            values = [float(one["value"][1]) for one in answer["data"]["result"]]
            assert values, f"no series: {query}"
            assert all(value == value for value in values), f"not a number: {query}"
    finally:
        running.terminate()
        running.wait(20)


def asked(port, query, when):
    address = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": query, "time": when})
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
