"""Programs of the benchmark processes.

Each module has a context manager `start(spec)`, which yields a `Peer`: one process of a system.
"""
