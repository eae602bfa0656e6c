"""Metrics, scraped over HTTP and read with Prometheus' own parser."""

from __future__ import annotations

import http.client
import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from stip_server.errors import STATUS_CODES, StartError, reason_name
from stip_server.observe import metrics_endpoint
from stip_server.observe.metrics import Metrics, Observation
from stip_server.observe.metrics_endpoint import MetricsServer, serve_metrics
from tests.support.waiting import PATIENCE

IDLE = Observation(
    sessions_attached=0,
    sessions_parked=0,
    waiting_opens=0,
    waiting_steps=0,
    kv_bytes=1000,
    kv_bytes_reserved=0,
    kv_bytes_used=0,
    answer_bytes=100,
    answer_bytes_shared=0,
    answer_bytes_used=0,
    waiting_for_answers=0,
    engine_heartbeat_age=0.0,
    serving=True,
    mlx_active_bytes=0,
    mlx_cache_bytes=0,
)
BUILD = {"version": "0.1.0", "model_type": "qwen2", "device": "cpu", "dtype": "float32"}


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def server(metrics: Metrics) -> Iterator[MetricsServer]:
    server = serve_metrics(metrics, "127.0.0.1", 0)
    yield server
    server.close()


def get(server: MetricsServer, path: str = "/metrics", method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def samples(server: MetricsServer) -> list[Sample]:
    status, text = get(server)
    assert status == 200
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def value(server: MetricsServer, name: str, **labels: str) -> float:
    found = [s.value for s in samples(server) if s.name == name and s.labels == labels]
    assert len(found) == 1, f"{len(found)} samples of {name}{labels}"
    return float(found[0])


# -- what the engine and the service tell --------------------------------------------------------


def test_tokens_are_counted_as_they_are_computed_and_steps_as_they_end(
    metrics: Metrics, server: MetricsServer
) -> None:
    metrics.iteration_ran(decode_rows=1, prompt_rows=500, sessions=2, seconds=2.0)
    metrics.iteration_ran(decode_rows=2, prompt_rows=12, sessions=3, seconds=1.0)
    metrics.step_answered(queue_seconds=0.5, compute_seconds=2.0)
    for _ in range(3):
        metrics.step_answered(queue_seconds=0.002, compute_seconds=0.03)
    for _ in range(4):
        metrics.step_ended(None)
    metrics.step_ended(RuntimeError())
    assert value(server, "stip_tokens_total", kind="prompt") == 512
    assert value(server, "stip_tokens_total", kind="decode") == 3
    assert value(server, "stip_steps_total", outcome="ok") == 4
    assert value(server, "stip_steps_total", outcome="error") == 1
    assert value(server, "stip_step_queue_seconds_sum") == pytest.approx(0.506)
    assert value(server, "stip_step_compute_seconds_sum") == pytest.approx(2.09)
    assert value(server, "stip_step_compute_seconds_count") == 4
    # buckets are cumulative: the three decode steps are within 50 ms
    assert value(server, "stip_step_compute_seconds_bucket", le="0.025") == 0
    assert value(server, "stip_step_compute_seconds_bucket", le="0.05") == 3
    assert value(server, "stip_step_compute_seconds_bucket", le="+Inf") == 4


def test_iterations_are_counted_by_time_rows_and_sessions(
    metrics: Metrics, server: MetricsServer
) -> None:
    metrics.iteration_ran(decode_rows=255, prompt_rows=3841, sessions=256, seconds=120.0)
    metrics.iteration_ran(decode_rows=1, prompt_rows=0, sessions=1, seconds=0.001)
    for name, smallest, largest in (
        ("stip_iteration_seconds", "0.001", "120.0"),
        ("stip_iteration_rows", "1.0", "4096.0"),
        ("stip_iteration_sessions", "1.0", "256.0"),
    ):
        assert value(server, f"{name}_bucket", le=smallest) == 1
        assert value(server, f"{name}_bucket", le=largest) == 2


def test_streams_sessions_and_waits_are_counted(metrics: Metrics, server: MetricsServer) -> None:
    metrics.streams_opened.inc()
    metrics.session_ended("expired")
    metrics.session_ended("expired")
    metrics.held_back_seconds.inc(1.25)
    metrics.held_back_seconds.inc(0.5)
    metrics.connections_cut_off.inc()
    assert value(server, "stip_connections_cut_off_total") == 1
    assert value(server, "stip_streams_opened_total") == 1
    assert value(server, "stip_sessions_ended_total", cause="expired") == 2
    assert value(server, "stip_sessions_ended_total", cause="closed") == 0
    assert value(server, "stip_held_back_seconds_total") == 1.75


def test_every_label_is_there_before_anything_happens(server: MetricsServer) -> None:
    def labels(name: str, label: str) -> set[str]:
        return {sample.labels[label] for sample in samples(server) if sample.name == name}

    assert labels("stip_tokens_total", "kind") == {"prompt", "decode"}
    assert labels("stip_steps_total", "outcome") == {"ok", "error"}
    assert labels("stip_sessions_ended_total", "cause") == {
        "closed",
        "expired",
        "evicted",
        "revoked",
        "failed",
    }
    assert labels("stip_rejections_total", "reason") == {reason_name(each) for each in STATUS_CODES}


def test_each_reason_counts_in_its_own_series(metrics: Metrics, server: MetricsServer) -> None:
    before = len(samples(server))
    for reason in STATUS_CODES:
        metrics.rejected(reason)
        assert value(server, "stip_rejections_total", reason=reason_name(reason)) == 1
    assert len(samples(server)) == before


def test_two_servers_in_one_process_count_apart(server: MetricsServer) -> None:
    Metrics().streams_opened.inc()
    assert value(server, "stip_streams_opened_total") == 0


def test_threads_lose_no_count(metrics: Metrics, server: MetricsServer) -> None:
    def tell() -> None:
        for _ in range(2000):
            metrics.step_answered(queue_seconds=0.0, compute_seconds=0.0)
            metrics.step_ended(None)

    threads = [threading.Thread(target=tell) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert value(server, "stip_steps_total", outcome="ok") == 8000
    assert value(server, "stip_step_queue_seconds_count") == 8000


# -- what a scrape looks up ----------------------------------------------------------------------


def test_gauges_show_the_server_as_it_is_at_the_scrape(
    metrics: Metrics, server: MetricsServer
) -> None:
    state = IDLE
    metrics.watch(lambda: state)
    assert value(server, "stip_serving") == 1
    state = Observation(
        sessions_attached=3,
        sessions_parked=2,
        waiting_opens=4,
        waiting_steps=5,
        kv_bytes=1000,
        kv_bytes_reserved=600,
        kv_bytes_used=250,
        answer_bytes=100,
        answer_bytes_shared=60,
        answer_bytes_used=70,
        waiting_for_answers=6,
        engine_heartbeat_age=1.5,
        serving=False,
        mlx_active_bytes=7000,
        mlx_cache_bytes=800,
    )
    assert value(server, "stip_sessions", state="attached") == 3
    assert value(server, "stip_sessions", state="parked") == 2
    assert value(server, "stip_waiting_opens") == 4
    assert value(server, "stip_waiting_steps") == 5
    assert value(server, "stip_kv_capacity_bytes") == 1000
    assert value(server, "stip_kv_reserved_bytes") == 600
    assert value(server, "stip_kv_used_bytes") == 250
    assert value(server, "stip_kv_free_bytes") == 400
    assert value(server, "stip_answer_capacity_bytes") == 100
    assert value(server, "stip_answer_shared_bytes") == 60
    assert value(server, "stip_answer_used_bytes") == 70
    assert value(server, "stip_waiting_for_answers") == 6
    assert value(server, "stip_engine_heartbeat_age_seconds") == 1.5
    assert value(server, "stip_serving") == 0
    assert value(server, "stip_mlx_active_memory_bytes") == 7000
    assert value(server, "stip_mlx_cache_memory_bytes") == 800


def test_a_scrape_observes_once_so_that_its_gauges_fit_together(
    metrics: Metrics, server: MetricsServer
) -> None:
    scrapes = 0

    def observe() -> Observation:
        nonlocal scrapes
        scrapes += 1
        return replace(IDLE, sessions_attached=scrapes, sessions_parked=scrapes)

    metrics.watch(observe)
    seen = [s.value for s in samples(server) if s.name == "stip_sessions"]
    assert scrapes == 1
    assert seen == [1, 1]


def test_the_build_is_told_in_labels(metrics: Metrics, server: MetricsServer) -> None:
    assert "stip_build_info" not in get(server)[1]
    metrics.built(**BUILD)
    labels = {"version": "0.1.0", "model_type": "qwen2", "device": "cpu", "dtype": "float32"}
    assert value(server, "stip_build_info", **labels) == 1


def test_a_failing_observation_is_an_error_of_the_scrape_and_in_the_log(
    metrics: Metrics, server: MetricsServer, caplog: pytest.LogCaptureFixture
) -> None:
    def observe() -> Observation:
        raise RuntimeError("the engine is gone")

    metrics.watch(observe)
    status, text = get(server)
    assert status == 500
    assert "the engine is gone" not in text
    assert "the engine is gone" in caplog.text


# -- names ---------------------------------------------------------------------------------------


def test_names_units_types_and_help_follow_the_conventions_of_prometheus(
    metrics: Metrics, server: MetricsServer
) -> None:
    """https://prometheus.io/docs/practices/naming/"""
    metrics.watch(lambda: IDLE)
    metrics.built(**BUILD)
    _, text = get(server)
    types = {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split()
            assert name not in types, f"{name} is there twice"
            types[name] = kind
    helped = {
        line.split()[2]: line.split(maxsplit=3)[3]
        for line in text.splitlines()
        if line.startswith("# HELP ")
    }
    assert set(helped) == set(types)
    ours = {name: kind for name, kind in types.items() if name.startswith("stip_")}
    # beside ours, only the process's own, which have their names from Prometheus
    assert {name.split("_")[0] for name in types} <= {"stip", "process"}
    assert len(ours) == 28
    for name, kind in ours.items():
        assert name == name.lower()
        assert helped[name].endswith(".")
        assert kind in ("counter", "gauge", "histogram")
        assert name.endswith("_total") == (kind == "counter"), name
        assert not name.endswith(("_count", "_sum", "_bucket", "_created")), name
        words = set(name.split("_"))
        # base units, and none within a name rather than behind it
        assert not words & {"ms", "millis", "milliseconds", "nanos", "minutes", "kb", "mb", "mib"}
        for unit in words & {"seconds", "bytes"}:
            assert name.removesuffix("_total").endswith(unit), name


# -- the endpoint --------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/favicon.ico", "/metrics/", "/metricsx", "/debug"])
def test_other_paths_are_not_found(server: MetricsServer, path: str) -> None:
    assert get(server, path)[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "HEAD"])
def test_other_methods_are_refused(server: MetricsServer, method: str) -> None:
    assert get(server, method=method)[0] == 501


def test_a_query_does_not_matter(server: MetricsServer) -> None:
    assert get(server, "/metrics?x=1")[0] == 200


def test_nothing_is_told_about_python(server: MetricsServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.request("GET", "/metrics")
    response = connection.getresponse()
    response.read()
    connection.close()
    assert response.getheader("Server") == "stip-server"
    assert response.getheader("Content-Type", "").startswith("text/plain; version=")


def test_a_taken_port_is_a_start_error_with_a_hint(metrics: Metrics, server: MetricsServer) -> None:
    with pytest.raises(StartError, match=f"port {server.port}") as caught:
        serve_metrics(metrics, "127.0.0.1", server.port)
    assert caught.value.hint is not None and "taken" in caught.value.hint


def test_a_host_that_is_not_ours_is_a_start_error(metrics: Metrics) -> None:
    with pytest.raises(StartError, match=r"192\.0\.2\.1"):
        serve_metrics(metrics, "192.0.2.1", 0)


@pytest.mark.skipif(not socket.has_ipv6, reason="no IPv6")
def test_ipv6_is_served(metrics: Metrics) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no ::1 here")
    server = serve_metrics(metrics, "::1", 0)
    try:
        connection = http.client.HTTPConnection("::1", server.port, timeout=PATIENCE)
        connection.request("GET", "/metrics")
        assert connection.getresponse().status == 200
        connection.close()
    finally:
        server.close()


def test_close_ends_the_thread_and_frees_the_port(metrics: Metrics) -> None:
    server = serve_metrics(metrics, "127.0.0.1", 0)
    assert get(server)[0] == 200
    server.close()
    assert "stip-metrics" not in {thread.name for thread in threading.enumerate()}
    with pytest.raises(ConnectionRefusedError):
        get(server)
    again = serve_metrics(metrics, "127.0.0.1", server.port)
    again.close()


def test_a_connection_that_asks_nothing_is_ended_and_holds_up_no_scrape(
    metrics: Metrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve_metrics(metrics, "127.0.0.1", 0)
    address = ("127.0.0.1", server.port)
    try:
        with socket.create_connection(address, timeout=PATIENCE):
            assert get(server)[0] == 200
        handler = metrics_endpoint._Handler
        monkeypatch.setattr(handler, "timeout", handler.timeout / 50)
        with socket.create_connection(address, timeout=PATIENCE) as silent:
            assert silent.recv(1) == b""
    finally:
        server.close()


def test_a_scraper_that_goes_away_leaves_no_traceback_on_stderr(
    metrics: Metrics,
    server: MetricsServer,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked = threading.Event()
    gone = threading.Event()

    class Slow(Collector):
        def collect(self) -> Iterator[object]:
            asked.set()
            gone.wait(PATIENCE)
            return iter(())

    metrics.registry.register(Slow())
    caplog.set_level(logging.DEBUG, logger="stip_server.observe.metrics_endpoint")
    scraper = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
    # so that closing resets the connection
    scraper.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    scraper.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
    assert asked.wait(PATIENCE)
    scraper.close()
    gone.set()
    for thread in threading.enumerate():
        if "process_request_thread" in thread.name:
            thread.join(PATIENCE)
    assert "a scrape was interrupted" in caplog.text
    assert capfd.readouterr().err == ""
