"""Writing so that a file is there whole or not at all, and finding the latest good checkpoint of a folder."""

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from hybrid_dense.engine import files, full_disk, latest
from hybrid_dense.engine.files import put_in_place, temporary_path
from hybrid_dense.engine.latest import find_damage, find_latest
from hybrid_dense.engine.stop import WRITE_FAILED, TrainingStopped


class Killed(BaseException):
    pass


@pytest.fixture
def kill_at(monkeypatch):
    """Call it with n, and the process "dies" before its n-th next change of the disk; returns how many there were."""
    state = dict(left=-1, count=0)

    def dying(change):
        def call(*args, **keywords):
            state["count"] += 1
            state["left"] -= 1
            if state["left"] == -1:
                raise Killed
            return change(*args, **keywords)

        return call

    for owner, name in ((os, "replace"), (os, "fsync"), (os, "unlink"), (os, "rmdir"), (os, "rename")):
        monkeypatch.setattr(owner, name, dying(getattr(owner, name)))

    def arm(changes: int) -> None:
        state.update(left=changes, count=0)

    arm.state = state
    return arm


def deaths(kill_at, prepare, act):
    """Prepare and act until nothing kills it; yields n after a death before the n-th change of the disk."""
    for changes in range(100):
        kill_at(-1)
        prepare()
        kill_at(changes)
        try:
            act()
            return
        except Killed:
            kill_at(-1)
        yield changes


def save(path: Path, iteration: int, **more) -> Path:
    """A checkpoint as a training writes it, in place and with its checksum."""
    content = dict(
        meta=dict(iter=iteration, epoch=iteration), state_dict=dict(w=torch.full((1000,), iteration)), **more
    )
    torch.save(dict(dict(message_hub={}), **content), temporary_path(path))
    put_in_place(temporary_path(path), path)
    return path


def write_folder(path: Path, text: str) -> None:
    path.mkdir()
    for rank in range(2):
        (path / f"shard{rank}.pt").write_text(text * 100)


def read_folder(path: Path) -> set[str]:
    return {file.read_text()[:3] for file in path.iterdir()}


def cut(path: Path, share: float = 0.5) -> None:
    os.truncate(path, int(path.stat().st_size * share))


# --- writing ----------------------------------------------------------------------------------------------------------


