"""A missing extra is a configuration error with the command that installs it."""

from __future__ import annotations

import pytest

from ragcore import ConfigurationError
from ragcore.compat.distribution import install_command
from ragcore.compat.extras import require


def test_a_missing_package_names_the_command_that_installs_it() -> None:
    with pytest.raises(ConfigurationError, match="this needs the package 'no_such_package'") as caught:
        require("no_such_package", extra="cli", purpose="this")
    assert str(caught.value).endswith(install_command("cli"))
