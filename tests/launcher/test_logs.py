"""The engines' log files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from launcher import logs


def test_the_folder_is_for_this_user_alone(tmp_path: Path):
    folder = logs.folder(str(tmp_path / "a" / "b"), 30000)
    assert folder == tmp_path / "a" / "b"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_default_folder_is_in_the_state_folder_of_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert logs.folder(None, 30000) == tmp_path / "llm-launch" / "30000"


def test_each_start_has_a_file_of_its_own(tmp_path: Path):
    names = [logs.next_file(tmp_path, "w0").name for _ in range(3)]
    assert names == ["w0.1.log", "w0.2.log", "w0.3.log"]
    assert logs.next_file(tmp_path, "w1").name == "w1.1.log"


def test_only_the_last_few_files_of_a_worker_are_kept(tmp_path: Path):
    other = logs.next_file(tmp_path, "w10")
    for _ in range(12):
        newest = logs.next_file(tmp_path, "w1")
    assert newest.name == "w1.12.log"
    assert len(list(tmp_path.glob("w1.*.log"))) == logs.KEPT
    assert other.exists()


def test_the_tail_is_the_last_lines(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {n}\n" for n in range(100_000)))
    assert logs.tail(log, 3) == ["line 99997", "line 99998", "line 99999"]
    assert logs.last_line(log) == "line 99999"


def test_a_short_log_is_its_own_tail(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("only\nthese")
    assert logs.tail(log, 20) == ["only", "these"]


def test_only_the_end_of_a_big_log_is_read(tmp_path: Path):
    log = tmp_path / "log"
    with log.open("wb") as file:
        file.truncate(1 << 30)
        file.seek(0, 2)
        file.write(b"\nthe end\n")
    assert logs.last_line(log) == "the end"


def test_a_log_that_is_not_there_has_no_tail(tmp_path: Path):
    assert logs.tail(tmp_path / "none") == []
    assert logs.tail(None) == []
    assert logs.last_line(None) == ""


def test_empty_lines_are_passed_over(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("said\n\n\n")
    assert logs.last_line(log) == "said"


def test_a_progress_bar_shows_its_last_state(tmp_path: Path):
    log = tmp_path / "log"
    log.write_text("loading 10 %\rloading 20 %\rloading 30 %")
    assert logs.last_line(log) == "loading 30 %"


def test_a_log_cannot_act_on_the_terminal(tmp_path: Path):
    log = tmp_path / "log"
    log.write_bytes(b"\x1b[31mred\x1b[0m \x1b]0;title\x07 \x9b31m \xff ok\n")
    line = logs.last_line(log)
    assert line.startswith("red")
    assert line.endswith("ok")
    assert all(character.isprintable() for character in line)


def test_a_given_folder_needs_no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    assert logs.folder(str(tmp_path), 30000) == tmp_path
    with pytest.raises(OSError, match="no home folder"):
        logs.folder(None, 30000)


def test_a_folder_that_cannot_be_written_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(PermissionError) as refusal:
        logs.folder(str(tmp_path), 30000)
    assert refusal.value.filename == str(tmp_path)


def test_a_log_is_followed_by_whole_lines(tmp_path: Path):
    path = tmp_path / "w0.1.log"
    path.write_text("one\ntwo\n")
    said, mark = logs.end(path, 1)
    assert said == ["two"]
    with path.open("a") as file:
        file.write("\x1b[31mthree\x1b[0m\nfo")
    said, mark = logs.since(path, mark)
    assert said == ["three"]
    with path.open("a") as file:
        file.write("ur\n")
    assert logs.since(path, mark)[0] == ["four"]


def test_a_new_file_is_followed_from_its_beginning(tmp_path: Path):
    path = tmp_path / "w0.2.log"
    path.write_text("again\n")
    for mark in ("w0.1.log:9999", "nonsense", "", "w0.2.log:-1", "w0.2.log:" + "9" * 40):
        assert logs.since(path, mark) == (["again"], "w0.2.log:6")


def test_a_line_without_end_is_followed_in_pieces(tmp_path: Path):
    path = tmp_path / "w0.1.log"
    path.write_bytes(b"x" * (2 << 20))
    said, mark = logs.since(path, "")
    assert len(said) == 1
    assert mark == f"w0.1.log:{1 << 20}"


def test_a_log_that_is_not_there_is_empty(tmp_path: Path):
    assert logs.end(None, 5) == ([], "")
    assert logs.since(None, "w0.1.log:7") == ([], "")
    assert logs.end(tmp_path / "w0.1.log", 5) == ([], "")
    assert logs.since(tmp_path / "w0.1.log", "w0.1.log:7") == ([], "w0.1.log:7")
