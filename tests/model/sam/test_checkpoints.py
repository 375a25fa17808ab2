"""Fetching checkpoints from a real server, which breaks off, ignores Range or serves another file if told."""

import hashlib
import random
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from skylight.model.sam import checkpoints
from skylight.model.sam.checkpoints import CHECKPOINTS, Checkpoint, CheckpointError, download, locate

NAME = "sample"
WEIGHTS = random.Random(7).randbytes(300_000)
BREAK = 100_000  # bytes after which the server closes the connection
KEPT = 65_536  # bytes of them that were written: whole chunks


@dataclass
class Server:
    """What the server does, set by each test, and what it was asked."""

    url: str = ""
    body: bytes = WEIGHTS
    breaks: int = 0  # answers to cut after BREAK bytes
    errors: int = 0  # answers to replace by HTTP 503
    ranges: bool = True
    asked: list[tuple[str, str]] = field(default_factory=list)  # (path, Range header)


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range", "")
            server.asked.append((self.path, wanted))
            if server.errors:
                server.errors -= 1
                return self.send_error(503)
            if not self.path.endswith("/sample.pth"):
                return self.send_error(404)
            start = int(re.findall(r"\d+", wanted)[0]) if wanted and server.ranges else 0
            if start >= len(server.body):
                return self.send_error(416)
            self.answer(start, len(server.body))
            return None

        def answer(self, start: int, total: int) -> None:
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(total - start))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
            self.end_headers()
            end = start + BREAK if server.breaks else total
            server.breaks = max(server.breaks - 1, 0)
            self.wfile.write(server.body[start:end])

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    state = Server()
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    sample = Checkpoint(NAME, f"{state.url}/official/sample.pth", sha256, len(WEIGHTS), "Apache-2.0", "")
    monkeypatch.setitem(CHECKPOINTS, NAME, sample)
    monkeypatch.setattr(checkpoints, "PAUSES_S", (0.0, 0.01))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield state
    http.shutdown()
    thread.join()
    http.server_close()


