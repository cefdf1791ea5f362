"""Progress where stderr is no terminal: lines that a machine reads, about one a second."""

import io
import json
import re
import subprocess
import sys
from contextlib import suppress

import pytest

from infprune.cli.progress import LineProgress, progress_for
from infprune.progress import Silent

LINE = re.compile(
    r'progress stage=("(?:[^"\\]|\\.)*") done=(\d+) total=(\d+) elapsed=(\d+\.\d)(?: note=("(?:[^"\\]|\\.)*"))?'
)


class Watch:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def told():
    """A progress with a clock that is set by hand, and a function that reads its lines."""
    stream, clock = io.StringIO(), Watch()
    return LineProgress(stream, clock), clock, lambda: stream.getvalue().splitlines()


def test_one_line_a_second(told):
    progress, clock, lines = told
    with progress.bar("scoring", 16) as bar:
        for i in range(16):
            clock.now += 0.3
            bar.advance(f"layer{i}")
    assert lines() == [
        'progress stage="scoring" done=0 total=16 elapsed=0.0',
        'progress stage="scoring" done=4 total=16 elapsed=1.2 note="layer3"',
        'progress stage="scoring" done=8 total=16 elapsed=2.4 note="layer7"',
        'progress stage="scoring" done=12 total=16 elapsed=3.6 note="layer11"',
        'progress stage="scoring" done=16 total=16 elapsed=4.8 note="layer15"',
    ]


def test_short_stages_share_the_second(told):
    progress, clock, lines = told
    for _ in range(100):
        with progress.bar("short", 1) as bar:
            clock.now += 0.01
            bar.advance()
    assert len(lines()) <= 3
    assert lines()[1] == 'progress stage="short" done=1 total=1 elapsed=0.0'


def test_stages_nest(told):
    progress, clock, lines = told
    with progress.bar("report", 2) as outer:
        for _ in range(2):
            with progress.bar("least squares", 1) as inner:
                clock.now += 2
                inner.advance()
            outer.advance()
    assert [re.sub(r" elapsed.*", "", line) for line in lines()] == [
        'progress stage="report" done=0 total=2',
        'progress stage="least squares" done=1 total=1',
        'progress stage="least squares" done=1 total=1',
        'progress stage="report" done=2 total=2',
    ]


def test_an_error_leaves_where_it_was(told):
    progress, _, lines = told
    with suppress(ZeroDivisionError), progress.bar("s", 3) as bar:
        bar.advance()
        raise ZeroDivisionError
    assert lines()[-1] == 'progress stage="s" done=1 total=3 elapsed=0.0'


def test_any_note_is_one_line(told):
    progress, clock, lines = told
    nasty = 'a "quoted"\nnote\twith = \\ and é'
    with progress.bar(nasty, 1) as bar:
        clock.now = 1
        bar.advance(nasty)
    first, second = (LINE.fullmatch(line) for line in lines())
    assert json.loads(first[1]) == json.loads(second[5]) == nasty


def test_work_goes_on_where_nobody_reads(told):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError(text)

    done = []
    with LineProgress(Closed()).bar("s", 2) as bar:
        bar.advance()
        done.append(1)
    assert done == [1]


def test_a_closed_stderr_is_no_fault(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    progress = progress_for(as_json=True, quiet=False)
    with progress.bar("s", 1) as bar:
        bar.advance()
    assert isinstance(progress, LineProgress)


def test_quiet_is_silent():
    assert isinstance(progress_for(as_json=False, quiet=True), Silent)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_bars(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert isinstance(progress_for(as_json=True, quiet=False), Silent)
    progress = progress_for(as_json=False, quiet=False)
    with progress.bar("calibration", 2) as bar, progress.bar("inner", 1) as inner:
        inner.advance("note")
        bar.advance()
    assert "calibration" in sys.stderr.getvalue()
    assert "progress stage=" not in sys.stderr.getvalue()


def test_a_log_gets_lines_and_json_stays_alone(tmp_path):
    command = [sys.executable, "-m", "infprune", "evaluate", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["command"] == "evaluate"
    lines = done.stderr.splitlines()
    assert lines[0] == 'progress stage="evaluate" done=0 total=1 elapsed=0.0'
    assert [line for line in lines if not LINE.fullmatch(line)] == []
