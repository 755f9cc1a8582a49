"""Reports on a training from its records: where its time went, and which workers were slow.

It reads the records that a training has written to its log folder, and needs no cluster. It writes
one page, LOG_DIR/report/index.html, which needs no other file and no network, and its pictures as
SVG files beside it. The page shows:

  how fast the k-th gradient of a step arrives (figures 3 and 4 of the paper)
  some updates from close by, with what each worker did
  work in vain, speed over time, workers compared, faults
  what slow workers cost, by a replay without them
  which N and b would train fastest on these workers

Examples:

  python scripts/report.py runs/text                        # the latest process that trained there
  python scripts/report.py runs/text --session=all          # all of them, after restarts
  python scripts/report.py runs/text --out=slow-day.html
  python scripts/report.py runs/text --trace                # for ui.perfetto.dev, too

Exit codes: 0 if the report is written, 2 if flags or records are wrong, 1 otherwise.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import sys
from collections.abc import Sequence

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from scripts import early  # noqa: F401, I001

from absl import app, flags

from scripts import console, exits, flag_values

flags.DEFINE_string("out", None, "File name of the page; default: LOG_DIR/report/index.html.")
flags.DEFINE_string(
    "session",
    None,
    "Which process that trained in LOG_DIR: its name, or all; default: the latest.",
)
flags.DEFINE_bool("trace", False, "Also write trace.json, for ui.perfetto.dev or chrome://tracing.")
flags.DEFINE_integer(
    "trace_updates", 10_000, "Last updates to write to trace.json; 0 for all.", lower_bound=0
)

_NAME = "report.py"
log = logging.getLogger("report")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Values of the flags, by their names; None if a flag without a default is not given."""

    out: str | None
    session: str | None
    trace: bool
    trace_updates: int


def check(argv: Sequence[str], out: str | None) -> tuple[str, pathlib.Path]:
    """Return the log folder and the file name of the page.

    Args:
      argv: the command and its arguments.
      out: the value of --out.

    Raises:
      ValueError: if arguments or flags are wrong; says the value, the rule and the remedy.
    """
    if len(argv) != 2:
        given = "no folder" if len(argv) < 2 else f"{len(argv) - 1} folders"
        raise ValueError(
            f"{given} given; give the log folder of one training, as in {_NAME} runs/text."
        )
    page = pathlib.Path(out or os.path.join(argv[1], "report", "index.html"))
    if page.is_dir() or page.suffix not in (".html", ".htm"):
        raise ValueError(f"--out is {str(page)!r}; it must be the name of an .html file.")
    return argv[1], page


def report(settings: Settings, log_dir: str, out: pathlib.Path) -> None:
    """Write the report, and the trace if asked for."""
    from scripts.reports import chosen_session, trace_events, written_report
    from scripts.reports.recording import Recording

    timeline = chosen_session.read(log_dir, settings.session)
    for note in timeline.notes:
        log.warning("%s", note)
    recording = Recording(timeline)
    with exits.preparing(_NAME):
        written = written_report.write(out, recording, log_dir)
        print(f"{written[0]}: {len(recording.updates):,} updates, {len(written) - 1} pictures")
        if settings.trace:
            path = out.with_name("trace.json")
            count = trace_events.write(path, recording, settings.trace_updates or None)
            made = len(recording.updates)
            which = f"{made:,}" if count == made else f"the last {count:,} of {made:,}"
            print(f"{path}: {which} updates; open it in ui.perfetto.dev")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    console.set_up()
    with exits.reporting_errors("", _NAME):
        exits.at_signals()
        settings = flag_values.read(Settings)
        log_dir, out = check(argv, settings.out)
        try:
            report(settings, log_dir, out)
        except ImportError as error:
            exits.end(
                f"{_NAME}: {error}. The report needs matplotlib and pyarrow: "
                "pip install 'tf_backup[report]', or requirements.lock.",
                exits.WRONG,
            )


if __name__ == "__main__":
    app.run(main, flags_parser=exits.parse)
