"""Puts, gets, losses, rot and repairs in any order: the service behaves as a dict of bytes by their digest."""

from __future__ import annotations

from typing import TypeAlias

from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.contract import disk
from tests.contract.disk import Damage, fresh, place_on, sha
from tests.contract.house import House

Blob: TypeAlias = bytes

SIZES = st.one_of(st.integers(0, 200), st.sampled_from([4096, 65_536, 70_001, 1_000_000]))
DAMAGE = st.sampled_from([disk.missing, disk.truncated, disk.emptied, disk.flipped, disk.lengthened])


class Service(RuleBasedStateMachine):
    """One run: its blobs are its own, since nobody else makes the same random bytes."""

    stor: House
    known = Bundle("known")
    unknown = Bundle("unknown")

    def __init__(self) -> None:
        super().__init__()
        self.model: dict[str, Blob] = {}

    @rule(target=unknown, size=SIZES)
    def imagine(self, size: int) -> Blob:
        return fresh(16) + bytes(size)

    @rule(target=known, content=consumes(unknown), way=st.sampled_from(["POST", "PUT", "chunked", "nameless"]))
    def put(self, content: Blob, way: str) -> Blob:
        assert self._upload(content, way) == 201
        assert len(self.stor.replicas(content)) == 2
        self.model[sha(content)] = content
        return content

    @rule(target=known, content=consumes(unknown), pair=st.integers(0, 1))
    def inherit(self, content: Blob, pair: int) -> Blob:
        place_on(self.stor.pairs[pair], content)
        self.model[sha(content)] = content
        return content

    @rule(content=known, way=st.sampled_from(["POST", "PUT", "chunked", "nameless"]))
    def put_again(self, content: Blob, way: str) -> None:
        assert self._upload(content, way) == 200
        assert len(self.stor.replicas(content)) == 2

    @rule(content=unknown)
    def put_something_else(self, content: Blob) -> None:
        assert self.stor.store(content + b"!", name=sha(content)).status == 412

    @rule(content=known, upper=st.booleans())
    def get(self, content: Blob, upper: bool) -> None:
        name = sha(content)
        answer = self.stor.ask("GET", f"/{name.upper() if upper else name}")
        assert (answer.status, answer.body == self.model[name]) == (200, True)

    @rule(content=known, first=st.integers(0, 100), length=st.integers(1, 2_000_000))
    def get_a_part(self, content: Blob, first: int, length: int) -> None:
        answer = self.stor.get(content, {"Range": f"bytes={first}-{first + length - 1}"})
        if first < len(content):
            assert (answer.status, answer.body == content[first : first + length]) == (206, True)
        else:
            assert answer.status == 416

    @rule(content=known)
    def head(self, content: Blob) -> None:
        answer = self.stor.ask("HEAD", f"/{sha(content)}")
        assert (answer.status, answer.headers["content-length"]) == (200, str(len(content)))

    @rule(content=unknown)
    def get_unknown(self, content: Blob) -> None:
        assert self.stor.get(content).status == 404

    @precondition(lambda self: self.model)
    @rule(content=known, member=st.integers(0, 1), damage=DAMAGE)
    def spoil_one_replica(self, content: Blob, member: int, damage: Damage) -> None:
        """One at a time: two losses are more than a pair can bear."""
        whole = self.stor.replicas(content)
        if len(whole) == 2:
            damage(whole[member])

    @invariant()
    def nothing_is_lost(self) -> None:
        assert all(self.stor.replicas(content) for content in self.model.values())

    def _upload(self, content: Blob, way: str) -> int:
        if way == "chunked":
            return self.stor.store_chunked(content).status
        if way == "nameless":
            return self.stor.ask("POST", "/", self.stor.login, content).status
        return self.stor.store(content, method=way).status


def test_the_service_is_a_dict_whatever_happens_to_one_replica(stor: House) -> None:
    machine = type("ServiceOnThisServer", (Service,), {"stor": stor})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20,
            stateful_step_count=20,
            deadline=None,
            # A run leaves its traces on the disks, so a failure is not run again to make it smaller.
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
