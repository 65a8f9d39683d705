"""Every figure the service reports about itself, in one place.

Counting happens on the event loop alone, in plain Python numbers, and turns into Prometheus
families only when somebody scrapes: prometheus_client's own counters take a lock for every
increment and its histograms one for every bucket, a tenth of the cost of a small call.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from service.cache import CacheCounts
from service.drift import Drift

# 100 us to 10 s, about two and a half steps a decade: one scale for every duration.
SECONDS = (
    1e-4,
    2.5e-4,
    5e-4,
    1e-3,
    2.5e-3,
    5e-3,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    10.0,
)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

# Of the probabilities of two models, 0 to 1.
DISTANCES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0)

STAGES = ("decode", "queue", "compute", "answer")
DROP_REASONS = ("deadline", "cancelled")
FAIL_REASONS = ("model", "internal")
REJECT_REASONS = (
    "queue_full",
    "queue_too_long",
    "too_many_streams",
    "out_of_memory",
    "invalid",
    "not_found",
    "not_serving",
)


class Histogram:
    """Counts of observations per bucket; one thread observes, any thread reads."""

    __slots__ = ("_bounds", "_counts", "_total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    @property
    def count(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    @property
    def total(self) -> float:
        """The sum of the values."""
        return self._total

    def buckets(self) -> tuple[list[tuple[str, float]], float]:
        """Cumulative counts by upper bound, and the sum of the values."""
        seen, rows = 0, []
        for bound, count in zip((*self._bounds, float("inf")), tuple(self._counts), strict=True):
            seen += count
            rows.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(seen)))
        return rows, self._total


class MethodMetrics:
    """Calls of one RPC method, under the names that gRPC dashboards know."""

    __slots__ = ("handled", "handling", "labels", "started")

    def __init__(self, kind: str, service: str, method: str) -> None:
        self.labels = (kind, service, method)
        self.started = 0
        # There from the start: Prometheus sees no increase in a series that begins with 1.
        self.handled = defaultdict(int, OK=0, INTERNAL=0)
        self.handling = Histogram(SECONDS)

    def finish(self, code: str, seconds: float) -> None:
        """Count the end of a call."""
        self.handled[code] += 1
        self.handling.observe(seconds)


class ModelMetrics:
    """What one model does."""

    __slots__ = (
        "agreed", "batch_size", "cache", "compared", "depth", "distance", "drift", "dropped",
        "errors", "failed", "images", "last_answer", "load_seconds", "name", "precision",
        "provider", "shed", "stages", "version",
    )  # fmt: skip

    def __init__(self, name: str, version: int, *, precision: str, provider: str) -> None:
        self.name, self.version = name, str(version)
        self.precision, self.provider = precision, provider
        self.load_seconds = 0.0
        self.images = 0
        self.failed = 0
        """Requests that were admitted and not answered."""
        self.errors = 0
        """Requests that the model failed on."""
        self.compared = self.agreed = self.shed = 0
        """Images that it was shown as a shadow; of these, those that it takes for the same as the
        champion; and those that it would have been shown, had there been time."""
        self.distance = Histogram(DISTANCES)
        self.last_answer = 0.0
        """Seconds since 1970; 0 where there was none."""
        self.stages = {stage: Histogram(SECONDS) for stage in STAGES}
        self.batch_size = Histogram(BATCH_SIZES)
        self.dropped = dict.fromkeys(DROP_REASONS, 0)
        self.depth: Callable[[], int] = lambda: 0
        self.drift: Drift | None = None
        self.cache = CacheCounts()


class Metrics:
    """The registry of this process and all that is counted in it."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.ready = False
        self.device_fallback = False
        self.in_flight = 0
        self.decoder_crashes = 0
        self.decoder_seconds = 0.0
        """Processor time of the processes that decode images."""
        self.decoder_memory: Callable[[], int] = lambda: 0
        """Bytes of memory that they hold."""
        self.rejected = dict.fromkeys(REJECT_REASONS, 0)
        self.failed = dict.fromkeys(FAIL_REASONS, 0)
        self.loads_failed: defaultdict[str, int] = defaultdict(int)
        """Versions that failed a check when they were to be loaded, by model."""
        self.challengers_ended: defaultdict[str, int] = defaultdict(int)
        """Challengers that did worse than they may, by model."""
        self.trials: Callable[[], Iterable[tuple[Sequence[str], float]]] = lambda: ()
        """Model, version and mode of every challenger, and its share."""
        self.unfit: Callable[[], Mapping[tuple[str, int], bool]] = dict
        """Models and versions, and whether they are to serve but are not fit."""
        self.live: Callable[[], Iterable[tuple[str, int]]] = lambda: ()
        """Models and the versions that answer requests that name none."""
        self.cached: Callable[[], tuple[int, int]] = lambda: (0, 0)
        """Answers in the response cache, and the bytes that they take."""
        self._methods: list[MethodMetrics] = []
        self._models: list[ModelMetrics] = []
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.registry.register(self)

    def method(self, kind: str, service: str, method: str) -> MethodMetrics:
        """Start to count one RPC method; `kind` is unary or bidi_stream."""
        self._methods.append(MethodMetrics(kind, service, method))
        return self._methods[-1]

    def model(self, name: str, version: int, *, precision: str, provider: str) -> ModelMetrics:
        """Start to count a version of a model, or go on where it is loaded anew."""
        for one in self._models:
            if (one.name, one.version) == (name, str(version)):
                return one
        self._models.append(ModelMetrics(name, version, precision=precision, provider=provider))
        return self._models[-1]

    def forget(self, model: ModelMetrics) -> None:
        """Show a version no more that is gone."""
        self._models = [one for one in self._models if one is not model]

    def collect(self) -> Iterable[Metric]:
        """Turn the counts into Prometheus families; called by the registry at each scrape."""
        yield from self._collect_methods()
        yield from self._collect_models()
        yield from self._collect_drift()
        yield from _collect_cache(self._models, *self.cached())
        yield _gauge("convoy_ready", "1 while the service answers.", self.ready)
        yield _gauge(
            "convoy_device_fallback",
            "1 when device `auto` found no usable GPU and runs on the CPU.",
            self.device_fallback,
        )
        yield _gauge("convoy_requests_in_flight", "Requests being worked on.", self.in_flight)
        yield _counter("convoy_rejected", "Requests refused, by reason.", ("reason",), (
            ((reason,), count) for reason, count in self.rejected.items()
        ))  # fmt: skip
        yield _counter("convoy_failed", "Requests failed by the service.", ("reason",), (
            ((reason,), count) for reason, count in self.failed.items()
        ))  # fmt: skip
        yield _counter("convoy_decoder_crashes", "Decoding processes that ended by themselves.",
            (), (((), self.decoder_crashes),),
        )  # fmt: skip
        yield _counter("convoy_decoder_cpu_seconds", "Processor time of the decoding processes.",
            (), (((), self.decoder_seconds),),
        )  # fmt: skip
        yield _gauge("convoy_decoder_resident_memory_bytes", "Memory of the decoding processes.",
            self.decoder_memory(),
        )  # fmt: skip

        yield from self._collect_repository()

    def _collect_repository(self) -> Iterable[Metric]:
        yield _counter("convoy_loads_failed", "Versions that failed a check when loaded.",
            ("model",),
            (((name,), count) for name, count in tuple(self.loads_failed.items())),
        )  # fmt: skip
        yield _counter("convoy_challengers_ended", "Challengers that did worse than they may.",
            ("model",),
            (((name,), count) for name, count in tuple(self.challengers_ended.items())),
        )  # fmt: skip
        yield _gauges("convoy_model_unfit", "1 for a version that is to serve and fails a check.",
            ("model", "version"),
            (((name, str(version)), unfit) for (name, version), unfit in self.unfit().items()),
        )  # fmt: skip

        yield _gauges("convoy_challenger", "Share of the requests that it answers or is shown.",
            ("model", "version", "mode"), self.trials(),
        )  # fmt: skip
        yield _gauges("convoy_model_live", "The version that answers requests that name none.",
            ("model", "version"),
            (((name, str(version)), 1) for name, version in self.live()),
        )  # fmt: skip

    def _collect_methods(self) -> Iterable[Metric]:
        labels = ("grpc_type", "grpc_service", "grpc_method")
        yield _counter("grpc_server_started", "RPCs started on the server.", labels, (
            (one.labels, one.started) for one in self._methods
        ))  # fmt: skip
        yield _counter("grpc_server_handled", "RPCs ended.", (*labels, "grpc_code"), (
            ((*one.labels, code), count)
            for one in self._methods
            for code, count in tuple(one.handled.items())
        ))  # fmt: skip
        yield _histogram("grpc_server_handling_seconds", "Duration of RPCs.", labels, (
            (one.labels, one.handling) for one in self._methods
        ))  # fmt: skip

    def _collect_models(self) -> Iterable[Metric]:
        models = self._models
        yield _histogram("convoy_stage_seconds", "Time in each stage.",
            ("model", "version", "stage"), (
            ((one.name, one.version, stage), histogram)
            for one in models
            for stage, histogram in one.stages.items()
        ))  # fmt: skip
        yield _histogram("convoy_batch_size", "Images in each batch.", ("model", "version"), (
            ((one.name, one.version), one.batch_size) for one in models
        ))  # fmt: skip
        yield _counter("convoy_images", "Images answered.", ("model", "version"), (
            ((one.name, one.version), one.images) for one in models
        ))  # fmt: skip
        yield _counter("convoy_dropped", "Requests given up unanswered.",
            ("model", "version", "reason"), (
            ((one.name, one.version, reason), count)
            for one in models
            for reason, count in one.dropped.items()
        ))  # fmt: skip
        yield _counter("convoy_model_errors", "Requests that the model failed on.",
            ("model", "version"), (((one.name, one.version), one.errors) for one in models),
        )  # fmt: skip
        yield from _collect_shadows([one for one in models if one.compared or one.shed])
        yield _gauges("convoy_queue_depth", "Images waiting for a batch.",
            ("model", "version"), (
            ((one.name, one.version), one.depth()) for one in models
        ))  # fmt: skip
        yield _gauges("convoy_model_load_seconds", "Time to load, check and warm up a model.",
            ("model", "version"),
            (((one.name, one.version), one.load_seconds) for one in models),
        )  # fmt: skip
        yield _gauges("convoy_model_info", "The models being served.",
            ("model", "version", "provider", "precision"),
            (((one.name, one.version, one.provider, one.precision), 1) for one in models),
        )  # fmt: skip

    def _collect_drift(self) -> Iterable[Metric]:
        found = [(one, *one.drift.read()) for one in self._models if one.drift is not None]
        yield _gauges("convoy_drift_predictions", "Predictions that drift is measured on.",
            ("model", "version"),
            (((one.name, one.version), predictions) for one, predictions, _ in found),
        )  # fmt: skip
        yield _gauges("convoy_drift_psi", "Population stability index against the baseline.",
            ("model", "version", "of"),
            (((one.name, one.version, of), index)
             for one, _, indices in found for of, index in indices.items()),
        )  # fmt: skip


