"""Run the table of checks over splits."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hybrid_dense.data.checks.copies import find_copies
from hybrid_dense.data.checks.files import Case
from hybrid_dense.data.checks.records import Entry, Problem, Split
from hybrid_dense.data.checks.survey import Survey, survey
from hybrid_dense.data.checks.table import CHECKS, COPIES, IMAGE, QUICK, SPLIT, Check
from hybrid_dense.data.findings import ERROR, Finding
from hybrid_dense.data.image_file import Look, look_at

THREADS = min(16, 4 * (os.cpu_count() or 1))  # they wait for the disk, and Pillow decodes without Python's lock


@dataclass(frozen=True)
class Report:
    """Everything that was found. ``looked`` and ``images`` say how many images were looked at, of how many."""

    findings: tuple[Finding, ...]
    surveys: tuple[Survey, ...]
    looked: int
    images: int

    def of(self, check: Check) -> list[Finding]:
        return [finding for finding in self.findings if finding.kind == check.kind]

    @property
    def errors(self) -> int:
        return sum(finding.severity == ERROR for finding in self.findings)


def examine(
    splits: Sequence[Split],
    full: bool = True,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check every split, and all of them together.

    Args:
        splits: what a reader returned.
        full: decode every image and mask; else go by the first and last bytes of the files.
        limit: look at this many images of a split, evenly spread.
        progress: called with (images done, images in all).
    """
    checks = CHECKS if full else QUICK
    findings = [finding for split in splits for finding in _of_splits(split, checks)]
    chosen = [(split, entry) for split in splits for entry in spread(split.entries, limit)]
    cases = []
    with warnings.catch_warnings(), ThreadPoolExecutor(THREADS) as pool:
        warnings.simplefilter("ignore")  # Pillow's, about what the checks say better
        for case in pool.map(lambda pair: _look(*pair, full), chosen):
            cases.append(case)
            findings += _of_image(case, checks)
            if progress:
                progress(len(cases), len(chosen))
    looks = [(case.split.name, case.entry.file, case.look) for case in cases]
    copies = find_copies(looks, near=full)
    for check in checks:
        if check.scope == COPIES:
            findings += (_finding(check, names, problem) for names, problem in check.find(copies))
    by_split = [[case for case in cases if case.split is split] for split in splits]
    return Report(
        tuple(findings),
        tuple(survey(of_split) for of_split in by_split if of_split),
        len(cases),
        sum(len(split.entries) for split in splits),
    )


def spread(entries: Sequence[Entry], limit: int | None) -> list[Entry]:
    """At most ``limit`` entries, evenly spread, the first among them."""
    if limit is None or limit >= len(entries):
        return list(entries)
    return [entries[index * len(entries) // limit] for index in range(limit)]


def _look(split: Split, entry: Entry, full: bool) -> Case:
    mask: Look | None = None
    if entry.mask is not None:
        mask = look_at(entry.mask, decode=full, mask=True)
    return Case(entry, split, look_at(entry.file, decode=full), mask)


def _of_splits(split: Split, checks: Sequence[Check]) -> Iterator[Finding]:
    for check in checks:
        if check.scope == SPLIT:
            yield from (_finding(check, split.name, problem) for problem in check.find(split))


def _of_image(case: Case, checks: Sequence[Check]) -> Iterator[Finding]:
    for check in checks:
        if check.scope == IMAGE:
            yield from (_finding(check, case.split.name, problem) for problem in check.find(case))


def _finding(check: Check, split: str, problem: Problem) -> Finding:
    said = problem.message
    return Finding(check.kind, check.severity, split, str(problem.file), said, problem.box_id, problem.box)
