"""What /metrics says of a server at work."""

from __future__ import annotations

import subprocess

from tests.contract.conftest import HouseFactory
from tests.contract.disk import flipped, fresh, missing, settles, sha
from tests.contract.house import number
from tests.support.mounts import Mounts


def test_an_upload_is_in_flight_until_it_ends_and_nothing_else_is(make_stor: HouseFactory) -> None:
    stor, content = make_stor(), fresh()

    def in_flight() -> float:
        return number(stor, "stor_uploads_in_flight")

    with stor.wire() as wire, stor.wire() as other:
        wire.send(stor.head_of_upload(sha(content), len(content)), content[:50])
        assert settles(lambda: in_flight() == 1)
        for method, target, status in (("POST", "/status", 405), ("POST", "/a/b", 404), ("PUT", "/", 405)):
            assert stor.ask(method, target, stor.login, b"").status == status
        assert [stor.store(fresh()).status, stor.store(content, name="x").status] == [201, 412]
        assert in_flight() == 1
        other.send(stor.head_of_upload(sha(fresh()), 100), b"cut")
        assert settles(lambda: in_flight() == 2)
        other.reset()
        assert settles(lambda: in_flight() == 1)
        wire.send(content[50:])
        assert wire.answer().status == 201
    assert settles(lambda: in_flight() == 0)


def test_what_is_answered_before_there_is_a_request_is_counted_and_in_the_access_log(make_stor: HouseFactory) -> None:
    stor = make_stor(config={"access_log": 1})
    with stor.wire() as wire:
        wire.send(b"BREW /tea HTTP/1.1\r\nHost: stor\r\n\r\n")
        assert wire.answer().status == 405
    with stor.wire() as wire:
        wire.send(f"GET /{'a' * 100_000}".encode())
        assert wire.answer().status == 431

    assert settles(lambda: number(stor, 'stor_requests_total{method="other",status="405"}') == 1)
    assert settles(lambda: number(stor, 'stor_requests_total{method="GET",status="431"}') == 1)
    assert settles(lambda: "other - 405" in stor.server.stderr)


def test_what_was_repaired_and_what_is_in_quarantine_is_counted(make_stor: HouseFactory) -> None:
    stor, rotten, lost = make_stor(), fresh(), fresh()

    def counted(name: str) -> float:
        return sum(number(stor, f'stor_replicas_{name}_total{{storage="{storage}"}}') for storage in stor.storages)

    for content, damage in ((rotten, flipped), (lost, missing)):
        assert stor.store(content).status == 201
        damage(stor.replicas(content)[0])
        assert stor.store(content).status == 200
    assert (counted("repaired"), counted("quarantined")) == (2, 1)


def test_the_breaker_of_a_disk_that_takes_no_writes_is_open_until_it_does(
    make_stor: HouseFactory, mounts: Mounts
) -> None:
    disk = mounts.tmpfs(8 << 20)
    stor = make_stor(pairs=[[disk]])

    def breaker() -> float:
        return number(stor, f'stor_breaker_state{{storage="{disk}"}}')

    assert breaker() == 0
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    assert stor.store(fresh()).status == 503
    assert breaker() > 0
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    assert settles(lambda: breaker() == 0)
    assert stor.store(fresh()).status == 201
