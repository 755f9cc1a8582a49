"""The programs of the benchmark's processes.

Each module has `start(spec)`, a context that gives a `Peer`: a system's part in one process.
"""
