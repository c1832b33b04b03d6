"""What tests of generated hardware share."""

import pytest


@pytest.fixture
def proving(request: pytest.FixtureRequest) -> None:
    """Skip unless everything is to be proven."""
    if not request.config.getoption("--stress"):
        pytest.skip("minutes of synthesis: make prove")
