import pytest


@pytest.fixture(scope="module", autouse=True)
def quick(hasty):
    """No test here is about how well a latency is known."""
