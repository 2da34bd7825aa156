"""Starts Ray on this machine, or connects to a running cluster.

Ray's collection of usage data is off. Everything that Ray starts here listens on 127.0.0.1 only.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from ragcore.compat.extras import require
from ragcore.compat.private import ray_on_loopback
from ragcore.errors import ConfigurationError, DependencyError

__all__ = ["cluster", "load"]

# Memory of a local cluster for the objects that its processes exchange. Blocks are small, so it need not be large.
OBJECT_STORE_BYTES = 256 * 1024 * 1024
CONNECT_SECONDS = 5.0
# Without this variable, Ray sends usage data to its developers.
NO_USAGE_DATA = {"RAY_USAGE_STATS_ENABLED": "0"}
LOOPBACK = ("127.", "localhost:", "[::1]:")


def load(purpose: str) -> Any:
    """Import Ray, with its collection of usage data switched off.

    Raises:
        ConfigurationError: the extra `ray` is not installed.
    """
    os.environ.update(NO_USAGE_DATA)
    ray = require("ray", extra="ray", purpose=purpose)
    require("ray.data", extra="ray", purpose=purpose)
    return ray


@contextmanager
def cluster(address: str | None, *, workers: int | None, purpose: str) -> Iterator[Any]:
    """Connect to Ray for the block, and yield the module `ray`.

    If this process is connected to Ray already, the block uses that connection, which stays open. Otherwise the new connection or the new cluster ends with
    the block.

    Args:
        address: the cluster's address, such as "127.0.0.1:6379"; None: the one in RAY_ADDRESS, or a new cluster on this machine.
        workers: number of CPUs of a new cluster; None: those of this machine.
        purpose: the feature that needs Ray, for the error message.

    Raises:
        ConfigurationError: the extra `ray` is not installed, the cluster can't be reached, or `address` is given and this process is connected already.
        DependencyError: Ray could not be started on this machine.
    """
    named = address or os.environ.get("RAY_ADDRESS")
    ray = load(purpose)
    if ray.is_initialized():
        if address is not None:
            raise ConfigurationError(
                "this process is already connected to Ray: omit the address, or call ray.shutdown() first"
            )
        yield ray
        return
    if named is not None:
        _check_reachable(named)
    on_loopback = named is None or named.startswith(LOOPBACK)
    with ray_on_loopback() if on_loopback else nullcontext():
        yield from _connected(ray, named, workers)


def _connected(ray: Any, named: str | None, workers: int | None) -> Iterator[Any]:
    """Connect to the cluster with an address, or start one on this machine; yield the module, and disconnect."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if named is None:
            ray.init(
                address="local",
                include_dashboard=False,
                num_cpus=workers,
                object_store_memory=OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            ray.init(address=named, **quiet)
    except Exception as error:  # Ray raises errors of many types
        ray.shutdown()
        if named is None:
            raise DependencyError(
                f"Ray could not be started on this machine ({_first_line(error)})", dependency="Ray", stage="start"
            ) from error
        raise ConfigurationError(
            f"can't connect to Ray at {named} ({_first_line(error)}): check that the cluster runs the same versions of Ray and Python. If it uses "
            "tokens, set RAY_AUTH_MODE=token here as well, and use its token"
        ) from error
    except BaseException:
        ray.shutdown()
        raise
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Check that a server listens at the address of a cluster. Ray itself would try to connect for minutes.

    Raises:
        ConfigurationError: the address is invalid, or no server listens there.
    """
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if "://" in address or not host or not port.isdigit():
        raise ConfigurationError(
            f"the address of a Ray cluster is {address!r}: it must be like 127.0.0.1:6379, without a scheme, or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigurationError(
            f"can't connect to Ray at {address} ({error.strerror or error}): check the address, or start a cluster with `ray start --head`"
        ) from None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
