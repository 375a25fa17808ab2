"""Names that are no project's, projects that Label Studio has no more, and forgetting either."""

import json
from dataclasses import replace

import pytest
from click.testing import CliRunner, Result

from skylight.backend.admin import doctor, status
from skylight.backend.admin.forget import forget, stored_project
from skylight.backend.cli import main
from skylight.backend.errors import BadRequest, Unavailable
from skylight.backend.labelstudio.label_config import parse_config
from skylight.backend.learning.reconcile import reconcile
from skylight.backend.limits import project_name
from skylight.backend.queue.keys import KINDS, PROJECTS, key
from skylight.backend.queue.retries import AGAIN
from skylight.backend.service import Service
from skylight.backend.store.samples import SampleStore
from skylight.backend.worker.jobs import CURRENT_SERVICE, ingest
from skylight.backend.worker.maintenance import Maintenance
from skylight.model.storage.checksums import seal
from tests.backend.web.test_predict import serve_decoder
from tests.support.label_studio_double import CONFIG, Studio, capture
from tests.support.planted_embeddings import brush, png, square

P, OTHER = "1.1795340401", "2.1795340402"
NO_PROJECTS = (
    *("test", "all", "*", "projects", "1", "1.", ".1", "1.2.3", "-1.2", "1.-2", "1.2e3", "01.2", "1.02", "1,2", "١.٢"),
    *(" 1.2", "1.2 ", "1.2\n", "1.2/../../3.4", "../..", "1" * 30 + ".2", "1." + "2" * 30, "s:1.2:inbox", "0x1.2"),
    *(1.2, 1, True, None, "", [], ["1.2"], {}),
)


def test_what_label_studio_calls_no_project_is_refused_wherever_it_comes_in(client, service):
    for name in NO_PROJECTS:
        with pytest.raises(BadRequest, match="project"):
            project_name(name)
        for path, body in (("/setup", {"schema": CONFIG}), ("/predict", {"tasks": [], "label_config": CONFIG})):
            answer = client.post(path, json={**body, "project": name})
            assert answer.status_code == 400 and "project" in answer.get_json()["error"]
    assert service.store.projects() == service.queue.names() == []
    assert not (service.settings.home / "projects").exists()


def test_what_label_studio_sends_is_a_project(client, service):
    for number in ("02", "03"):
        assert project_name(capture(number)["project"]) == capture(number)["project"]
        assert client.post("/setup", json=capture(number)).status_code == 200
    assert project_name("9223372036854775807.253402300799") and project_name("0.0")


@pytest.mark.parametrize("created", ["1969-07-20T20:17:40Z", "0001-01-02T00:00:00Z"])
def test_a_webhook_whose_project_has_no_name_is_refused(client, service, created):
    body = capture("21")
    body["project"]["created_at"] = created
    assert client.post("/webhook", json=body).status_code == 400
    assert service.queue.names() == []


@pytest.mark.parametrize("name", ["test", "all", "1.2.3", "1"])
def test_an_address_of_the_page_with_no_projects_name_is_refused(client, service, name):
    for path in ("", "/versions/1", "/versions/1/tasks/1.webp"):
        answer = client.get(f"/projects/{name}{path}")
        assert answer.status_code == 404 and "is no project of Label Studio" in answer.text


LABELING = parse_config(CONFIG)


def misname(service: Service, name: str) -> None:
    """What an earlier release left after a /setup with that name."""
    folder = service.settings.home / "projects" / name
    folder.mkdir(parents=True)
    (folder / "project.json").write_bytes(seal({"label_config": CONFIG}))
    redis = service.queue.redis
    service.queue.request(name, "ingest")
    service.queue.request(name, "embed", lambda pipe: pipe.incr(key(name, "embedding-wanted")))
    redis.rpush(key(name, "inbox"), json.dumps({"what": "config", "label_config": CONFIG}))
    service.failures.record(name, "ingest", f"invalid literal for int(): {name}", "The worker's log says more")
    redis.zadd(AGAIN, {f"ingest {name}": 0.0})


