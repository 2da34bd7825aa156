"""Test doubles for users' own tests, and the tools that ragcore is tested with.

Fakes for each protocol, an OpenAI-compatible server and a fault-injecting proxy on loopback, an event loop with virtual time, seeds, and
cancellation at every await. Fixtures: `pytest_plugins = ["ragcore.testing.fixtures"]`.
"""

from __future__ import annotations

from ragcore.testing.cancelling import at_rest, cancel_everywhere
from ragcore.testing.fakes import FakeEmbedder, FakeGenerator, FakeStore, fake_rag
from ragcore.testing.faults import Fail, Fault, Faults, Hang, Slow
from ragcore.testing.proxy import FaultProxy
from ragcore.testing.server import OpenAIServer
from ragcore.testing.simulation import World, simulate
from ragcore.testing.virtual import VirtualLoop

__all__ = [
    "Fail",
    "FakeEmbedder",
    "FakeGenerator",
    "FakeStore",
    "Fault",
    "FaultProxy",
    "Faults",
    "Hang",
    "OpenAIServer",
    "Slow",
    "VirtualLoop",
    "World",
    "at_rest",
    "cancel_everywhere",
    "fake_rag",
    "simulate",
]
