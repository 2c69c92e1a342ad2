from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from sqlalchemy import select, update
from tests.data.stores import stored
from tests.serve import job_stub
from tests.serve.job_stub import FAIL, FINISH, IGNORE, VANISH, WAIT
from tests.serve.scripted import TOY, linear_world
from tests.serve.waiting import happens

from worldline.catalog.versions import HOME, Catalog
from worldline.data.store import Store
from worldline.errors import DataError, InputError, StoppedError
from worldline.progress import Progress
from worldline.recipes.ensemble import ensemble
from worldline.recipes.recipe import Recipe
from worldline.registry import BUILTIN
from worldline.serve import jobs as jobs_module
from worldline.serve.callers import ANYONE, Scope
from worldline.serve.database import ENVIRONMENT, Database
from worldline.serve.hosting import HostedWorld, Hosts
from worldline.serve.http import create_app
from worldline.serve.http_jobs import jobs_router
from worldline.serve.job_process import MAX_LOSSES, STOPPED, JobTask, LossCurve, failure, fenced, raise_fence, run
from worldline.serve.job_requests import AuditJob, JobRequest, LearnJob
from worldline.serve.jobs import COMMAND, ENDED, Jobs, JobSettings, JobView
from worldline.serve.limits import Limits
from worldline.serve.logs import ServedLogs
from worldline.serve.problems import RateLimitedError
from worldline.serve.service import Service
from worldline.serve.tables import jobs as table
from worldline.serve.tokens import Tokens
from worldline.testing.toys import Integrator

pytestmark = pytest.mark.anyio

STUB = (sys.executable, job_stub.__file__)
LEARN = {"kind": "learn", "logs": "toy", "name": "greenhouse"}
Make = Callable[..., Jobs]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of logs, beside a folder that is no business of callers."""
    root = tmp_path_factory.mktemp("data")
    stored(root / "logs" / "toy", TOY.schema, Integrator(camera=False, wind=False, noise=0.1).episodes(16, 20, seed=0))
    stored(root / "private", TOY.schema, TOY.episodes(1, 5, seed=0))
    return root


@pytest.fixture
def service(root: Path) -> Iterator[Service]:
    hosts = Hosts(Catalog().open_bundle)
    hosts.add(HostedWorld("toy", None, linear_world()))
    made = Service(hosts, Limits(jobs=3), logs=ServedLogs(root / "logs"))
    yield made
    made.close()


@pytest.fixture
def make(service: Service, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes the jobs of a service, whose processes are stubs."""
    monkeypatch.setenv(HOME, str(tmp_path / "catalog"))
    monkeypatch.setenv(ENVIRONMENT, "postgresql://service:secret@host/name")

    def made(database: Database, **settings: Any) -> Jobs:
        given = {"command": STUB, "beat_s": 0.05, "folder": tmp_path}
        return Jobs(service, database, JobSettings(**{**given, **settings}))

    return made


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "service.sqlite") as opened:
        yield opened


@asynccontextmanager
async def working(*several: Jobs) -> AsyncIterator[Jobs]:
    for one in several:
        one.start()
    try:
        yield several[0]
    finally:
        await asyncio.gather(*(one.close() for one in several))


async def until(jobs: Jobs, job: JobView, *states: str) -> JobView:
    async with asyncio.timeout(120):
        while (job := await jobs.get(ANYONE, job.id)).status not in states:
            await asyncio.sleep(0.02)
    return job


def began(folder: Path) -> list[list[str]]:
    """Job and process of each process that began."""
    with suppress(FileNotFoundError):
        return [line.split() for line in (folder / "began").read_text().splitlines()]
    return []


