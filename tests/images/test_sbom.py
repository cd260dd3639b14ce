"""``make sbom``: a CycloneDX document for each lock, complete and the same each time.

That it lists what is in the images is seen where these are built: tests/e2e.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PARTS = ("operator", "trainer", "trainer-without-torch")
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}


def _installed(part: str) -> dict[str, set[str]]:
    """Return the packages of a lock that its image gets, with their hashes."""
    found: dict[str, set[str]] = {}
    for line in (ROOT / "requirements" / f"{part}.txt").read_text().splitlines():
        if re.match(r"[a-z0-9]", line):
            requirement = Requirement(line.rstrip("\\"))
            hashes: set[str] = set()
            if requirement.marker is None or requirement.marker.evaluate(LINUX):
                version = str(requirement.specifier).removeprefix("==")
                found[f"pkg:pypi/{requirement.name}@{version}"] = hashes
        elif match := re.search(r"--hash=sha256:([0-9a-f]{64})", line):
            hashes.add(match[1])
    return found


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_package_of_every_lock_is_listed_with_its_hashes(tmp_path: Path):
    done = subprocess.run(
        ["make", "sbom", f"SBOM={tmp_path}", f"PYTHON={sys.executable}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "venv")

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{part}.cdx.json" for part in PARTS)
    for part in PARTS:
        wanted = _installed(part)
        document = json.loads((tmp_path / f"{part}.cdx.json").read_text())
        assert document["bomFormat"] == "CycloneDX"
        assert document["metadata"]["component"]["name"] == "nascale"
        found = {component["purl"]: component for component in document["components"]}
        assert sorted(found) == sorted(wanted)
        for purl, component in found.items():
            hashes = [
                entry["content"]
                for reference in component["externalReferences"]
                for entry in reference.get("hashes", ())
            ]
            assert sorted(hashes) == sorted(wanted[purl])
        # Of another platform, and of another Python.
        assert not [purl for purl in found if purl.startswith("pkg:pypi/colorama@")]
        assert sum(purl.startswith("pkg:pypi/numpy@") for purl in found) == 1
        # Nothing of the moment or the machine: two runs give the same document.
        assert "timestamp" not in document["metadata"]
        assert "serialNumber" not in document
        assert str(ROOT) not in json.dumps(document)
