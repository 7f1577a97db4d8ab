"""What the documents say is what the code does."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / "README.md", PROJECT / "CONTRIBUTING.md", *sorted((PROJECT / "docs").rglob("*.md"))]


def test_generated_tables_are_up_to_date():
    done = subprocess.run(
        [sys.executable, "tools/make_docs.py", "--check"], cwd=PROJECT, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout} run `make docs`\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_and_named_files_exist(page):
    text = page.read_text()
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)]+)\)", prose) if "://" not in target]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    named = re.findall(r"\b(?:configs|tools|tests|docs|benchmarks|requirements)/[\w/.-]+\.(?:py|sh|md|txt)\b", text)
    missing += [name for name in named if not (PROJECT / name).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_links_into_pages_meet_a_heading(page):
    prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    links = [
        target.split("#") for target in re.findall(r"\]\(([^)]*\.md#[^)]+|#[^)]+)\)", prose) if "://" not in target
    ]
    missing = [
        f"{file}#{heading}" for file, heading in links if heading not in headings(page.parent / file if file else page)
    ]
    assert not missing


def headings(page: Path) -> set[str]:
    """The headings of a page as GitHub puts them into addresses."""
    lines = re.findall(r"^#+ (.*)", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


def test_pages_named_in_the_code_exist():
    files = [path for folder in ("hybrid_dense", "tools", "configs") for path in (PROJECT / folder).rglob("*.py")]
    named = {name for path in files for name in re.findall(r"\bdocs/[\w/-]+\.md\b", path.read_text())}
    assert not [name for name in named if not (PROJECT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT)))
def test_commands_named_on_a_page_exist(page):
    from hybrid_dense.cli import COMMANDS

    named = set(re.findall(r"(?:`|^|bin/)hybrid-dense ([a-z-]+)", page.read_text(), flags=re.MULTILINE))
    assert named <= set(COMMANDS), f"{page.name} names commands that do not exist: {named - set(COMMANDS)}"
