"""The server of `ecor review` over HTTP: who is let in, what is answered, and what a wrong request gets.

Covers: `pipelines.review.server.label_view`, `pipelines.review.server.page`,
`pipelines.review.server.picture_cache`, `pipelines.review.server.requests`,
`pipelines.review.server.security`, `pipelines.review.server.serve`, `pipelines.review.server.service`.
"""

import io
import json
import re
import threading
import urllib.parse
from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecor.data.shard_manifest import read_shard_manifest
from ecor.data.shards import read_index
from ecor.storage.digests import bytes_sha256
from pipelines.review.decision_table import iterate_decisions
from pipelines.review.server import picture_cache
from pipelines.review.server.security import HEADER, Access
from pipelines.review.server.serve import bind_socket
from tests.support.review_labels import Client, Running, label, running_review, write_labels, write_reviewed_labels
from tests.support.tiny_splits import sample

NUM = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_reviewed_labels(folder, num=NUM)
    return folder


@pytest.fixture(scope="module")
def running(folder: Path) -> Iterator[Running]:
    with running_review(str(folder / "labels"), decisions=str(folder / "decisions")) as running:
        yield running


# --------------------------------------------------------------------------------------------------- who is let in


def test_the_printed_address_opens_the_page_and_nothing_else_does(running: Running) -> None:
    client = Client(port=running.port)
    assert client.ask("GET", "/", Cookie=None).status == 403
    assert client.ask("GET", "/?token=wrong", Cookie=None).status == 403
    assert client.ask("GET", "/?token=", Cookie=None).status == 403
    entered = client.ask("GET", f"/?token={running.access.token}", Cookie=None)
    assert entered.status == 303
    assert re.fullmatch(r"ecor_review_\w+=[\w-]{32}; HttpOnly; Path=/; SameSite=strict", entered.headers["set-cookie"])
    secrets = {running.access.token, running.access.cookie, running.access.header}
    assert len(secrets) == 3 and not any(secret in repr(running.access) for secret in secrets)
    page = running.client().ask("GET", "/", Cookie=f"{running.access.cookie_name}={running.access.cookie}")
    assert page.status == 200 and running.access.token.encode() not in page.body


@pytest.mark.parametrize(
    "path", ["/api/groups?reviewer=Ada", "/api/label/0?reviewer=Ada", "/picture/0", "/map/0/0", "/"]
)
def test_without_its_cookie_nothing_is_answered(running: Running, path: str) -> None:
    client = running.client()
    good = client.ask("GET", path)
    assert good.status == 200
    for cookie in (None, "", client.cookie[:-1], client.cookie + "x", client.cookie.partition("=")[2], "a=b; \x00"):
        assert client.ask("GET", path, Cookie=cookie).status in (400, 403), cookie


def test_foreign_hosts_and_origins_are_refused(running: Running) -> None:
    client = running.client()
    path, own = "/api/groups?reviewer=Ada", f"127.0.0.1:{running.port}"
    for host in (
        "evil.example",
        f"evil.example:{running.port}",
        "127.0.0.1.evil.example",
        "",
        None,
        "[::1",
        "localhost@e",
    ):
        assert client.ask("GET", path, Host=host).status in (400, 403), host
        assert client.ask("GET", f"/?token={running.access.token}", Host=host, Cookie=None).status in (400, 403), host
    for host in (own, f"localhost:{running.port}", "localhost", f"[::1]:{running.port}"):
        assert client.ask("GET", path, Host=host).status == 200, host
    for origin in (
        "http://evil.example",
        "http://[",
        "null",
        f"http://127.0.0.1:{running.port + 1}",
        f"http://localhost:{running.port}",
    ):
        assert client.ask("GET", path, Origin=origin).status == 403, origin
    assert client.ask("GET", path, Origin=f"http://{own}").status == 200
    for site in ("cross-site", "same-site"):
        assert client.ask("GET", path, Sec_Fetch_Site=site).status == 403
        assert client.ask("GET", "/picture/0", Sec_Fetch_Site=site).status == 403


