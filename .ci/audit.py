"""Reports known vulnerabilities and licences of the packages that the demo installs, and writes a release's bill of materials. `make audit` runs it.

Exit status 0: no vulnerability is known; 1: there are some, or a package's licence is unknown; 2: no advisory source answered, so nothing is known.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
LOCKS = (HERE / "demo.lock", HERE / "weights.lock")
# pip-audit's sources. If a source can't be reached, pip-audit raises an error, or skips each package and still prints "no known vulnerabilities".
SOURCES = ("pypi", "osv")


def locked(text: str) -> list[tuple[str, str]]:
    """Return (name, version) of each package in a lock file. A package may have several versions, for different releases of Python."""
    return re.findall(r"^([\w.-]+)==([^\s;\\]+)", text, re.MULTILINE)


def judged(report: str) -> tuple[int, list[str]]:
    """Read a report of pip-audit. Return the number of packages that the source knows, and a line for each known vulnerability."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError):
        return 0, []
    known = [package for package in packages if "vulns" in package]
    found = [
        f"{package['name']} {package['version']}: {one['id']}, fixed in {', '.join(one['fix_versions']) or 'no version yet'}"
        for package in known
        for one in package["vulns"]
    ]
    return len(known), found


def licence(package: Distribution) -> str:
    """Return the licence that a package's metadata names; "" if it names none."""
    told = package.metadata
    named = [value.rpartition(" :: ")[2] for value in told.get_all("Classifier", []) if value.startswith("License :: ")]
    text = told.get("License-Expression") or ", ".join(named) or told.get("License") or ""
    return text.splitlines()[0][:60] if text else ""


def audit() -> tuple[int, list[str]]:
    """Return the report of the first source that answers, as `judged` returns it."""
    locks = [word for lock in LOCKS for word in ("-r", str(lock))]
    for source in SOURCES:
        command = [sys.executable, "-m", "pip_audit", *locks, "--no-deps", "--disable-pip", "-s", source]
        command += ["-f", "json", "--progress-spinner", "off", "--timeout", "15"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
        known, found = judged(done.stdout)
        if known:
            print(f"{known} packages looked up at {source}")
            return known, found
        print(f"{source} did not answer")
    return 0, []


def main(installed: str, release: str) -> int:
    """Print the report and write the bill of materials.

    Args:
        installed: the site-packages folder whose licences are reported.
        release: the file for the bill of materials.
    """
    text = "".join(lock.read_text() for lock in LOCKS)
    packages = locked(text)
    known, found = audit()
    names = {name for name, _ in packages}
    licences = {
        name: (one.version, licence(one))
        for one in distributions(path=[installed])
        if (name := str(one.metadata["Name"]).lower().replace("_", "-").replace(".", "-")) in names
    }
    print("\nLicences of what is installed:")
    for name, (version, told) in sorted(licences.items()):
        print(f"  {name:32} {version:18} {told or 'UNKNOWN'}")
    unknown = [name for name, (_, told) in licences.items() if not told]
    Path(release).parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "cyclonedx_py",
            "requirements",
            "-",
            "--pyproject",
            str(HERE.parent / "pyproject.toml"),
            "-o",
            release,
        ],
        input=text,
        text=True,
        check=True,
        timeout=300,
    )
    print(f"\nBill of materials: {release} (CycloneDX)")
    for line in found:
        print(f"VULNERABLE  {line}")
    if not known:
        print("NOT CHECKED: no advisory source answered. Nothing is known of vulnerabilities.")
        return 2
    if known < len(packages):
        print(f"{len(packages) - known} of {len(packages)} packages are unknown to the source")
    print(f"{len(found)} known vulnerabilities in {known} packages; {len(unknown)} licences unknown")
    return 1 if found or unknown else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
