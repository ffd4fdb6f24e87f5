"""The metrics: every event counts, all workers are summed, the dead keep their counters, and the documents agree."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import get_args

import pytest
from prometheus_client.parser import text_string_to_metric_families

from pystor import shared_directory
from pystor.adapters import prometheus
from pystor.adapters.prometheus import FAMILIES, Prometheus, slices
from pystor.digest import Digest
from pystor.errors import NoSpace, StorageError, StorageFull
from pystor.events import (
    AnsweredAtOnce,
    ArchiveMissed,
    BlobDuplicate,
    BlobMissing,
    BlobServed,
    BlobStored,
    Event,
    HealthChecked,
    HintAsked,
    JobDone,
    LeftoversSwept,
    LookedUp,
    MalformedName,
    NeighbourFailed,
    PromotionFailed,
    ReplicaBad,
    ReplicaRepaired,
    RequestBegan,
    RequestEnded,
    RequestFailed,
    StorageFailed,
    UploadEnded,
    UploadRefused,
)
from pystor.observers import Observers
from tests.rooms.tools import no_thread_to_give
from tests.support import needs, processes
from tests.support.mounts import Mounts
from tests.support.server import Server, ServerFactory

DOCS = Path(__file__).parents[2] / "docs"
DIGEST = Digest.of(b"a blob")
DISK = "/mnt/data1"

EVENTS: list[Event] = [
    RequestBegan("get", DIGEST),
    HintAsked(True, 0.001),
    HintAsked(False, 0.001),
    LookedUp(3, 0.001),
    BlobServed(DIGEST, DISK, "pool", 100, 0.01),
    RequestEnded("GET", f"/{DIGEST.hex}", 200, 0.03, 0, 100, "127.0.0.1", DIGEST, DISK, "pool"),
    ArchiveMissed(DIGEST),
    BlobMissing(DIGEST),
    RequestBegan("post", DIGEST),
    BlobStored(DIGEST, (DISK, "/mnt/data2"), 50),
    BlobDuplicate(DIGEST),
    UploadRefused("no_space"),
    UploadEnded(),
    RequestFailed("post"),
    RequestEnded("POST", f"/{DIGEST.hex}", 201, 120, 50, 10, "127.0.0.1"),
    MalformedName("get"),
    HealthChecked(),
    ReplicaBad(DIGEST, DISK),
    ReplicaRepaired(DIGEST, DISK, quarantined=True),
    ReplicaRepaired(DIGEST, "/mnt/data2", quarantined=False),
    StorageFailed(StorageError(DISK, "open", "Input/output error")),
    LeftoversSwept(DISK, 4),
    PromotionFailed(DIGEST, NoSpace("No replica set has room")),
    NeighbourFailed("memcached", "it hangs"),
    JobDone("mirror", DIGEST, 50),
]

DISKS = [(DISK, True, 1, 1000, 400), ("/mnt/data2", False, 2, None, None)]


@pytest.fixture
def home() -> Iterator[Path]:
    with shared_directory.directory() as path:
        yield path


@pytest.fixture
def used(home: Path) -> Iterator[Prometheus]:
    """A worker's metrics after one of everything."""
    metrics = Prometheus(home, version="1.2.3")
    metrics.observe_storages(lambda: DISKS)
    metrics.observe_queues(lambda: {"mirror": 7})
    for event in EVENTS:
        metrics(event)
    yield metrics
    metrics.close()


def samples(metrics: Prometheus) -> dict[str, float]:
    """What Prometheus would read: `name{label="value"}` to value."""
    found = {}
    for family in text_string_to_metric_families(metrics.render().decode()):
        for sample in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_every_event_there_is_is_counted(used: Prometheus) -> None:
    assert {type(event) for event in EVENTS} | {AnsweredAtOnce} == set(get_args(Event)) == set(used._handlers)


