"""Modules of `scripts/report.py`: what a recorded training shows, as numbers, pictures and a page.

Reading: `chosen_session.py` reads a timeline, and `recording.py` adds what all parts need.
Numbers: `arrivals_by_rank.py`, `work_shares.py`, `speed_over_time.py`, `worker_scores.py`,
`incidents.py`, `slowdowns.py` (what-if), `shown_updates.py`.
Pictures: `drawing.py` (style, SVG), `pictures_of_updates.py`, `pictures_of_workers.py`.
Page: `sections.py`, `sections_of_workers.py` and `advised_splits.py` say it in words,
`html_blocks.py` and `page.py` make HTML of that, with the style in `page.css`. `amounts.py` writes
numbers with their units. `written_report.py` puts all of it together.
Trace: `trace_events.py`.

Numbers know nothing of pictures, and pictures nothing of pages. Imports from `tf_backup`, and from
nothing else in `scripts`. NumPy and matplotlib, no TensorFlow.
"""
