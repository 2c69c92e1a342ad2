"""Every limit of the service, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import final

from worldline.errors import ConfigError


@final
@dataclass(frozen=True, kw_only=True)
class Limits:
    """The limits of a service. All are above 0.

    Args:
        body_bytes: largest request body in msgpack.
        json_bytes: largest request body in JSON, which takes several times its size in memory.
        open_bytes: all request bodies and messages in memory, from reading to the answer, over all tokens (see
            `Shares`). JSON bodies count eight times.
        bodies: requests with a body that are read or answered, over all tokens.
        header_s: seconds until the headers of a request are complete, from the connection or the last answer.
        body_s: seconds until the body of a request is complete, from its headers, and until its answer is read.
        connections: open connections.
        queue: calls that wait for a worker, over all worlds, in each lane (see `Scheduler`).
        batch: calls that are computed as one.
        horizon: longest plan or prediction, in steps.
        what_if: steps under other actions in `what_if`, each of which is a call of the engine.
        candidates: candidate plans in one call, over all worlds of its batch.
        steps: predicted steps of one call, over worlds, candidates and samples. Scores of 1000 candidates for a day in
            steps of 5 minutes have 288,000.
        call_bytes: memory that one call or batch may need, as estimated before it begins.
        pixels: values of all images in one request, over all channels.
        plan_s: time limit of a plan without one.
        deadline_s: seconds after which a call that waits is refused.
        drain_s: seconds to finish running calls after SIGTERM.
        sessions: open sessions per token.
        session_s: seconds after which an unused session expires.
        session_steps: observations of a session that are kept.
        session_bytes: kept observations of all sessions of a token. Forks share them.
        jobs: unfinished jobs per token.
        mcp_bytes: largest request body of MCP.
        job_s: seconds for which one attempt of a job may run.
        job_bytes: memory for the data of each process of a job.
        job_kept_s: seconds for which a job is kept after its end.
    """

    body_bytes: int = 64 * 2**20
    json_bytes: int = 8 * 2**20
    open_bytes: int = 2**30
    bodies: int = 500
    header_s: float = 10.0
    body_s: float = 60.0
    connections: int = 1000
    queue: int = 64
    batch: int = 32
    horizon: int = 10_000
    what_if: int = 2000
    candidates: int = 65_536
    steps: int = 20_000_000
    call_bytes: int = 2**30
    pixels: int = 64 * 2**20
    plan_s: float = 10.0
    deadline_s: float = 60.0
    drain_s: float = 20.0
    sessions: int = 100
    session_s: float = 3600.0
    session_steps: int = 1000
    session_bytes: int = 512 * 2**20
    jobs: int = 10
    mcp_bytes: int = 2**20
    job_s: float = 86_400.0
    job_bytes: int = 32 * 2**30
    job_kept_s: float = 30 * 86_400.0

    def __post_init__(self) -> None:
        for item in fields(self):
            if not (value := getattr(self, item.name)) > 0:
                raise ConfigError(f"{item.name} is {value}. Give a number above 0.")
