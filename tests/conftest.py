"""Fixtures that all tests share."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest


@pytest.fixture(scope="session")
def model():
    from minilm import SentenceEncoder

    return SentenceEncoder.from_pretrained(device="cpu")


@pytest.fixture(scope="session")
def weights():
    from minilm.hub import find_model

    return find_model(None)


@pytest.fixture(scope="session")
def reference(weights):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(weights), device="cpu")
