"""The page of `ecor review` in headless Chromium: every key, completion, phones, hostile names, and no other origin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from ecor.storage.digests import text_sha256
from pipelines.review.decision import Decision
from pipelines.review.decision_log import LoggedDecision
from tests.support.browser import Tab, find_chromium, open_tab
from tests.support.review_labels import Running, label, running_review, write_labels, write_reviewed_labels
from tests.support.tiny_models import tiny_checkpoint

pytestmark = pytest.mark.slow

NUM = 90
CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, "PageUp": 33,
         "PageDown": 34, "Home": 36, "End": 35, "Backspace": 8, "Tab": 9}  # fmt: skip
HOSTILE = ["<script>alert(1)</script>", "\"><img src=x onerror=alert(2)>", "' onmouseover='alert(3)", "a\nb\u2028c",
           "{{ 7 * 7 }} &amp;", "\u202egnp.exe שלום 漢字", "x" * 3000]  # fmt: skip


class Page:
    """The page in a tab, by what a reviewer does and sees."""

    def __init__(self, tab: Tab, running: Running) -> None:
        self.tab, self.running = tab, running

    def open(self, fragment: str = "") -> "Page":
        self.tab.visit(self.running.address)
        if fragment:
            self.tab.run(f"location.hash = {fragment!r}")
        shown = "#group:not([hidden]) .tile" if "group=" in fragment else ".group-row, .tile"
        self.wait(f"document.querySelector({shown!r})")
        return self

    def wait(self, condition: str) -> None:
        self.tab.wait_for(condition)

    def press(self, *keys: str) -> None:
        for key in keys:
            code = CODES.get(key, ord(key.upper()[0]))
            self.tab.press(key, code=code, text={"Enter": "\r"}.get(key, key if len(key) == 1 else ""))

    def type(self, text: str) -> None:
        self.tab.call("Input.insertText", text=text)

    def text(self, selector: str) -> str:
        return str(self.tab.run(f"document.querySelector({selector!r}).textContent"))

    def count(self, selector: str) -> int:
        return int(self.tab.run(f"document.querySelectorAll({selector!r}).length"))

    @property
    def place(self) -> int:
        """Which item is in focus."""
        script = "Array.from(document.querySelectorAll('section:not([hidden]) [role=option]'))"
        return int(self.tab.run(f"{script}.findIndex((node) => node.classList.contains('current'))"))

    def open_group(self, text: str = "") -> None:
        self.press("Enter")
        self.wait("!document.getElementById('group').hidden && document.querySelector('.tile')")

    def decided(self) -> list[Decision]:
        """All that the logs hold, in order."""
        entries = self.running.service.session.decisions.iterate_logs()
        return [each.decision for each in entries if isinstance(each, LoggedDecision)]


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_reviewed_labels(tmp_path_factory.mktemp("world"), num=NUM)


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    if find_chromium() is None:
        pytest.skip("no Chromium on this machine")
    with open_tab(tmp_path_factory.mktemp("profile")) as tab:
        tab.screen(width=1280, height=900)
        yield tab


@pytest.fixture
def page(labels: str, tab: Tab, tmp_path: Path) -> Iterator[Page]:
    with running_review(labels, decisions=str(tmp_path / "decisions")) as running:
        yield Page(tab, running).open()
        assert tab.troubles() == []
        assert {url.split("/")[2] for url in tab.requests()} == {f"127.0.0.1:{running.port}"}


@pytest.mark.parametrize(
    ("key", "verdict"),
    [("a", "accept"), (" ", "accept"), ("v", "rationale_not_visible"), ("w", "wrong"), ("x", "out_of_vocabulary"),
     ("s", "skip")],
)  # fmt: skip
def test_one_key_decides_about_the_picture_in_focus_and_goes_on(page: Page, key: str, verdict: str) -> None:
    page.open_group()
    page.press(key)
    page.wait("document.querySelector('.tile.decided:not(.pending)')")
    (decision,) = page.decided()
    assert (decision.verdict, decision.reviewer, decision.after) == (verdict, "Ada", None)
    assert page.place == 1 and page.text("#progress") == f"1 of {NUM} reviewed"


def test_keys_that_move_and_turn_pages(page: Page) -> None:
    assert page.count(".group-row") == 30 and page.place == 0
    moves = (("j", 1), ("ArrowDown", 2), ("k", 1), ("ArrowUp", 0), ("ArrowUp", 0), ("End", 29), ("j", 29), ("Home", 0))
    for key, place in moves:
        page.press(key)
        assert page.place == place, key
    page.open("#group=0")
    page.wait("document.querySelectorAll('.tile').length === 3")
    for key, place in (("l", 1), ("ArrowRight", 2), ("h", 1), ("ArrowLeft", 0), ("End", 2), ("Home", 0)):
        page.press(key)
        assert page.place == place, key
    page.tab.screen(width=700, height=900)  # tiles in one column or two: down and up go by rows
    columns = page.tab.run("getComputedStyle(document.getElementById('tiles')).gridTemplateColumns.split(' ').length")
    page.press("j")
    assert page.place == (columns if columns < 3 else 0)
    page.tab.screen(width=1280, height=900)
    for key in ("Escape", "Backspace"):
        page.open("#group=0")
        page.press(key)
        page.wait("document.getElementById('group').hidden && document.querySelector('.group-row')")


def test_pages_of_groups_and_of_pictures_turn(tab: Tab, tmp_path: Path) -> None:
    rows = [label(number, category=f"c{number:03}") for number in range(120)]
    many = [label(number + 200, category="many", rationale="r", confidence=0.55) for number in range(100)]
    write_labels(tmp_path / "labels", [*rows, *many])
    with running_review(str(tmp_path / "labels")) as running:
        page = Page(tab, running).open()
        for key, first in (
            ("]", "51–100"),
            ("PageDown", "101–121"),
            ("]", "101–121"),
            ("[", "51–100"),
            ("PageUp", "1–50"),
        ):
            page.press(key)
            page.wait(f"document.querySelector('#list-pager output').value.startsWith({first!r})")
        page.open_group()
        assert page.count(".tile") == 48 and page.text("#group-title").startswith("100 × many because of r, 50–60%")
        for key, first in (("]", "49–96"), ("PageDown", "97–100"), ("PageUp", "49–96"), ("[", "1–48")):
            page.press(key)
            page.wait(f"document.querySelector('#pager output').value.startsWith({first!r})")
        page.press("A")
        page.wait("document.getElementById('toast').textContent.startsWith('Accepted 100 pictures')")
        assert len(page.decided()) == 100


def test_a_whole_group_by_one_key_and_back_by_another(page: Page) -> None:
    page.press("j", "A")
    page.wait("document.querySelectorAll('.group-row').length === 29")
    assert [decision.verdict for decision in page.decided()] == ["accept"] * 3
    assert len({(each.before.category, each.before.rationale) for each in page.decided()}) == 1
    page.press("u")
    page.wait("document.querySelectorAll('.group-row').length === 30")
    assert [decision.verdict for decision in page.decided()] == ["accept"] * 3 + ["undo"] * 3
    page.press("u")
    page.wait("document.getElementById('toast').textContent.startsWith('Nothing is left to take back')")
    page.open_group()
    page.press("w")
    page.wait("document.getElementById('accept-group').textContent === 'Accept the other 2'")
    title = page.text("#group-title")
    page.press("A")  # the others, and on to the next group
    page.wait(f"document.getElementById('group-title').textContent !== {title!r}")
    assert [decision.verdict for decision in page.decided()][6:] == ["wrong", "accept", "accept"]
    title = page.text("#group-title")
    page.press("G")
    page.wait(f"document.getElementById('group-title').textContent !== {title!r}")


def test_the_last_picture_of_a_group_leads_to_the_next_one(page: Page) -> None:
    page.open_group()
    title = page.text("#group-title")
    page.press("a", "w", "s")
    page.wait(f"document.getElementById('group-title').textContent !== {title!r}")
    assert [decision.verdict for decision in page.decided()] == ["accept", "wrong", "skip"]
    page.press("u")
    page.wait("document.getElementById('toast').textContent === 'Took back 1 decision.'")


def test_keys_before_the_next_group_is_on_the_screen_decide_nothing(page: Page) -> None:
    """All in one moment: three decisions end a group of three, and two more keys come before the next one is there."""
    page.open_group()
    title = page.text("#group-title")
    keys = "['a', 'w', 's', 'v', 'c']"
    page.tab.run(f"{keys}.forEach((key) => document.dispatchEvent(new KeyboardEvent('keydown', {{key}})))")
    page.wait(f"document.getElementById('group-title').textContent !== {title!r}")
    assert [decision.verdict for decision in page.decided()] == ["accept", "wrong", "skip"]
    assert not page.tab.run("document.getElementById('correct').open")
    page.press("v")
    page.wait("document.querySelector('.tile.decided:not(.pending)')")
    assert [decision.verdict for decision in page.decided()][3:] == ["rationale_not_visible"]


def test_a_dialog_saves_nothing_about_another_picture(page: Page) -> None:
    page.open_group()
    page.press("c")
    page.wait("document.getElementById('correct').open")
    page.tab.run("document.querySelectorAll('.tile')[1].click()")  # as a late answer may change the focus
    page.tab.run("document.querySelector('#correct form').requestSubmit()")
    page.wait("document.getElementById('toast').textContent.startsWith('The picture has changed meanwhile')")
    assert page.decided() == []


HOLD = """
window.realFetch = window.fetch;
window.held = new Promise((done) => { window.release = done; });
window.fetch = async (...asked) => {
  if (asked[0].startsWith('PATH')) await window.held;
  return window.realFetch(...asked);
};
"""
"""Requests of a path wait until `release()`."""


def test_pictures_in_the_cache_of_the_browser_belong_to_one_set_of_labels(page: Page) -> None:
    page.open("#group=0")
    page.press("l")
    page.wait("document.querySelector('#maps li') && document.getElementById('picture').src.includes('/large')")
    page.press("e")
    page.wait("document.getElementById('picture').complete")
    pictures = [url for url in page.tab.requests() if "/picture/" in url or "/map/" in url]
    assert any("/large" in url for url in pictures) and any("/map/" in url for url in pictures)
    store = text_sha256(page.running.service.session.decisions.of.labels_digest)[:12]
    assert [url for url in pictures if not url.endswith(f"?v={store}")] == []


def test_a_decision_is_of_the_reviewer_who_pressed_the_key(page: Page) -> None:
    page.open_group()
    page.tab.run(HOLD.replace("PATH", "/api/decide"))
    page.press("a", "w")
    assert page.text(".tile .badge") == "accepted, saving…"
    page.tab.run("document.getElementById('reviewer').value = 'Grace'; window.release()")
    page.wait("document.querySelectorAll('.tile.decided:not(.pending)').length === 2")
    assert page.text(".tile .badge") == "accepted"
    assert [(each.verdict, each.reviewer) for each in page.decided()] == [("accept", "Ada"), ("wrong", "Ada")]


def test_enter_takes_a_name_of_the_text_that_is_there(page: Page) -> None:
    page.open_group()
    page.press("c")
    page.wait("document.getElementById('correct').open && !document.getElementById('category-names').hidden")
    page.press("Enter")
    page.wait("document.activeElement.id === 'correct-rationale' && !document.getElementById('rationale-names').hidden")
    page.tab.run(HOLD.replace("PATH", "/api/names"))
    page.type("round")
    page.press("Enter", "Enter", "Enter")  # before the names are there
    page.tab.run("window.release()")
    page.wait("document.querySelectorAll('#tags li').length === 1")
    assert page.tab.run("document.getElementById('correct').open") and page.decided() == []
    assert page.text("#tags bdi") == "large round eyes"
    page.type("ear")
    page.wait("!document.getElementById('rationale-names').hidden")
    second = page.text("#rationale-names li:nth-child(2) bdi")
    page.press("ArrowDown", "Enter")
    page.wait("document.querySelectorAll('#tags li').length === 2")
    assert page.text("#tags li:nth-child(2) bdi") == second
    page.press("Escape", "Escape")
    page.wait("!document.getElementById('correct').open")


def test_groups_on_which_reviewers_differ_are_not_accepted_by_one_key(page: Page) -> None:
    session = page.running.service.session
    number = int(session.groups.members(0)[0])
    session.decide("Grace", [number], verdict="wrong", action="1")
    session.decide("Ed", [number], verdict="accept", action="2")
    page.open("#seen=disputed")
    page.wait("document.querySelectorAll('.group-row').length === 1")
    page.press("A")
    page.wait("document.getElementById('toast').textContent.startsWith('Pictures on which reviewers differ')")
    page.open_group()
    assert page.tab.run("document.querySelector('[data-act=accept-group]').disabled")
    page.press("A")
    assert len(page.decided()) == 2 and page.tab.run("document.getElementById('trouble').hidden")


def test_a_correction_is_typed_with_known_names_first_and_new_ones_marked(page: Page) -> None:
    page.open_group()
    page.press("c")
    page.wait("document.getElementById('correct').open && !document.getElementById('category-names').hidden")
    page.type("ow")
    page.wait("document.querySelector('#category-names [aria-selected=true]')?.textContent === 'owl'")
    page.press("Enter")
    page.wait(
        "document.activeElement.id === 'correct-rationale' && document.querySelectorAll('#rationale-names li').length"
    )
    page.type("round")
    page.wait("document.querySelector('#rationale-names [aria-selected=true]')?.textContent === 'large round eyes'")
    page.press("Enter")
    page.wait("document.querySelectorAll('#tags li').length === 1")
    page.type("a beak")
    page.wait("document.querySelector('#rationale-names .new')")
    page.press("Enter")
    page.wait("document.querySelectorAll('#tags li').length === 2")
    page.type("ear")  # known names begin with it, yet it is meant as it stands
    page.wait("document.querySelectorAll('#rationale-names li').length > 1")
    page.press("ArrowUp", "Enter")
    page.wait("document.querySelectorAll('#tags li').length === 3")
    page.press("Backspace")
    page.wait("document.querySelectorAll('#tags li').length === 2")
    page.press("Enter")
    page.wait("!document.getElementById('correct').open && document.querySelector('.tile.decided:not(.pending)')")
    (decision,) = page.decided()
    assert decision.after is not None and decision.after.category == "owl"
    assert decision.after.rationales == ("large round eyes", "a beak") and decision.after.new_names == ("a beak",)
    page.press("h")
    page.wait("document.querySelector('#said .new')")
    assert page.text("#said") == "you: corrected → owl because of large round eyes, a beak new"
    page.press("c")
    page.wait("document.getElementById('correct').open")
    page.press("Escape", "Escape")
    page.wait("!document.getElementById('correct').open")
    assert len(page.decided()) == 1


def test_notes_stay_with_the_picture(page: Page) -> None:
    page.open_group()
    page.press("n")
    page.wait("document.getElementById('note').open")
    page.type("too dark")
    page.press("Enter")
    page.wait("document.querySelector('.tile.decided:not(.pending)')")
    page.press("a")
    page.wait("document.querySelector('.tile.decided:not(.pending) .badge.right')")
    assert [(each.verdict, each.note) for each in page.decided()] == [("skip", "too dark"), ("accept", "too dark")]
    page.press("n")
    page.wait("document.getElementById('note').open")
    page.press("Escape")
    page.wait("!document.getElementById('note').open")
    assert len(page.decided()) == 2


def test_the_evidence_is_shown_map_by_map(page: Page) -> None:
    page.open("#group=0")
    page.wait("document.querySelector('#maps li') || document.querySelectorAll('#rationales li').length")
    if not page.count("#maps li"):
        page.press("l")
        page.wait("document.querySelector('#maps li')")
    shown = []
    for _ in range(4):
        page.press("e")
        shown.append(page.tab.run("new URL(document.getElementById('picture').src).pathname.replace(/\\d+/, 'N')"))
    assert shown == ["/map/N/0", "/map/N/1", "/map/N/2", "/picture/N/large"]


def test_where_labels_hold_no_maps_the_given_model_makes_them(tab: Tab, tmp_path: Path) -> None:
    labels = write_reviewed_labels(tmp_path, num=6)
    sample = str(write_keys(tmp_path, "0001", "0003"))
    with running_review(labels, model=str(tmp_path / "run"), sample=sample) as running:
        page = Page(tab, running).open()
        page.press("e")
        page.wait("document.getElementById('evidence-note').textContent.startsWith('The model cannot be loaded')")
        assert page.count("#maps li") == 0 and page.tab.run("document.getElementById('trouble').hidden")
        tiny_checkpoint(tmp_path / "run")
        page.press("l", "e")
        page.wait("document.querySelectorAll('#maps li').length === 2")
        assert page.text("#evidence-note").startswith("These maps are of another model")
        path = "new URL(document.getElementById('picture').src).pathname"
        shown = [page.tab.run(path)]
        page.wait("document.getElementById('picture').complete && document.getElementById('picture').naturalWidth > 0")
        for _ in range(2):
            page.press("e")
            shown.append(page.tab.run(path))
        assert shown == ["/model-map/3/0", "/model-map/3/1", "/picture/3/large"]
        page.press("h")
        assert page.count("#maps li") == 0 and page.tab.run("document.getElementById('evidence-note').hidden")
        page.tab.run("document.querySelector('[data-act=evidence]').click()")  # as a finger does
        page.wait(f"{path} === '/model-map/1/0'")
        assert tab.troubles() == []


def write_keys(folder: Path, *keys: str) -> Path:
    """A sample of some labels."""
    (folder / "sample.csv").write_text("\n".join(["key", *keys]) + "\n")
    return folder / "sample.csv"


def test_help_search_filters_reviewer_and_table(page: Page) -> None:
    page.press("?")
    page.wait("document.getElementById('help').open")
    page.press("a", "A")  # nothing is decided behind it
    page.press("Escape")
    page.wait("!document.getElementById('help').open")
    page.press("/")
    page.type("whale a")  # also keys that act elsewhere are only letters here
    page.wait("document.querySelectorAll('.group-row').length === 10")
    assert page.text("#count") == "10 groups, 30 pictures" and "q=whale+a" in page.tab.run("location.hash")
    page.press("Enter")
    page.wait("document.activeElement.classList.contains('group-row')")
    page.press("A")
    page.wait("document.querySelectorAll('.group-row').length === 9")
    page.press("r")
    page.wait("document.activeElement.id === 'reviewer'")
    page.type("Grace")
    page.press("Enter")
    page.wait("document.querySelectorAll('.group-row').length === 10")
    page.press("w", "A")
    page.wait("document.querySelectorAll('.group-row').length === 9")
    assert {decision.reviewer for decision in page.decided()} == {"Ada", "Grace"}
    page.press("T")
    page.wait("document.getElementById('toast').textContent.startsWith('Wrote 6 decisions')")
    page.tab.run("document.querySelector('#filters [type=reset]').click()")
    page.wait("document.querySelectorAll('.group-row').length > 20 && location.hash === ''")


def test_a_reload_and_the_back_button_show_the_same_place(page: Page) -> None:
    page.press("/")
    page.type("fox")
    page.wait("document.querySelectorAll('.group-row').length === 20")
    page.press("Enter", "j", "j")
    page.open_group()
    title = page.text("#group-title")
    page.tab.call("Page.reload")
    page.wait(f"document.getElementById('group-title')?.textContent === {title!r}")
    page.tab.run("history.back()")
    page.wait("document.querySelectorAll('.group-row').length === 20")
    page.wait("document.querySelector('.group-row.current')")
    assert page.place == 2


def test_every_key_of_the_help_is_tested_here_and_every_key_is_in_the_help(page: Page) -> None:
    import ast
    import inspect
    import sys

    script = (
        page.tab.run("document.querySelector('script').textContent").partition("const keys = {")[2].partition("};")[0]
    )
    bound = set(_names(script))
    shown = set(page.tab.run("Array.from(document.querySelectorAll('#help kbd'), (node) => node.textContent)"))
    words = {"Space": " ", "Esc": "Escape", "←": "ArrowLeft", "↓": "ArrowDown", "↑": "ArrowUp", "→": "ArrowRight",
             "Page Up": "PageUp", "Page Down": "PageDown"}  # fmt: skip
    assert {words.get(each, each) for each in shown} == bound - {"g", "Backspace"}  # the same as G and Escape
    tree = ast.parse(inspect.getsource(sys.modules[__name__]))
    pressed = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    assert bound - {"g"} <= pressed


def _names(script: str) -> list[str]:
    import re

    return [quoted or plain for quoted, plain in re.findall(r'(?:"([^"]+)"|(\w+)):', script)]


def test_hostile_names_are_text(tab: Tab, tmp_path: Path) -> None:
    rows = [
        label(number, category=name, rationale=HOSTILE[-1 - number], source=f"/nowhere/{name[:50]}")
        for number, name in enumerate(HOSTILE)
    ]
    write_labels(tmp_path / "labels", rows)
    with running_review(str(tmp_path / "labels"), reviewer="<b onclick=alert(9)>") as running:
        page = Page(tab, running).open()
        shown = page.tab.run("Array.from(document.querySelectorAll('.group-row b'), (node) => node.textContent)")
        assert sorted(shown) == sorted(HOSTILE)
        page.open_group()
        page.wait("document.querySelector('#missing .reason').textContent && document.querySelector('#rationales li')")
        assert page.text("#category") in HOSTILE
        page.press("c")
        page.wait("document.getElementById('correct').open && document.activeElement.id === 'correct-category'")
        page.type("<img src=x onerror=alert(5)>")
        page.wait("document.querySelector('#category-names [aria-selected=true] .new')")
        page.press("Enter")
        page.wait("document.activeElement.id === 'correct-rationale'")
        page.press("Enter")
        page.wait("document.getElementById('progress').value.startsWith('1 of')")
        page.wait("!document.querySelector('.tile.decided') || !document.getElementById('list').hidden")
        page.open("#seen=done")
        page.wait("document.querySelector('.group-row')")
        assert tab.run("document.documentElement.scrollWidth <= innerWidth")
        assert page.count("main img[src^=x], script") == 1
        dialogs = [each for each in tab.troubles() if "alert" in each or "Dialog" in each]
        assert not dialogs


def test_on_a_phone_every_button_is_there_and_nothing_is_cut_off(page: Page) -> None:
    page.tab.screen(width=360, height=740, phone=True)
    try:
        page.open()
        assert page.tab.run("document.documentElement.scrollWidth <= innerWidth")
        page.tab.run("document.querySelector('.group-row').click()")
        page.wait("document.querySelector('.tile')")
        assert page.tab.run("document.documentElement.scrollWidth <= innerWidth")
        small = page.tab.run(
            "Array.from(document.querySelectorAll('.act, .group-head button'), (node) => node.getBoundingClientRect())"
            ".filter((box) => box.height < 36 || box.width < 44 || box.right > innerWidth).length"
        )
        assert small == 0
        page.tab.run("document.querySelector('[data-act=wrong]').click()")
        page.wait("document.querySelector('.tile.decided:not(.pending) .badge.wrong')")
        assert page.tab.run("document.getElementById('picture').getBoundingClientRect().top < innerHeight / 2")
        assert [each.verdict for each in page.decided()] == ["wrong"]
    finally:
        page.tab.screen(width=1280, height=900)


def test_a_server_that_is_gone_is_said_and_nothing_is_marked_as_saved(labels: str, tab: Tab, tmp_path: Path) -> None:
    with running_review(labels, decisions=str(tmp_path)) as running:
        page = Page(tab, running).open()
        page.open_group()
    page.press("a")
    page.wait("!document.getElementById('trouble').hidden && !document.querySelector('.tile.decided, .tile.pending')")
    assert page.text("#trouble").startswith("The server does not answer. What is not marked is not saved")
    assert not list(tmp_path.glob("log/*"))


def test_a_sample_is_reviewed_to_its_end(labels: str, tab: Tab, tmp_path: Path) -> None:
    sample = str(write_keys(tmp_path, "0005", "0001", "0003"))
    with running_review(labels, sample=sample, decisions=str(tmp_path / "d")) as running:
        page = Page(tab, running).open()
        assert page.text("#group-title") == "Sample of 3 labels, in random order"
        page.press("A", "G", "Escape", "a", "w", "v")
        page.wait("document.getElementById('toast').textContent.startsWith('The sample is reviewed. Certify')")
        assert [each.key for each in page.decided()] == ["0005", "0001", "0003"]