def _collect_shadows(models: Sequence[ModelMetrics]) -> Iterable[Metric]:
    labels = ("model", "version")
    yield _counter("convoy_shadow_compared", "Images shown to a shadow.", labels, (
        ((one.name, one.version), one.compared) for one in models
    ))  # fmt: skip
    yield _counter("convoy_shadow_agreed", "Images that it takes for the same.", labels, (
        ((one.name, one.version), one.agreed) for one in models
    ))  # fmt: skip
    yield _counter("convoy_shadow_shed", "Images it was not shown, for lack of time.", labels, (
        ((one.name, one.version), one.shed) for one in models
    ))  # fmt: skip
    yield _histogram("convoy_shadow_distance", "Of both models' probabilities.", labels, (
        ((one.name, one.version), one.distance) for one in models
    ))  # fmt: skip


def _collect_cache(models: Sequence[ModelMetrics], entries: int, size: int) -> Iterable[Metric]:
    yield _counter("convoy_response_cache_images", "Images looked up in the response cache.",
        ("model", "version", "result"), (
        ((one.name, one.version, result), count)
        for one in models
        for result, count in one.cache.results().items()
    ))  # fmt: skip
    yield _gauge("convoy_response_cache_entries", "Answers in the response cache.", entries)
    yield _gauge("convoy_response_cache_bytes", "Bytes that those answers take.", size)


def _counter(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    family = CounterMetricFamily(name, text, labels=labels)
    for values, count in rows:
        family.add_metric(values, count)
    return family


def _gauges(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], float]]
) -> Metric:
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _histogram(
    name: str, text: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], Histogram]]
) -> Metric:
    family = HistogramMetricFamily(name, text, labels=labels)
    for values, histogram in rows:
        buckets, total = histogram.buckets()
        family.add_metric(values, buckets, total)
    return family
