"""Metrics of the service, for Prometheus."""

from __future__ import annotations

from functools import partial
from typing import final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from worldline.serve.scheduler import Lane, Scheduler

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_BATCHES = (1, 2, 4, 8, 16, 32, 64)


@final
class Metrics:
    """The metrics of one service. Labels are names of served worlds, verbs and status codes; never tokens."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=self._registry), partial(Histogram, registry=self._registry)
        self._requests = counter("worldline_requests", "Requests.", ("world", "verb", "status"))
        self._seconds = histogram("worldline_request_seconds", "Duration of requests.", ("verb",), buckets=_SECONDS)
        self._batches = histogram("worldline_batch_calls", "Calls computed as one.", ("lane",), buckets=_BATCHES)
        self._compute = counter("worldline_compute_seconds", "Time of workers.", ("lane",))
        self.refused = counter("worldline_refused_calls", "Calls refused before they were read.")

    def watch(self, scheduler: Scheduler) -> None:
        """Shows the queues of a scheduler."""
        waiting = Gauge("worldline_waiting_calls", "Calls that wait.", ("lane",), registry=self._registry)
        running = Gauge("worldline_busy_workers", "Workers that compute.", ("lane",), registry=self._registry)
        for lane in Lane:
            waiting.labels(lane).set_function(partial(scheduler.waiting, lane))
            running.labels(lane).set_function(partial(scheduler.running, lane))

    def request(self, world: str, verb: str, status: int, seconds: float) -> None:
        """Counts a request."""
        self._requests.labels(world, verb, str(status)).inc()
        self._seconds.labels(verb).observe(seconds)

    def batch(self, lane: Lane, calls: int, seconds: float) -> None:
        """Counts a batch."""
        self._batches.labels(lane).observe(calls)
        self._compute.labels(lane).inc(seconds)

    def text(self) -> bytes:
        """The metrics as text."""
        return generate_latest(self._registry)
