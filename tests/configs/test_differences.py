"""A config states its differences: it is short, and what two configs share stands once."""

import re
from collections import defaultdict
from pathlib import Path

import pytest

CONFIGS = Path(__file__).parents[2] / "configs"
ALL = sorted(CONFIGS.rglob("*.py"))
LEAVES = [path for path in ALL if "_base_" not in path.parts]
LONGEST = 25
REPEATED = 7


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: str(path.relative_to(CONFIGS)))
def test_a_leaf_is_short_and_says_what_it_is(path):
    lines = path.read_text().splitlines()
    assert len(lines) <= LONGEST
    assert lines[0].startswith("# ")
    assert any(line.startswith("_base_ = ") for line in lines)


def test_no_block_stands_in_two_places():
    found = defaultdict(list)
    for path in ALL:
        lines = [line.strip() for line in path.read_text().splitlines() if not line.startswith("#")]
        for start in range(len(lines) - REPEATED + 1):
            found["\n".join(lines[start : start + REPEATED])].append(f"{path.relative_to(CONFIGS)}:{start}")
    assert {block: places for block, places in found.items() if len(places) > 1} == {}


def test_every_base_is_used():
    used = set()
    for path in ALL:
        code = " ".join(line for line in path.read_text().splitlines() if not line.startswith("#"))
        used |= {(path.parent / name).resolve() for name in re.findall(r'"([\w./]+\.py)"', code)}
    assert {path for path in ALL if "_base_" in path.parts} - used == set()
