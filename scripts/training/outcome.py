"""Summary of a training run, for people and as JSON."""

from __future__ import annotations

from typing import Any

from scripts.training.settings import Settings
from tf_backup.records import Contributions, WorkerRecord


def contributions_of(optimizer: Any, updates: int) -> Contributions:
    """Return the accounts; those of a plain optimizer are of one worker that is never late."""
    if hasattr(optimizer, "contributions"):
        accounts: Contributions = optimizer.contributions
        return accounts
    return Contributions((WorkerRecord(0, updates, updates, 0, 0, 0, 0, {0: updates}),))


def summary(
    settings: Settings, updates: int, made: int, run: Any, contributions: Contributions
) -> dict[str, Any]:
    """Return the results, as `--summary_json` writes them."""
    prefix = "val_"
    logs = {name: value for name, value in run.logs.items() if name not in ("updates", "seconds")}
    return {
        "model": settings.given.model,
        "dataset": settings.recipe.dataset,
        "strategy": settings.given.strategy,
        "replicas": settings.policy.replicas,
        "backups": settings.policy.backups,
        "updates": updates,
        "updates_of_this_run": made,
        "seconds": run.seconds,
        "updates_per_second": made / run.seconds if run.seconds else 0.0,
        "contributions": contributions.total.as_dict(),
        "workers": [
            {**record.as_dict(), "staleness": record.staleness} for record in contributions.workers
        ],
        "train": {name: value for name, value in logs.items() if not name.startswith(prefix)},
        "validation": {
            name.removeprefix(prefix): value
            for name, value in logs.items()
            if name.startswith(prefix)
        },
    }


def report(result: dict[str, Any], contributions: Contributions) -> None:
    """Print the results."""
    from scripts.training.progress import described

    print(
        f"\n{result['updates_of_this_run']} updates in {result['seconds']:.1f} s "
        f"({result['updates_per_second']:.1f} updates/s)"
    )
    print(contributions)
    print(f"held out: {described(result['validation'])}")
