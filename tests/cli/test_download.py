"""`hybrid-dense download` at the command line; the fetching itself is in tests/data/test_download_archives.py."""

import pytest

from hybrid_dense.cli import main
from hybrid_dense.data import download as module
from hybrid_dense.data.download import Archive


def test_dry_run_says_what_and_fetches_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "downloads").mkdir()
    (tmp_path / "downloads/val2017.zip.part").write_bytes(b"x")
    assert main(["download", "coco", "voc12", "--to", str(tmp_path), "--dry-run"]) == 0
    text = capsys.readouterr().out
    assert "train2017.zip" in text and "19.34 GB" in text and "VOCtrainval_11-May-2012.tar" in text
    assert "are needed in" in text and "0% here" in text
    assert [path.name for path in tmp_path.iterdir()] == ["downloads"]


def test_no_network_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "ATTEMPTS", 1)
    monkeypatch.setitem(module.DATA_SETS, "voc12", (Archive("http://127.0.0.1:9/x.tar", 10, "md5:0"),))
    assert main(["download", "voc12", "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("hybrid-dense: error: cannot fetch from 127.0.0.1") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "folder"), [("voc07", "VOCdevkit"), ("coco-panoptic", "coco"), ("ade20k", "ade/ADEChallengeData2016")]
)
def test_the_end_names_the_folder_of_the_data(tmp_path, capsys, monkeypatch, name, folder):
    monkeypatch.setattr(module, "download", lambda *arguments: None)
    monkeypatch.setattr(module, "check_room", lambda *arguments: None)
    assert main(["download", name, "--to", str(tmp_path)]) == 0
    assert f"ready in {tmp_path / folder}\n" in capsys.readouterr().out


def test_no_room_is_one_line(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "free_space", lambda root: 10)
    assert main(["download", "coco", "--to", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "40.81 GB are needed" in error and error.count("\n") == 1


def test_an_unknown_set_is_refused(capsys):
    with pytest.raises(SystemExit):
        main(["download", "imagenet"])
    assert "invalid choice: 'imagenet'" in capsys.readouterr().err
