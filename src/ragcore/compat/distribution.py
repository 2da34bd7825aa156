"""Names the distribution that installs this package, builds commands that install its extras, and detects another project of the same name.

On the package index, `ragcore` is another project. The distribution `ragcore-client` installs this package, which is imported as `ragcore`.

`import ragcore` imports this module. So modules that take milliseconds to load are imported within the functions that need them.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

__all__ = [
    "NAME",
    "NAMESAKE",
    "describe_namesake",
    "find_namesake",
    "install_command",
    "version_of",
    "warn_about_namesake",
]

NAME = "ragcore-client"
NAMESAKE = "ragcore"


def version_of(package: str) -> str | None:
    """Return the version of an installed package, where `ragcore` stands for `ragcore-client`; None if it isn't installed. Reads files."""
    from importlib import metadata

    try:
        return metadata.version(NAME if package == "ragcore" else package)
    except metadata.PackageNotFoundError:
        return None


def install_command(*extras: str, options: str = "") -> str:
    """Return the command that installs extras, from the same source and with the same installer as this package. Reads files.

    Source: PEP 610, direct_url.json; PEP 376, INSTALLER.
    """
    import json
    from importlib import metadata

    try:
        origin = json.loads(metadata.distribution(NAME).read_text("direct_url.json") or "null")
    except (metadata.PackageNotFoundError, ValueError):
        origin = None
    wanted = f"[{','.join(extras)}]" if extras else ""
    if origin is None:
        wanted = f"'{NAME}{wanted}'"
    elif "vcs_info" in origin:
        wanted = f"'{NAME}{wanted} @ {origin['vcs_info']['vcs']}+{origin['url']}'"
    elif origin.get("dir_info", {}).get("editable"):
        from urllib.parse import unquote, urlsplit

        wanted = f"-e '{unquote(urlsplit(origin['url']).path)}{wanted}'"
    else:
        wanted = f"'{NAME}{wanted} @ {origin['url']}'"
    return " ".join(part for part in (installer(), options, wanted) if part)


def installer() -> str:
    """Return the beginning of a command of pip or uv that installs into this environment. Reads files.

    It is never `uv tool install`, even in the environment of a uv tool: that command would remove all extras and packages that it does not name.
    """
    from importlib import metadata

    try:
        name = (metadata.distribution(NAME).read_text("INSTALLER") or "pip").strip()
    except metadata.PackageNotFoundError:
        name = "pip"
    if name != "uv":
        return "pip install"
    # `uv tool` writes this file into the environment of each tool.
    is_tool = os.path.exists(os.path.join(sys.prefix, "uv-receipt.toml"))
    return f"uv pip install --python '{sys.executable}'" if is_tool else "uv pip install"


def find_namesake(path: Sequence[str] | None = None) -> str | None:
    """Return the metadata folder of the distribution `ragcore`; None if that distribution is not installed. Reads folders.

    Both distributions write a folder `ragcore`, so the one that is installed last overwrites files of the other.

    Args:
        path: the folders to search; None: `sys.path`.
    """
    for entry in sys.path if path is None else path:
        try:
            names = os.listdir(entry or os.curdir)
        except OSError:  # sys.path may contain archives and folders that don't exist
            continue
        for name in names:
            # PEP 427 writes "-" in a name as "_", so that "ragcore_client-0.2.0.dist-info" doesn't match.
            if name.lower().startswith(f"{NAMESAKE}-") and name.endswith((".dist-info", ".egg-info")):
                return os.path.join(entry, name)
    return None


def describe_namesake(found: str) -> str:
    """Return a message that describes the conflict and the commands that resolve it."""
    folder, name = os.path.split(found)
    version = name.removesuffix(".dist-info").removesuffix(".egg-info").partition("-")[2]
    return (
        f"the distribution {NAMESAKE!r} {version} is installed in {folder} in addition to {NAME!r}; both write the "
        f"package 'ragcore', so one has overwritten files of the other. Run: pip uninstall {NAMESAKE}, then: "
        f"{install_command(options='--force-reinstall --no-deps')}"
    )


def warn_about_namesake() -> None:
    """Warn when the distribution `ragcore` is installed too. Takes less than a millisecond."""
    found = find_namesake()
    if found is not None:
        warnings.warn(describe_namesake(found), RuntimeWarning, stacklevel=3)
