"""Timings beside named peers: first agree, then time."""