AT_ONCE = {
    "GET": AnsweredAtOnce("GET", "/x", 200, DIGEST, True, 1, 100, 0.003, "127.0.0.1", DISK, "pool"),
    "HEAD": AnsweredAtOnce("HEAD", "/x", 200, DIGEST, False, 3, 0, 0.0, "127.0.0.1", DISK, "pool"),
    "a range": AnsweredAtOnce("GET", "/x", 206, DIGEST, True, 1, 7, 2.0, "127.0.0.1", DISK, "archive"),
    "not modified": AnsweredAtOnce("GET", "/x", 304, DIGEST, True, 1, 0, 0.001, "127.0.0.1", DISK, "pool"),
    "past the end": AnsweredAtOnce("GET", "/x", 416, DIGEST, True, 1, 60, 0.001, "127.0.0.1", DISK, "pool"),
    "not asked": AnsweredAtOnce("GET", "/x", 200, DIGEST, None, 1, 100, 0.003, "127.0.0.1", DISK, "pool"),
    "a miss": AnsweredAtOnce("GET", "/x", 404, DIGEST, False, 8, 90, 0.001, "127.0.0.1"),
}


@pytest.mark.parametrize("event", AT_ONCE.values(), ids=AT_ONCE.keys())
def test_what_was_answered_at_once_is_counted_as_its_parts_are(event: AnsweredAtOnce) -> None:
    whole, parts = Prometheus(None, version="1"), Prometheus(None, version="1")

    whole(event)
    for part in event.parts():
        parts(part)

    assert {type(part) for part in event.parts()} <= set(AnsweredAtOnce.kinds())
    assert samples(whole) == samples(parts)
    whole.close()
    parts.close()


def test_who_does_not_listen_to_what_is_answered_at_once_is_told_its_parts() -> None:
    told: list[Event] = []
    metrics = Prometheus(None, version="1")
    observers = Observers(told.append, metrics)

    for event in AT_ONCE.values():
        observers(event)

    assert told == [part for event in AT_ONCE.values() for part in event.parts()]
    assert samples(metrics)["stor_lookups_total"] == len(AT_ONCE)
    metrics.close()


def test_what_is_counted_is_told(used: Prometheus) -> None:
    told = samples(used)
    assert {name: value for name, value in told.items() if "_duration_" not in name} == {
        'stor_requests_total{method="GET",status="200"}': 1,
        'stor_requests_total{method="POST",status="201"}': 1,
        "stor_received_bytes_total": 50,
        "stor_sent_bytes_total": 110,
        "stor_uploads_in_flight": 0,
        'stor_request_failures_total{method="post"}': 1,
        'stor_malformed_names_total{method="get"}': 1,
        "stor_health_checks_total": 1,
        'stor_blobs_served_total{storage="/mnt/data1",tier="pool"}': 1,
        'stor_served_bytes_total{storage="/mnt/data1",tier="pool"}': 100,
        "stor_blobs_missing_total": 1,
        "stor_archive_misses_total": 1,
        "stor_blobs_stored_total": 1,
        "stor_stored_bytes_total": 50,
        "stor_blobs_duplicate_total": 1,
        'stor_uploads_refused_total{reason="no_space"}': 1,
        "stor_promotions_failed_total": 1,
        "stor_lookups_total": 1,
        "stor_lookup_attempts_total": 3,
        "stor_location_cache_hits_total": 1,
        "stor_location_cache_misses_total": 1,
        'stor_storage_failures_total{storage="/mnt/data1"}': 1,
        'stor_storage_failures_total{storage="/mnt/data2"}': 0,
        'stor_bad_replicas_total{storage="/mnt/data1"}': 1,
        'stor_bad_replicas_total{storage="/mnt/data2"}': 0,
        'stor_replicas_repaired_total{storage="/mnt/data1"}': 1,
        'stor_replicas_repaired_total{storage="/mnt/data2"}': 1,
        'stor_replicas_quarantined_total{storage="/mnt/data1"}': 1,
        'stor_replicas_quarantined_total{storage="/mnt/data2"}': 0,
        'stor_leftovers_swept_total{storage="/mnt/data1"}': 4,
        'stor_neighbour_errors_total{neighbour="memcached"}': 1,
        'stor_storage_up{storage="/mnt/data1"}': 1,
        'stor_storage_up{storage="/mnt/data2"}': 0,
        'stor_breaker_state{storage="/mnt/data1"}': 1,
        'stor_breaker_state{storage="/mnt/data2"}': 2,
        'stor_storage_size_bytes{storage="/mnt/data1"}': 1000,
        'stor_storage_free_bytes{storage="/mnt/data1"}': 400,
        'stor_queue_length{queue="mirror"}': 7,
        'stor_queue_done_total{queue="mirror"}': 1,
        'stor_queue_bytes_total{queue="mirror"}': 50,
        "stor_workers": 1,
        'stor_build_info{version="1.2.3"}': 1,
    }