def is_alive(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


@asynccontextmanager
async def client(service: Service, jobs: Jobs) -> AsyncIterator[httpx.AsyncClient]:
    app: Any = create_app(service)
    app.include_router(jobs_router(service, jobs))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as found:
        yield found


def request(seed: int) -> LearnJob:
    return LearnJob(logs="toy", name="greenhouse", seed=seed)


async def test_a_job_over_http(service: Service, make: Make, file: Database) -> None:
    async with working(make(file)) as jobs, client(service, jobs) as http:
        assert (await http.get("/v1/logs")).json() == {"logs": ["toy"]}
        key = {"idempotency-key": "one"}
        sent: Any = {"json": {**LEARN, "seed": WAIT}, "headers": key}
        created = await http.post("/v1/jobs", **sent)
        assert (await http.post("/v1/jobs", **sent)).json()["id"] == created.json()["id"]
        path = f"/v1/jobs/{created.json()['id']}"
        assert (created.status_code, created.headers["location"]) == (202, path)
        other = await http.post("/v1/jobs", json={**LEARN, "seed": FINISH}, headers=key)
        assert (other.status_code, other.json()["code"]) == (409, "conflict")
        assert "used for another job" in other.text
        await until(jobs, JobView(**created.json()), "running")
        early = await http.get(f"{path}/result")
        assert (early.status_code, early.json()["code"]) == (409, "conflict")
        (jobs._folder.parent / "go").touch()
        await until(jobs, JobView(**created.json()), "done")
        end = (await http.get(path)).json()
        assert end == (await http.delete(path)).json()
        assert (end["status"], end["progress"]["step"]) == ("done", 2)
        assert (await http.get(f"{path}/result")).json() == {"figures": {"learn_s": 1.5}, "secrets": []}
        report = await http.get(f"{path}/report")
        assert report.text == "<p>the report"
        policy = report.headers["content-security-policy"].split("; ")
        assert {"default-src 'none'", "sandbox allow-scripts", "frame-ancestors 'none'"} <= set(policy)
        assert "unsafe" not in next(part for part in policy if part.startswith("script-src"))
        assert [job["id"] for job in (await http.get("/v1/jobs")).json()["jobs"]] == [end["id"]]
        assert not (jobs._folder / end["id"] / "work").exists()


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"kind": "steal"}, "invalid_request", "steal"),
        ({"seed": -1}, "invalid_request", "seed"),
        ({"logs": "unknown"}, "invalid_request", "Known: toy"),
        ({"alias": "prod"}, "invalid_request", "unknown field `alias`"),
        ({"logs": "../private"}, "invalid_request", "no logs"),
        ({"logs": "https://example.org/logs"}, "invalid_request", "no logs"),
        ({"name": "../greenhouse"}, "invalid_request", "not allowed"),
        ({"recipe": "os:system"}, "invalid_request", "no recipe"),
        ({"budget": "soon"}, "invalid_request", "no duration"),
        ({"kind": "audit", "world": "other", "name": None}, "not_found", "no world 'other'."),
        ({"kind": "audit", "world": "../x@1", "name": None}, "invalid_request", "not allowed"),
        ({"kind": "audit", "world": "greenhouse@1", "name": None}, "not_found", "no world 'greenhouse'."),
    ],
)
async def test_requests_are_refused(
    service: Service, make: Make, file: Database, change: Any, code: str, text: str
) -> None:
    token = Tokens(file).create("caller", [Scope.JOB])
    service._tokens, service.needs_token = Tokens(file), True
    async with client(service, make(file, workers=0)) as http:
        body = {key: value for key, value in {**LEARN, **change}.items() if value is not None}
        answer = await http.post("/v1/jobs", json=body, headers={"authorization": f"Bearer {token}"})
        assert answer.json()["code"] == code
        assert text in answer.json()["detail"]
        assert (answer.json().get("pointer") == "/seed") == ("seed" in change)
        assert "private" not in answer.text.replace("../private", "")


async def test_callers_see_only_their_own_jobs_and_need_the_scope(service: Service, make: Make, file: Database) -> None:
    tokens = service._tokens = Tokens(file)
    service.needs_token = True
    mine, other, reader = (
        {"authorization": f"Bearer {tokens.create(name, [scope])}"}
        for name, scope in (("mine", Scope.JOB), ("other", Scope.JOB), ("reader", Scope.READ))
    )
    async with client(service, make(file, workers=0)) as http:
        created = await http.post("/v1/jobs", json=LEARN, headers=mine)
        path = created.headers["location"]
        routes = [("GET", path), ("DELETE", path), *(("GET", f"{path}/{part}") for part in ("result", "report"))]
        for method, route in routes:
            assert (await http.request(method, route, headers=other)).status_code == 404
        for method, route in [*routes, ("POST", "/v1/jobs"), ("GET", "/v1/jobs"), ("GET", "/v1/logs")]:
            assert (await http.request(method, route, headers=reader)).status_code == 403
        assert (await http.get("/v1/jobs", headers=other)).json() == {"jobs": []}
        assert (await http.get(path, headers=mine)).json()["status"] == "queued"
        slow = {"authorization": f"Bearer {tokens.create('slow', [Scope.JOB], rate=0.3)}"}
        assert [(await http.get("/v1/jobs", headers=slow)).status_code for _ in range(2)] == [200, 429]


