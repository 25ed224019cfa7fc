"""The benchmarks of faults: what counts as a hit, and that nothing outlives a killed bench."""

import importlib
import json
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

BENCH = Path(__file__).parents[1] / "scripts" / "bench"
sys.path.insert(0, str(BENCH))
cluster, rounds, fits, images = (
    importlib.import_module(name)
    for name in ("fault_cluster", "fault_rounds", "faults_fit", "faults_images")
)

FIT = [
    *(("pass-begun", "summarise", 1), ("pass-ended", "summarise", 1)),
    *((f"pass-{what}", "refine", n) for n in range(2, 6) for what in ("begun", "ended")),
    ("job-ended", None, None),
]
PREDICT = [("pass-begun", "predict", 1), ("pass-ended", "predict", 1), ("job-ended", None, None)]
QUANTIZE = [
    *(("pass-begun", "count colours", 1), ("pass-ended", "count colours", 1)),
    *(("pass-begun", "write", 2), ("pass-ended", "write", 2), ("job-ended", None, None)),
]


def write_log(place, events):
    """Write a log of an event each second."""
    lines = []
    for second, (event, of_pass, number) in enumerate(events):
        time = datetime.fromtimestamp(1000 + second, UTC).isoformat(timespec="milliseconds")
        lines.append({"time": time, "event": event, "of_pass": of_pass, "pass_number": number})
    text = "\n".join(json.dumps({k: v for k, v in line.items() if v}) for line in lines)
    (place / "log.json").write_text(text + '\n{"time": "cut o')


@pytest.mark.parametrize(
    ("bench", "events", "wanted"),
    [
        (fits, FIT, {"summary": 0, "solve": 1, "refine": 2, "finalise": 9, "over": 10}),
        (fits, FIT[:-2], {"summary": 0, "solve": 1, "refine": 2}),  # killed in the last pass
        (fits, PREDICT, {"assign": 0, "finalise": 1, "over": 2}),
        (images, QUANTIZE, {"count": 0, "fit": 1, "write": 2, "finish": 3, "over": 4}),
    ],
)
def test_phases_are_told_from_the_log(bench, events, wanted, tmp_path):
    write_log(tmp_path, events)
    told = bench.Bench.__new__(bench.Bench)
    assert told.times(tmp_path) == [(name, 1000.0 + at) for name, at in wanted.items()]
    for second in range(len(events)):
        now = [name for name, at in wanted.items() if at <= second][-1]
        for name in wanted:
            assert told.lasted(name, 1000.5 + second, tmp_path) == (name == now)
    assert not told.lasted(next(iter(wanted)), 999.5, tmp_path)


def test_a_job_that_has_not_begun_has_no_phases(tmp_path):
    assert fits.Bench.__new__(fits.Bench).times(tmp_path) == []


def test_only_hits_count():
    hit = {"workers": 2, "phase": "write", "victim": "client", "hit": True, "right": True}
    [case] = rounds.table([hit, {**hit, "hit": False, "right": False}, {**hit, "resumed": True}])
    assert (case["hits"], case["misses"], case["wrong"], case["resumed"]) == (2, 1, 1, 1)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children of the killed")
def test_nothing_outlives_a_killed_bench(tmp_path):
    code = "import sys, time; sys.path.insert(0, sys.argv[1]); from fault_cluster import Process; "
    code += "from functools import partial; from pathlib import Path; "
    code += "child = Process(partial(time.sleep, 100), Path(sys.argv[2])); "
    code += "print(child.pid, flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(BENCH), str(tmp_path / "shown")], **pipes
    ) as bench:
        child = psutil.Process(int(bench.stdout.readline()))
        assert child.is_running()
        bench.send_signal(signal.SIGKILL)
    assert psutil.wait_procs([child], timeout=30)[1] == []


def test_a_watch_waits_for_seconds_in_which_it_runs():
    watch, looks = cluster.Watch(), iter([False, False, True])
    assert watch.wait(lambda: next(looks), 5)
    assert not watch.wait(lambda: False, 0.05)
