"""Servers, faults and a client to measure."""
