"""The image: pinned, small, not root, of the versions that the tests run on."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.requirements import requirements
from tests.unit.manifests import ROOT, groups_of, ray_container, workers_of

DOCKERFILE = (ROOT / "Dockerfile").read_text()
HADOLINT = Path(sys.executable).with_name("hadolint")
INSTRUCTION = re.compile(r"^(FROM|RUN|COPY|USER|ENV|ARG|CMD|ADD) (.*)$", re.MULTILINE)


def instructions(kind: str) -> list[str]:
    lines = DOCKERFILE.replace("\\\n", " ")
    return [rest for name, rest in INSTRUCTION.findall(lines) if name == kind]


def stage(name: str) -> str:
    return re.split(r"^FROM ", DOCKERFILE.partition(f" AS {name}\n")[2], flags=re.MULTILINE)[0]


def test_hadolint_finds_nothing() -> None:
    if not HADOLINT.exists():
        pytest.skip("hadolint, of the dev extra, is not installed here")
    done = subprocess.run([HADOLINT, "--no-color", ROOT / "Dockerfile"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "")


def test_there_is_one_base_and_it_is_pinned_to_the_python_that_tests_run_on() -> None:
    stages: set[str] = set()
    bases = []
    for line in instructions("FROM"):
        base, _, name = line.partition(" AS ")
        if base not in stages:
            bases.append(base)
        stages.add(name)
    (base,) = bases
    pinned = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-[a-z]+", base)
    assert pinned is not None
    assert tuple(map(int, pinned.groups())) == (3, 11)


@pytest.mark.parametrize("target", ["cpu", "gpu"])
def test_neither_image_runs_as_root_and_pods_run_as_the_user_of_the_image(target: str) -> None:
    (user,) = re.findall(r"^USER (\d+):(\d+)$", stage(target), flags=re.MULTILINE)
    for group in groups_of("gpu").values():
        context = group["template"]["spec"]["securityContext"]
        assert (context["runAsUser"], context["runAsGroup"]) == tuple(map(int, user))
    # Nothing is installed or copied as another user after it.
    after = stage(target).partition("USER ")[2]
    assert not re.search(r"^(COPY|USER|ADD)", after, flags=re.MULTILINE)


def test_packages_come_from_the_pins_and_leave_no_caches_behind() -> None:
    runs = "\n".join(instructions("RUN"))
    installs = re.findall(r"pip install.*?(?=;|$|&&)", runs, flags=re.MULTILINE)
    assert len(installs) == DOCKERFILE.count("pip install")
    for line in installs:
        assert "--no-cache-dir" in line
        assert re.search(r"--requirement \S+\.txt", line)
    assert "apt-get" not in runs
    assert instructions("ADD") == []


def test_the_image_has_everything_that_is_copied_and_nothing_else_of_the_checkout() -> None:
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied: set[str] = set()
    for line in instructions("COPY"):
        if not line.startswith("--from"):
            copied |= {source.rstrip("/") for source in line.split()[:-1]}
    assert {source.partition("/")[0] for source in copied} == allowed
    assert all((ROOT / source).exists() for source in copied)


def test_what_manifests_call_is_in_the_image() -> None:
    assert "PYTHONPATH=/opt/aperture" in stage("code")
    for group in workers_of("gpu").values():
        module = ray_container(group)["lifecycle"]["preStop"]["exec"]["command"][2]
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()
        assert f"COPY {module.partition('.')[0]}/ " in stage("code")
    (warm,) = (c for c in groups_of("gpu")["gpu"]["template"]["spec"]["initContainers"] if c["name"] == "warm-cache")
    source = warm["command"][-2]
    assert f"APERTURE_CACHE={source}" in stage("code")


@pytest.mark.parametrize(("target", "overlays"), [("cpu", ["dev"]), ("gpu", ["gpu", "production"])])
def test_the_models_of_the_overlays_are_in_the_image(target: str, overlays: list[str]) -> None:
    (configs,) = re.findall(r'_CONFIGS="(.*)"', stage(target))
    assert configs.split() == [f"configs/{overlay}.yaml" for overlay in overlays]


def test_the_gpu_image_prepares_its_configs_without_a_gpu() -> None:
    sed = shutil.which("sed")
    assert sed is not None
    (expression,) = re.findall(r"sed '(.*?)'", stage("gpu"))
    for overlay in ("gpu", "production"):
        done = subprocess.run([sed, expression, ROOT / f"configs/{overlay}.yaml"], capture_output=True, text=True)
        assert "device: cpu" in done.stdout
        assert "device: cuda" not in done.stdout


def test_requirements_are_the_projects_and_those_of_the_extras() -> None:
    plain = requirements([])
    assert any(requirement.startswith("ray[serve]==") for requirement in plain)
    assert all("==" in requirement for requirement in plain)
    assert {each.partition("==")[0] for each in requirements(["tensorrt"])} - {
        each.partition("==")[0] for each in plain
    } == {"onnx", "onnxscript", "tensorrt"}
    with pytest.raises(ValueError, match="There is no extra 'tensorflow'"):
        requirements(["tensorflow"])
