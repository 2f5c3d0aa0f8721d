"""Figures for Prometheus. What happens in this process is counted as it happens; what the catalog holds is read per scrape.

start_metrics_server(9100)                  a worker's, on loopback
watch(atlas); render()                      a web server's (`atlas.health.ops_routes`)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily

from atlas import observing
from atlas.observing import Seen

if TYPE_CHECKING:
    from atlas.api import Atlas

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
disable_created_metrics()
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

_QUICK = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
_LONG = (0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600)
VERB_SECONDS = Histogram("atlas_verb_seconds", "time of a verb", ["verb"], buckets=_QUICK, registry=REGISTRY)
VERB_ERRORS = Counter("atlas_verb_errors", "verbs that ended with an error", ["verb", "error"], registry=REGISTRY)
TRACES = Counter("atlas_worker_traces", "traces of this worker", ["outcome"], registry=REGISTRY)
TRACE_SECONDS = Histogram("atlas_worker_trace_seconds", "time of a trace", buckets=_LONG, registry=REGISTRY)
TOKENS = Counter("atlas_worker_tokens", "prompt tokens traced by this worker", registry=REGISTRY)
DEVICE_MEMORY = Gauge("atlas_worker_device_memory_bytes", "device memory in use", ["device"], registry=REGISTRY)


def count_verbs() -> None:
    """Count every verb of this process from now on."""
    observing.subscribe(_count_verb)


def _count_verb(seen: Seen) -> None:
    VERB_SECONDS.labels(seen.verb).observe(seen.seconds)
    if seen.error:
        VERB_ERRORS.labels(seen.verb, seen.error).inc()


def trace_ended(outcome: str, seconds: float, tokens: int = 0) -> None:
    """A worker's trace ended: `outcome` done or failed. Those cancelled or handed back do not count."""
    TRACES.labels(outcome).inc()
    TRACE_SECONDS.observe(seconds)
    TOKENS.inc(tokens)


class StoreCollector:
    """Reads the catalog at every scrape; a catalog that cannot be read is `atlas_catalog_up 0` and nothing else."""

    def __init__(self, atlas: Atlas) -> None:
        self.atlas = atlas

    def describe(self) -> list[Any]:
        return []  # registering must not ask the catalog

    def collect(self) -> Iterator[GaugeMetricFamily]:
        from atlas.errors import AtlasError
        from atlas.health import figures

        try:
            found = figures(self.atlas)
        except AtlasError:
            yield GaugeMetricFamily("atlas_catalog_up", "1 when the catalog can be read", 0)
            return
        yield GaugeMetricFamily("atlas_catalog_up", "1 when the catalog can be read", 1)
        yield GaugeMetricFamily("atlas_circuits", "circuits in the catalog", found.circuits)
        yield GaugeMetricFamily("atlas_features", "features that occur in circuits", found.features)
        yield GaugeMetricFamily("atlas_labels", "features with a label", found.labels)
        jobs = GaugeMetricFamily("atlas_jobs", "jobs by state", labels=["state"])
        for state, count in found.jobs.items():
            jobs.add_metric([state], count)
        yield jobs
        yield GaugeMetricFamily("atlas_workers_alive", "workers with a fresh heartbeat", found.workers_alive)
        yield GaugeMetricFamily("atlas_outbox_entries", "changes the graph has not been told", found.outbox)
        yield GaugeMetricFamily("atlas_outbox_lag_seconds", "age of the oldest of them", found.outbox_seconds)


_watched: list[StoreCollector] = []
_guard = threading.Lock()


def watch(atlas: Atlas) -> None:
    """Let every scrape read this atlas, in place of the one before."""
    with _guard:
        for old in _watched:
            REGISTRY.unregister(old)
        _watched[:] = [StoreCollector(atlas)]
        REGISTRY.register(_watched[0])


def render() -> bytes:
    """All figures in the text format of Prometheus."""
    return generate_latest(REGISTRY)


def start_metrics_server(port: int, host: str = "127.0.0.1") -> WSGIServer:
    """Serve /metrics of this process from a thread; `shutdown()` of what is returned ends it.

    There is no sign-in, so `host` should be an address that only the scraper reaches. Raises StoreUnavailable when the port
    is taken.
    """
    from atlas.errors import StoreUnavailable

    count_verbs()
    try:
        server, _thread = start_http_server(port, addr=host, registry=REGISTRY)
    except OSError as error:
        raise StoreUnavailable(
            f"The metrics cannot be served at {host}:{port}: {(error.strerror or str(error)).lower()}.",
            "Name another port with --metrics-port.",
        ) from error
    return server