def test_sha256sum_agrees(tmp_path):
    save(tmp_path / "epoch_1.pth", 1)
    write_folder(temporary_path(tmp_path / "epoch_2.pth"), "new")
    put_in_place(temporary_path(tmp_path / "epoch_2.pth"), tmp_path / "epoch_2.pth")
    command = ["sha256sum", "-c", "--strict", "epoch_1.pth.sha256", "epoch_2.pth.sha256"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.count(": OK") == 3, done
    assert sorted(path.name for path in tmp_path.glob("*.pth")) == ["epoch_1.pth", "epoch_2.pth"]


@pytest.mark.parametrize("there_before", [False, True])
def test_killed_at_any_point_a_file_is_the_old_or_the_new_one(tmp_path, kill_at, there_before):
    path, seen = tmp_path / "epoch_1.pth", []

    def prepare():
        files.remove(path)
        if there_before:
            save(path, 1)
        torch.save(dict(new=True), temporary_path(path))

    for changes in deaths(kill_at, prepare, lambda: put_in_place(temporary_path(path), path)):
        state = "none" if not path.exists() else "new" if "new" in torch.load(path) else "old"
        assert state == "none" or find_damage(path) is None, f"killed before change {changes}"
        seen.append(state)
    before = "old" if there_before else "none"
    assert changes > 5 and set(seen) == {before, "new"} and seen == sorted(seen, key=[before, "new"].index)
    assert "new" in torch.load(path) and find_damage(path) is None


def test_killed_at_any_point_a_folder_is_the_old_or_the_new_one(tmp_path, kill_at):
    path, seen = tmp_path / "epoch_1.pth", []

    def prepare():
        shutil.rmtree(tmp_path)
        tmp_path.mkdir()
        write_folder(temporary_path(path), "old")
        put_in_place(temporary_path(path), path)
        write_folder(temporary_path(path), "new")

    for changes in deaths(kill_at, prepare, lambda: put_in_place(temporary_path(path), path)):
        files.restore_replaced(tmp_path)
        assert find_damage(path) is None, f"killed before change {changes}"
        seen.append(read_folder(path).pop())
        files.clean_up(tmp_path)
        assert find_damage(path) is None and read_folder(path) == {seen[-1]}
        assert all(file.name.startswith("epoch_1.pth") for file in tmp_path.iterdir())
    assert set(seen) == {"old", "new"} and read_folder(path) == {"new"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["epoch_1.pth", "epoch_1.pth.sha256"]


def test_killed_at_any_point_of_its_removal_no_half_folder_passes_for_a_checkpoint(tmp_path, kill_at):
    path = tmp_path / "epoch_1.pth"

    def prepare():
        write_folder(temporary_path(path), "old")
        put_in_place(temporary_path(path), path)

    for changes in deaths(kill_at, prepare, lambda: files.remove(path)):
        assert find_damage(path) in (None, f"{path} is missing"), f"killed before change {changes}"
        files.clean_up(tmp_path)
        files.remove(path)
    assert changes > 1 and list(tmp_path.iterdir()) == []


def test_a_small_file_holds_the_old_or_the_new_text(tmp_path, kill_at):
    path = tmp_path / "last_checkpoint"
    for changes in range(10):
        kill_at(-1)
        files.write_text(path, "old")
        kill_at(changes)
        try:
            files.write_text(path, "new")
            break
        except Killed:
            assert path.read_text() in ("old", "new")
    assert changes > 1 and path.read_text() == "new"


def test_clean_up_removes_what_killed_runs_leave_and_nothing_else(tmp_path):
    kept = save(tmp_path / "epoch_1.pth", 1)
    (tmp_path / ".hidden").touch()
    (tmp_path / "data.tar.sha256").touch()
    temporary_path(tmp_path / "epoch_2.pth").write_text("half")
    temporary_path(tmp_path / "epoch_2.pth.sha256").write_text("half")
    temporary_path(tmp_path / "last_checkpoint").write_text("half")
    write_folder(temporary_path(tmp_path / "epoch_3.pth"), "old")
    (tmp_path / "epoch_0.pth.sha256").write_text("of a checkpoint that was removed")
    files.clean_up(tmp_path)
    names = {".hidden", "data.tar.sha256", kept.name, f"{kept.name}.sha256"}
    assert {path.name for path in tmp_path.iterdir()} == names


def hold_elsewhere(folder: Path) -> bool:
    """Whether another process gets the folder."""
    process = os.fork()
    if process == 0:
        try:
            files.hold(folder, seconds=0.2)
        except ValueError as error:
            os._exit(1 if f"another training works in {folder}" in str(error) else 2)
        os._exit(0)
    return {0: True, 1: False}[os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])]


def test_a_folder_is_held_by_one_process(tmp_path):
    assert hold_elsewhere(tmp_path)  # and let go by its end
    lock = files.hold(tmp_path)
    assert not hold_elsewhere(tmp_path)
    os.close(files.hold(tmp_path))  # the same process may train again
    os.close(lock)
    assert hold_elsewhere(tmp_path)


def test_a_full_disk_is_one_line_with_what_is_needed_and_free(tmp_path):
    free = shutil.disk_usage(tmp_path).free / 2**20
    error = OSError(errno.ENOSPC, "No space left on device")
    line = full_disk.describe_failure(tmp_path / "not" / "there" / "epoch_3.pth", error, "go on", needed=3 * 2**20)
    assert "\n" not in line and str(tmp_path / "not" / "there" / "epoch_3.pth") in line
    assert "about 3.0 MiB needed" in line and line.endswith("go on with: go on")
    assert abs(float(line.split(" MiB free")[0].split()[-1]) - free) < 500
    assert "disk is full" in full_disk.describe_failure(tmp_path / "x", OSError(errno.EDQUOT, "quota"), "go on")


def test_another_failure_is_not_called_a_full_disk(tmp_path):
    line = full_disk.describe_failure(tmp_path / "x", PermissionError(errno.EACCES, "Permission denied"), "go on")
    assert "Permission denied" in line and "full" not in line


