from pathlib import Path

import pytest

from minilm.hub import find_model


@pytest.fixture(scope="session")
def weights() -> Path:
    return find_model(None)
