"""Which of Label Studio's paths are files, and which climb out."""

import pytest

from skylight.backend.labelstudio.file_paths import has_path_traversal, serves_files
from tests.support.attacks import CLIMBING

HOME = "https://labels.test/ls"


@pytest.mark.parametrize(
    "path",
    ["/data/upload/1/a.png", "/data/local-files/?d=a/b.png", "/storage-data/uploaded/?filepath=upload/1/a.png"]
    + ["/tasks/5/resolve/?fileuri=czM", "/projects/5/presign/?fileuri=czM"],
)
def test_files_of_label_studio(path):
    assert serves_files(HOME + path, HOME) and serves_files(f"http://127.0.0.1:8080{path}", "http://127.0.0.1:8080")
    assert not serves_files(f"https://labels.test{path}", HOME), "another program on the same host"


@pytest.mark.parametrize("path", ["/api/projects/1/", "/user/logout/", "/data", "/data/", "/tasks/5/", "/x/data/a.png"])
def test_what_is_no_file(path):
    assert not serves_files(HOME + path, HOME)


@pytest.mark.parametrize("path", CLIMBING)
def test_a_path_that_climbs_is_seen_however_it_is_encoded(path):
    assert has_path_traversal(f"/data/local-files/?d={path}") and has_path_traversal(f"{HOME}/data/{path}")


@pytest.mark.parametrize(
    "path", ["/data/a..b/..c.png", "/data/a%20b/%C3%A4.png", "/data/50%25.png", "/data/...", "/d?d=a/b"]
)
def test_a_strange_name_does_not(path):
    assert not has_path_traversal(path)