def test_any_writer_that_finds_the_disk_full_stops_the_training(tmp_path):
    with pytest.raises(TrainingStopped) as stop, full_disk.stopping_on_full_disk(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "scalars.json"))
    assert stop.value.code == WRITE_FAILED and str(tmp_path / "scalars.json") in stop.value.message
    with pytest.raises(TrainingStopped), full_disk.stopping_on_full_disk(tmp_path):
        raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0")  # torch.save's own
    with pytest.raises(RuntimeError), full_disk.stopping_on_full_disk(tmp_path):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    reader = "[enforce fail at inline_container.cc] PytorchStreamReader failed reading zip archive: invalid header"
    with pytest.raises(RuntimeError), full_disk.stopping_on_full_disk(tmp_path):
        raise RuntimeError(reader)
    with pytest.raises(PermissionError), full_disk.stopping_on_full_disk(tmp_path):
        raise PermissionError(errno.EACCES, "Permission denied")


# --- finding ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def work_dir(tmp_path) -> Path:
    """Three checkpoints, the third the latest, and a best one."""
    folder = tmp_path / "run"
    folder.mkdir()
    # 10 sorts after 9 as a number only, and copies have the times of copying.
    for number in (11, 9, 10):
        save(folder / f"epoch_{number}.pth", number)
    save(folder / "best_acc_epoch_11.pth", 11)
    latest.note_latest(folder, folder / "epoch_11.pth")
    return folder


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    said = []
    monkeypatch.setattr(latest, "print_log", lambda message, logger, level: said.append(message))
    return said


def test_the_named_one_is_found_without_a_word(work_dir, warnings):
    assert (work_dir / "last_checkpoint").read_text() == "epoch_11.pth"
    assert find_latest(work_dir) == work_dir / "epoch_11.pth"
    assert find_latest(str(work_dir)) == work_dir / "epoch_11.pth"
    assert warnings == []


def test_of_a_new_or_missing_folder_there_is_none(tmp_path, warnings):
    assert find_latest(tmp_path) is None
    assert find_latest(tmp_path / "not_there") is None
    torch.save(dict(state_dict={}), tmp_path / "pretrained.pth")
    assert find_latest(tmp_path) is None
    (tmp_path / "last_checkpoint").touch()
    assert find_latest(tmp_path) is None
    assert warnings == []


def break_not(path: Path) -> None:
    path.unlink()


def break_empty(path: Path) -> None:
    path.write_bytes(b"")


def break_cut(path: Path) -> None:
    cut(path)


def break_cut_without_checksum(path: Path) -> None:
    cut(path)
    files.checksum_path(path).unlink()


def break_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def break_bit_without_checksum(path: Path) -> None:
    break_bit(path)
    files.checksum_path(path).unlink()


def break_weights_only(path: Path) -> None:
    torch.save(dict(state_dict=dict(w=torch.ones(1))), path)
    files.checksum_path(path).unlink()


@pytest.mark.parametrize(
    "damage",
    [
        break_not,
        break_empty,
        break_cut,
        break_cut_without_checksum,
        break_bit,
        break_bit_without_checksum,
        break_weights_only,
    ],
)
def test_a_bad_latest_falls_back_to_the_one_before_and_is_named(work_dir, warnings, damage):
    damage(work_dir / "epoch_11.pth")
    assert find_latest(work_dir) == work_dir / "epoch_10.pth"
    assert len(warnings) == 1
    assert str(work_dir / "epoch_11.pth") in warnings[0] and str(work_dir / "epoch_10.pth") in warnings[0]


def test_it_goes_back_as_far_as_it_must(work_dir, warnings):
    cut(work_dir / "epoch_11.pth")
    break_bit(work_dir / "epoch_10.pth")
    assert find_latest(work_dir) == work_dir / "epoch_9.pth"
    assert all(name in warnings[0] for name in ("epoch_11.pth", "epoch_10.pth"))


def test_where_all_are_bad_it_says_so_instead_of_starting_over(work_dir):
    for path in work_dir.glob("epoch_*.pth"):
        cut(path)
    with pytest.raises(ValueError, match=r"nothing in .* can be resumed \(.*epoch_11.pth.*start from the beginning"):
        find_latest(work_dir)


def test_what_is_later_than_the_named_one_is_of_another_branch(work_dir):
    """Someone went back to epoch 10 by hand, and that file broke: epoch 11 was not its successor."""
    latest.note_latest(work_dir, work_dir / "epoch_10.pth")
    assert find_latest(work_dir) == work_dir / "epoch_10.pth"
    cut(work_dir / "epoch_10.pth")
    assert find_latest(work_dir) == work_dir / "epoch_9.pth"


