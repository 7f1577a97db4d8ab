"""What `hybrid-dense describe` prints."""

import re
from pathlib import Path

import pytest

import hybrid_dense
from hybrid_dense.archs import list_variants
from hybrid_dense.cli import main
from hybrid_dense.report.tables import markdown_table

PROJECT = Path(__file__).parents[2]


def describe(capsys, *arguments):
    code = main(["describe", *arguments])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_one_backbone_part_by_part(capsys):
    code, out, _ = describe(capsys, "rx50_vit_s", "--fusion", "ConcatFusion", "--size", "512")
    assert code == 0
    assert out.startswith("ParallelResNeXtViT rx50_vit_s, ConcatFusion, 512×512\n")
    rows = {row[0]: row[1:] for row in table_rows(out)}
    assert rows["stage 3"] == ["1024 × 32 × 32", "7.02", "15.9"]
    assert rows["segment 4"][0] == "384 × 32 × 32"
    assert rows["fusion 1"][0] == "256 × 128 × 128"
    assert float(rows["total"][1]) > 22.98 + 21.6


def test_size_and_topology_count(capsys):
    _, out, _ = describe(capsys, "rxnano_vit_pico", "--topology", "SerialResNeXtViT", "--size", "64", "96")
    rows = {row[0]: row[1:] for row in table_rows(out)}
    assert rows["stage 4"][0] == "512 × 2 × 3"
    assert rows["fusion 4"][0] == "256 × 4 × 6"


def table_rows(out):
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in out.splitlines() if line.startswith("│")]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rx50_vit_x"], ["unknown variant 'rx50_vit_x'", "did you mean 'rx50_vit_"]),
        (["rx50_vit_s", "--topology", "SerialResNet"], ["'SerialResNet'", "did you mean 'SerialResNeXtViT'"]),
        (["rx50_vit_s", "--fusion", "GateFusion"], ["'GateFusion'", "did you mean 'GatedFusion'"]),
        (["rx50_vit_s", "--size", "1", "2", "3"], ["--size", "3 numbers"]),
        (["rx50_vit_s", "--size", "16"], ["16×16", "at least 32×32"]),
        (["rx50_vit_s", "--step"], ["--step needs a config"]),
        (["rx50_vit_s", "--markdown"], ["leave the model out"]),
        (["rx50_vit_s", "--cfg-options", "a=1"], ["--cfg-options changes a config"]),
        (["--topology", "SerialResNeXtViT"], ["need a variant"]),
    ],
)
def test_wrong_use_is_one_line(capsys, arguments, words):
    code, _, err = describe(capsys, *arguments)
    assert code == 2
    assert len(err.splitlines()) == 1
    assert [word for word in words if word not in err] == []


def test_the_page_of_variants_names_every_member():
    """That its figures are up to date, tests/test_docs.py says."""
    named = set(re.findall(r"^\| `(\w+)`", (PROJECT / "docs/variants.md").read_text(), flags=re.MULTILINE))
    assert named == {
        *list_variants(),
        *hybrid_dense.list_topologies(),
        *hybrid_dense.list_fusions(),
        "PlainResNeXt",
        "PlainViT",
    }


def test_markdown_table():
    assert markdown_table(("a", "b"), [("1", "2"), ("3", "4")]).splitlines() == [
        "| a | b |",
        "| --- | --- |",
        "| 1 | 2 |",
        "| 3 | 4 |",
    ]
