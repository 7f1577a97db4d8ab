"""What is published names no folder of this machine."""

import sys
from pathlib import Path

import pytest

from hybrid_dense.study.private import scrub


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    for name in ("project", "data", "home", "python"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "project")
    monkeypatch.setenv("HYBRID_DENSE_DATA", str(tmp_path / "data"))
    monkeypatch.delenv("HYBRID_DENSE_CACHE", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "python"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}/data/camvid/train", "$HYBRID_DENSE_DATA/camvid/train"),
        ("data_root='{}/data'", "data_root='$HYBRID_DENSE_DATA'"),
        ("saved to {}/project/work_dirs/a.pth.", "saved to work_dirs/a.pth."),
        ("cd {}/project", "cd ."),
        ("it is in {}/home.", "it is in ~."),
        ("{}/home.old/x", "{}/home.old/x"),
        ("{}/home/.cache/hybrid_dense/scenes", "$HYBRID_DENSE_CACHE/scenes"),
        ("{}/home/notes", "~/notes"),
        ("{}/python/lib", "$PYTHON/lib"),
        ("{}/database", "{}/database"),
        ("/opt{}/data/x", "/opt{}/data/x"),
        ("nothing at all", "nothing at all"),
    ],
)
def test_places_become_words(text, expected, tmp_path):
    assert scrub(text.replace("{}", str(tmp_path))) == expected.replace("{}", str(tmp_path))


def test_other_folders_have_words_of_their_own_where_they_lie_outside(tmp_path):
    others = {
        f"{tmp_path}/elsewhere/": "$WORK_DIR",
        f"{tmp_path}/project/runs": "$RUNS",
        "data": "$DATA",
        "": "$NOTHING",
    }
    text = f"{tmp_path}/elsewhere/a {tmp_path}/elsewhere {tmp_path}/project/runs/b data/c"
    assert scrub(text, others) == "$WORK_DIR/a $WORK_DIR runs/b data/c"


def test_what_a_link_leads_to_is_known_too(tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(tmp_path / "data")
    monkeypatch.setenv("HYBRID_DENSE_DATA", str(tmp_path / "link"))
    assert scrub(f"{tmp_path}/link/a {tmp_path}/data/a") == "$HYBRID_DENSE_DATA/a $HYBRID_DENSE_DATA/a"