def test_checkpoints_by_epoch_and_by_iteration_are_ordered_by_how_far_they_are(work_dir):
    save(work_dir / "iter_95.pth", 10.5)
    cut(work_dir / "epoch_11.pth")
    assert find_latest(work_dir) == work_dir / "iter_95.pth"


@pytest.mark.parametrize("note", ["", " \n", None])
def test_without_a_name_it_takes_the_newest_and_says_so(work_dir, warnings, note):
    (work_dir / "last_checkpoint").unlink()
    if note is not None:
        (work_dir / "last_checkpoint").write_text(note)
    assert find_latest(work_dir) == work_dir / "epoch_11.pth"
    assert "last_checkpoint names no checkpoint" in warnings[0]


def test_unfinished_files_are_no_candidates(work_dir):
    save(work_dir / "epoch_12.pth", 12).rename(temporary_path(work_dir / "epoch_12.pth"))
    cut(work_dir / "epoch_11.pth")
    assert find_latest(work_dir) == work_dir / "epoch_10.pth"


def test_the_folder_may_move(work_dir, warnings):
    moved = work_dir.rename(work_dir.with_name("elsewhere"))
    assert find_latest(moved) == moved / "epoch_11.pth"
    assert warnings == []


@pytest.mark.parametrize("copied", [False, True])
def test_the_absolute_path_that_mmengine_writes_may_be_from_before_a_move(work_dir, warnings, copied):
    (work_dir / "last_checkpoint").write_text(str(work_dir / "epoch_11.pth"))
    assert find_latest(work_dir) == work_dir / "epoch_11.pth"
    moved = work_dir.with_name("elsewhere")
    shutil.copytree(work_dir, moved) if copied else work_dir.rename(moved)
    assert find_latest(moved) == moved / "epoch_11.pth"
    assert warnings == []


def test_checkpoints_may_lie_in_another_folder(tmp_path, warnings):
    work_dir, out_dir = tmp_path / "run", tmp_path / "large_disk"
    work_dir.mkdir()
    out_dir.mkdir()
    save(out_dir / "epoch_1.pth", 1)
    latest.note_latest(work_dir, save(out_dir / "epoch_2.pth", 2))
    assert find_latest(work_dir) == out_dir / "epoch_2.pth"
    assert find_latest(work_dir.rename(tmp_path / "moved")) == out_dir / "epoch_2.pth"
    cut(out_dir / "epoch_2.pth")
    assert find_latest(tmp_path / "moved") == out_dir / "epoch_1.pth"


def test_a_remote_checkpoint_is_to_be_named(work_dir):
    (work_dir / "last_checkpoint").write_text("s3://bucket/epoch_4.pth")
    with pytest.raises(ValueError, match="--resume s3://bucket/epoch_4.pth"):
        find_latest(work_dir)


def test_folders_of_shards_are_found_and_checked(tmp_path, warnings):
    """As DeepSpeed writes them."""
    for number in (9, 10):
        path = tmp_path / f"epoch_{number}.pth"
        write_folder(temporary_path(path), "new")
        put_in_place(temporary_path(path), path)
    latest.note_latest(tmp_path, path)
    assert find_latest(tmp_path) == tmp_path / "epoch_10.pth"
    (tmp_path / "epoch_10.pth" / "shard1.pt").unlink()
    assert find_latest(tmp_path) == tmp_path / "epoch_9.pth"
    assert "shard1.pt" in warnings[0]


def test_a_folder_moved_aside_for_a_new_one_is_put_back(tmp_path):
    path = tmp_path / "epoch_1.pth"
    write_folder(temporary_path(path), "old")
    put_in_place(temporary_path(path), path)
    latest.note_latest(tmp_path, path)
    path.rename(temporary_path(path.with_name("epoch_1.pth.replaced")))
    assert find_latest(tmp_path) == path


def test_what_would_run_code_is_refused_and_named(work_dir, warnings, tmp_path):
    class Payload:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    torch.save(dict(meta=Payload()), work_dir / "epoch_11.pth")
    files.checksum_path(work_dir / "epoch_11.pth").unlink()
    assert find_latest(work_dir) == work_dir / "epoch_10.pth"
    assert "would run code" in warnings[0] and not (tmp_path / "executed").exists()
