"""Fetching images: who gets the key, what is refused, and where the limits are. All servers are real ones."""

import base64
import gzip
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from skylight.backend.allowed_hosts import HostList
from skylight.backend.errors import MediaError
from skylight.backend.images import download
from skylight.backend.images.user_agent import user_agent
from skylight.backend.labelstudio import image_urls
from skylight.backend.labelstudio.client import LabelStudio
from skylight.backend.settings import Settings
from tests.support.picture_sites import IMAGE, KEY, Site, serving


@pytest.fixture
def sites() -> Iterator[Callable[[], Site]]:
    with ExitStack() as stack:
        yield lambda: stack.enter_context(serving())


@pytest.fixture
def home(sites: Callable[[], Site]) -> Site:
    """Label Studio: an image behind its legacy token."""
    site = sites()
    site.wants = f"Token {KEY}"
    site.routes["/data/upload/1/a.png"] = (200, {}, IMAGE)
    return site


@pytest.fixture
def elsewhere(sites: Callable[[], Site]) -> Site:
    site = sites()
    site.routes["/b.png"] = (200, {}, IMAGE)
    return site


def fetch(url: str, home: Site | None, key: str = KEY, path: str = "", hosts: str = "127.0.0.1") -> bytes:
    address = home.url + path if home else ""
    settings = Settings(label_studio_url=address, label_studio_api_key=key, allowed_hosts=HostList.parse(hosts))
    return download.fetch(url, settings, LabelStudio(address, key))


def to(url: str) -> tuple[int, dict[str, str], bytes]:
    return 302, {"Location": url}, b""


def test_a_path_is_fetched_from_label_studio_with_the_key(home):
    assert fetch("/data/upload/1/a.png", home) == IMAGE
    assert home.seen == [("/data/upload/1/a.png", f"Token {KEY}")]


def test_an_absolute_address_of_label_studio_gets_the_key_too(home):
    assert fetch(f"{home.url}/data/upload/1/a.png", home) == IMAGE


def test_another_host_gets_no_key(home, elsewhere):
    assert fetch(f"{elsewhere.url}/b.png", home) == IMAGE
    assert elsewhere.seen == [("/b.png", None)]


def test_another_name_of_the_same_machine_is_another_origin(home):
    localhost = f"{home.url}/data/upload/1/a.png".replace("127.0.0.1", "localhost")
    for hosts in ("*", "none"):
        with pytest.raises(MediaError, match="LABEL_STUDIO_HOST there must be the same.*add localhost to"):
            fetch(localhost, home, hosts=hosts)
    assert home.seen == []
    with pytest.raises(MediaError, match="answered 401.*LABEL_STUDIO_HOST there must be the same"):
        fetch(localhost, home, hosts="localhost")
    assert home.seen == [("/data/upload/1/a.png", None)]


@pytest.mark.parametrize("trick", ["\\@{home}", "@{home}", "#@{home}", "?@{home}"])
def test_an_address_made_to_look_like_label_studio_gets_no_key(home, elsewhere, trick):
    """Whatever host such a URL leads to, the other one must not see the key."""
    other = elsewhere.url.removeprefix("http://")
    for url in (
        f"http://{other}{trick.format(home=home.url.removeprefix('http://'))}/b.png",
        f"{home.url}{trick.format(home=other)}/b.png",
    ):
        with suppress(MediaError):
            fetch(url, home)
    assert [credentials for _, credentials in elsewhere.seen if credentials] == []
    assert elsewhere.seen


def test_a_redirect_to_another_origin_is_followed_without_the_key(home, elsewhere):
    home.routes["/tasks/1/resolve/?fileuri=czM="] = to(f"{elsewhere.url}/b.png?X-Signature=abc")
    elsewhere.routes["/b.png?X-Signature=abc"] = (200, {}, IMAGE)
    assert fetch("/tasks/1/resolve/?fileuri=czM=", home) == IMAGE
    assert home.seen[0][1] == f"Token {KEY}"
    assert elsewhere.seen == [("/b.png?X-Signature=abc", None)]


def test_a_redirect_inside_label_studio_keeps_the_key(home):
    home.routes["/data/old.png"] = to("/data/upload/1/a.png")
    assert fetch("/data/old.png", home) == IMAGE
    assert [credentials for _, credentials in home.seen] == [f"Token {KEY}"] * 2


def test_a_redirect_back_from_elsewhere_brings_no_key(home, elsewhere):
    elsewhere.routes["/c.png"] = to(f"{home.url}/data/upload/1/a.png")
    with pytest.raises(MediaError, match="401"):
        fetch(f"{elsewhere.url}/c.png", home)
    assert home.seen == [("/data/upload/1/a.png", None)]


S3 = "s3://pictures/mars/a%20b.png"
RESOLVE = "/tasks/5/resolve/?fileuri=czM6Ly9waWN0dXJlcy9tYXJzL2ElMjBiLnBuZw=="


