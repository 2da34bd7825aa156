"""Test doubles for your own tests, and the tools that test ragcore itself.

There are fakes for each protocol, an OpenAI-compatible server and a proxy that injects faults (both on loopback), an event loop with virtual time,
simulation with seeds, and a function that cancels a run at each await. To use the fixtures: `pytest_plugins = ["ragcore.testing.fixtures"]`.
"""

from __future__ import annotations

from ragcore.testing.cancelling import at_rest, cancel_everywhere
from ragcore.testing.fakes import FakeEmbedder, FakeGenerator, FakeReranker, FakeStore, fake_rag
from ragcore.testing.faults import (
    BadEnd,
    Bomb,
    Broken,
    Corrupt,
    Crumbs,
    Deaf,
    Drip,
    Endless,
    Fail,
    Fault,
    Faults,
    HalfClose,
    Hang,
    Huge,
    Redirect,
    Refuse,
    Reply,
    Reset,
    Silent,
    Slow,
    Stall,
)
from ragcore.testing.proxy import FaultProxy
from ragcore.testing.server import OpenAIServer
from ragcore.testing.simulation import World, simulate
from ragcore.testing.traffic import traffic
from ragcore.testing.virtual import VirtualLoop

__all__ = [
    "BadEnd",
    "Bomb",
    "Broken",
    "Corrupt",
    "Crumbs",
    "Deaf",
    "Drip",
    "Endless",
    "Fail",
    "FakeEmbedder",
    "FakeGenerator",
    "FakeReranker",
    "FakeStore",
    "Fault",
    "FaultProxy",
    "Faults",
    "HalfClose",
    "Hang",
    "Huge",
    "OpenAIServer",
    "Redirect",
    "Refuse",
    "Reply",
    "Reset",
    "Silent",
    "Slow",
    "Stall",
    "VirtualLoop",
    "World",
    "at_rest",
    "cancel_everywhere",
    "fake_rag",
    "simulate",
    "traffic",
]
