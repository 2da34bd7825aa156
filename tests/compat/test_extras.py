"""What is missing says how to install it, from where ragcore itself came."""

from __future__ import annotations

import json
from importlib import metadata

import pytest

from ragcore import ConfigurationError
from ragcore.compat.extras import install_command, require


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'ragcore[cli,serve]'"),
        ("not JSON", "pip install 'ragcore[cli,serve]'"),
        ({"url": "file:///srv/ragcore", "dir_info": {}}, "pip install 'ragcore[cli,serve] @ file:///srv/ragcore'"),
        (
            {"url": "https://git.example.com/ragcore", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'ragcore[cli,serve] @ git+https://git.example.com/ragcore'",
        ),
    ],
)
def test_the_command_names_where_it_came_from(
    origin: dict[str, object] | str | None, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = json.dumps(origin) if isinstance(origin, dict) else origin

    class Distribution:
        def read_text(self, name: str) -> str | None:
            assert name == "direct_url.json"
            return text

    monkeypatch.setattr(metadata, "distribution", lambda _: Distribution())
    assert install_command("cli", "serve") == command
    with pytest.raises(ConfigurationError, match="no_such_package.*pip install 'ragcore\\[cli\\]"):
        require("no_such_package", extra="cli", purpose="this")