@pytest.mark.parametrize(
    "url",
    [
        S3,
        RESOLVE,
        f"http://localhost:8080{RESOLVE}",
        f"https://labels.example/below{RESOLVE}".replace("resolve", "presign"),
    ],
)
def test_a_cloud_address_becomes_one_path_of_label_studio_however_it_was_written(url):
    assert image_urls.label_studio_path(url, 5) == RESOLVE


@pytest.mark.parametrize("url", ["gs://bucket/a.png", "azure-blob://container/a.png", "S3://bucket/a.png"])
def test_every_storage_is_asked_for_through_the_task(url):
    path = image_urls.label_studio_path(url, 12)
    assert path.startswith("/tasks/12/resolve/?fileuri=")
    assert base64.urlsafe_b64decode(path.partition("=")[2]).decode() == url


@pytest.mark.parametrize("url", ["/data/upload/1/a.png", "https://host/a.png?x=s3://b/c", "/tasks/5/resolve/?x=1"])
def test_other_addresses_stay_as_they_are(url):
    assert image_urls.label_studio_path(url, 5) == url
    assert image_urls.label_studio_path(S3, "5/../6") == S3


def test_a_cloud_picture_is_fetched_from_the_presigned_address_without_the_key(home, elsewhere):
    elsewhere.routes["/pictures/mars/a.png?X-Amz-Signature=abc"] = (200, {}, IMAGE)
    presigned = f"{elsewhere.url}/pictures/mars/a.png?X-Amz-Signature=abc"
    home.routes[RESOLVE] = (303, {"Location": presigned}, b"")
    assert fetch(RESOLVE, home) == IMAGE
    assert (home.seen, elsewhere.seen[0][1]) == ([(RESOLVE, f"Token {KEY}")], None)


def test_a_cloud_picture_that_label_studio_hands_out_itself_is_taken(home):
    home.routes[RESOLVE] = (200, {}, IMAGE)
    assert fetch(RESOLVE, home) == IMAGE


@pytest.mark.parametrize("status", [404, 424])
def test_a_cloud_picture_without_a_storage_names_the_place_to_look(home, status):
    home.routes[RESOLVE] = (status, {}, b"")
    with pytest.raises(MediaError, match="Settings > Cloud Storage"):
        fetch(RESOLVE, home)


def test_a_redirect_in_a_circle_ends(elsewhere):
    elsewhere.routes["/c.png"] = to("/c.png")
    with pytest.raises(MediaError, match="redirects more than 5 times"):
        fetch(f"{elsewhere.url}/c.png", None)
    assert len(elsewhere.seen) == 6


def test_a_redirect_to_a_file_is_refused(elsewhere):
    elsewhere.routes["/c.png"] = to("file:///etc/hostname")
    with pytest.raises(MediaError, match="Cannot fetch file:///etc/hostname.*http://"):
        fetch(f"{elsewhere.url}/c.png", None)


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/hostname",
        "s3://bucket/a.png",
        "data:image/png;base64,AAAA",
        "ftp://host/a.png",
        "a.png",
        "",
    ],
)
def test_other_kinds_of_address_are_refused_with_those_that_work(home, url):
    with pytest.raises(MediaError, match="must be an http:// or https:// URL, or a path of Label Studio"):
        fetch(url, home)
    assert home.seen == []


@pytest.mark.parametrize("url", ["http://[::1", "http://host:port/a.png", "https://"])
def test_a_broken_address_is_refused(home, url):
    with pytest.raises(MediaError):
        fetch(url, home)


def test_a_path_without_label_studio_asks_for_its_address():
    with pytest.raises(MediaError, match="set LABEL_STUDIO_URL"):
        fetch("/data/upload/1/a.png", None)


def test_label_studio_below_a_path_has_the_path_only_once(home):
    home.routes["/ls/data/upload/1/a.png"] = (200, {}, IMAGE)
    assert fetch("/data/upload/1/a.png", home, path="/ls") == IMAGE
    assert fetch("/ls/data/upload/1/a.png", home, path="/ls") == IMAGE


def test_a_missing_file_is_a_media_error_without_the_query(home):
    with pytest.raises(MediaError, match="/data/gone.png answered 404") as caught:
        fetch("/data/gone.png?X-Signature=abc", home)
    assert "abc" not in str(caught.value)


def test_a_wrong_key_is_said_and_not_shown(home):
    with pytest.raises(MediaError, match="401. Check LABEL_STUDIO_API_KEY") as caught:
        fetch("/data/upload/1/a.png", home, key="wrong")
    assert "wrong" not in str(caught.value)
    assert len(home.seen) == 1


def test_an_access_token_that_went_stale_is_renewed(home):
    home.wants = "Bearer access.1.x"  # the one handed out after the first refusal
    assert fetch("/data/upload/1/a.png", home, key="personal.refresh.token") == IMAGE
    assert [credentials for _, credentials in home.seen] == ["Bearer access.0.x", "Bearer access.1.x"]


