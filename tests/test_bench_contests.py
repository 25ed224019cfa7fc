"""Each benchmark at a small size: who takes part, what they find, what is told. Never the time."""

import importlib
import json
import subprocess
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import sklearn.datasets
from bench_counter import Counter
from conftest import local_cluster
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts" / "bench"))
command, contest, data, lloyd, memory, minibatch, outofcore, peers, report, scaling = (
    importlib.import_module(name)
    for name in (
        *("command", "contest", "data", "lloyd", "memory", "minibatch", "outofcore", "peers"),
        *("report", "scaling"),
    )
)

MIB = 1 << 20
SAMPLES = Path(sklearn.datasets.__file__).parent / "images"

# dask-ml and scikit-learn warn of this and that, which is not ours to mend.
pytestmark = pytest.mark.filterwarnings("ignore")


def entry(name, log, **options):
    given = {"name": name, "log": log, "fails_at": options.pop("fails_at", None)}
    return contest.Entry(name, Counter, given, **options)


def outcome(**seconds):
    """An outcome of given seconds and inertia."""
    trials = {
        name: [contest.Trial(s, 3 * MIB, 2 * MIB, 0, {"inertia": 4.0}) for s in some]
        for name, some in seconds.items()
    }
    return contest.Outcome("a case", trials, {"FAISS": "not installed: pip install faiss-cpu"})


