"""Reads a worker's input pipelines as its process does, and prints the elements as JSON.

Arguments: the worker, the number of elements, and files with a description and a graph each.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

from tf_backup.worker_data import open_pipeline


def main() -> None:
    worker, count = map(int, sys.argv[1:3])
    for path in map(Path, sys.argv[3:]):
        description = json.loads(path.with_suffix(".json").read_text())
        pipeline = open_pipeline(description, path.read_bytes(), worker)
        labels = [element[-1].numpy().tolist() for element in itertools.islice(pipeline, count)]
        print(json.dumps(labels))


if __name__ == "__main__":
    main()