@pytest.mark.parametrize("name", ["test", "all", "1-1795340401"])
def test_a_store_that_has_another_name_goes_on_working(client, planted, studio, work, run, name):
    misname(planted, name)
    studio.add_project()
    planted.store.save_config(P, CONFIG)
    Maintenance(planted, sweep=True).run_once()
    work()
    assert not {name, "*"} & set(status.all_as_json(planted))
    metrics = client.get("/metrics")
    assert metrics.status_code == 200 and f'"{name}"' not in metrics.text
    assert client.get("/status").status_code == client.get("/versions").status_code == 200
    assert planted.queue.queues["ingest"].count == planted.queue.queues["embed"].count == 0
    (said,) = [each for each in doctor.findings(planted) if each.what == f"project {name}"]
    assert said.state == "warn" and f"skylight forget --project {name}" in said.next_step
    assert run("forget", "--project", name, "--yes").exit_code == 0
    assert not [each for each in planted.queue.redis.scan_iter() if f":{name}:".encode() in each]
    assert not any(each.what == f"project {name}" for each in doctor.findings(planted))
    assert planted.store.projects() == [P] and planted.store.misnamed() == []
    assert client.get("/metrics").status_code == 200


@pytest.fixture
def run(planted: Service, monkeypatch: pytest.MonkeyPatch):
    """Runs a command beside the service."""
    monkeypatch.setattr("skylight.backend.cli.projects.open_service", lambda: planted)

    def invoke(*arguments: str, input: str = "") -> Result:
        return CliRunner().invoke(main.cli, list(arguments), input=input)

    return invoke


def fill(service: Service, studio: Studio) -> None:
    """Give two projects samples, a version, events that wait, jobs, and what else is kept of one."""
    for project in (studio.add_project(), studio.add_project()):
        for seed in range(2):
            image, mask = square(seed)
            studio.annotate(studio.add_task(project, png(image)), [brush(LABELING, mask)])
        assert reconcile(service, project) == 2
        serve_decoder(service, project, ("Pit",))
        service.secret.require(project)
        service.queue.add_event(project, {"what": "config", "label_config": CONFIG})
        for kind in KINDS:
            service.queue.request(project, kind)
        service.spool.add(project, {"what": "train", "label_config": ""})
        service.failures.record(project, "train", "the training diverged")
        service.store.damage.quarantine(project, f"{service.store.folder(project)}/project.json", "for a try")
        service.store.save_config(project, CONFIG)


def traces(service: Service, project: str) -> list[str]:
    """Where a project is named: files and Redis."""
    home, dashed = service.settings.home, project.replace(".", "-")
    files = [
        str(path.relative_to(home)) for path in home.rglob("*") if path.is_file() and path.name != "webhook-secret"
    ]
    named = [each for each in files if project in each or project.encode() in (home / each).read_bytes()]
    keys = [each.decode() for each in service.queue.redis.scan_iter()]
    named += [each for each in keys if project in each or f"-{dashed}-" in each]
    redis = service.queue.redis
    named += [str(each) for each in redis.smembers(PROJECTS) if each == project.encode()]
    return named + [str(each) for kind in KINDS for each in service.queue.queues[kind].job_ids if f"-{dashed}-" in each]


def test_nothing_is_left_of_a_project_and_another_is_untouched(planted, studio, run):
    fill(planted, studio)
    embeddings = sorted((planted.settings.home / "embeddings").rglob("*"))
    assert len(traces(planted, P)) > 15
    kept = sorted(traces(planted, OTHER))
    answer = run("forget", "--project", P, "--yes")
    assert answer.exit_code == 0 and f"project {P}: 2 annotations, 1 versions, 1 events" in answer.output
    assert traces(planted, P) == [f"projects/{P}.forgotten"]
    assert sorted(traces(planted, OTHER)) == kept
    assert sorted((planted.settings.home / "embeddings").rglob("*")) == embeddings
    assert planted.store.projects() == planted.queue.projects() == [OTHER]
    assert studio.projects[1] and len(studio.tasks) == 4  # Label Studio's are its own


def test_it_is_asked_for_and_can_be_named_by_its_number(planted, studio, run):
    fill(planted, studio)
    before = sorted(traces(planted, P))
    answer = run("forget", "--project", "1", input="n\n")
    assert answer.exit_code == 1 and "cannot be brought back" in answer.output
    assert sorted(traces(planted, P)) == before
    assert run("forget", "--project", "1", input="y\n").exit_code == 0
    for given in ("1", P, "3", "..", "*", "te st", ""):
        answer = run("forget", "--project", given, "--yes")
        assert isinstance(answer.exception, BadRequest) and f"only: {OTHER}" in str(answer.exception)
    planted.store.save_config("2.5", CONFIG)
    with pytest.raises(BadRequest, match=f"{OTHER} or 2.5"):
        stored_project(planted, "2")


