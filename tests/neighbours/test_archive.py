"""The S3 archive behind the pool, and buckets as storages: a real server over a real SeaweedFS."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.contract.disk import fresh, is_whole, key_of, place_on, replica, settles, sha
from tests.contract.house import House
from tests.contract.wire import Cut, request
from tests.neighbours.servers.memcached import Memcached
from tests.neighbours.servers.proxy import Proxy
from tests.neighbours.servers.seaweed import Seaweed
from tests.support.server import Server

Make = Callable[..., House]

SIZES = pytest.mark.parametrize("size", [0, 5_000, 3_000_000])


@pytest.fixture
def make_stor(make_server: Callable[..., Server], seaweed: Seaweed) -> Make:
    def make(**keys: Any) -> House:
        config = {"s3_enabled": True, "s3_credentials": seaweed.credentials(), **keys.pop("config", {})}
        return House(make_server(config=config, **keys))

    return make


@pytest.fixture
def proxy(seaweed: Seaweed) -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", seaweed.port)) as between:
        yield between


def archived(seaweed: Seaweed, content: bytes) -> bytes | None:
    try:
        return bytes(seaweed.store().get(key_of(content)).bytes())
    except FileNotFoundError:
        return None


@SIZES
@pytest.mark.parametrize("order", ["pool-first", "archive-first"])
def test_a_blob_that_only_the_archive_has_is_served_as_any_other(
    make_stor: Make, seaweed: Seaweed, size: int, order: str
) -> None:
    stor, content = make_stor(config={"s3_order": order}), fresh(size)
    seaweed.store().put(key_of(content), content)

    answer = stor.get(content)
    assert (answer.status, answer.body) == (200, content)
    assert answer.headers["etag"] == f'"{sha(content)}"'
    assert stor.ask("HEAD", f"/{sha(content)}").headers["content-length"] == str(size)
    assert stor.get(content, {"If-None-Match": answer.headers["etag"]}).status == 304
    if size:
        part = stor.get(content, {"Range": f"bytes=10-{size - 10}"})
        assert (part.status, part.body) == (206, content[10 : size - 9])


def test_what_neither_has_is_404(make_stor: Make) -> None:
    assert make_stor().ask("GET", f"/{sha(fresh())}").status == 404


@pytest.mark.parametrize("size", [5_000, 3_000_000])
def test_wrong_bytes_in_the_archive_are_never_served(make_stor: Make, seaweed: Seaweed, size: int) -> None:
    stor, content = make_stor(), fresh(size)
    seaweed.store().put(key_of(content), fresh(size))
    with stor.wire() as wire:
        wire.send(f"GET /{sha(content)} HTTP/1.1\r\nHost: stor\r\nConnection: close\r\n\r\n".encode())
        answer = wire.rest()
    assert answer.startswith(b"HTTP/1.1 503") or len(answer.partition(b"\r\n\r\n")[2]) < size


def test_wrong_bytes_in_the_archive_are_told_and_the_next_reader_gets_the_right_ones_from_the_pool(
    make_stor: Make, seaweed: Seaweed
) -> None:
    stor, content = make_stor(config={"s3_order": "archive-first"}, workers=1), fresh(3_000_000)
    assert stor.store(content).status == 201
    seaweed.store().put(key_of(content), fresh(len(content)))
    with stor.wire() as wire:
        wire.send(f"GET /{sha(content)} HTTP/1.1\r\nHost: stor\r\n\r\n".encode())
        assert wire.start()[0] == 200
        with pytest.raises(Cut):
            wire.receive(len(content))
    assert stor.get(content).body == content
    assert f"bad replica of {sha(content)} on s3://{seaweed.bucket} (archive)" in stor.server.stderr
    metric = f'stor_bad_replicas_total{{storage="s3://{seaweed.bucket} (archive)"}} '
    assert metric in stor.ask("GET", "/metrics").body.decode()


def test_a_bad_object_of_a_mirror_is_replaced_from_the_pool(make_stor: Make, seaweed: Seaweed) -> None:
    stor, content, bad = make_stor(config={"s3_order": "archive-first", "s3_mirror": True}), fresh(5_000), fresh(5_000)
    assert stor.store(content).status == 201
    assert settles(lambda: archived(seaweed, content) == content, within=20)
    seaweed.store().put(key_of(content), bad)
    stor.server.stop()  # nobody remembers that it was good
    stor.server.start()
    assert stor.get(content).body == content
    assert settles(lambda: archived(seaweed, content) == content, within=20)
    kept = [meta["path"] for page in seaweed.store().list(".stor/quarantine/") for meta in page]
    assert [path for path in kept if sha(content).upper() in path]


def test_an_archive_that_does_not_answer_makes_a_miss_a_503_and_harms_nothing_else(
    make_stor: Make, seaweed: Seaweed
) -> None:
    credentials = {"access_key": "a", "secret_key": "b", "host": "http://127.0.0.1:9"}
    stor, content = make_stor(config={"s3_credentials": credentials, "s3_retries": 0}), fresh()
    assert stor.store(content).status == 201
    assert stor.get(content).body == content
    assert stor.ask("GET", f"/{sha(fresh())}").status == 503
    assert seaweed.endpoint


def test_an_archive_that_takes_no_writes_when_it_is_back_is_read_all_the_same(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy
) -> None:
    keys = {"s3_credentials": seaweed.credentials(proxy.endpoint), "s3_retries": 0, "s3_mirror": True}
    stor, content = make_stor(config=keys, workers=1), fresh()
    seaweed.store().put(key_of(content), content)
    proxy.refuse()
    assert stor.get(content).status == 503
    proxy.garbage, proxy.trigger = b"HTTP/1.1 500 No Room\r\nContent-Length: 0\r\n\r\n", b"PUT /"
    proxy.accept()
    assert settles(lambda: stor.get(content).body == content)


@pytest.mark.parametrize("order", ["pool-first", "archive-first"])
def test_a_look_up_is_counted_once_whatever_the_archive_is_asked(make_stor: Make, seaweed: Seaweed, order: str) -> None:
    stor, stored, archive_only = make_stor(config={"s3_order": order}, workers=1), fresh(), fresh(3_000_000)
    assert stor.store(stored).status == 201
    seaweed.store().put(key_of(archive_only), archive_only)
    assert [stor.get(content).status for content in (stored, archive_only, fresh())] == [200, 200, 404]

    page = stor.ask("GET", "/metrics").body.decode()
    told = dict(line.rsplit(" ", 1) for line in page.splitlines())
    asked = 3 if order == "pool-first" else 2  # what is in the archive is not looked for in the pool then
    assert float(told["stor_lookups_total"]) == asked
    assert sum(float(told[f"stor_location_cache_{each}_total"]) for each in ("hits", "misses")) == asked
    assert float(told["stor_archive_misses_total"]) == (1 if order == "pool-first" else 2)


def test_readers_that_stand_still_hold_no_streams_of_the_archive(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy
) -> None:
    stor, content = make_stor(config={"s3_credentials": seaweed.credentials(proxy.endpoint)}), fresh(6 << 20)
    seaweed.store().put(key_of(content), content)

    with stor.wires(10, receive_buffer=4096) as wires:
        for wire in wires:
            wire.send(request("GET", f"/{sha(content)}"))
            wire.start()
        assert settles(lambda: connections_to(proxy.port) < 5)  # some are kept for what is asked next
        assert [wires[0].receive(len(content)), wires[1].receive(100)] == [content, content[:100]]


def connections_to(port: int) -> int:
    """How many there are, at the ends of whoever has made them."""
    listed = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(fields[2].endswith(f":{port:04X}") and fields[3] == "01" for fields in listed)


def test_more_clients_at_once_than_the_archive_is_asked_for_are_all_served(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy
) -> None:
    stor = make_stor(config={"s3_credentials": seaweed.credentials(proxy.endpoint)}, workers=1)
    contents = [fresh() for _ in range(100)]
    for content in contents:
        seaweed.store().put(key_of(content), content)
    proxy.delay = 0.8  # with 32 threads, the last one waits for 2.4 s before it has one
    with ThreadPoolExecutor(len(contents)) as clients:
        answers = list(clients.map(stor.get, contents))
    assert [answer.status for answer in answers] == [200] * len(contents)
    assert [answer.body for answer in answers] == contents


def test_an_archive_has_as_long_for_an_answer_as_is_configured(make_stor: Make, seaweed: Seaweed, proxy: Proxy) -> None:
    stor, content = (
        make_stor(config={"s3_credentials": seaweed.credentials(proxy.endpoint), "s3_timeout": 10}, workers=1),
        fresh(),
    )
    seaweed.store().put(key_of(content), content)
    proxy.delay = 2.2
    assert stor.get(content).body == content


def test_a_blob_that_is_hashed_before_it_is_sent_may_come_slowly_from_the_archive(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy
) -> None:
    stor, content = make_stor(config={"s3_credentials": seaweed.credentials(proxy.endpoint)}, workers=1), fresh(600_000)
    seaweed.store().put(key_of(content), content)
    proxy.rate = 250_000
    assert stor.get(content).body == content


@pytest.mark.parametrize("size", [0, 5_000])
def test_a_blob_that_was_read_from_the_archive_is_promoted(make_stor: Make, seaweed: Seaweed, size: int) -> None:
    stor, content = make_stor(config={"s3_promote": True}), fresh(size)
    seaweed.store().put(key_of(content), content)
    assert stor.get(content).body == content
    assert settles(lambda: len(stor.replicas(content)) == 2)


@pytest.mark.parametrize("size", [0, 5_000, 3_000_000])
@pytest.mark.parametrize("redirect", [False, True])
def test_who_wants_no_bytes_from_the_archive_has_nothing_promoted(
    make_stor: Make, seaweed: Seaweed, size: int, *, redirect: bool
) -> None:
    stor = make_stor(config={"s3_promote": True, "s3_redirect": redirect}, workers=1)
    asked, read = fresh(size), fresh(10)
    for content in (asked, read):
        seaweed.store().put(key_of(content), content)
    assert stor.ask("HEAD", f"/{sha(asked)}").status == 200
    assert stor.get(read).status == (307 if redirect else 200)
    if redirect:
        assert not settles(lambda: stor.replicas(read) + stor.replicas(asked) != [], within=0.5)
    else:
        assert settles(lambda: len(stor.replicas(read)) == 2)  # they are promoted in their order
        assert stor.replicas(asked) == []


@pytest.mark.parametrize(
    ("full", "why"),
    [
        ({"reserve_bytes": "500TiB"}, "No replica set has room for 5000 bytes"),
        ({"writable_pairs_regex": "^none$"}, "No replica set takes new blobs"),
    ],
    ids=str,
)
def test_a_pool_that_takes_nothing_is_told_once_and_doubles_no_reads_of_the_archive(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy, full: dict[str, str], why: str
) -> None:
    keys = {"s3_promote": True, "s3_credentials": seaweed.credentials(proxy.endpoint), **full}
    stor, contents = make_stor(config=keys, workers=1), [fresh(5_000) for _ in range(5)]
    for content in contents:
        seaweed.store().put(key_of(content), content)
        assert stor.get(content).body == content
        assert settles(lambda: "not promoted" in stor.server.stderr)
    fetched = [asked for asked in proxy.asked if any(key_of(content)[:40].encode() in asked for content in contents)]
    assert len(fetched) == len(contents) + 1
    assert stor.server.stderr.count(f"is not promoted from the archive: {why}") == 1
    assert "stor_promotions_failed_total 1.0" in stor.ask("GET", "/metrics").body.decode()


def test_a_client_is_redirected_to_the_archive_and_gets_the_blob_there(make_stor: Make, seaweed: Seaweed) -> None:
    import urllib.request

    stor, content = make_stor(config={"s3_redirect": True}), fresh(5_000)
    seaweed.store().put(key_of(content), content)
    answer = stor.get(content)
    assert answer.status == 307
    assert answer.headers["location"].startswith(seaweed.endpoint)
    assert answer.headers["cache-control"] == "no-store"  # the signature is good for an hour
    with urllib.request.urlopen(answer.headers["location"], timeout=10) as fetched:  # noqa: S310  the test's own server
        assert fetched.read() == content
    # What is signed is a GET, so what needs no bytes is answered at once.
    head = stor.ask("HEAD", f"/{sha(content)}")
    assert (head.status, head.headers["content-length"]) == (200, "5000")
    assert stor.get(content, {"If-None-Match": head.headers["etag"]}).status == 304
    assert stor.get(content, {"Range": "bytes=5000-"}).status == 416


@SIZES
def test_what_is_stored_is_mirrored(make_stor: Make, seaweed: Seaweed, size: int) -> None:
    stor, content = make_stor(config={"s3_mirror": True}), fresh(size)
    assert stor.store(content).status in (200, 201)
    assert settles(lambda: archived(seaweed, content) == content, within=20)


def test_what_no_set_has_is_brought_back_from_the_archive_when_it_is_noted(make_stor: Make, seaweed: Seaweed) -> None:
    stor, contents = make_stor(), [fresh(0), fresh(5_000), fresh(3_000_000)]
    for content in contents:
        seaweed.store().put(key_of(content), content)
        (stor.storages[0] / f".stor/repair/{sha(content)}").touch()
    assert settles(lambda: [len(stor.replicas(content)) for content in contents] == [2, 2, 2], within=20)
    assert settles(lambda: not list(stor.storages[0].glob(".stor/repair/*")))


def test_what_could_not_be_mirrored_is_when_the_archive_is_back_though_a_disk_is_lost_meanwhile(
    make_stor: Make, seaweed: Seaweed
) -> None:
    stor, content = make_stor(config={"s3_mirror": True, "s3_retries": 0}), fresh(5_000)
    seaweed.pause()
    try:
        assert stor.store(content).status == 201
        noted = [path for storage in stor.storages for path in storage.glob(f".stor/mirror/{sha(content).upper()}")]
        assert len(noted) == 2
        stor.server.stop()
        noted[0].unlink()
        stor.replicas(content)[0].unlink()
        stor.server.start()
    finally:
        seaweed.resume()
    assert settles(lambda: archived(seaweed, content) == content, within=30)


def test_what_waits_for_the_mirror_is_mirrored_from_a_set_that_takes_no_writes_any_more(
    make_stor: Make, seaweed: Seaweed
) -> None:
    config = {"s3_mirror": True, "s3_retries": 0}
    stor, content = make_stor(config=config), fresh(5_000)
    seaweed.pause()
    try:
        assert stor.store(content).status == 201
        stor.server.stop()
        make_stor(config={**config, "writable_pairs_regex": "^none$"}, pairs=stor.server.pairs)
    finally:
        seaweed.resume()
    assert settles(lambda: archived(seaweed, content) == content, within=10)
    assert settles(lambda: not [path for storage in stor.storages for path in storage.glob(".stor/mirror/*")])


def test_what_gets_its_name_when_its_note_was_looked_at_already_is_mirrored(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy
) -> None:
    """As if a disk hung, or the worker was killed, between the note and the name."""
    stor, content = (
        make_stor(config={"s3_mirror": True, "s3_credentials": seaweed.credentials(proxy.endpoint)}),
        fresh(5_000),
    )
    (stor.storages[0] / f".stor/mirror/{sha(content).upper()}").touch()
    assert settles(lambda: any(key_of(content)[:30].encode() in asked for asked in proxy.asked))
    assert not settles(lambda: archived(seaweed, content) is not None, within=0.3)
    place_on(stor.pairs[0], content)
    assert stor.store(content).status == 200
    assert settles(lambda: archived(seaweed, content) == content)


def test_a_replica_is_made_anew_without_fetching_from_the_archive_what_was_mirrored(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy
) -> None:
    config = {"s3_mirror": True, "s3_credentials": seaweed.credentials(proxy.endpoint)}
    stor, content = make_stor(config=config), fresh(3_000_000)

    def is_mirrored() -> bool:
        return not [note for storage in stor.storages for note in storage.glob(".stor/mirror/*")]

    assert stor.store(content).status == 201
    assert settles(is_mirrored, within=20)
    stor.replicas(content)[1].unlink()
    before = proxy.received
    assert settles(lambda: stor.get(content).body == content and len(stor.replicas(content)) == 2)
    assert settles(is_mirrored, within=20)
    assert proxy.received - before < len(content)


def test_a_pair_of_a_directory_and_a_bucket_keeps_blobs_in_both(
    make_stor: Make, seaweed: Seaweed, tmp_path: Any
) -> None:
    directory = tmp_path / "disk"
    directory.mkdir()
    prefix = f"of-a-pair-{fresh(4).hex()}"  # the empty blob is always the same: a second run must not find it
    bucket = f"s3://{seaweed.bucket}/{prefix}?endpoint={seaweed.endpoint}"
    stor = make_stor(config={"s3_enabled": False, "storage_pairs": [[str(directory), bucket]]})
    assert [row["total_bytes"] is None for row in stor.report()] == [False, True]
    for size in (0, 5_000, 3_000_000):
        content = fresh(size)
        answer = stor.store(content)
        assert (answer.status, len(json.loads(answer.body))) == (201, 2)
        path = replica(directory, sha(content))
        assert is_whole(path, content)
        assert bytes(seaweed.store().get(f"{prefix}/{key_of(content)}").bytes()) == content
        path.unlink()
        assert [stor.get(content).body for _ in range(20)] == [content] * 20  # by chance, some begin at the directory
        assert settles(lambda path=path, content=content: is_whole(path, content))  # type: ignore[misc]
        assert stor.store(content).status == 200


@pytest.mark.parametrize("refusal", ["507 Insufficient Storage", "500 Internal Server Error", "403 Forbidden"])
def test_what_a_bucket_refuses_is_stored_in_the_other_pair(
    make_stor: Make, seaweed: Seaweed, proxy: Proxy, tmp_path: Path, refusal: str
) -> None:
    (tmp_path / "disk").mkdir()
    bucket = f"s3://{seaweed.bucket}/refusing?endpoint={proxy.endpoint}"  # it has the most room
    config = {"s3_enabled": False, "s3_retries": 0, "storage_pairs": [[str(tmp_path / "disk")], [bucket]]}
    stor, content = make_stor(config=config, workers=1), fresh()
    assert json.loads(stor.store(content).body)[0].startswith("s3://")
    proxy.garbage, proxy.trigger = f"HTTP/1.1 {refusal}\r\nContent-Length: 0\r\n\r\n".encode(), b"PUT /"
    for content in (fresh(), fresh(900_000)):
        assert stor.store(content).status == 201
        assert is_whole(replica(tmp_path / "disk", sha(content)), content)
    if refusal.startswith("507"):
        assert settles(lambda: stor.store(fresh(3_000_000)).status == 201)


def test_where_a_blob_lies_among_buckets_is_known_to_another_server_by_memcached(
    make_stor: Make, seaweed: Seaweed
) -> None:
    contents = [fresh() for _ in range(16)]
    for content in contents:
        seaweed.store().put(f"second/{key_of(content)}", content)

    with Memcached() as memcached:
        config = {
            "s3_enabled": False,
            "storage_pairs": [
                [f"s3://{seaweed.bucket}/{name}?endpoint={seaweed.endpoint}"] for name in ("first", "second")
            ],
            "memcached_servers": [":".join(map(str, memcached.address))],
        }
        finder, other = make_stor(config=config, workers=1), make_stor(config=config, workers=1)
        assert [finder.get(content).body for content in contents] == contents
        assert settles(lambda: all(noted_in(memcached, content).startswith(b"s3://") for content in contents))
        assert [other.get(content).body for content in contents] == contents
    # That all of them are found at the first attempt without it has a chance of 1 in 65,536.
    assert b"\nstor_lookup_attempts_total 16.0\n" in other.ask("GET", "/metrics").body


def noted_in(memcached: Memcached, content: bytes) -> bytes:
    answer = memcached.say(f"get {sha(content)}\r\n".encode())
    return answer.partition(b"\r\n")[2]