def test_durations_are_cumulative_buckets_with_a_sum(home: Path) -> None:
    metrics = Prometheus(home, version="1")
    for seconds in (0.0004, 0.001, 0.0011, 61):
        metrics(RequestEnded("GET", "/", 200, seconds, 0, 0, ""))
    told = samples(metrics)
    metrics.close()
    buckets = {name.split('le="')[1].split('"')[0]: value for name, value in told.items() if "_bucket" in name}
    assert [buckets[bound] for bound in ("0.0005", "0.001", "0.0025", "60.0", "+Inf")] == [1, 2, 3, 3, 4]
    assert told['stor_request_duration_seconds_count{method="GET"}'] == 4
    assert told['stor_request_duration_seconds_sum{method="GET"}'] == pytest.approx(61.0025)


def test_without_a_directory_one_process_counts_for_itself() -> None:
    metrics = Prometheus(None, version="1")
    for event in EVENTS:
        metrics(event)
    told = samples(metrics)
    assert told['stor_requests_total{method="GET",status="200"}'] == 1
    assert told['stor_request_duration_seconds_count{method="GET"}'] == 1
    assert told["stor_workers"] == 1
    metrics.close()


def test_a_storage_whose_path_is_no_text_is_told_by_its_bytes(home: Path) -> None:
    metrics = Prometheus(home, version="1")
    metrics.observe_storages(lambda: [("/mnt/\udcff", True, 0, 1, 1), ("/mnt/\udcfe", True, 0, 1, 1)])
    metrics(ReplicaBad(DIGEST, "/mnt/\udcff"))
    told = samples(metrics)
    assert told[r'stor_bad_replicas_total{storage="/mnt/\udcff"}'] == 1
    assert [told[rf'stor_storage_up{{storage="/mnt/\udcf{digit}"}}'] for digit in "ef"] == [1, 1]
    metrics.close()


def test_a_method_that_a_client_invents_makes_no_new_series(home: Path) -> None:
    metrics = Prometheus(home, version="1")
    for number in range(100):
        metrics(RequestEnded(f"M{number}", "/", 405, 0.1, 0, 0, ""))
    assert samples(metrics)['stor_requests_total{method="other",status="405"}'] == 100
    metrics.close()


def test_more_series_than_there_is_room_for_are_left_out_and_harm_nothing(home: Path) -> None:
    metrics = Prometheus(home, version="1")
    for number in range(10_000):
        metrics(NeighbourFailed(f"n{number}", ""))
        metrics(RequestEnded("GET", "/", number, 0.1, 0, 0, ""))
    metrics(RequestEnded("PUT", "/", 200, 0.1, 0, 0, ""))
    told = samples(metrics)
    assert told["stor_received_bytes_total"] == 0
    assert told['stor_request_duration_seconds_count{method="GET"}'] == 10_000
    assert sum("stor_neighbour_errors" in name for name in told) > 3000
    metrics.close()


# Several workers

WORKER = """
import sys
from pathlib import Path
from pystor.adapters.prometheus import Prometheus
from pystor.events import HealthChecked, RequestBegan, RequestEnded
metrics = Prometheus(Path(sys.argv[1]), version="1")
for line in sys.stdin:
    for _ in range(int(line)):
        metrics(RequestEnded("GET", "/", 200, 0.02, 0, 10, ""))
        metrics(RequestBegan("post", None))
    print("done", flush=True)
"""


