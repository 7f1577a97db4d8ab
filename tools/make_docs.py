#!/usr/bin/env python
"""Write the generated tables of README.md and docs/ anew: `make docs`.

With --check, say what is out of date and change nothing.
"""

import argparse
import re
import sys
from pathlib import Path

from hybrid_dense.cli.configs import trained_rates
from hybrid_dense.cli.describe import survey, variants_page
from hybrid_dense.data.checks.table import HEADER, rows
from hybrid_dense.report.shipped_models import shipped_table
from hybrid_dense.report.study_tables import overview_rows, read_robustness, study_sections
from hybrid_dense.report.tables import markdown_table
from hybrid_dense.study.corruptions import corruption_rows
from hybrid_dense.study.results import read_results

PROJECT = Path(__file__).parents[1]
README_VARIANTS = [
    "rxnano_vit_pico",
    "rx26_vit_ti",
    "r50_vit_s",
    "rx50_vit_ti",
    "rx50_vit_s",
    "rx50_vit_b",
    "rx101_vit_b",
    "rx152_vit_l",
]
SIZE = (512, 512)
RESULTS = PROJECT / "results"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    tables, results = survey(SIZE), read_results(RESULTS)
    (header, variants), topologies, fusions = tables.values()
    chosen = [row for name in README_VARIANTS for row in variants if row[0] == f"`{name}`"]
    texts = {
        "variants": (header, chosen),
        "topologies": topologies,
        "fusions": fusions,
        "checks": (HEADER, rows()),
        "rates": trained_rates(PROJECT / "configs/mask_rcnn_rx50_vit_pretrained.py"),
        "study": overview_rows(results),
        "corruptions": corruption_rows(),
    }
    blocks = {name: markdown_table(*rows) if rows[1] else "" for name, rows in texts.items()}
    blocks["shipped"] = shipped_table()
    blocks["studies"] = study_sections(results, read_robustness(RESULTS, results), "../results")
    pages = {PROJECT / "docs/variants.md": variants_page(SIZE, tables) + "\n"}
    for path in (PROJECT / "README.md", *sorted((PROJECT / "docs").rglob("*.md"))):
        pages[path] = re.sub(
            r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)",
            lambda found: f"{found[1]}{blocks[found[2]]}\n{found[3]}",
            pages.get(path) or path.read_text(),
            flags=re.DOTALL,
        )
    stale = [path for path, text in pages.items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in stale:
            path.write_text(pages[path])
    names = ", ".join(str(path.relative_to(PROJECT)) for path in stale)
    print(f"{'out of date' if check else 'written'}: {names}" if stale else "up to date")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
