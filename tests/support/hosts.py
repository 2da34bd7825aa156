"""Hosts for test servers: network namespaces with an address each, joined by a bridge. They need root and the program `ip`."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Host", "hosts", "why_not"]

# Each process has a network of its own, so that one that was killed is in nobody's way.
NETWORK = f"10.213.{os.getpid() % 256}"


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace.

    Attributes:
        name: its name.
        address: its address in the network of the bridge.
    """

    name: str
    address: str

    @property
    def network(self) -> str:
        """The network of all hosts."""
        return f"{NETWORK}.0/24"

    def command(self, *command: str, uid: int | None = None, gid: int | None = None) -> list[str]:
        """Return a command that runs another one on this host. It must be started by root."""
        login = [] if uid is None else ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        return ["ip", "netns", "exec", self.name, *login, *command]


def why_not() -> str | None:
    """Return why there can be no hosts on this machine; None if there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("setpriv") is None:
        return "the programs ip and setpriv are missing: `apt-get install iproute2 util-linux`"
    name = f"rc{os.getpid()}try"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"network namespaces can't be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make hosts for the block. This machine reaches them as well; nothing else does."""
    bridge = f"rcb{os.getpid()}"[:15]
    made: list[Host] = []
    try:
        _ip(f"link add {bridge} type bridge")
        _ip(f"addr add {NETWORK}.1/24 dev {bridge}")
        _ip(f"link set {bridge} up")
        for number in range(count):
            host = Host(f"rc{os.getpid()}n{number}", f"{NETWORK}.{10 + number}")
            _ip(f"netns add {host.name}")
            made.append(host)
            outside, inside = f"rv{os.getpid()}{number}"[:15], f"rw{os.getpid()}{number}"[:15]
            _ip(f"link add {outside} type veth peer name {inside} netns {host.name}")
            _ip(f"link set {outside} master {bridge} up")
            _ip(f"-n {host.name} addr add {host.address}/24 dev {inside}")
            _ip(f"-n {host.name} link set {inside} up")
            _ip(f"-n {host.name} link set lo up")
        yield made
    finally:
        for host in made:
            subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", bridge], check=False, capture_output=True)


def _ip(words: str) -> None:
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {words}: {done.stderr.strip()}")
