"""B1: methods that are not there, OPTIONS, /live, /status for machines, and the page for people."""

from __future__ import annotations

import json
from importlib.metadata import version
from typing import Final

import pytest

from tests.contract.conftest import HouseFactory
from tests.contract.disk import fresh, sha
from tests.contract.house import House

ALLOWED: Final = {
    "/": {"GET", "HEAD", "POST", "OPTIONS"},
    "/status": {"GET", "HEAD", "OPTIONS"},
    "/live": {"GET", "HEAD", "OPTIONS"},
    f"/{sha(b'x')}": {"GET", "HEAD", "POST", "PUT", "OPTIONS"},
}
REFUSED: Final = [
    (method, target)
    for target, allowed in ALLOWED.items()
    for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "MKCOL", "COPY")
    if method not in allowed
]


def methods(allow: str) -> set[str]:
    return {method.strip() for method in allow.split(",")}


@pytest.mark.parametrize(("method", "target"), REFUSED)
def test_another_method_is_405_with_those_that_are_allowed(stor: House, method: str, target: str) -> None:
    answer = stor.ask(method, target)

    assert (answer.status, methods(answer.headers["allow"])) == (405, ALLOWED[target])
    assert len(answer.body.splitlines()) == 1


@pytest.mark.parametrize(("method", "target"), [("DELETE", f"/{sha(b'x')}"), ("PUT", "/"), ("POST", "/status")])
def test_another_method_with_credentials_and_a_body_is_405_and_stores_nothing(
    stor: House, method: str, target: str
) -> None:
    with stor.nothing_left_behind():
        assert stor.ask(method, target, stor.login, fresh(300_000)).status == 405


def test_a_blob_cannot_be_deleted(stor: House) -> None:
    content = fresh()
    stor.store(content)

    assert stor.ask("DELETE", f"/{sha(content)}", stor.login).status == 405
    assert stor.get(content).body == content


@pytest.mark.parametrize("target", ALLOWED)
def test_options_is_204_with_what_is_allowed(stor: House, target: str) -> None:
    answer = stor.ask("OPTIONS", target)

    assert (answer.status, answer.body, methods(answer.headers["allow"])) == (204, b"", ALLOWED[target])


@pytest.mark.parametrize("target", ["/", "/status", "/live"])
def test_a_page_of_the_service_ignores_the_query(stor: House, target: str) -> None:
    assert stor.ask("GET", f"{target}?a=b&c").status == 200


# /live


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_live_is_200(stor: House, method: str) -> None:
    assert stor.ask(method, "/live").status == 200


# /status


def test_status_is_ok_in_plain_text(stor: House) -> None:
    answer = stor.ask("GET", "/status")

    assert (answer.status, answer.body) == (200, b"OK")
    assert answer.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("accept", ["application/json", "application/json, */*;q=0.1", "Application/JSON;q=1.0"])
def test_status_for_machines_is_json(stor: House, accept: str) -> None:
    answer = stor.ask("GET", "/status", {"Accept": accept})

    assert answer.status == 200
    assert answer.headers["content-type"].split(";")[0] == "application/json"
    assert json.loads(answer.body)


@pytest.mark.parametrize("accept", ["*/*", "text/*", "text/plain", "text/html", ""])
def test_status_for_anyone_else_is_ok(stor: House, accept: str) -> None:
    assert stor.ask("GET", "/status", {"Accept": accept}).body == b"OK"


def test_status_tells_of_every_storage(stor: House) -> None:
    report = stor.report()

    assert [storage["path"] for storage in report] == [str(path) for path in stor.storages]


def test_status_tells_what_there_is_to_know_of_a_storage(make_stor: HouseFactory) -> None:
    for storage in make_stor().report():
        assert (storage["available"], storage["writable"], storage["last_error"]) == (True, True, None)
        assert 0 < storage["free_bytes"] < storage["total_bytes"]


def test_status_tells_which_storages_keep_the_same_blobs(stor: House) -> None:
    sets = [storage["replica_set"] for storage in stor.report()]

    assert sets[0] == sets[1] != sets[2] == sets[3]


def test_status_never_tells_a_password(stor: House) -> None:
    body = stor.ask("GET", "/status", {"Accept": "application/json"}).body

    assert stor.server.password.encode() not in body


# /


def test_the_root_is_one_line_for_a_program(stor: House) -> None:
    for fields in ({}, {"Accept": "*/*"}, {"Accept": "application/json"}):
        answer = stor.ask("GET", "/", fields)
        assert answer.body == f"This is Stor {version('pystor')}".encode()
        assert answer.headers["content-type"].startswith("text/plain")


def test_the_root_is_a_page_for_a_person(stor: House) -> None:
    browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8"
    answer = stor.ask("GET", "/", {"Accept": browser})

    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, "text/html")
    assert b"<html" in answer.body.lower()
    assert version("pystor").encode() in answer.body


@pytest.mark.parametrize("target", ["/", "/status"])
def test_what_depends_on_accept_says_so_to_caches(stor: House, target: str) -> None:
    assert "accept" in stor.ask("GET", target).headers.get("vary", "").lower()
