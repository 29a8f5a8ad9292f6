"""What came of an attack on a busy host, and what its threads are doing."""

from __future__ import annotations

import faulthandler
import tempfile
from collections import Counter
from dataclasses import dataclass, field

MOST_SHOWN = 20


@dataclass
class Report:
    """What came of an attack.

    Attributes:
        requests: How many were answered, by kind.
        slowest: The longest time that a request of a kind took, in seconds.
        jobs: How many jobs ended, by name and state.
        told: What users were told of jobs that failed, and how often.
        compared: How many of the user's images were compared with what their infotexts say.
        merges: How many of them were of merges.
        failures: What must not be.
    """

    requests: Counter[str] = field(default_factory=Counter)
    slowest: dict[str, float] = field(default_factory=dict)
    jobs: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    compared: int = 0
    merges: int = 0
    failures: list[str] = field(default_factory=list)


def show(report: Report) -> None:
    slowest = max(report.slowest.items(), key=lambda pair: pair[1], default=("", 0.0))
    print(f"requests: {sum(report.requests.values())}; slowest: {slowest[0]}, {slowest[1]:.1f} s")
    print("jobs: " + ", ".join(f"{name} {count}" for name, count in sorted(report.jobs.items())))
    for text, count in report.told.items():
        print(f"told {count} times: {text}")
    print(f"images compared: {report.compared}, of merges {report.merges}; failures: {len(report.failures)}")
    for failure in report.failures[:MOST_SHOWN]:
        print(f"FAILURE {failure}")


def stacks() -> str:
    """Give what each thread is doing."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        return file.read()
