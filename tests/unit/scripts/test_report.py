"""scripts/report.py: the page, its pictures, the trace, and what it refuses."""

from __future__ import annotations

import collections
import dataclasses
import html.parser
import pathlib
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest

from scripts.reports import chosen_session, sections, written_report
from scripts.reports.recording import Recording
from scripts.reports.work_shares import WorkShares
from scripts.reports.worker_scores import scores
from tests.unit.recorded_training import trained
from tests.unit.timelines import one_after_the_other
from tf_backup.errors import RecordsError
from tf_backup.timeline import parquet
from tf_backup.timeline.schema import ACCEPTED, CONTRIBUTION, UPDATE, Settings, Timeline

pytestmark = pytest.mark.slow  # Computes for seconds.

ROOT = pathlib.Path(__file__).parents[3]
NASTY = "</title><script>alert('$x$ & \"')</script>"
SECTIONS = [
    "summary",
    "arrivals",
    "closely",
    "work",
    "speed",
    "compared",
    "what-if",
    "faults",
    "advice",
]
VOID = {"meta"}


def training(updates: int = 60, **settings: object) -> Timeline:
    rng = np.random.default_rng(0)

    def seconds(worker: int, n: int) -> float:
        return float(rng.lognormal(0.0, 0.2)) * (2.0 if worker == 3 else 1.0)

    return trained(seconds, 3, 1, updates, update_s=0.05, runs=min(2, updates), **settings)


def asynchronous() -> Timeline:
    """Return a timeline of N = 1 without a bound on staleness: two workers take turns."""
    steps = np.arange(40)
    rows, updates = np.zeros(40, CONTRIBUTION), np.zeros(40, UPDATE)
    rows["run"], updates["run"] = 1, 1
    rows["step"], rows["update"] = np.maximum(steps - 1, 0), steps
    rows["worker"] = rows["place"] = steps % 2
    rows["verdict"], rows["compute"] = ACCEPTED, 150_000
    rows["began"] = np.maximum(steps - 1, 0) * 100_000
    rows["arrived"] = (steps + 1) * 100_000 - 10_000
    updates["step"], updates["started"] = steps, rows["arrived"]
    updates["released"] = (steps + 1) * 100_000
    return Timeline(Settings(1, 1, None), rows, updates)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> list[pathlib.Path]:
    folder = tmp_path_factory.mktemp("report")
    timeline = training(model=NASTY, session=NASTY, versions={NASTY: NASTY})
    timeline = dataclasses.replace(timeline, notes=(NASTY,))
    return written_report.write(folder / "index.html", Recording(timeline), NASTY)


class Page(html.parser.HTMLParser):
    """Checks that elements are balanced, and collects ids and headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.labels: list[str] = []
        self.names: collections.Counter[str] = collections.Counter()
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names[tag] += 1
        values = dict(attrs)
        self.ids += filter(None, [values.get("id")])
        self.labels += (values.get("aria-labelledby") or "").split()
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_safe(written: list[pathlib.Path]) -> None:
    text = written[0].read_text("utf-8")
    page = Page(text)
    assert not page.open
    assert not [each for each, times in collections.Counter(page.ids).items() if times > 1]
    assert {*page.labels} <= {*page.ids}
    assert [each for each in page.ids if each in SECTIONS] == SECTIONS
    assert page.names["script"] == 0
    assert NASTY in page.text  # As text.
    assert not re.search(r"""(src|href)=["'](?!#)|@import|url\((?!#)""", text)
    assert len(text) < 2**20


def test_every_picture_has_a_title_a_description_and_a_caption(
    written: list[pathlib.Path],
) -> None:
    page = Page(written[0].read_text("utf-8"))
    pictures = page.names["svg"]
    assert pictures == len(written) - 1 == 9
    assert page.names["figure"] == page.names["figcaption"] == page.names["desc"] == pictures
    assert page.names["title"] == 1 + pictures


def test_pictures_are_files_too_and_fit_light_and_dark(written: list[pathlib.Path]) -> None:
    for path in written[1:]:
        text = path.read_text("utf-8")
        assert text.startswith("<?xml")
        assert "currentColor" in text
        assert "prefers-color-scheme" in text
        assert not re.search(r"#010203|<metadata|fill: ?#ffffff", text), path


# What an axis without a unit in parentheses says.
NUMBERED_OR_NAMED = {
    "worker",
    "what if",
    "k, the order of arrival",
    "N, gradients per update",
    "gradients per second",
}


def axis_labels(path: pathlib.Path) -> list[str]:
    """Return the labels of the axes of a picture: what matplotlib writes beside the ticks."""
    svg = "{http://www.w3.org/2000/svg}"
    labels = []
    for group in ElementTree.parse(path).iter(f"{svg}g"):
        if re.search(r"-matplotlib\.axis_\d+$", group.get("id", "")):
            beside = [each for each in group if "tick_" not in each.get("id", "")]
            labels.append(" ".join("".join(each.itertext()).strip() for each in beside))
    return labels


