"""The commands for databases: the settings that they read without a client."""

from __future__ import annotations

import pytest

from ragcore import ConfigurationError
from ragcore.cli.database import _named_embedder


def test_a_dimension_that_is_no_number_is_an_error_of_the_configuration() -> None:
    with pytest.raises(ConfigurationError, match="RAGCORE_EMBEDDING_DIMENSION is 'many'"):
        _named_embedder({"RAGCORE_EMBEDDING_MODEL": "made", "RAGCORE_EMBEDDING_DIMENSION": "many"})
