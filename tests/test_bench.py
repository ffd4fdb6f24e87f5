"""The harness of the benchmarks: what it reads, what it makes of it, and what it sends."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from bench import blobs, clients, instructions, load, page, table
from bench.blobs import Bodies
from bench.comparing import compare, costed
from bench.load import LoadFailed, Requests, Uploads
from bench.results import RECORD, Results
from bench.samples import MIB, Check, Comparison, Sample, Spread, Target
from tests.support import needs
from tests.support.server import Server

ROOT: Final = Path(__file__).resolve().parent.parent
TOLD: Final = (
    "Running 1s test\nLOAD requests=500 microseconds=2000000 bytes=9000 p50=1500 p99=7250 refused={} failed={}\n"
)


def sample(rate: float, seconds: float = 2.0) -> Sample:
    requests = int(rate * seconds)
    return Sample(requests, seconds, p50=1.0, p99=12.3, cpu_seconds=requests / 400, peak_bytes=3 * MIB)


def compared(ours: list[float], theirs: list[float], *targets: Target) -> Comparison:
    comparison = Comparison("GET 4 KiB", targets=targets)
    for mine, other in zip(ours, theirs, strict=True):
        comparison.add("stor", sample(mine))
        comparison.add("nginx", sample(other))
    return comparison


# What is read


def test_what_wrk_tells_is_a_sample() -> None:
    found = load.parse(TOLD.format(0, 0))
    assert (found.rate, found.p50, found.p99, found.received) == (250.0, 1.5, 7.25, 9000)


@pytest.mark.parametrize("output", [TOLD.format(1, 0), TOLD.format(0, 1), "unable to connect to 127.0.0.1"])
def test_a_run_with_a_wrong_answer_is_no_measurement(output: str) -> None:
    with pytest.raises(LoadFailed):
        load.parse(output)


def test_a_run_of_misses_must_miss_each_time() -> None:
    assert load.parse(TOLD.format(500, 0), missing=True).requests == 500
    with pytest.raises(LoadFailed):
        load.parse(TOLD.format(499, 0), missing=True)


# What is made of it


def test_a_ratio_is_the_median_of_the_rounds_not_of_the_speeds() -> None:
    comparison = compared([100, 300, 90], [200, 300, 100])
    assert comparison.ratio("nginx") == Spread(0.9, 0.5, 1.0)


def test_large_blobs_are_compared_by_their_bytes() -> None:
    comparison = Comparison("GET 100 MiB", by_bytes=True)
    comparison.add("stor", Sample(requests=1, seconds=1.0, received=150_000_000))
    comparison.add("nginx", Sample(requests=2, seconds=1.0, received=300_000_000))
    assert comparison.ratio("nginx").median == 0.5


@pytest.mark.parametrize(("ratio", "met"), [(0.744, False), (0.746, True), (2.0, True)])
def test_a_target_is_met_by_what_is_shown_of_the_ratio(ratio: float, met: bool) -> None:
    assert Target("nginx", least=0.75).is_met(ratio) is met
    assert Target("alone", most=0.74).is_met(ratio) is not met


def test_the_terminal_tells_the_ratio_its_spread_and_whether_the_target_is_met() -> None:
    (line,) = table.lines(compared([100, 300, 90], [200, 300, 100], Target("nginx", least=0.95)))
    assert line.startswith("GET 4 KiB")
    assert "0.90 (0.50 to 1.00)" in line
    assert "≥ 0.95 MISSED" in line
    assert "100/s beside        200/s; p50 1.00, p99 12 ms, 2.500 CPU s/1,000" in line


def check(most: float | None, *values: float) -> Check:
    return Check("p99 beside uploads", "ms", most, list(values))


def test_a_limit_is_kept_by_the_median_of_the_rounds() -> None:
    assert check(20, 1, 19, 100).is_met()
    assert not check(20, 1, 20, 21).is_met()
    assert check(None, 1e9).is_met()
    assert list(table.lines(check(20, 30))) == ["p99 beside uploads: 30.00 (30.00 to 30.00) ms; < 20 MISSED"]


def test_the_page_has_each_target_with_its_verdict_and_every_figure(tmp_path: Path) -> None:
    comparison = compared([100, 300, 90], [200, 300, 100], Target("nginx", least=0.95))
    found = Results("reads", "today", "3 rounds", {"processors": "2"}, [comparison, check(20, 7)], ["caddy: not there"])
    found.save(tmp_path)
    assert Results.load(tmp_path / "reads.json") == found
    page.write(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| GET 4 KiB | nginx | 0.90 (0.50 to 1.00) | ≥ 0.95 | **missed** |" in text
    assert "| p99 beside uploads | itself | 7.00 (7.00 to 7.00) ms | < 20 | met |" in text
    assert "| GET 4 KiB | nginx | 200/s | 1.00 | 12 | 2.500 CPU s/1,000 | 3 |" in text
    assert {"- processors: 2", "- reads: today, 3 rounds", "- left out: caddy: not there"} <= set(text.splitlines())


def test_the_page_that_is_here_is_what_the_results_that_are_here_make(tmp_path: Path) -> None:
    page.write(page=tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == page.PAGE.read_text()


def test_a_run_that_does_not_count_comes_first_and_the_servers_take_turns() -> None:
    turns: list[str] = []

    def run(name: str) -> Sample:
        turns.append(name)
        return sample(len(turns))

    runs = {name: partial(run, name) for name in ("stor", "nginx")}
    comparison = compare(Comparison("GET"), runs, rounds=2)
    assert turns == ["stor", "nginx"] * 3
    assert [each.rate for each in comparison.rounds["nginx"]] == [4, 6]


def test_a_server_that_fails_is_left_out_with_its_reason_and_stor_must_not_fail() -> None:
    def fails() -> Sample:
        raise LoadFailed("refused=1")

    comparison = compare(Comparison("GET"), {"stor": lambda: sample(1), "nginx": fails}, rounds=2)
    assert (comparison.peers(), comparison.failures) == ([], {"nginx": "refused=1"})
    with pytest.raises(LoadFailed, match="GET, stor: refused=1"):
        compare(Comparison("GET"), {"stor": fails}, rounds=1)


def test_what_a_session_used_is_noted_with_the_run(make_server: Callable[..., Server]) -> None:
    server = make_server()

    def run() -> Sample:
        for _ in range(300):
            server.get("/live")
        return sample(100)

    costed_ = costed(server.pid, run)
    assert 0 < costed_.cpu_seconds < 10
    assert costed_.peak_bytes > 20 * MIB


def test_instructions_are_compared_with_those_recorded() -> None:
    recorded = json.loads(RECORD.read_text())
    assert set(recorded) == {"GET 4 KiB", "POST 4 KiB"}
    lines = list(instructions.report({name: number * 2 for name, number in recorded.items()}))
    assert all("+100.0%" in line for line in lines)


# What is sent


def test_what_is_uploaded_is_what_was_named_and_what_was_laid_down_is_read(
    make_server: Callable[..., Server], tmp_path: Path
) -> None:
    needs.tool("wrk")
    server, bodies = make_server(), Bodies(100)
    (digest,) = blobs.lay(server.pairs[0], 1, 5000)
    bodies.name(7)  # sent earlier
    first, names = bodies.name(20_000)
    uploads = Uploads(first, [f"/{name}" for name in names], bodies.filler, "POST", server.authorization(), every=10)
    requests = Requests([f"/{digest}"], uploads=uploads)
    found = load.run(server.url, requests, connections=2, seconds=1, directory=tmp_path)

    stored = [path for pair in server.pairs for path in pair[0].glob("*/*/*/*.dat")]
    assert found.requests / 12 < len(stored) < found.requests / 10 + 4
    assert server.get(names[0]).body == bodies.body(first)
    assert server.get(names[1]).body == bodies.body(first + 1)


def test_a_client_of_our_own_tells_kinds_of_requests_apart(make_server: Callable[..., Server]) -> None:
    server, bodies = make_server(), Bodies(100_000)
    (digest,) = blobs.lay(server.pairs[0], 1, 300_000)
    first, names = bodies.name(5000)
    uploads = (
        clients.request("POST", f"/{name}", server.authorization(), bodies.body(number))
        for number, name in enumerate(names, first)
    )
    reads = itertools.cycle([clients.request("GET", f"/{digest}"), clients.request("HEAD", f"/{digest}")])
    mixed = itertools.chain.from_iterable(zip(reads, reads, uploads, strict=False))
    found = clients.run(server.url, mixed, connections=3, seconds=0.5)

    assert {kind: sample.requests > 3 for kind, sample in found.items()} == dict.fromkeys(("GET", "HEAD", "POST"), True)
    assert server.get(names[0]).body == bodies.body(first)
    with pytest.raises(LoadFailed):
        clients.run(server.url, itertools.repeat(clients.request("GET", "/nothing")), connections=1, seconds=0.5)


def test_make_and_the_documents_know_the_same_benchmarks() -> None:
    targets = set(re.findall(r"^(bench[a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make (bench[a-z-]*)", (ROOT / "CONTRIBUTING.md").read_text()))
    assert targets == named


def test_packages_are_installed_from_every_list_that_is_given(tmp_path: Path) -> None:
    lists = [tmp_path / "one", tmp_path / "two"]
    for number, path in enumerate(lists):
        path.write_text(f"no-such-package-{number}\n")
    script = (ROOT / "tests/install-packages").read_text().replace("$(id -u)", "1000")
    done = subprocess.run(["bash", "-c", script, "install", *lists], check=False, capture_output=True, text=True)
    assert "no-such-package-0 no-such-package-1 " in done.stderr
