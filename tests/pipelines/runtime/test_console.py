"""Lines and bars: what is said is said as it is."""

import pytest

from pipelines.runtime.console import percent, progress_bar, say


@pytest.mark.parametrize("line", ["[red]a[/red] :cat: 12.5 's'", "word " * 60])
def test_a_line_is_printed_as_it_is(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    say(line)
    assert capsys.readouterr() == ("", f"{line}\n")
    say(line, to_stdout=True)
    assert capsys.readouterr() == (f"{line}\n", "")


@pytest.mark.parametrize("step", [1, 3, 7])
def test_where_nobody_watches_a_bar_says_a_line_now_and_then(step: int, capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("measuring", total=25, unit="cells", say_every=10) as advance:
        for done in range(0, 25, step):
            advance(min(step, 25 - done))
    lines = capsys.readouterr().err.splitlines()
    counts = [int(line.removeprefix("measuring: ").split()[0]) for line in lines if line]
    assert len(counts) == 3
    assert counts[-1] == 25
    assert 10 <= counts[0] < 20 <= counts[1] < 25


def test_a_silent_bar_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("measuring", total=2, unit="cells") as advance:
        advance()
        advance()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("share", "text"), [(0.0, "0%"), (1e-9, "<1%"), (0.874, "87%"), (0.9999, ">99%"), (1.0, "100%")]
)
def test_percent_keeps_what_is_close_to_nothing_apart_from_nothing(share: float, text: str) -> None:
    assert percent(share) == text