def test_every_axis_has_a_label_with_its_unit(
    written: list[pathlib.Path], tmp_path: pathlib.Path
) -> None:
    recording = Recording(asynchronous())
    pictures = written[1:] + written_report.write(tmp_path / "index.html", recording, "logs")[1:]
    assert {"ages.svg", "slowest-update.svg", "advice-picture.svg"} <= {p.name for p in pictures}
    for path in pictures:
        labels = axis_labels(path)
        assert len(labels) == 2, path.name
        for label in labels:
            assert label in NUMBERED_OR_NAMED or re.search(r"\S \(.+\)$", label), (path.name, label)


def test_the_summary_says_what_waiting_cost() -> None:
    took = (1.0, 1.5, 2.6)  # As in test_report_numbers.py.
    recording = Recording(trained(lambda worker, n: took[worker], 2, 1, updates=4, update_s=0.5))
    section = sections.summary(recording, WorkShares.of(recording), scores(recording))
    text = Page("".join(section.blocks)).text.replace("\N{NO-BREAK SPACE}", " ")
    assert (
        "Once half of its 2 gradients were there, an update waited another 500 ms on average for "
        "the rest: 25.0 % of the time between two updates. Of the workers' time, 41.7 % went into "
        "gradients that were used, 32.5 % into gradients that were not, and 25.8 % into waiting."
    ) in text


def test_a_training_whose_n_changed_is_compared_with_none(tmp_path: pathlib.Path) -> None:
    took = (1.0, 1.5, 2.6)
    parts = (trained(lambda worker, n: took[worker], n, 3 - n, 40) for n in (3, 2))
    timeline = one_after_the_other(*parts)
    (path, *_) = written_report.write(tmp_path / "index.html", Recording(timeline), "logs")
    text = Page(path.read_text("utf-8")).text.replace("\N{NO-BREAK SPACE}", " ")
    assert "half of its 2 to 3 gradients" in text
    assert "these are the 39 steps with the most common one, N = 2" in text
    assert "N changed during the run (2 to 3 gradients per update)" in text
    assert "This run (in which N changed) cannot be compared with it" in text
    assert "(this run)" not in text


@pytest.mark.parametrize(
    "timeline",
    [asynchronous(), trained(lambda worker, n: 0.001, 1, updates=1)],
    ids=["asynchronous", "one update"],
)
def test_small_and_other_trainings_have_a_page(tmp_path: pathlib.Path, timeline: Timeline) -> None:
    (path, *_) = written_report.write(tmp_path / "index.html", Recording(timeline), "logs")
    page = Page(path.read_text("utf-8"))
    assert [each for each in page.ids if each in SECTIONS] == SECTIONS


# --- Which records


def write_records(folder: pathlib.Path, session: str, **settings: object) -> Timeline:
    timeline = training(session=session, **settings)
    parquet.Writer(folder, timeline.settings).write(timeline.contributions, timeline.updates)
    return timeline


def test_the_latest_session_is_read_unless_told_otherwise(tmp_path: pathlib.Path) -> None:
    write_records(tmp_path, "a", updates=40)
    write_records(tmp_path, "b", updates=60)
    latest = chosen_session.read(str(tmp_path))
    assert (len(latest.updates), latest.settings.session) == (60, "b")
    assert any("2 sessions" in note for note in latest.notes)
    assert len(chosen_session.read(str(tmp_path), "a").updates) == 40


def test_all_sessions_are_read_one_after_the_other(tmp_path: pathlib.Path) -> None:
    write_records(tmp_path, "a", updates=40)
    write_records(tmp_path, "b", updates=60)
    whole = Recording(chosen_session.read(str(tmp_path), "all"))
    assert len(whole.updates) == 100
    assert [run.number for run in whole.runs] == [0, 1, 2, 3]
    assert (whole.used_by[whole.contributions["verdict"] == ACCEPTED] >= 0).all()


@pytest.mark.parametrize("session", ["c", ""])
def test_an_unknown_session_is_refused(tmp_path: pathlib.Path, session: str) -> None:
    write_records(tmp_path, "a")
    with pytest.raises(RecordsError, match="no session"):
        chosen_session.read(str(tmp_path), session)


def test_what_has_no_records_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecordsError, match=r"has no records.*train\.py writes them to its --log"):
        chosen_session.read(str(tmp_path))
    with pytest.raises(RecordsError, match="does not exist"):
        chosen_session.read(str(tmp_path / "absent"))
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(RecordsError, match="not a folder"):
        chosen_session.read(str(file))
    with monkeypatch.context() as patched:
        patched.setattr(parquet, "FORMAT", parquet.FORMAT + 1)
        write_records(tmp_path, "later")
    with pytest.raises(RecordsError, match="format"):
        chosen_session.read(str(tmp_path))


def report(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/report.py", *args]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)


def test_the_command_writes_page_pictures_and_trace(tmp_path: pathlib.Path) -> None:
    write_records(tmp_path, "a")
    done = report(str(tmp_path), "--trace")
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "report"
    assert f"{folder / 'index.html'}: 60 updates, 9 pictures" in done.stdout
    names = {path.name for path in folder.iterdir()}
    assert {"index.html", "trace.json", "arrivals-by-rank.svg"} <= names
    assert len(names) == 11


def test_bad_input_ends_the_command_with_a_sentence(tmp_path: pathlib.Path) -> None:
    done = report(str(tmp_path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"report.py: {tmp_path} has no records of a training")
    assert done.stderr.count("\n") == 1
