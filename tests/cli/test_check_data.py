"""`hybrid-dense check-data`: exit codes, the JSON, the page, and the table in the documentation."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample

from hybrid_dense.cli import main
from hybrid_dense.cli.training_samples import to_prediction
from hybrid_dense.data.checks.table import CHECKS, HEADER, rows
from hybrid_dense.report.data_page import Picture, Section, draw_thumbnail, write_page
from hybrid_dense.report.tables import markdown_table

PROJECT = Path(__file__).parents[2]


class Links(HTMLParser):
    """Everything that a page would fetch, and the text between its tags."""

    def __init__(self, page: str):
        super().__init__()
        self.links, self.text = [], ""
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def test_a_sound_folder_is_fine(scenes, tmp_path, capsys):
    assert main(["check-data", str(scenes), "--out", str(tmp_path)]) == 0
    content = json.loads((tmp_path / "findings.json").read_text())
    assert content["errors"] == 0
    assert [(split["split"], split["images"]) for split in content["splits"]] == [("train", 8), ("val", 4)]
    assert "12 images: " in capsys.readouterr().out


def test_bccd_is_found_wanting_by_name(data_root, tmp_path, capsys):
    assert main(["check-data", str(data_root / "bccd"), "--out", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "BloodImage_00338" in said
    assert "BloodImage_00343" in said
    content = json.loads((tmp_path / "findings.json").read_text())
    assert [finding["kind"] for finding in content["findings"]] == ["box-empty", "box-empty"]
    page = Links((tmp_path / "index.html").read_text())
    assert "BloodImage_00338.jpg: RBC #13 has a box of width 0" in page.text
    assert sum(link.startswith("data:image/jpeg;base64,") for link in page.links) == 2
    assert all(link.startswith(("data:image/", "#")) for link in page.links)


def test_a_config_shows_what_the_model_sees(command, tmp_path):
    options = ["--cfg-options", "scenes.train=8", "scenes.val=4", "scenes.size=96"]
    done = command("check-data", PROJECT / "configs/demo.py", "--out", tmp_path, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (tmp_path / "index.html").read_text()
    assert page.count("data:image/jpeg") == 8  # every training sample, none broken
    assert "000001.jpg: 96×96" in page
    assert "http" not in page


def test_a_semantic_sample_is_shown_in_rgb_and_void_as_ignored():
    sample = SegDataSample(metainfo={"img_path": "a.png"})
    sample.gt_sem_seg = PixelData(data=torch.tensor([[[0, 1, 11, 255]]]))
    inputs = torch.tensor([1.0, 2.0, 300.0]).view(3, 1, 1).expand(3, 1, 4)
    cfg = Config({"model": {"data_preprocessor": {"bgr_to_rgb": True}}})
    found = to_prediction({"inputs": inputs, "data_samples": sample}, ("road", "sky"), cfg)
    assert found.label_map.tolist() == [[0, 1, 255, 255]]
    assert found.image[0, 0].tolist() == [255, 2, 1]


def test_split_and_limit_narrow_the_look(scenes, tmp_path, capsys):
    assert main(["check-data", str(scenes), "--out", str(tmp_path), "--split", "train", "--limit", "3"]) == 0
    content = json.loads((tmp_path / "findings.json").read_text())
    assert (content["looked"], content["images"]) == (3, 8)
    assert "3 of 8 images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{empty}"], "holds no data set"),
        (["nowhere.py"], "no config file nowhere.py"),
        (["{scenes}", "--split", "dev"], "--split dev is not there; there are train, val"),
        (["{scenes}", "--limit", "0"], "--limit 0 is not a positive number"),
        (["{scenes}", "--cfg-options", "a=1"], "is a folder"),
    ],
)
def test_wrong_use_is_one_line(scenes, tmp_path, capsys, arguments, message):
    arguments = [argument.format(empty=tmp_path, scenes=scenes) for argument in arguments]
    assert main(["check-data", *arguments, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_names_are_escaped_and_surrogates_survive(tmp_path):
    name = "<script>alert(1)</script>\udcff"
    page = write_page(tmp_path / "a.html", name, name, [Section(name, "error", name, 9, (Picture(None, name),))])
    text = page.read_text(encoding="utf-8")
    assert "<script>" not in text
    assert "and 8 more" in text


@pytest.mark.parametrize("box", [None, (5, 5, 5, 5), (-50, 3, 500, 9), (1, 2, float("nan"), 4), (9, 9, 2, 2)])
def test_every_box_can_be_drawn(scenes, box):
    assert draw_thumbnail(scenes / "train/000001.jpg", box).startswith(b"\xff\xd8")


def test_a_file_that_cannot_be_decoded_has_no_picture(tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"nothing")
    assert draw_thumbnail(tmp_path / "a.jpg") is None
    assert draw_thumbnail(tmp_path / "missing.jpg") is None


def test_kinds_are_unique_and_the_page_lists_the_table_of_the_code():
    assert len({check.kind for check in CHECKS}) == len(CHECKS)
    page = (PROJECT / "docs/check-data.md").read_text()
    (table,) = re.findall(r"<!-- table: checks -->\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert table == markdown_table(HEADER, rows())