class TestContest:
    def test_turns(self):
        log = []
        entries = [entry("a", log), entry("b", log, warm=False), entry("c", log, rounds=1)]
        held = contest.hold(contest.Case("turns", entries), 2, separate=False)
        assert log == [
            *(("a", -1), ("c", -1)), *(("a", 0), ("b", 0), ("c", 0)), *(("a", 1), ("b", 1)),
        ]  # fmt: skip
        assert {name: len(trials) for name, trials in held.trials.items()} == {
            "a": 2, "b": 2, "c": 1,
        }  # fmt: skip
        assert held.fact("a", "round") == 0.5
        assert held.fact("a", "inertia") is None

    def test_rounds_are_limited(self):
        log = []
        contest.hold(contest.Case("", [entry("a", log)], max_rounds=3), 9, separate=False)
        assert len(log) == 1 + 3

    def test_processes(self):
        entries = [
            contest.Entry("a", Counter),
            contest.Entry("b", Counter, {"fails_at": 1}),
        ]
        held = contest.hold(contest.Case("processes", entries), 3)
        assert [trial.facts["round"] for trial in held.trials["a"]] == [0, 1, 2]
        for trial in held.trials["a"]:
            assert 49 * MIB < trial.added < 60 * MIB
            assert trial.added < trial.peak
        assert "b" not in held.trials
        assert "ArithmeticError: out of numbers" in held.left_out["b"]

    def test_our_failure_ends_it(self):
        entries = [contest.Entry(contest.OURS, Counter, {"fails_at": 0})]
        with pytest.raises(contest.ContestError, match="out of numbers"):
            contest.hold(contest.Case("", entries), 1)

    def test_missing_peers_are_left_out(self, monkeypatch):
        monkeypatch.setitem(peers.PEERS, "Spark", peers.Peer("nowhere", (), "get it"))
        monkeypatch.setitem(peers.PEERS, "GDAL", peers.Peer("", ("nothing-of-this-name",), "ask"))
        log = []
        entries = [entry("a", log), entry("b", log, peer="Spark"), entry("c", log, peer="GDAL")]
        held = contest.hold(contest.Case("", entries), 1, separate=False)
        assert held.left_out == {"b": "not installed: get it", "c": "not installed: ask"}
        assert {name for name, _ in log} == {"a"}

    def test_ratios(self):
        held = outcome(dkmeans=[1, 4, 2], a=[6, 6, 7], b=[5, 9, 9])
        assert held.fastest == "a"
        assert held.times_faster() == 3
        assert held.times_faster("b") == 4.5
        assert held.times_faster("c") is None
        assert contest.Aim("", contest.Outcome.times_faster, 3).met(held)
        assert not contest.Aim("", contest.Outcome.times_faster, 2, at_least=False).met(held)
        assert contest.Aim("", lambda _: None, 2).met(held) is None

    def test_memory_of_a_child_counts(self):
        peak = memory.Peak()
        held = f"held = b'1' * {60 * MIB}; print('held', flush=True); input()"
        with subprocess.Popen(
            [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout.readline() == b"held\n"
            found = peak.read()
            child.communicate(b"\n")
        assert 60 * MIB < found.added < 90 * MIB
        assert 60 * MIB < found.worker < found.peak  # workers of a cluster may be larger


class TestReport:
    def found(self):
        held = outcome(dkmeans=[1.0, 2.0], other=[3.0])
        aims = [contest.Aim("times faster", contest.Outcome.times_faster, 3)]
        case = contest.Case("a case", (), aims)
        facts = {"processor": "fast"}
        return report.Found("lloyd", "What it is.", "python scripts/bench", facts, [(case, held)])

    def test_markdown(self):
        lines = self.found().markdown().splitlines()
        assert lines[0] == "What it is."
        assert (
            "| a case | dkmeans | 1.50 s | 1.00 - 2.00 | 1.00 | 1.00000 | 3 MiB | 2 MiB |" in lines
        )
        assert "|  | other | 3.00 s |  | 2.00 | 1.00000 | 3 MiB | 2 MiB |" in lines
        assert "| a case | times faster | 2 | at least 3 | no |" in lines
        assert "- Left out: FAISS: not installed: pip install faiss-cpu" in lines
        assert lines[-1] == "- processor: fast"

    @pytest.mark.parametrize(
        ("told", "shown"),
        [
            (
                "no IDATs in `/home/me/x.png' @ png.c/Write/16",
                "no IDATs in `x.png' @ png.c/Write/16",
            ),
            ("/opt/magick: out of memory", "magick: out of memory"),
            ("1/2 of ./it failed", "1/2 of ./it failed"),
        ],
    )
    def test_folders_are_not_shown(self, told, shown):
        held = contest.Outcome("a case", {}, {"other": told})
        case = contest.Case("a case", (), ())
        found = report.Found("lloyd", "What.", "python scripts/bench", {}, [(case, held)])
        assert f"- Left out: other: {shown}" in found.markdown().splitlines()

    def test_json(self, tmp_path):
        path = tmp_path / "found.json"
        report.write_json([self.found()], path)
        (one,) = json.loads(path.read_text())
        (case,) = one["cases"]
        assert [trial["seconds"] for trial in case["trials"]["dkmeans"]] == [1, 2]
        assert case["aims"][0]["figure"] == 2
        assert case["aims"][0]["met"] is False

    def test_sections_of_a_page(self, tmp_path):
        page = tmp_path / "page.md"
        report.insert("one", page, ("<a>", "</a>"))
        assert page.read_text() == "<a>\none\n</a>\n"
        report.insert("two", page, ("<b>", "</b>"))
        page.write_text(f"Before.\n\n{page.read_text()}\nAfter.\n")
        report.insert("three", page, ("<a>", "</a>"))
        assert page.read_text() == ("Before.\n\n<a>\nthree\n</a>\n\n<b>\ntwo\n</b>\n\nAfter.\n")

    @pytest.mark.parametrize(
        ("number", "text"), [(12.345, "12.3"), (0.0012345, "0.00123"), (1234.5, "1234"), (0, "0")]
    )
    def test_digits(self, number, text):
        assert report.digits(number) == text


class TestData:
    def test_inertia_is_exact(self):
        rng = np.random.default_rng(0)
        rows, centers = rng.normal(100, 1, (20_000, 3)), rng.normal(100, 1, (5, 3))
        distances = ((rows[:, None] - centers) ** 2).sum(axis=2).min(axis=1)
        assert data.inertia(rows, centers) == pytest.approx(distances.sum(), rel=1e-12)

    def test_stores_hold_the_mixture(self, tmp_path, monkeypatch):
        monkeypatch.setattr(data, "CHUNK", 1 << 14)
        path = data.store(tmp_path, 3000, 4, 3)
        assert data.store(tmp_path, 3000, 4, 3) == path  # not made again
        parts = list(data.stored_blocks(path))
        assert [len(part) for part in parts] == [1024, 1024, 952]
        expected = np.concatenate(list(data.blocks(3000, 4, 3, 1024)))
        np.testing.assert_array_equal(np.concatenate(parts), expected)
        outofcore.read_arrays(str(path), range(3))
        outofcore.read_files(str(path), range(2))

    def test_patches_are_of_all_photographs(self, tmp_path):
        rows = np.load(data.patches(tmp_path, SAMPLES, 1001))
        assert rows.shape == (1001, 64)
        assert rows.dtype == np.float32


def run(tmp_path, *arguments):
    """Run the benchmarks in this process; return what the JSON file tells, by case."""
    figures = tmp_path / "figures.json"
    options = ["--small", "--together", "--rounds", "1", "--work", str(tmp_path / "work")]
    command.main([*arguments, *options, "--json", str(figures)])
    return {case["name"]: case for one in json.loads(figures.read_text()) for case in one["cases"]}


def facts(case, name):
    """What the contestants of a case told of their first run, by contestant."""
    return {who: trials[0]["facts"][name] for who, trials in case["trials"].items()}


class TestBenchmarks:
    @pytest.fixture(autouse=True)
    def no_foreign_threads(self, monkeypatch):
        """In one process libraries that bring their own OpenMP would get in each other's way."""
        for name in ("scikit-learn-intelex", "FAISS", "Spark"):
            monkeypatch.setitem(peers.PEERS, name, peers.Peer("nowhere", (), "get it"))
        monkeypatch.setattr(command, "limit_threads", int)
        # Slow with all that the test suite has loaded, and memory is not looked at.
        monkeypatch.setattr(memory, "gc", Namespace(collect=int))

    @pytest.fixture
    def threads(self, monkeypatch):
        """Workers are threads of this process, which start sooner."""
        monkeypatch.setattr(
            outofcore,
            "start_cluster",
            lambda n: local_cluster(n_workers=n, threads_per_worker=1, processes=False),
        )
        monkeypatch.setattr(scaling, "start_cluster", outofcore.start_cluster)
        monkeypatch.setattr(outofcore, "SMALL_SIZE", (150_000, 6, 4))
        monkeypatch.setattr(minibatch, "SMALL_SIZE", (150_000, 6, 4))
        monkeypatch.setattr(scaling, "SMALL_SIZE", (150_000, 6, 4))

    def test_lloyd(self, tmp_path, capsys):
        cases = run(tmp_path, "lloyd")
        assert len(cases) == 5
        for case in cases.values():
            assert len(case["trials"]) >= 3
            inertia = facts(case, "inertia")
            for other in inertia.values():
                assert other == pytest.approx(inertia["dkmeans"], rel=1e-6)
            assert set(facts(case, "iterations").values()) == {lloyd.ITERATIONS}
        assert "- Left out: FAISS: not installed: get it" in capsys.readouterr().out

    def test_fit(self, tmp_path):
        cases = run(tmp_path, "fit", "--photos", str(SAMPLES))
        assert [set(case["trials"]) for case in cases.values()] == [{"dkmeans", "scikit-learn"}] * 2
        assert [name.split(",")[0] for name in cases] == ["mixture", "patches"]
        mixture, patches = (facts(case, "inertia") for case in cases.values())
        assert patches["dkmeans"] == pytest.approx(patches["scikit-learn"], rel=0.02)
        assert mixture["dkmeans"] <= 1.2 * mixture["scikit-learn"]  # of one start, as luck has it

    def test_a_part(self, tmp_path):
        options = ("--only", "mixture", "--without", "scikit-learn")
        (case,) = run(tmp_path, "fit", "--photos", str(SAMPLES), *options).values()
        assert case["name"].startswith("mixture")
        assert set(case["trials"]) == {"dkmeans"}

    @pytest.mark.usefixtures("threads")
    def test_outofcore(self, tmp_path):
        fit, refine = run(tmp_path, "outofcore").values()
        inertia = facts(fit, "inertia")
        assert set(inertia) == {"dkmeans", "dask-ml"}
        assert inertia["dkmeans"] <= 1.01 * inertia["dask-ml"]
        assert fit["left_out"] == {"Spark": "not installed: get it"}
        assert len(refine["trials"]) == 3

    def test_estimates(self):
        asked = []
        told = outofcore.estimate(asked.append)
        assert asked == [1, outofcore.MORE]
        first, more = told["measured"]
        expected = first + (outofcore.ITERATIONS - 1) * (more - first) / (outofcore.MORE - 1)
        assert told["seconds"] == pytest.approx(expected)

    @pytest.mark.usefixtures("threads")
    def test_minibatch(self, tmp_path):
        (case,) = run(tmp_path, "minibatch").values()
        ratios = facts(case, "of the full fit")
        assert len(ratios) == 3
        assert 0.999 < ratios["dkmeans"] < minibatch.TARGET

    @pytest.mark.usefixtures("threads")
    def test_scaling(self, tmp_path):
        refine, blocks, memories = run(tmp_path, "scaling").values()
        assert set(refine["trials"]) == {"dkmeans", "dkmeans, 1 worker"}
        assert set(facts(blocks, "blocks").values()) == {200}
        assert len(memories["trials"]) == 3

    def test_colour(self, tmp_path, photos):
        folder, picture = tmp_path / "photos", tmp_path / "picture.tif"
        folder.mkdir()
        Image.fromarray(photos["flower"][:300]).save(folder / "flower.png")
        profile = {"driver": "GTiff", "height": 300, "width": 640, "count": 3}
        with rasterio.open(picture, "w", dtype="uint8", **profile) as target:
            target.write(np.moveaxis(photos["china"][:300], -1, 0))
        cases = run(tmp_path, "colour", "--photos", str(folder), "--picture", str(picture))
        assert [name.split(" ")[0] for name in cases] == ["from", "whole", "huge", "whole"]
        for name, case in cases.items():
            assert not {why for why in case["left_out"].values() if "failed" in why}
            if not name.startswith("huge"):
                quality = facts(case, "PSNR")
                assert max(quality.values()) == pytest.approx(quality["dkmeans"])
                assert min(quality.values()) > 15


@pytest.mark.parametrize("peer", ["scikit-learn-intelex", "FAISS"])
def test_peers_iterate_alike(tmp_path, peer):
    """From the same centres all end at the same inertia; each in a process of its own."""
    if why := peers.missing(peer):
        pytest.skip(why)
    options = Namespace(work=tmp_path, small=True)
    case = next(iter(lloyd.cases(options)))
    entries = [one for one in case.entries if one.name == peer]
    held = contest.hold(replace(case, entries=entries), 1)
    assert not held.left_out
    one = entries[0].given
    ours = lloyd.Lloyd(lloyd.by_dkmeans, one["rows"], one["n_clusters"])
    expected = ours.facts(ours.run(0))["inertia"]
    assert held.fact(peer, "inertia") == pytest.approx(expected, rel=1e-6)


def test_commands_name_no_places(tmp_path):
    given = ["all", "--photos", str(tmp_path), "--json", str(tmp_path / "a b"), "--only", "k = 3"]
    assert command.without_places(given) == (
        "python scripts/bench all --photos FOLDER --json FILE --only 'k = 3'"
    )


def test_every_benchmark_has_a_section_of_the_page():
    page = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in command.NAMES:
        begin, end = report.marks(name)
        assert page.count(begin) == page.count(end) == 1