def test_a_server_that_is_away_is_a_media_error(home, elsewhere):
    elsewhere.server_close()
    with pytest.raises(MediaError, match="Cannot fetch .*/b.png"):
        fetch(f"{elsewhere.url}/b.png", home)


def test_a_file_announced_too_large_is_not_read(elsewhere):
    elsewhere.routes["/b.png"] = (200, {"Content-Length": str(download.MAX_BYTES + 1)}, b"the rest never comes")
    with pytest.raises(MediaError, match="larger than 200 MB"):
        fetch(f"{elsewhere.url}/b.png", None)


def test_a_file_of_the_largest_size_is_read(elsewhere, monkeypatch):
    monkeypatch.setattr(download, "MAX_BYTES", len(IMAGE))
    assert fetch(f"{elsewhere.url}/b.png", None) == IMAGE


def test_a_file_without_a_length_is_given_up_at_the_limit(elsewhere, monkeypatch):
    elsewhere.routes["/b.png"] = (200, {"Content-Length": ""}, IMAGE * 100)
    assert fetch(f"{elsewhere.url}/b.png", None) == IMAGE * 100
    monkeypatch.setattr(download, "MAX_BYTES", len(IMAGE))
    with pytest.raises(MediaError, match="larger than"):
        fetch(f"{elsewhere.url}/b.png", None)


def test_the_limit_counts_what_a_packed_answer_unpacks_to(elsewhere, monkeypatch):
    packed = gzip.compress(bytes(10**6))
    elsewhere.routes["/b.png"] = (200, {"Content-Encoding": "gzip"}, packed)
    monkeypatch.setattr(download, "MAX_BYTES", 10 * len(packed))
    with pytest.raises(MediaError, match="larger than"):
        fetch(f"{elsewhere.url}/b.png", None)


def test_an_answer_cut_short_is_not_taken_for_an_image(elsewhere):
    elsewhere.routes["/b.png"] = (200, {"Content-Length": str(len(IMAGE) + 1)}, IMAGE)
    with pytest.raises(MediaError, match="broke off"):
        fetch(f"{elsewhere.url}/b.png", None)


def test_a_silent_server_is_given_up(elsewhere, monkeypatch):
    monkeypatch.setattr(download, "TOTAL_SECONDS", -1.0)
    with pytest.raises(MediaError, match="took longer"):
        fetch(f"{elsewhere.url}/b.png", None)


@pytest.mark.parametrize("around", [" {}", "{} ", "\t{}\n", "{}\r\n", "\r\n{}\r\n"])
def test_white_space_around_an_address_is_dropped(home, elsewhere, around):
    assert fetch(around.format("/data/upload/1/a.png"), home) == IMAGE
    assert fetch(around.format(f"{elsewhere.url}/b.png"), home) == IMAGE
    home.routes["/data/local-files/?d=sub/a.png"] = (200, {}, IMAGE)
    assert fetch(around.format("/data/local-files/?d=sub/a.png"), home) == IMAGE


def test_a_path_that_climbs_does_so_with_line_ends_in_it_too(home):
    for url in ("/data/.\n./secret", "/data/upload/..\t/secret"):
        with pytest.raises(MediaError, match="leads out of its folder"):
            fetch(url, home)
    assert home.seen == []


def test_an_address_without_a_scheme_has_label_studios(home, elsewhere):
    assert fetch(elsewhere.url.removeprefix("http:") + "/b.png", home) == IMAGE
    assert elsewhere.seen == [("/b.png", None)]
    assert fetch(home.url.removeprefix("http:") + "/data/upload/1/a.png", home) == IMAGE
    assert home.seen == [("/data/upload/1/a.png", f"Token {KEY}")]
    with pytest.raises(MediaError, match="add 127.0.0.1 to"):
        fetch(elsewhere.url.removeprefix("http:") + "/b.png", home, hosts="none")


def test_every_request_for_a_picture_has_skylights_own_name(home, elsewhere):
    elsewhere.refuses = home.refuses = ("python", "urllib", "curl")
    home.routes["/data/c.png"] = to(f"{elsewhere.url}/b.png")
    home.wants = "Bearer access.1.x"  # the one handed out after the first refusal
    assert fetch("/data/c.png", home, key="personal.refresh.token") == IMAGE
    assert {*home.agents, *elsewhere.agents} == {user_agent()} and len(home.agents) == 2
    assert user_agent().startswith("Skylight/")


@pytest.mark.parametrize("status", [401, 403])
def test_a_refusal_blames_a_login_only_where_one_is_asked_for(home, elsewhere, status):
    elsewhere.routes["/b.png"] = (status, {}, b"no")
    with pytest.raises(MediaError, match=f"answered {status}") as caught:
        fetch(f"{elsewhere.url}/b.png", home)
    assert ("need no login" in str(caught.value)) == (status == 401)
    assert (user_agent() in str(caught.value)) == (status == 403)