def test_a_project_that_comes_back_begins_anew_but_for_the_numbers_of_its_versions(client, planted, studio, run):
    fill(planted, studio)
    labeling = planted.labeling(CONFIG)
    assert planted.decoder_for(P, labeling) is not None
    forget(planted, P)
    assert planted.version_name(P) == "sam-tiny" and planted.decoder_for(P, labeling) is None
    client.post("/setup", json={"project": P, "schema": CONFIG})
    serve_decoder(planted, P, ("Pit",))
    assert planted.version_name(P) == "skylight-2"  # other processes may have the first in memory
    forget(planted, P)
    assert SampleStore(planted.files).newest_forgotten(P) == 2


def test_it_waits_for_a_job_and_gives_up_where_one_goes_on(planted, monkeypatch):
    monkeypatch.setattr("skylight.backend.queue.locks.LOCK_SECONDS", 0.3)
    planted.store.save_config(P, CONFIG)
    with planted.queue.lock(P, "train"), pytest.raises(Unavailable, match=r"train.*try again"):
        forget(planted, P)
    assert planted.store.projects() == [P]


def test_without_redis_nothing_is_forgotten(planted, run):
    planted.store.save_config(P, CONFIG)
    planted.queue.__init__(Service(replace(planted.settings, redis_url="redis://127.0.0.1:1")).queue.redis)
    answer = run("forget", "--project", P, "--yes")
    assert isinstance(answer.exception, Unavailable) and "Redis does not answer" in str(answer.exception)
    assert planted.store.projects() == [P]


@pytest.mark.parametrize("how", ["deleted", "made anew"])
def test_a_project_that_label_studio_has_no_more_is_left_out_and_kept(client, planted, studio, how):
    for project in (studio.add_project(), studio.add_project()):
        studio.annotate(studio.add_task(project, png(square(0)[0])), [brush(LABELING, square(0)[1])])
        assert reconcile(planted, project) == 1
    assert planted.queue.gone() == {}
    project = studio.projects.pop(1)
    if how == "made anew":
        studio.projects[1] = {**project, "created_at": "2027-01-01T00:00:00.000000Z"}
    CURRENT_SERVICE.set(planted)
    planted.queue.mark_dirty(P)
    planted.queue.request_reconciliation(P, glance=True)
    ingest(P)
    assert list(planted.queue.gone()) == [P]
    assert planted.store.count(P) == 1 and not planted.queue.queues["train"].count
    planted.quarantine.record_failure(P, {"id": 7, "task": 1, "updated_at": "2027"}, "gone", own=False)
    Maintenance(planted, sweep=True).run_once()
    assert [tuple(job.args) for job in planted.queue.queues["ingest"].jobs] == [(OTHER,)]
    assert planted.retries.request_due() == []
    page = client.get(f"/projects/{P}").text
    assert "Label Studio does not have this project any more" in page and f"skylight forget --project {P}" in page
    assert "Not in Label Studio any more" in client.get("/").text
    assert "does not have this project" not in client.get(f"/projects/{OTHER}").text
    assert client.get("/status").get_json()[P]["gone"] and "gone" not in client.get("/status").get_json()[OTHER]
    assert any("GONE" in line for line in status.lines(status.all_as_json(planted)))
    (said,) = [each for each in doctor.findings(planted) if each.what == f"project {P}"]
    assert said.state == "warn" and f"skylight forget --project {P}" in said.next_step
    studio.projects[1] = project  # from a backup
    client.post("/webhook", json={**capture("20"), "project": {**capture("20")["project"], **_known(project)}})
    ingest(P)
    assert planted.queue.gone() == {}
    forget(planted, P)


def _known(project: dict[str, object]) -> dict[str, object]:
    return {name: project[name] for name in ("id", "created_at", "label_config")}


def test_what_another_server_says_at_the_address_is_no_deletion(planted, studio, monkeypatch):
    """A proxy's 404, or Label Studio down, or a wrong key."""
    studio.add_project()
    planted.store.save_config(P, CONFIG)
    for answer in (lambda number: ("<html>not found</html>", 404), lambda number: ({"detail": "no"}, 401)):
        monkeypatch.setitem(studio._app.view_functions, "project", answer)
        assert reconcile(planted, P) == 0
    studio.stop()
    assert reconcile(planted, P) == 0
    assert planted.queue.gone() == {}
