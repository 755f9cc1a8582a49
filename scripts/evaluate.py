"""Evaluates the checkpoints of a training run, after it has ended or while it runs.

It reads what scripts/train.py writes to --log_dir, needs no cluster, and evaluates the averaged
weights if training keeps an average.

Examples:

  python scripts/evaluate.py --log_dir=runs/text                  # the newest checkpoint
  python scripts/evaluate.py --log_dir=runs/text --split=test
  python scripts/evaluate.py --log_dir=runs/text --watch          # every new one, until the last;
                                                                  # may be started first
  python scripts/evaluate.py --log_dir=runs/text --generate=400   # let the model write, too
"""

from __future__ import annotations

import csv
import dataclasses
import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # Before TensorFlow is imported.

from scripts import early  # noqa: F401, I001

from absl import app, flags

from scripts import console, exits, flag_values

flags.DEFINE_string(  # Replaces absl's flag of this name, which does nothing here.
    "log_dir", None, "The --log_dir of the training.", allow_override=True
)
flags.DEFINE_string("data_dir", None, "The --data_dir of the training.")
flags.DEFINE_string(
    "split", None, "What to evaluate on; default: validation if the data has it, else test."
)
flags.DEFINE_enum(
    "on_corrupt", "fail", ["fail", "skip"], "What to do with a record that cannot be decoded."
)
flags.DEFINE_integer("step", None, "Evaluate the checkpoint after this many updates.")
flags.DEFINE_bool("watch", False, "Evaluate every new checkpoint, until that of the last update.")
flags.DEFINE_float("poll_seconds", 10.0, "How often to look for a new checkpoint.")
flags.DEFINE_integer(
    "generate",
    0,
    "Let the model draw this many images into LOG_DIR/samples-STEP.png, or write this many "
    "characters or words.",
)

log = logging.getLogger("evaluate")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of the flags, by their names.

    Raises:
      ValueError: if one is wrong; says the flag, its value, the rule and the remedy.
    """

    log_dir: str
    data_dir: str | None
    split: str | None
    on_corrupt: str
    step: int | None
    watch: bool
    poll_seconds: float
    generate: int

    def __post_init__(self) -> None:
        if not self.log_dir:
            raise ValueError("--log_dir is not given; it must be that of a training.")
        if self.generate < 0:
            raise ValueError(f"--generate is {self.generate}; it must be at least 0.")
        if not 0 < self.poll_seconds < math.inf:
            raise ValueError(
                f"--poll_seconds is {self.poll_seconds}; it must be above 0 and finite."
            )
        if self.watch and self.step is not None:
            raise ValueError(f"--step is {self.step}, but --watch evaluates all; give one.")


class Evaluation:
    """The model of a training run, and the data to evaluate it on.

    Args:
      settings: the settings.

    Raises:
      ValueError: if the data has no such split, or the model cannot generate.
      FileNotFoundError: if there is no such training run, or no data.
    """

    def __init__(self, settings: Settings) -> None:
        from models.data import loading
        from scripts.training import resumable
        from scripts.training.tasks import Task

        self.settings = settings
        self.plan = resumable.plan_of(settings.log_dir)
        recipe = self.plan.recipe
        self.data = loading.load(
            recipe.dataset, settings.data_dir, on_corrupt=settings.on_corrupt, **recipe.data
        )
        split = settings.split or self.data.splits[0]
        if split not in self.data.splits:
            raise ValueError(
                f"--split is {split!r}, but what {self.data.name} holds out is "
                f"{' or '.join(self.data.splits)}."
            )
        self.task = Task(self.plan.model, self.data, recipe.sizes)
        if settings.generate and not (self.data.is_text or hasattr(self.task.module, "sample")):
            raise ValueError(
                f"--generate is {settings.generate}, but {self.plan.model} tells classes apart and "
                "makes nothing. Leave it out."
            )
        self.model = self.task.compile(self.plan.optimizer())
        self.held_out = self.task.held_out(recipe.held_out_batch_size, split)
        self.split = split
        self.checkpoints = resumable.checkpoints_of(settings.log_dir)

    def run(self, step: int) -> None:
        """Evaluate the checkpoint after `step` updates, and write the results."""
        from scripts.training.progress import described

        try:
            self.checkpoints.load(self.model, step)
        except OSError as error:
            if not self.settings.watch:
                raise
            if not isinstance(error, FileNotFoundError):  # Removed, since there are newer ones.
                log.warning("%s Going on with the next one.", error)
            return
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)
        bar = 1 if sys.stdout.isatty() else 0
        logs = self.model.evaluate(self.held_out, verbose=bar, return_dict=True)
        print(f"after {step} updates, {self.split}: {described(logs)}", flush=True)
        self._write_down(step, logs)
        if self.settings.generate:
            self._generate(step)

    def _write_down(self, step: int, logs: dict[str, float]) -> None:
        """Add a row to a CSV file, and points to TensorBoard's curves."""
        import tensorflow as tf

        path = os.path.join(self.settings.log_dir, f"evaluation-{self.split}.csv")
        new = not os.path.exists(path)
        with open(path, "a", newline="") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(["updates", *logs])
            writer.writerow([step, *logs.values()])
        writer = tf.summary.create_file_writer(os.path.join(self.settings.log_dir, self.split))
        with writer.as_default(step):
            for name, value in logs.items():
                tf.summary.scalar(f"evaluation/{name}", value)
        writer.close()

    def _generate(self, step: int) -> None:
        """Let the model draw images into a file, or print text."""
        from models import language_model
        from scripts.training import picture

        if self.data.vocabulary is not None:
            vocabulary = self.data.vocabulary
            start = "\n" if not vocabulary.of_words else vocabulary.tokens[1]
            prompt = vocabulary.encode(start)
            ids = language_model.generate(self.model, prompt, self.settings.generate)
            print(vocabulary.decode(ids))
        else:
            images = self.task.module.sample(self.model, self.settings.generate)
            path = os.path.join(self.settings.log_dir, f"samples-{step}.png")
            picture.write(path, images)
            print(f"{len(images)} images are in {path}")