def test_a_checkpoint_arrives_whole_and_is_found_there(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / "not" / "yet"
    seen: list[tuple[int, int]] = []
    path = download(NAME, folder, progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == WEIGHTS
    assert path == locate(NAME, folder) == folder / "sample.pth"
    assert not (folder / "sample.pth.part").exists()
    assert seen[0] == (0, len(WEIGHTS)) and seen[-1] == (len(WEIGHTS), len(WEIGHTS))
    assert server.asked == [("/official/sample.pth", "")]


def test_a_right_file_is_kept_and_nothing_is_asked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sample.pth").write_bytes(WEIGHTS)
    assert download(NAME, tmp_path) == tmp_path / "sample.pth"
    assert server.asked == []


def test_a_wrong_file_of_the_right_size_is_replaced(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sample.pth").write_bytes(bytes(len(WEIGHTS)))
    assert download(NAME, tmp_path).read_bytes() == WEIGHTS


def test_a_mirror_takes_the_place_of_the_official_address(server: Server, tmp_path: Path) -> None:
    download(NAME, tmp_path, mirror=f"{server.url}/weights/")
    assert server.asked == [("/weights/sample.pth", "")]


def test_a_cut_connection_is_taken_up_where_it_broke_off(server: Server, tmp_path: Path) -> None:
    server.breaks = 4  # more often than there are pauses: those are counted anew after every new byte
    assert download(NAME, tmp_path).read_bytes() == WEIGHTS
    assert [wanted for _, wanted in server.asked] == [""] + [f"bytes={n * KEPT}-" for n in range(1, 5)]


def test_a_download_goes_on_in_a_later_call(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sample.pth.part").write_bytes(WEIGHTS[:BREAK])
    assert download(NAME, tmp_path).read_bytes() == WEIGHTS
    assert server.asked == [("/official/sample.pth", f"bytes={BREAK}-")]


def test_a_server_that_ignores_range_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks = 1
    assert download(NAME, tmp_path).read_bytes() == WEIGHTS
    assert [wanted for _, wanted in server.asked] == ["", f"bytes={KEPT}-"]


def test_a_server_that_always_breaks_off_is_given_up_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.breaks = 99
    with pytest.raises(CheckpointError, match=rf"broke off at {KEPT} of {len(WEIGHTS)} bytes"):
        download(NAME, tmp_path)
    assert (tmp_path / "sample.pth.part").read_bytes() == WEIGHTS[:KEPT]
    assert len(server.asked) < 10


def test_a_wrong_hash_is_fetched_once_more_then_refused(server: Server, tmp_path: Path) -> None:
    server.body = bytes(len(WEIGHTS))
    with pytest.raises(CheckpointError) as refused:
        download(NAME, tmp_path)
    assert len(server.asked) == 2
    assert CHECKPOINTS[NAME].sha256 in str(refused.value)
    assert hashlib.sha256(server.body).hexdigest() in str(refused.value)
    assert not (tmp_path / "sample.pth").exists() and not (tmp_path / "sample.pth.part").exists()


def test_a_spoilt_beginning_is_thrown_away_and_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sample.pth.part").write_bytes(bytes(BREAK))
    assert download(NAME, tmp_path).read_bytes() == WEIGHTS
    assert [wanted for _, wanted in server.asked] == [f"bytes={BREAK}-", ""]


def test_a_range_past_the_end_of_a_mirrors_file_starts_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "sample.pth.part").write_bytes(WEIGHTS[:BREAK])
    server.body = WEIGHTS[: BREAK // 2]
    with pytest.raises(CheckpointError, match=f"{BREAK // 2} bytes"):
        download(NAME, tmp_path)
    assert [wanted for _, wanted in server.asked] == [f"bytes={BREAK}-", "", ""]


def test_a_file_longer_than_the_published_one_is_not_read_to_its_end(server: Server, tmp_path: Path) -> None:
    server.body = bytes(100 * len(WEIGHTS))
    seen: list[int] = []
    with pytest.raises(CheckpointError, match="expected sha256"):
        download(NAME, tmp_path, progress=lambda done, _: seen.append(done))
    assert max(seen) <= len(WEIGHTS) + checkpoints.CHUNK


def test_an_overloaded_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.errors = 2
    assert download(NAME, tmp_path).read_bytes() == WEIGHTS


def test_a_missing_page_is_an_error_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = CHECKPOINTS[NAME]
    moved = Checkpoint(NAME, f"{server.url}/gone.pth", sample.sha256, sample.size_bytes, "", "")
    monkeypatch.setitem(CHECKPOINTS, NAME, moved)
    with pytest.raises(CheckpointError, match="HTTP 404"):
        download(NAME, tmp_path)
    assert len(server.asked) == 1


def test_an_address_that_is_none_is_an_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"Check the address"):
        download(NAME, tmp_path, mirror="not-an-address")


def test_two_calls_at_once_fetch_the_file_once(server: Server, tmp_path: Path) -> None:
    paths: list[Path] = []
    threads = [threading.Thread(target=lambda: paths.append(download(NAME, tmp_path))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert paths == [tmp_path / "sample.pth"] * 4
    assert len(server.asked) == 1


def test_a_missing_checkpoint_names_the_command_that_fetches_it(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"skylight checkpoints download vit_b$"):
        locate("vit_b", tmp_path)


def test_a_file_cut_short_is_not_taken_for_the_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "mobile_sam.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match=r"has 2 bytes instead of 40728226.*download mobile_sam$"):
        locate("mobile_sam", tmp_path)


def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="'vit_x'.*vit_b, vit_l, vit_h, mobile_sam"):
        download("vit_x", tmp_path)


def test_every_published_checkpoint_has_an_address_a_hash_a_size_and_a_licence() -> None:
    for name, checkpoint in CHECKPOINTS.items():
        assert checkpoint.name == name
        assert checkpoint.url.startswith("https://") and checkpoint.source.startswith("https://")
        assert checkpoint.file_name in {
            "sam_vit_b_01ec64.pth",
            "sam_vit_l_0b3195.pth",
            "sam_vit_h_4b8939.pth",
            "mobile_sam.pt",
        }
        assert re.fullmatch("[0-9a-f]{64}", checkpoint.sha256)
        assert checkpoint.size_bytes > 1e7
        assert checkpoint.licence == "Apache-2.0"


def test_the_bundled_sam_needs_no_file_and_any_other_its_own(tmp_path):
    assert checkpoints.required_file("tiny", tmp_path) is None
    with pytest.raises(CheckpointError, match="vit_b is not at"):
        checkpoints.required_file("vit_b", tmp_path)


def test_a_file_that_is_not_the_published_one_is_refused_by_name_as_it_is_loaded():
    sha256 = CHECKPOINTS["vit_b"].sha256
    checkpoints.verify("vit_b", f"vit_b-{sha256[:12]}")
    checkpoints.verify("tiny", "tiny-000000000000")
    with pytest.raises(CheckpointError, match=r"vit_b, sam_vit_b_01ec64.pth, is damaged.*download vit_b"):
        checkpoints.verify("vit_b", "vit_b-000000000000")
