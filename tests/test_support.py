"""What the tests break is mended again, whatever other tests do meanwhile."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path
from subprocess import PIPE

from tests.support import needs, power


def test_power_comes_back_though_another_test_has_a_view_of_the_mounts_of_its_own(tmp_path: Path) -> None:
    needs.tool("unshare")
    with contextlib.closing(power.disk("xfs", tmp_path / "disk")) as disk:
        with subprocess.Popen(["unshare", "--mount", "--", "sh", "-c", "echo made; sleep 1"], stdout=PIPE) as other:
            assert other.stdout is not None
            assert other.stdout.readline() == b"made\n"
            disk.cut()
            disk.restore()
        (disk.point / "file").touch()
