"""Whether tests may use a program or a folder of this machine: ECOR_TESTS_WITHOUT="postgresql,wordnet" hides some."""

import os


def is_hidden(name: str) -> bool:
    """Whether tests are to run as if this were not on the machine (tests/repository/portable.py)."""
    return name in os.environ.get("ECOR_TESTS_WITHOUT", "").split(",")