def steps(evaluation: Evaluation) -> Any:
    """Yield the numbers of updates whose checkpoints to evaluate."""
    checkpoints, settings = evaluation.checkpoints, evaluation.settings
    if not settings.watch:
        known = checkpoints.steps()
        wanted = settings.step if settings.step is not None else known[-1] if known else None
        if wanted not in known:
            there = ", ".join(map(str, known)) or "none yet"
            raise ValueError(
                f"{checkpoints.directory} has no checkpoint"
                + ("" if settings.step is None else f" after {settings.step} updates")
                + f"; it has: {there}. With --watch this waits for them."
            )
        yield wanted
        return
    from scripts.training import resumable

    done = -1
    while done < resumable.plan_of(settings.log_dir).updates:  # It may be raised meanwhile.
        new = [step for step in checkpoints.steps() if step > done]
        if not new:
            time.sleep(settings.poll_seconds)
            continue
        done = new[-1]  # Older ones are skipped.
        yield done


def wait_for_training(log_dir: str, poll_seconds: float) -> None:
    """Wait until a training run has started to write to a directory."""
    from scripts.training import resumable

    if not resumable.is_claimed(log_dir):
        log.info("Waiting for a training to begin in %s.", log_dir)
    while not resumable.is_claimed(log_dir):
        time.sleep(poll_seconds)


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    if len(argv) > 1:
        exits.end(f"evaluate.py takes flags only, not {argv[1]!r}; see --help.", exits.WRONG)
    console.set_up()
    with exits.reporting_errors("", "evaluate.py"):
        exits.at_signals()
        settings = flag_values.read(Settings)
        if settings.watch:
            wait_for_training(settings.log_dir, settings.poll_seconds)
        with exits.preparing("evaluate.py"):
            evaluation = Evaluation(settings)
        for step in steps(evaluation):
            evaluation.run(step)


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