class Worker:
    """A process of its own that counts as many GETs, and uploads that begin, as it is told."""

    def __init__(self, home: Path) -> None:
        command = [sys.executable, "-c", WORKER, str(home)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def count(self, number: int) -> None:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{number}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def end(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.communicate()


@pytest.fixture
def workers(home: Path) -> Iterator[list[Worker]]:
    some = [Worker(home) for _ in range(3)]
    yield some
    for worker in some:
        worker.end()


def facts(told: dict[str, float]) -> tuple[float, float, float, float]:
    return (
        told['stor_requests_total{method="GET",status="200"}'],
        told['stor_request_duration_seconds_bucket{le="0.025",method="GET"}'],
        told["stor_uploads_in_flight"],
        told["stor_workers"],
    )


def test_all_workers_are_summed_at_once_whoever_is_asked(home: Path, workers: list[Worker]) -> None:
    metrics = Prometheus(home, version="1")
    for number, worker in enumerate(workers):
        worker.count(10**number)
    assert facts(samples(metrics)) == (111, 111, 111, 4)
    metrics.close()


def test_a_worker_that_is_killed_keeps_its_counters_and_loses_its_gauges(home: Path, workers: list[Worker]) -> None:
    metrics = Prometheus(home, version="1")
    for worker in workers:
        worker.count(5)
    workers[0].end(signal.SIGKILL)
    assert facts(samples(metrics)) == (15, 15, 10, 3)
    metrics.close()


def test_a_new_worker_continues_the_counts_of_dead_ones_and_removes_their_files(
    home: Path, workers: list[Worker]
) -> None:
    for worker in workers:
        worker.count(5)
    for worker in workers[:2]:
        worker.end(signal.SIGKILL)
    metrics = Prometheus(home, version="1")
    assert len(list(home.glob("*.counts"))) == 2
    assert facts(samples(metrics)) == (15, 15, 5, 2)
    metrics.close()


def test_counters_never_go_back_while_workers_come_and_go(home: Path, workers: list[Worker]) -> None:
    metrics = Prometheus(home, version="1")
    highest = 0.0
    for _ in range(5):
        for worker in workers:
            worker.count(100)
        workers[0].end()
        workers[0] = Worker(home)
        until = time.monotonic() + 0.2
        while time.monotonic() < until:
            total = samples(metrics)['stor_requests_total{method="GET",status="200"}']
            assert total >= highest
            highest = total
    assert highest == 1500
    metrics.close()


def test_others_have_their_turns_while_the_metrics_of_many_storages_are_told(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses, worker = list[float](), Prometheus(home, version="1")

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        time.sleep(seconds)

    monkeypatch.setattr(slices, "time", SimpleNamespace(sleep=pause))
    for number in range(300):
        worker(BlobServed(DIGEST, f"/mnt/data{number}", "pool", 100, 0.01))

    async def scenario() -> bytes:
        told, turns = asyncio.create_task(worker.tell()), 0
        while not told.done():
            await asyncio.sleep(0)
            turns += 1
        assert turns > 10
        return await told

    told = asyncio.run(scenario())
    assert len(pauses) > told.count(b"\n") / 32  # each line is read, added up and written, 64 of them at a time
    assert told == worker.render()


def test_those_who_ask_while_the_metrics_are_told_get_the_next_ones_together(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker, began, go_on, times = Prometheus(home, version="1"), threading.Event(), threading.Event(), itertools.count()
    totals = worker._workers.totals

    def slowly() -> object:
        next(times)
        began.set()
        go_on.wait(10)
        return totals()

    monkeypatch.setattr(worker._workers, "totals", slowly)

    async def scenario() -> None:
        first = asyncio.create_task(worker.tell())
        await asyncio.to_thread(began.wait)
        others = [asyncio.create_task(worker.tell()) for _ in range(20)]
        others[0].cancel()
        await asyncio.sleep(0)
        go_on.set()
        await first
        worker(HealthChecked())
        assert all(b"stor_health_checks_total 1.0" in answer for answer in await asyncio.gather(*others[1:]))

    asyncio.run(scenario())
    assert next(times) == 2


def test_names_that_are_new_are_found_in_a_sheet_that_was_read_before(home: Path) -> None:
    one, other = Prometheus(home, version="1"), Prometheus(home, version="1")
    for number in range(3):
        other(BlobServed(DIGEST, f"/mnt/data{number}", "pool", 100, 0.01))
        found = one.render().decode()
        assert re.findall(r'stor_blobs_served_total.*data(\d)".* 1\.0', found) == [str(n) for n in range(number + 1)]


def test_a_file_that_is_no_sheet_is_passed_over(home: Path) -> None:
    (home / "1-1.counts").write_bytes(b"x" * 70_000)
    (home / "2-2.counts").touch()
    metrics = Prometheus(home, version="1")
    metrics(HealthChecked())
    assert samples(metrics)["stor_health_checks_total"] == 1
    metrics.close()


def test_a_directory_that_is_gone_or_full_leaves_a_worker_that_counts_for_itself(tmp_path: Path) -> None:
    metrics = Prometheus(tmp_path / "gone", version="1")
    metrics(HealthChecked())
    assert samples(metrics)["stor_health_checks_total"] == 1
    metrics.close()


def test_a_directory_without_room_is_noticed_at_the_start_not_by_a_bus_error(tmp_path: Path) -> None:
    needs.root("mount a small filesystem")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(tmp_path)], check=True)
    try:
        metrics = Prometheus(tmp_path, version="1")
        for event in EVENTS:
            metrics(event)
        assert samples(metrics)["stor_health_checks_total"] == 1
        assert not list(tmp_path.glob("*-*"))
        metrics.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_directory_without_room_for_one_more_file_is_enough(mounts: Mounts) -> None:
    home = mounts.tmpfs(1 << 20, inodes=2)
    metrics = Prometheus(home, version="1")
    metrics(HealthChecked())
    assert samples(metrics)["stor_health_checks_total"] == 1
    metrics.close()


def test_a_directory_that_goes_away_leaves_what_this_worker_counted(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    metrics = Prometheus(home, version="1")
    metrics(HealthChecked())
    shutil.rmtree(home)
    told = samples(metrics)
    assert (told["stor_health_checks_total"], told["stor_workers"]) == (1, 1)
    metrics.close()


def test_a_server_whose_directory_goes_away_serves_tells_and_renews_its_workers(make_server: ServerFactory) -> None:
    server = make_server(workers=2)
    (home,) = {link for link in processes.links_of(server.pid) if "/stor-metrics-" in link}
    shutil.rmtree(home)
    assert "stor_workers 1.0" in server.get("/metrics").text
    before = set(workers_of(server))
    os.kill(server.pid, signal.SIGHUP)
    processes.eventually(lambda: len(workers_of(server)) == 2 and not before & set(workers_of(server)))
    assert server.get("/metrics").status == server.get("/status").status == 200
    assert "before it was ready" not in server.stderr


def workers_of(server: Server) -> list[int]:
    return [pid for pid in server.processes() if b"spawn_main" in processes.command_of(pid)]


def test_the_lengths_of_queues_are_told_by_whoever_is_asked(home: Path) -> None:
    workers = [Prometheus(home, version="1") for _ in range(2)]
    for worker in workers:
        worker.observe_queues(lambda: {"mirror": 4, "repair": 2})
    for worker in workers:
        told = samples(worker)
        assert told['stor_queue_length{queue="mirror"}'] == 4
        assert told['stor_queue_length{queue="repair"}'] == 2
    for worker in workers:
        worker.close()


def test_without_descriptors_the_others_are_told_as_they_were_last(home: Path, workers: list[Worker]) -> None:
    metrics = Prometheus(home, version="1")
    metrics(RequestEnded("GET", "/", 200, 0.02, 0, 10, ""))
    for exhausted, expected in ((True, 1), (False, 4), (True, 4)):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            if exhausted:
                resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
            told = samples(metrics)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert told['stor_requests_total{method="GET",status="200"}'] == told["stor_workers"] == expected
        for worker in workers:
            worker.count(1)
    metrics.close()


def test_without_a_thread_the_metrics_are_told_all_the_same(home: Path) -> None:
    async def scenario() -> None:
        metrics = Prometheus(home, version="1")
        with no_thread_to_give():
            assert b"stor_workers 1.0" in await metrics.tell()
        metrics.close()

    asyncio.run(scenario())


# The directory


def test_the_directory_is_in_memory_and_goes_with_the_supervisor() -> None:
    with shared_directory.directory() as home:
        assert home.parent == Path("/dev/shm")
        assert home.stat().st_mode & 0o777 == 0o700
        (home / "x.counts").touch()
    assert not home.exists()


def test_without_room_in_memory_it_is_among_the_temporary_files(tmp_path: Path) -> None:
    needs.root("mount a small filesystem")
    script = (
        "import tempfile; from pystor.shared_directory import directory\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "with directory() as home: print(home.parent)"
    )
    mount = 'mount -t tmpfs -o nr_inodes=1 none /dev/shm && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{tmp_path}\n"


def test_what_a_killed_supervisor_left_is_swept_and_what_others_use_is_not(home: Path) -> None:
    left = Path("/dev/shm/stor-metrics-left-by-a-test")
    left.mkdir(exist_ok=True)
    (left / "x.counts").touch()
    old = time.time() - 120
    os.utime(left, (old, old))
    os.utime(home, (old, old))
    with shared_directory.directory():
        assert not left.exists()
        assert home.exists()


# The documents


def names_told(metrics: Prometheus) -> set[str]:
    return set(re.findall(r"^# TYPE (\S+)", metrics.render().decode(), re.MULTILINE))


def test_metrics_md_documents_each_metric_and_no_other(used: Prometheus) -> None:
    rows = re.findall(
        r"^\| `(stor_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", (DOCS / "metrics.md").read_text(), re.MULTILINE
    )
    suffix = {"counter": "_total", "gauge": "", "histogram": ""}
    expected = [
        (family.name + suffix[family.kind], family.kind, ", ".join(f"`{name}`" for name in family.labels), family.help)
        for family in FAMILIES
    ]
    assert sorted(rows) == sorted(expected)
    assert {name for name, *_ in rows} == names_told(used)


def test_every_metric_of_the_dashboard_and_the_alerts_exists_and_the_dashboard_shows_every_one(
    used: Prometheus,
) -> None:
    dashboard = json.loads((DOCS / "grafana-dashboard.json").read_text())
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    queries += [variable.get("definition", "") for variable in dashboard["templating"]["list"]]
    asked = {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(r"stor_\w+", " ".join(queries))}
    assert asked == names_told(used)
    labels = {name: set(family.labels) for family in FAMILIES for name in (family.name, f"{family.name}_total")}
    for query in queries:
        for names, metric in re.findall(r"by \(([\w, ]+)\) \((?:rate|increase)\((stor_\w+)", query):
            known = labels[metric.removesuffix("_bucket")] | {"instance", "job", "le"}
            assert set(names.split(", ")) <= known, query
    alerts = re.findall(r"expr: .*", (DOCS / "metrics.md").read_text())
    assert set(re.findall(r"stor_\w+", " ".join(alerts))) <= names_told(used)


def test_each_alert_has_a_row_that_says_what_to_do() -> None:
    told = (DOCS / "metrics.md").read_text().partition("## Alerts")[2]
    alerts = re.findall(r"- alert: (\w+)", told)
    assert alerts
    assert alerts == re.findall(r"^\| `(\w+)` \|", told, re.MULTILINE)


def test_what_is_counted_of_a_storage_begins_at_0_so_that_the_first_one_is_an_increase(
    make_server: ServerFactory,
) -> None:
    server = make_server(workers=1)
    told = server.get("/metrics").text.splitlines()
    for name in ("storage_failures", "bad_replicas", "replicas_repaired", "replicas_quarantined"):
        for root in server.storages:
            assert f'stor_{name}_total{{storage="{root}"}} 0.0' in told


def test_help_and_type_are_told_for_each(used: Prometheus) -> None:
    text = used.render().decode()
    assert text.endswith("\n")
    assert text.count("# HELP ") == text.count("# TYPE ") == len(FAMILIES)
    assert prometheus.CONTENT_TYPE.startswith("text/plain; version=0.0.4")


def test_a_full_storage_counts_as_a_failure_of_that_storage(home: Path) -> None:
    metrics = Prometheus(home, version="1")
    metrics(StorageFailed(StorageFull('/mnt/"x"\\', "write", "No space left on device")))
    assert b'stor_storage_failures_total{storage="/mnt/\\"x\\"\\\\"} 1.0' in metrics.render()
    metrics.close()