async def test_unfinished_jobs_are_limited_and_a_waiting_one_can_be_cancelled(make: Make, file: Database) -> None:
    jobs = make(file, workers=0)
    waiting = [await jobs.create(ANYONE, request(WAIT)) for _ in range(3)]
    with pytest.raises(RateLimitedError, match="3 jobs are not finished"):
        await jobs.create(ANYONE, request(WAIT))
    assert (await jobs.cancel(ANYONE, waiting[0].id)).status == "cancelled"
    await jobs.create(ANYONE, request(WAIT))


async def test_a_key_stands_for_one_audit_of_an_alias(
    make: Make, file: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    version = "1"
    monkeypatch.setattr(Catalog, "resolve", lambda *_: Path(version))

    create = partial(make(file, workers=0).create, ANYONE, AuditJob(world="toy@prod", logs="toy"), key="one")
    first, version = await create(), "2"
    assert await create() == first


@pytest.mark.parametrize("seed", [WAIT, IGNORE])
async def test_a_running_job_is_cancelled(
    make: Make, file: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(jobs_module, "_GRACE_S", 0.2)

    async with working(make(file)) as jobs:
        job = await jobs.create(ANYONE, request(seed))
        await happens(lambda: began(tmp_path))
        await jobs.cancel(ANYONE, job.id)
        assert (await until(jobs, job, *ENDED)).status == "cancelled"
        assert not is_alive(int(began(tmp_path)[0][1]))


async def test_an_ended_job_resumes_at_its_checkpoint(
    service: Service, make: Make, file: Database, tmp_path: Path
) -> None:
    service.limits = Limits(jobs=1)

    def work(job: JobView) -> bool:
        return (tmp_path / "jobs" / job.id / "work").exists()

    async with working(make(file)) as jobs, client(service, jobs) as http:
        failed = await until(jobs, await jobs.create(ANYONE, request(FAIL)), "failed")
        assert work(failed)
        again = await http.post(f"/v1/jobs/{failed.id}:resume")
        assert (again.status_code, again.json()["status"], again.json()["error"]) == (202, "queued", None)
        await until(jobs, failed, "failed")
        assert len(began(tmp_path)) == 2
        waiting = await jobs.create(ANYONE, request(WAIT))
        await happens(lambda: work(waiting))
        refused = [await http.post(f"/v1/jobs/{job}:resume") for job in (waiting.id, failed.id, "job_0")]
        assert [answer.status_code for answer in refused] == [409, 429, 404]
        await jobs.cancel(ANYONE, waiting.id)
        await until(jobs, waiting, "cancelled")
        await happens(lambda: not work(failed))  # only the last job keeps its checkpoint
        await jobs.resume(ANYONE, waiting.id)
        assert work(waiting)
        (tmp_path / "go").touch()
        assert (await until(jobs, waiting, *ENDED)).status == "done"


def test_losses_are_spread_over_the_last_stage_with_a_loss() -> None:
    curve = LossCurve()
    for step in range(1001):
        curve.add(Progress(stage="learn", step=step, total=1000, loss=step / 2))
    losses = curve.add(Progress(stage="calibrate", step=0, total=1))
    assert MAX_LOSSES / 2 < len(losses) <= MAX_LOSSES
    assert losses[:2] == [(0, 0.0), (8, 4.0)]
    assert curve.add(Progress(stage="heads", step=1, total=5, loss=1.0)) == [(1, 1.0)]


@pytest.mark.parametrize(
    ("seed", "limits", "text"),
    [
        (FAIL, {}, "the logs are empty"),
        (VANISH, {}, "without a result"),
        (WAIT, {"job_s": 0.1}, "0.1 s, the limit of this service"),
    ],
)
async def test_failures_have_reasons(
    service: Service, make: Make, file: Database, seed: int, limits: dict[str, float], text: str
) -> None:
    service.limits = Limits(**limits)  # type: ignore[arg-type]

    async with working(make(file)) as jobs:
        job = await until(jobs, await jobs.create(ANYONE, request(seed)), *ENDED)
        assert job.status == "failed"
        assert text in job.error["message"]


async def test_processes_share_the_queue_and_run_no_job_twice(make: Make, database_url: str, tmp_path: Path) -> None:
    with Database(database_url) as one, Database(database_url) as other:
        async with working(make(one), make(other)) as jobs:
            created = [await jobs.create(ANYONE, request(FINISH)) for _ in range(3)]
            created += [await until(jobs, job, "done") for job in created]
            created += [await jobs.create(ANYONE, request(FINISH)) for _ in range(3)]
            for job in created:
                await until(jobs, job, "done")
    assert sorted(name for name, _ in began(tmp_path)) == sorted({job.id for job in created})


async def test_a_job_continues_after_a_stop_and_its_lease_but_ends(make: Make, file: Database, tmp_path: Path) -> None:
    async with working(make(file)) as jobs:
        job = await jobs.create(ANYONE, request(WAIT))
        await happens(lambda: began(tmp_path))
    assert (await jobs.get(ANYONE, job.id)).status == "queued"
    gone = {"status": "running", "owner": "gone", "heartbeat": time.time() - 50}
    await file.write_async(lambda connection: connection.execute(update(table).values(gone)))
    async with working(make(file)) as jobs:  # whose lease is longer
        await asyncio.sleep(0.3)
        assert (await jobs.get(ANYONE, job.id)).status == "running"
        assert len(began(tmp_path)) == 1
    async with working(make(file, lease_s=20)) as jobs:
        (tmp_path / "go").touch()
        await until(jobs, job, "done")
        assert len(began(tmp_path)) == 2
    gone |= {"attempts": 3}
    await file.write_async(lambda connection: connection.execute(update(table).values(gone)))
    async with working(make(file, lease_s=20)) as jobs:
        assert (await until(jobs, job, *ENDED)).status == "failed"


async def test_old_jobs_and_their_files_are_removed(make: Make, file: Database, tmp_path: Path) -> None:
    jobs = make(file, workers=0)
    old, kept = [await jobs.create(ANYONE, request(FINISH)) for _ in range(2)]
    for name in (old.id, kept.id, "1"):  # 1: version of an older world named jobs
        (tmp_path / "jobs" / name / "work").mkdir(parents=True)
    ended = {"status": "done", "finished": time.time() - 31 * 86400}
    await file.write_async(lambda c: c.execute(update(table).where(table.c.id == old.id).values(ended)))
    await jobs.clean()
    assert {path.name for path in (tmp_path / "jobs").iterdir()} == {kept.id, "1"}
    assert [job.id for job in await jobs.list_jobs(ANYONE)] == [kept.id]


async def test_a_killed_service_loses_no_job_and_leaves_no_process(make: Make, file: Database, tmp_path: Path) -> None:
    """The kill of a whole service is in tests/adversarial/test_kills.py; here its process of a job is the real one."""

    job = await make(file, workers=0).create(ANYONE, LearnJob(logs="toy", name="greenhouse", recipe="linear"))
    jobs = make(file, command=COMMAND, lease_s=4)
    row = await file.read_async(lambda connection: connection.execute(select(table)).mappings().one())
    assert raise_fence(tmp_path / "jobs" / job.id, row["fence"])
    child = await jobs_module._start(COMMAND, jobs.task(row))
    child.stdin.close()  # as the system does if the service is killed
    gone = {"status": "running", "owner": "gone", "heartbeat": time.time() - 50}
    await file.write_async(lambda connection: connection.execute(update(table).values(gone)))
    async with working(jobs):
        assert (await until(jobs, job, *ENDED)).error is None
        assert (await jobs.result(ANYONE, job.id))["world"] == "greenhouse@1"
    async with asyncio.timeout(20):
        assert await child.wait() == -signal.SIGKILL


async def test_a_process_that_lost_its_job_cannot_publish_or_write(make: Make, file: Database, tmp_path: Path) -> None:
    """Its service and the catalog hung for longer than the lease, and another process has the job now."""
    job = await make(file, workers=0).create(ANYONE, LearnJob(logs="toy", name="greenhouse", recipe="linear"))
    jobs, folder = make(file, command=COMMAND), tmp_path / "jobs" / job.id
    row = await jobs._claim()
    assert row is not None
    late = jobs.task(row)
    assert raise_fence(folder, late.fence)
    again = await make(file, lease_s=-1)._claim()
    assert again is not None
    assert again["fence"] == late.fence + 1
    assert raise_fence(folder, again["fence"])
    assert not raise_fence(folder, late.fence)
    with pytest.raises(StoppedError, match="another process has this job"):
        run(late, lambda now: None, bool)
    assert Catalog().names() == ()
    hung = await jobs_module._start(COMMAND, late)
    assert await hung.wait() in (STOPPED, -signal.SIGKILL)
    assert not [name for name in ("report.html", "end.json", "progress.json") if (folder / name).exists()]
    await jobs._settle(row, {"status": "failed"})
    assert (await jobs.get(ANYONE, job.id)).status == "running"
    figures = run(jobs.task(again), lambda now: None, bool)
    assert figures["world"] == "greenhouse@1"
    with fenced(jobs.task(again)):
        claim = asyncio.create_task(asyncio.to_thread(raise_fence, folder, again["fence"] + 1))
        assert await asyncio.wait([claim], timeout=0.2) == (set(), {claim})
    assert await claim


def brief(store: Store) -> Recipe:
    return ensemble(store).with_settings({"training.num_updates": 20})


def test_learning_resumes_and_publishes_once_and_answers_name_no_paths(
    make: Make, root: Path, tmp_path: Path, file: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BUILTIN["recipe"], "ensemble", f"{__name__}:brief")
    jobs, steps = make(file, workers=0), list[tuple[str, int]]()

    def answer(request: JobRequest, name: str, stop: Callable[[], bool] = bool) -> dict[str, Any]:
        arguments = msgspec.to_builtins(request)
        task = jobs.task({"id": name, "kind": arguments.pop("kind"), "arguments": arguments, "fence": 0})
        return run(task, lambda now: steps.append((now.stage, now.step)), stop)

    learn = LearnJob(logs="toy", name="figures.json", recipe="ensemble")  # also a file of the job
    with pytest.raises(StoppedError):
        answer(learn, "one", lambda: steps[-1] == ("learn", 10))
    first = len(steps)
    learned = answer(learn, "one")
    assert [step for stage, step in steps[first:] if stage == "learn"] == list(range(11, 21))
    assert answer(learn, "one", lambda: pytest.fail("learned again")) == learned
    assert learned["world"] == "figures.json@1"
    assert learned["figures"]["episodes"] == 16
    assert len(Catalog().versions("figures.json")) == 1
    audited = answer(AuditJob(world="figures.json@1", logs="toy"), "two")
    assert audited["decision"]["advice"] in ("deploy", "deploy with limits", "do not deploy")
    pages = [(tmp_path / "jobs" / name / "report.html").read_text() for name in ("one", "two")]
    assert all(page.startswith("<!doctype html>") for page in pages)
    assert not [path for path in (root, tmp_path) if str(path) in str([learned, audited, *pages])]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (DataError("no rows", fix="Add rows.", file="/srv/logs/toy/1.csv"), "toy/1.csv: no rows. Add rows."),
        (InputError("/home/me/x.csv is no log, 3 m/s"), "... is no log, 3 m/s"),
        (ZeroDivisionError("a secret"), "the job failed unexpectedly (ZeroDivisionError)."),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "the job needs more memory than it may use."),
    ],
)
def test_errors_are_told_without_paths_and_secrets(error: Exception, message: str) -> None:
    task = JobTask(request=request(0), folder="/srv/jobs/1", logs="/srv/logs/toy", memory_bytes=1)
    assert failure(error, task)["error"]["message"] == message
