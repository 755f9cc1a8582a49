"""Measures one point of an experiment at its tiny scale, and prints its rows as JSON."""

from __future__ import annotations

import json
import sys

from scripts.experiments import catalogue

if __name__ == "__main__":
    experiment = catalogue.find(sys.argv[1])
    settings = experiment.at("tiny")
    point = experiment.points(settings)[int(sys.argv[2])]
    if experiment.prepare:
        experiment.prepare(settings, None, 1)
    rows = experiment.measure(settings, point, 1, None, lambda part: None)
    print(json.dumps([{"seed": 1, **point, **row} for row in rows]))