def test_a_decision_needs_the_header_that_only_the_page_has(running: Running) -> None:
    client = running.client()
    body = json.dumps({"reviewer": "Eve", "action": "1", "verdict": "accept", "numbers": [0]}).encode()
    for header in (None, "", client.header[:-1], running.access.token):
        assert client.ask("POST", "/api/decide", body=body, **{HEADER: header}).status == 403
    assert client.ask("POST", "/api/decide", body=body, Cookie=None).status == 403
    assert client.ask("GET", "/api/groups?reviewer=Ada", **{HEADER: None}).status == 403
    assert client.ask("OPTIONS", "/api/decide", Origin="http://evil.example").status == 403
    assert client.ask("POST", "/api/decide", body=body, Content_Length=str(2**21)).status == 413
    assert not any(state for state in running.service.session.label_states(0) if state == "Eve")


def test_every_answer_has_safe_headers_and_the_page_allows_only_its_own_script(running: Running) -> None:
    client = running.client()
    for path in ("/", "/api/groups?reviewer=Ada", "/picture/0", "/nothing", "/api/group/9999?reviewer=Ada"):
        headers = client.ask("GET", path).headers
        assert headers["x-content-type-options"] == "nosniff" and headers["x-frame-options"] == "DENY"
        assert (
            headers["referrer-policy"] == "no-referrer" and "default-src 'none'" in headers["content-security-policy"]
        )
        assert "access-control-allow-origin" not in headers and "server" not in headers
    answer = client.ask("GET", "/")
    page, policy = answer.body.decode(), answer.headers["content-security-policy"]
    for tag in ("style", "script"):
        (text,) = re.findall(f"<{tag}>(.*?)</{tag}>", page, flags=re.DOTALL)
        assert f"{tag}-src 'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy and "http" not in policy and "frame-ancestors 'none'" in policy
    assert not re.search(r"<[^>]+ (?:on\w+|style|src)=", page.partition("<script>")[0])


def test_hosts_and_ports_that_cannot_be_served_are_refused_with_the_remedy(running: Running) -> None:
    for host, port in (("127.0.0.1", running.port), ("no.such.host.invalid", 0), ("192.0.2.1", 0)):
        with pytest.raises(ValueError, match=r"name another --port, or a --host"):
            bind_socket(host, port)
    assert Access(host="box.example").is_own_host("BOX.example:1234")


# ------------------------------------------------------------------------------------------------------- pictures


def test_pictures_are_those_of_the_shards_and_their_digest_is_in_the_decision(running: Running, folder: Path) -> None:
    client, session = running.client("Grace"), running.service.session
    manifest = read_shard_manifest(str(folder / "shards" / "test"))
    digests = {
        row["key"]: row["sha256"]
        for info in manifest.shards
        for row in read_index(folder / "shards" / "test", info).to_pylist()
    }
    for number in (0, 31, 59):
        expected = np.asarray(Image.open(io.BytesIO(sample(number).image)).convert("RGB"), dtype=int)
        for path in (f"/picture/{number}", f"/picture/{number}/large"):
            answer = client.ask("GET", path)
            found = np.asarray(Image.open(io.BytesIO(answer.body)).convert("RGB"), dtype=int)
            assert answer.headers["content-type"] == "image/webp" and found.shape == expected.shape
            assert np.abs(found - expected).mean() < 12
        assert client.post("/api/decide", verdict="accept", numbers=[number]).status == 200
    seen = {group[0].decision.key: group[0].decision for group in iterate_decisions(session.decisions)}
    for key in ("0000", "0031", "0059"):
        assert seen[key].image_sha256 == digests[key] == bytes_sha256(sample(int(key)).image)


def test_maps_are_drawn_where_labels_hold_them(running: Running) -> None:
    client = running.client()
    details = client.get("/api/label/2")
    assert details["maps"] == ["fox", "a", "b"] and details["method"] == "gradcam"
    pictures = {client.ask("GET", f"/map/2/{place}").body for place in range(3)}
    assert len(pictures) == 3 and all(picture[8:12] == b"WEBP" for picture in pictures)
    assert client.get("/api/label/3")["maps"] == []
    for path in ("/map/2/3", "/map/3/0"):
        assert client.ask("GET", path).status == 404


