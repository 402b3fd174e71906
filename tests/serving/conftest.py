"""One server of the tiny taught model for all tests of a file that leave it as it is."""

from __future__ import annotations

import pytest

from tests.serving.tiny import serving


@pytest.fixture(scope="module")
def server(taught):
    with serving(taught, read_only=True) as running:
        yield running
