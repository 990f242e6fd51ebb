"""What `kubectl apply -k` would apply, one list of resources for each folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/cluster")
SERVING = ("base", *OVERLAYS)

Resource = dict[str, Any]


def resources(folder: str) -> list[Resource]:
    """The folder as kustomize renders it; `base` as its files are, which needs no kubectl."""
    if folder == "base":
        files = (KUBERNETES / "base").glob("*.yaml")
        found = (yaml.safe_load(file.read_text()) for file in sorted(files))
        return [resource for resource in found if resource["kind"] != "Kustomization"]
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("no kubectl on PATH to render overlays with")
    done = subprocess.run(  # noqa: S603
        [kubectl, "kustomize", KUBERNETES / folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def the(kind: str, found: list[Resource]) -> Resource:
    """The one resource of that kind."""
    (resource,) = [resource for resource in found if resource["kind"] == kind]
    return resource


def pod(found: list[Resource]) -> Resource:
    """The pod template of the one workload."""
    (template,) = [
        resource["spec"]["template"]
        for resource in found
        if resource["kind"] in ("Deployment", "Job")
    ]
    return dict(template)
