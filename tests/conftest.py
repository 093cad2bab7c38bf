"""Fixtures that all tests share."""

import pytest
from sentence_transformers import SentenceTransformer

from minilm import SentenceEncoder
from minilm.hub import find_model


@pytest.fixture(scope="session")
def weights():
    return find_model()


@pytest.fixture(scope="session")
def model(weights):
    return SentenceEncoder.from_pretrained(weights, device="cpu")


@pytest.fixture(scope="session")
def reference(weights):
    return SentenceTransformer(str(weights), device="cpu")
