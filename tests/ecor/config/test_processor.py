"""Which processors multiply bf16 by instructions of their own."""

from pathlib import Path

import pytest

from ecor.config.processor import has_bf16_units


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu sse4_2 avx2 avx512f avx512_bf16 avx512_vnni", True),
        ("fpu avx2 avx512f amx_bf16 amx_tile amx_int8", True),
        ("fpu sse4_2 avx2 avx512f avx512_vnni", False),  # torch would compute in bf16 there, slowly
        ("fpu avx2 amx_tile amx_int8", False),
        ("", False),
    ],
)
def test_the_units_are_read_off_the_flags_of_linux(tmp_path: Path, flags: str, expected: bool) -> None:
    info = f"processor\t: 0\nmodel name\t: avx512_bf16\nflags\t\t: {flags}\nbugs\t\t: amx_bf16\n"
    (tmp_path / "cpuinfo").write_text(info)
    assert has_bf16_units(tmp_path / "cpuinfo") is expected


def test_a_system_that_says_nothing_has_none(tmp_path: Path) -> None:
    (tmp_path / "arm").write_text("processor\t: 0\nFeatures\t: fp asimd bf16\n")
    assert not has_bf16_units(tmp_path / "nothing")
    assert not has_bf16_units(tmp_path / "arm")
