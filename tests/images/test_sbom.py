"""``make sbom``: a CycloneDX document for each lock, complete and the same each time."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ("operator", "trainer", "trainer-without-torch")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_package_of_every_lock_is_listed_with_its_hashes(tmp_path: Path):
    done = subprocess.run(
        ["make", "sbom", f"SBOM={tmp_path}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "venv")

    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"{part}.cdx.json" for part in PARTS)
    for part in PARTS:
        lock = (ROOT / "requirements" / f"{part}.txt").read_text()
        document = json.loads((tmp_path / f"{part}.cdx.json").read_text())
        assert document["bomFormat"] == "CycloneDX"
        assert document["metadata"]["component"]["name"] == "nascale"
        found = {component["purl"]: component for component in document["components"]}
        wanted = re.findall(r"^([a-z0-9][\w.-]*)==([\w.+!]+)", lock, re.MULTILINE)
        assert sorted(found) == sorted(f"pkg:pypi/{name}@{version}" for name, version in wanted)
        hashes = [
            entry["content"]
            for component in found.values()
            for reference in component["externalReferences"]
            for entry in reference.get("hashes", ())
        ]
        assert sorted(hashes) == sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock))
        # Nothing of the moment or the machine: two runs give the same document.
        assert "timestamp" not in document["metadata"]
        assert "serialNumber" not in document
        assert str(ROOT) not in json.dumps(document)