def test_a_picture_that_is_gone_says_why_and_can_still_be_judged(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "text.jpg").write_text("no picture")
    sources = [str(tmp_path / "photos" / name) for name in ("none.jpg", "text.jpg")] + ["/dev/zero", "s3::x"]
    write_labels(tmp_path / "labels", [label(number, source=source) for number, source in enumerate(sources)])
    with running_review(str(tmp_path / "labels")) as running:
        client = running.client()
        texts = [client.ask("GET", f"/picture/{number}") for number in range(4)]
        assert [answer.status for answer in texts] == [404] * 4
        assert b"not found" in texts[0].body and b"not_an_image" in texts[1].body and b"plain file" in texts[2].body
        assert client.post("/api/decide", verdict="skip", numbers=[0]).json["num"] == 1


def test_the_cache_is_bounded_and_serves_pictures_without_reading_them_again(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures, index = running.service.pictures, running.service.session.index
    one = len(pictures.thumbnail(0).data)
    monkeypatch.setattr(picture_cache, "CACHE_BYTES", 10 * one)
    for number in range(NUM):
        pictures.thumbnail(number)
    kept = pictures._kept
    assert sum(len(each.data) for each in kept.values()) == pictures._num_bytes <= 10 * one and len(kept) > 3
    reads = []
    monkeypatch.setattr(pictures, "_decode", lambda number: reads.append(number))
    assert pictures.thumbnail(NUM - 1).data and not reads and len(index) == NUM


# ---------------------------------------------------------------------------------------------- answers and refusals


def test_groups_pages_and_decisions_over_http(folder: Path, tmp_path: Path) -> None:
    with running_review(str(folder / "labels"), decisions=str(tmp_path)) as running:
        client = running.client()
        found = client.get("/api/groups", name="fox", order="unsure", limit=3)
        assert [group["size"] for group in found["groups"]] == [2, 2, 2] and found["num_groups"] == 20
        number = found["groups"][0]["number"]
        page = client.get(f"/api/group/{number}", limit=1, start=1)
        assert (page["num"], page["num_open"], page["first_open"], page["start"]) == (2, 2, 0, 1)
        (image,) = page["images"]
        typed = {"category": "Cat", "rationales": ["Pointed_Ears", "whiskers"], "note": " sure "}
        done = client.post("/api/decide", verdict="correct", numbers=[image["number"]], **typed).json
        after = {"category": "cat", "rationales": ["pointed ears", "whiskers"], "new_names": ["cat", "whiskers"]}
        assert done["images"][0]["mine"] == {"verdict": "correct", "after": after, "note": "sure"}
        other = running.client("Grace")
        accepted = other.post("/api/decide", verdict="accept", group=number, num_expected=2).json
        assert accepted["num"] == 2 and accepted["progress"]["num_disputed"] == 1
        disputed = client.get("/api/groups", seen="disputed")
        assert [group["number"] for group in disputed["groups"]] == [number]
        seen = client.get(f"/api/group/{number}", seen="disputed")["images"]
        assert [each["key"] for each in seen] == [image["key"]]
        assert seen[0]["others"] == [{"reviewer": "Grace", "verdict": "accept", "after": None, "note": ""}]
        assert client.post("/api/undo").json["num"] == 1 and client.post("/api/undo").json["num"] == 0
        assert client.post("/api/table").json["num_rows"] == 2 and (tmp_path / "decisions.parquet").is_file()
        names = client.get("/api/names", kind="rationale", q="", label=image["number"])["names"]
        assert names[0] == image["rationale"]
        assert client.get("/api/names", kind="category", q="-") == {"names": ["fox", "whale", "owl"], "known": False}
        assert client.get("/api/names", kind="category", q="FOX") == {"names": ["fox"], "known": True}


BAD_BODIES = [
    b"",
    b"[]",
    b"{",
    b"[" * 100_000,
    b'{"reviewer": "Ada"}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "undo", "numbers": [1]}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "numbers": [1, true]}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "numbers": [99999]}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "numbers": [-1]}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "numbers": [1' + b"0" * 30 + b"]}",
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "numbers": []}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "numbers": [1], "group": 1}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "wrong", "group": 1, "num_expected": 2}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "group": 99999, "num_expected": 2}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "group": 1}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "group": 1, "num_expected": 2, "filter": []}',
    b'{"reviewer": " ", "action": "1", "verdict": "accept", "numbers": [1]}',
    b'{"reviewer": "a\\u0000", "action": "1", "verdict": "accept", "numbers": [1]}',
    b'{"reviewer": "\\ud800", "action": "1", "verdict": "accept", "numbers": [1]}',
    b'{"reviewer": "Ada", "action": 1, "verdict": "accept", "numbers": [1]}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "correct", "numbers": [1]}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "correct", "numbers": [1], "category": "a", "rationales": [1]}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "correct", "numbers": [1], "category": "\\ud800"}',
    b'{"reviewer": "Ada", "action": "1", "verdict": "accept", "numbers": [1], "note": "' + b"x" * 3000 + b'"}',
    b'{"reviewer": "\xff", "action": "1", "verdict": "accept", "numbers": [1]}',
]


