"""/metrics, for Prometheus: figures of this web process, of the workers, and of every project."""

import functools
import logging
from collections import Counter
from collections.abc import Iterator, Mapping
from threading import Lock

import redis
from flask import Blueprint, Flask, Response, current_app
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import CounterMetricFamily as Counts
from prometheus_client.core import GaugeMetricFamily as Gauge
from prometheus_client.core import Metric
from prometheus_client.core import SummaryMetricFamily as Summary
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from skylight.backend.admin.project_state import RecordCache
from skylight.backend.errors import DATA_ERRORS
from skylight.backend.queue import counters
from skylight.backend.queue.counters import Counters
from skylight.backend.queue.workers import running
from skylight.backend.service import Service
from skylight.backend.trace import Trace
from skylight.backend.web.background import BackgroundCall
from skylight.backend.web.http import records_of, service_of

REDIS_SECONDS = 1.0  # to read what Redis holds; without it the rest is given
CLICK_BUCKETS = (0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)  # s
WEBHOOK_BUCKETS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)  # s; Label Studio waits one
LOOKUP_RESULTS = ("memory", "disk", "miss")
NAME = "skylight-metrics"

blueprint = Blueprint("metrics", __name__)
log = logging.getLogger(__name__)


@blueprint.route("/metrics", methods=["GET"])
def metrics() -> Response:
    """All figures, in Prometheus' text format."""
    metrics: Metrics = current_app.extensions[NAME]
    return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)


class Metrics(Collector):
    """An application's figures. A click costs two additions; everything else is gathered when /metrics is read."""

    def __init__(self, service: Service, records: RecordCache) -> None:
        self.service = service
        self.records = records
        self.shared = BackgroundCall(functools.partial(_read_redis, service), REDIS_SECONDS)
        self.registry = CollectorRegistry()
        click, webhook = "Answering a click.", "Answering a webhook."
        self.clicks = Histogram("skylight_click_seconds", click, registry=self.registry, buckets=CLICK_BUCKETS)
        self.webhooks = Histogram("skylight_webhook_seconds", webhook, registry=self.registry, buckets=WEBHOOK_BUCKETS)
        self._lock = Lock()
        self._requests: Counter[tuple[str, str]] = Counter()
        self._failures: Counter[tuple[str, str]] = Counter()
        self.registry.register(self)

    def observe(self, trace: Trace, seconds: float, outcome: str) -> None:
        """Count a request that has been answered."""
        what = trace.what.partition(" ")[0]  # the rest was named by the caller
        if what == "click":
            self.clicks.observe(seconds)
        elif what == "webhook":
            self.webhooks.observe(seconds)
        with self._lock:
            self._requests[what, outcome] += 1
            for cause, count in trace.causes.items():
                self._failures[what, cause] += count

    def collect(self) -> Iterator[Metric]:
        """Everything but the histograms."""
        shared, workers = self._redis()
        with self._lock:
            requests, failures = Counter(self._requests), Counter(self._failures)
        yield _counts("requests", "Requests answered.", ("what", "outcome"), requests)
        failures.update(shared.failures if shared else {})
        yield _counts("failures", "What failed, in requests and jobs, by cause.", ("what", "cause"), failures)
        yield self._lookups(shared)
        yield _gauge("redis_up", "Whether Redis answers.", float(shared is not None))
        if shared:
            yield from _queue(shared, workers)
        yield from self._projects()

    def describe(self) -> list[Metric]:
        """Nothing: it would take gathering everything once more."""
        return []

    def _redis(self) -> tuple[Counters | None, int]:
        """The figures in Redis and the number of workers; None and 0 while Redis is away."""
        try:
            figures = self.shared.get()
        except redis.RedisError as error:
            log.warning("/metrics does without Redis: %s", error)
            figures = None
        return figures or (None, 0)

    def _lookups(self, shared: Counters | None) -> Metric:
        embedder = self.service.loaded_embedder
        lookups = {("web", where): embedder.cache.lookups[where] if embedder else 0 for where in LOOKUP_RESULTS}
        if shared:
            lookups |= {("worker", where): shared.lookups.get(where, 0) for where in LOOKUP_RESULTS}
        return _counts("cache_lookups", "Embeddings looked up, by where they were.", ("process", "result"), lookups)

    def _projects(self) -> Iterator[Metric]:
        samples = Gauge("skylight_samples", "Accepted annotations that are learned from.", labels=["project"])
        current = Gauge("skylight_current_version", "Version served, 0: SAM alone.", labels=["project"])
        quality = Gauge("skylight_current_miou", "Its mean IoU on the validation images.", labels=["project"])
        trained = Summary("skylight_training_seconds", "Trainings that made a version.", labels=["project"])
        for project in self.service.store.projects():
            try:
                samples.add_metric([project], self.service.store.count(project))
                versions = [version.summary for version in self.records.versions(project)]
                number = self.service.versions.current(project)
            except (OSError, *DATA_ERRORS) as error:
                log.warning("/metrics leaves out project %s: %s", project, error)
                continue
            current.add_metric([project], number)
            trained.add_metric([project], len(versions), sum(version.seconds for version in versions))
            for version in versions:
                if version.number == number and version.mean_iou is not None:
                    quality.add_metric([project], version.mean_iou)
        yield from (samples, current, quality, trained)


def install(app: Flask) -> Metrics:
    """Have the application measure; its figures are at /metrics."""
    metrics = Metrics(service_of(app), records_of(app))
    app.extensions[NAME] = metrics
    return metrics


def _read_redis(service: Service) -> tuple[Counters, int]:
    return counters.read_counters(service.queue, service.store.projects()), len(running(service.queue))


def _queue(shared: Counters, workers: int) -> Iterator[Metric]:
    yield _gauge("workers", "Workers that run.", workers)
    depth = Gauge("skylight_queue_depth", "Jobs that wait.", labels=["kind"])
    waited = Gauge("skylight_queue_age_seconds", "How long the first job has waited.", labels=["kind"])
    failed = Gauge("skylight_jobs_failed", "Jobs that failed within the last week.", labels=["kind"])
    for kind in shared.depth:
        depth.add_metric([kind], shared.depth[kind])
        waited.add_metric([kind], shared.waited[kind])
        failed.add_metric([kind], shared.failed[kind])
    length = Gauge("skylight_inbox_events", "Accepted events that wait to be ingested.", labels=["project"])
    age = Gauge("skylight_inbox_age_seconds", "How long the oldest of them has waited.", labels=["project"])
    for project in shared.inbox:
        length.add_metric([project], shared.inbox[project])
        age.add_metric([project], shared.age[project])
    jobs = Summary("skylight_job_seconds", "Jobs done.", labels=["kind", "outcome"])
    for labels, (count, seconds) in sorted(shared.jobs.items()):
        jobs.add_metric(labels, count, seconds)
    yield from (depth, waited, failed, length, age, jobs)


def _counts(name: str, text: str, labels: tuple[str, ...], counts: Mapping[tuple[str, str], int]) -> Metric:
    metric = Counts(f"skylight_{name}", text, labels=labels)
    for values, count in sorted(counts.items()):
        metric.add_metric(values, count)
    return metric


def _gauge(name: str, text: str, value: float) -> Metric:
    return Gauge(f"skylight_{name}", text, value=value)
