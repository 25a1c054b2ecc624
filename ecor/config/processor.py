"""What the processor of this machine multiplies fast; torch is not imported here."""

import re
from functools import cache
from pathlib import Path

_CPU_INFO = Path("/proc/cpuinfo")
_BF16_UNITS = frozenset({"amx_bf16", "avx512_bf16"})
"""As Linux calls the instructions of x86-64 that multiply bf16: of AMX, and of AVX-512."""


@cache
def has_bf16_units(cpu_info: Path = _CPU_INFO) -> bool:
    """Whether the processor multiplies bf16 numbers by instructions of its own; False where the system does not say.

    Args:
        cpu_info: in the form of Linux's `/proc/cpuinfo`.
    """
    try:
        found = re.search(r"^flags\s*:(.*)$", cpu_info.read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        return False
    return found is not None and not _BF16_UNITS.isdisjoint(found[1].split())
