"""docs/topologies: every page's diagram, forward, tables and configs are those of the code."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from mmengine.registry import MODELS

import hybrid_dense
from hybrid_dense.analysis.complexity import count_parameters
from hybrid_dense.backbones import InterleavedResNeXtViT, PlainResNeXt, PlainViT
from hybrid_dense.weights import load_pretrained

PROJECT = Path(__file__).parents[1]
FOLDER = PROJECT / "docs" / "topologies"
PAGES = sorted(FOLDER.glob("*.md"))
NANO = "rxnano_vit_pico"


def own_backbones():
    """Every hybrid of this package, others' plugins left out, and the two plain ones."""
    classes = [MODELS.get(name) for name in hybrid_dense.list_topologies()]
    return [*(cls for cls in classes if cls.__module__.startswith("hybrid_dense.")), PlainResNeXt, PlainViT]


BACKBONES = own_backbones()
every_backbone = pytest.mark.parametrize("backbone", BACKBONES, ids=lambda backbone: backbone.__name__)
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def page_of(backbone):
    """The page of a class has the name of its file."""
    return FOLDER / f"{backbone.__module__.rpartition('.')[2]}.md"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def diagram_of(backbone):
    """The diagrams of a page come in the order in which its file defines the classes."""
    classes = [other for other in BACKBONES if other.__module__ == backbone.__module__]
    diagrams = blocks(page_of(backbone), "text")
    assert len(diagrams) == len(classes)
    return diagrams[classes.index(backbone)]


def configs():
    found = [(page.name, block) for page in PAGES for block in blocks(page, "python") if "backbone = dict(" in block]
    return [pytest.param(block, id=name) for name, block in found]


def read_config(block):
    (statement,) = ast.parse(block).body
    return {keyword.arg: eval(ast.unparse(keyword.value)) for keyword in statement.value.keywords}


def build(**config):
    torch.manual_seed(0)
    return MODELS.build(dict(dict(variant=NANO), **config)).eval()


@cache
def trace(backbone):
    """What runs in which order on the meta device at rx50_vit_s, as ``name [channels /stride]``; fusions as drawn."""
    height, width = 64, 96
    seen = []

    def note(name):
        def hook(module, inputs, output):
            if output.dim() == 4:
                channels, stride = output.shape[1], height // output.shape[2]
                assert output.shape[3] == width // stride
            else:  # tokens
                channels, stride = output.shape[2], round((height * width / output.shape[1]) ** 0.5)
            seen.append(f"{name} [{channels} /{stride}]")

        return hook

    with torch.device("meta"):
        model = MODELS.build(dict(type=backbone, variant="rx50_vit_s")).eval()
        images = torch.empty(1, 3, height, width)
    for name, modules in model.parts().items():
        if name.startswith("fusion"):
            arrow = {"both": "⇄", "to_cnn": "←", "to_vit": "→"}[modules[0].direction]
            modules[0].register_forward_hook(lambda *_, drawn=f"{name} {arrow}": seen.append(drawn))
        else:
            modules[-1].register_forward_hook(note(name))
    model(images)
    return seen


@every_backbone
def test_every_topology_has_its_page(backbone):
    assert f"`{backbone.__name__}`" in page_of(backbone).read_text().splitlines()[0]
    assert f"[`{backbone.__name__}`]({page_of(backbone).name})" in (FOLDER / "README.md").read_text()


@every_backbone
def test_the_quoted_forward_is_the_code(backbone):
    source = dedent(inspect.getsource(backbone.forward)).strip()
    quoted = [dedent(block).strip() for block in blocks(page_of(backbone), "python")]
    assert source in quoted


@every_backbone
def test_the_diagram_is_what_runs(backbone):
    """Read from the left to the right and from the top down, it names all parts in the order of the forward."""
    part = r"(?:stem|embed|(?:stage|segment|entry|level) \d) \[\d+ /\d+\]|fusion \d [⇄←→]"
    assert re.findall(part, diagram_of(backbone)) == trace(backbone)


def test_no_page_is_left_over():
    assert set(PAGES) == {page_of(backbone) for backbone in BACKBONES} | {FOLDER / "README.md"}


@pytest.mark.parametrize("block", configs())
def test_configs_work(block):
    config = read_config(block)
    assert config["variant"] in hybrid_dense.list_variants()
    assert config["fusion"]["type"] in hybrid_dense.list_fusions()
    with torch.no_grad():
        maps = build(**dict(config, variant=NANO))(torch.randn(1, 3, 64, 96))
    assert [tuple(level.shape[-2:]) for level in maps] == [(16, 24), (8, 12), (4, 6), (2, 3)]


