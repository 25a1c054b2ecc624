"""Shape checks on for every test, and the data that only some machines have."""

from pathlib import Path

import pytest
from hypothesis import settings
from jaxtyping import install_import_hook

install_import_hook("ecor", "beartype.beartype")
settings.register_profile("ecor", deadline=None)  # a machine that is busy is no fault of the code
settings.load_profile("ecor")

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("shared test data (photos, descriptors) is not on this machine")
    return SHARED_DATA