@pytest.mark.parametrize("body", BAD_BODIES, ids=lambda body: repr(body[:70]))
def test_a_wrong_body_is_refused_and_nothing_is_logged(running: Running, folder: Path, body: bytes) -> None:
    log = folder / "decisions" / "log"
    before = {path.name: path.stat().st_size for path in log.iterdir()} if log.exists() else {}
    answer = running.client().ask("POST", "/api/decide", body=body)
    assert answer.status == 400 and answer.json["error"], answer
    assert before == ({path.name: path.stat().st_size for path in log.iterdir()} if log.exists() else {})


@pytest.mark.parametrize(
    "path",
    ["/api/groups", "/api/groups?reviewer=Ada&order=worst", "/api/groups?reviewer=Ada&seen=undo",
     "/api/groups?reviewer=Ada&limit=0", "/api/groups?reviewer=Ada&limit=9999", "/api/groups?reviewer=Ada&start=-1",
     "/api/groups?reviewer=Ada&from=2", "/api/groups?reviewer=Ada&from=nan", "/api/groups?reviewer=Ada&to=x",
     f"/api/groups?reviewer=Ada&q={'x' * 600}", "/api/group/12345?reviewer=Ada", "/api/label/60?reviewer=Ada",
     "/picture/60", "/picture/99999999999999999999", "/api/sample?reviewer=Ada", "/api/names?kind=reviewer&q=a",
     "/api/names?kind=category&q=a&label=777"],
)  # fmt: skip
def test_a_wrong_query_is_refused(running: Running, path: str) -> None:
    answer = running.client().ask("GET", path)
    assert answer.status == 400 and answer.json["error"], answer


def test_two_reviewers_at_once_over_http(folder: Path, tmp_path: Path) -> None:
    with running_review(str(folder / "labels"), decisions=str(tmp_path)) as running:

        def review(name: str) -> None:
            client = running.client(name)
            for number in range(NUM):
                verdict = "accept" if name == "Ada" or number % 2 else "wrong"
                assert client.post("/api/decide", verdict=verdict, numbers=[number]).status == 200
                client.get("/api/groups")

        threads = [threading.Thread(target=review, args=(name,)) for name in ("Ada", "Grace")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert running.client().get("/api/groups")["progress"]["num_disputed"] == NUM // 2
        table = running.service.session.write_table()
        assert (table.num_rows, table.num_images, table.num_disputed) == (2 * NUM, NUM, NUM // 2)


def test_the_page_escapes_addresses_and_names(tmp_path: Path) -> None:
    hostile = "\"><script>alert(1)</script>'"
    write_labels(tmp_path / hostile.replace("/", "∕"), [label(0, category=hostile, rationale="{{ 987 * 654 }}")])
    with running_review(str(tmp_path / hostile.replace("/", "∕")), reviewer=hostile) as running:
        client = running.client(hostile)
        page = client.ask("GET", "/").body.decode()
        assert page.count("<script>") == 1 and "alert(1)" in page and "645498" not in re.sub(r"(?s)<style>.*", "", page)
        settings = json.loads(page.partition('data-settings="')[2].partition('"')[0].replace("&#34;", '"').replace(
            "&lt;", "<").replace("&gt;", ">").replace("&#39;", "'").replace("&amp;", "&"))  # fmt: skip
        assert settings["reviewer"] == hostile
        (group,) = client.get("/api/groups")["groups"]
        assert (group["category"], group["rationale"]) == (hostile, "{{ 987 * 654 }}")
        assert client.get("/api/groups", q=urllib.parse.unquote("alert(1)"))["num_groups"] == 1