def test_every_page_has_a_config():
    shown = {read_config(parameter.values[0])["type"] for parameter in configs()}
    assert {page_of(MODELS.get(name)) for name in shown} == {page_of(backbone) for backbone in BACKBONES}


@every_backbone
def test_the_plain_page_changes_type_alone(backbone):
    (block,) = (block for block in blocks(FOLDER / "plain.md", "python") if "backbone = dict(" in block)
    with torch.no_grad():
        assert len(build(**dict(read_config(block), type=backbone, variant=NANO))(torch.randn(1, 3, 64, 64))) == 4


def test_the_plain_page_names_the_channels():
    (shown,) = re.findall(r"neck\.in_channels=\[([\d,]+)\]", (FOLDER / "plain.md").read_text())
    with torch.device("meta"):
        assert tuple(map(int, shown.split(","))) == build(type="PlainViT", variant="rx50_vit_s").out_channels


def test_which_segment_runs_behind_which_stage():
    rows = re.findall(r'^\| `"(\w+)"` \| `"(\w+)"` \| (.*) \|$', (FOLDER / "interleaved.md").read_text(), re.MULTILINE)
    assert len(rows) == 5
    for stages, attend_in, cells in rows:
        with torch.device("meta"):
            runs = build(type=InterleavedResNeXtViT, fusion_stages=stages, attend_in=attend_in).runs
        assert cells.split(" | ") == [", ".join(str(index + 1) for index in run) or "–" for run in runs]


def test_the_interleaved_page_on_attention_in_the_bottleneck():
    text = (FOLDER / "interleaved.md").read_text()
    before, after = re.search(r"from ([\d.]+) to ([\d.]+) M parameters", text).groups()
    for attend_in, millions in (("stages", before), ("bottleneck", after)):
        with torch.device("meta"):
            cnn = build(type=InterleavedResNeXtViT, variant="rx50_vit_s", attend_in=attend_in).cnn
        assert f"{count_parameters(cnn) / 1e6:.2f}" == millions
    hybrid = build(type=InterleavedResNeXtViT, attend_in="bottleneck")
    report = load_pretrained(hybrid, cnn=build(type=PlainResNeXt).cnn.state_dict())
    assert report.cnn.coverage == 1 and all(".conv2.attn." in name for name in report.cnn.missing)


@pytest.mark.parametrize("backbone", BACKBONES[:-2], ids=lambda backbone: backbone.__name__)
@pytest.mark.parametrize("direction", ["both", "to_cnn", "to_vit"])
@pytest.mark.parametrize("stages", ["early", "late", "all"])
def test_the_last_exchange_goes_into_the_cnn(backbone, direction, stages):
    """With the rule, or by addition where there was to be none; those before it have the direction asked for."""
    rule = dict(type="GatedFusion", direction=direction)
    with torch.device("meta"):
        fusions = build(type=backbone, fusion=rule, fusion_stages=stages).fusions
    drawn = [(type(fusion).__name__, fusion.direction) for fusion in fusions]
    chosen = {"early": (0, 1), "late": (2, 3), "all": (0, 1, 2, 3)}[stages]
    expected = [("GatedFusion" if stage in chosen else "IdentityFusion") for stage in range(4)]
    last = chosen[-1] if backbone is InterleavedResNeXtViT else 3
    if last not in chosen:
        expected[last] = "AddFusion"
    assert [name for name, _ in drawn] == expected
    assert drawn[last][1] == "to_cnn"
    assert {drawn[stage][1] for stage in chosen if stage != last} == {direction}


def test_the_table_is_that_of_all_variants():
    """`make docs` writes both; tests/test_docs.py sees that they are up to date."""
    table = re.search(r"<!-- table: topologies -->\n(.*)\n<!-- end -->", (FOLDER / "README.md").read_text(), re.DOTALL)
    assert table[1] in (PROJECT / "docs" / "variants.md").read_text()


@every_page
def test_links_resolve(page):
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    targets = re.findall(r"\]\(([^)]+)\)", prose)
    assert targets
    for target in targets:
        if "://" in target:
            assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", target)
            continue
        file, _, anchor = target.partition("#")
        assert (page.parent / file).exists(), target
        headings = re.findall(r"^#+ (.*)$", (page.parent / file).read_text(), flags=re.MULTILINE) if anchor else []
        assert not anchor or anchor in [heading.lower().replace(" ", "-") for heading in headings], target
