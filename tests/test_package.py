"""What others get: the wheel, its types, a checkout on the path, the citation, the images."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import discern
from run_files import REPOSITORY, command
from starter import invoke

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]

CONSUMER = """\
from pathlib import Path
import discern

result = discern.train(discern.compose(["model=mlp"]))
reveal_type(result.metrics)
reveal_type(discern.evaluate(result, ["split=val"]).metrics["accuracy"].low)
reveal_type(discern.predict("best", Path("photos")).labels)
reveal_type(discern.compare(result, "best").letters)
reveal_type(discern.sweep(["seed=0,1"]).best)
reveal_type(discern.__version__)
discern.evaluate(result, split="val")
"""

TYPES = [
    "dict[str, dict[str, float]]", "float", "list[str]", "list[str]",
    "discern.sweeps.rows.Row | None", "str",
]  # fmt: skip


def test_the_package_says_that_it_has_types():
    assert Path(discern.__file__).with_name("py.typed").is_file()


@pytest.mark.slow  # mypy reads torch
def test_mypy_knows_the_types_in_a_program_that_uses_discern(tmp_path):
    (tmp_path / "consumer.py").write_text(CONSUMER)
    checked = command(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", "consumer.py"],
        cwd=tmp_path, PYTHONPATH=str(Path(discern.__file__).parents[1]),
    )  # fmt: skip
    assert re.findall(r'Revealed type is "(.*)"', checked.stdout) == TYPES
    (error,) = re.findall(r"^.*error: .*$", checked.stdout, re.MULTILINE)
    assert 'consumer.py:11: error: Unexpected keyword argument "split"' in error


BUILD = "import sys; from hatchling.build import build_wheel; build_wheel(sys.argv[1])"


def test_the_wheel_has_version_types_and_choices(tmp_path):
    pytest.importorskip("hatchling", reason="only make setup LOCKED=1 installs what builds a wheel")
    copy = tmp_path / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "src", "conf"):
        (copy / name).symlink_to(REPOSITORY / name)
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=copy, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"discern-{discern.__version__}-")
    files = set(zipfile.ZipFile(wheel).namelist())
    assert {"discern/py.typed", "discern/conf/train.yaml", "discern/version.py"} <= files


# A checkout that is on the path and not installed

NOT_INSTALLED = """\
import importlib.metadata, sys

found = importlib.metadata.Distribution.from_name.__func__

def from_name(cls, name):
    if name == "discern":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(cls, name)

importlib.metadata.Distribution.from_name = classmethod(from_name)
from discern.commands.cli import main
"""


def test_a_checkout_that_is_not_installed_runs_and_knows_its_version(tmp_path):
    typed = ["train", "data.source=sample", "model.hidden=[8]", "trainer.max_epochs=1",
             "trainer.limit_train_batches=5", "accelerator=cpu", "hydra.run.dir=run"]  # fmt: skip
    done = invoke("-c", f"{NOT_INSTALLED}\nmain({typed})", cwd=tmp_path, draws=False)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert facts["versions"]["discern"] == discern.__version__
    assert f"discern {discern.__version__}" in (tmp_path / "run" / "report.html").read_text()


def test_the_doctor_says_that_it_is_not_installed(tmp_path):
    done = invoke("-c", f"{NOT_INSTALLED}\nmain(['doctor'])", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{discern.__version__}, in " in done.stdout
    assert "a checkout that is not installed" in " ".join(done.stdout.split())


# The facts that are said elsewhere too


def test_the_citation_is_of_this_version():
    cited = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text())
    assert cited["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= cited.keys()  # which the schema requires
    assert cited["version"] == discern.__version__
    assert " AND ".join(cited["license"]) == PROJECT["license"]
    assert (cited["abstract"], cited["keywords"]) == (PROJECT["description"], PROJECT["keywords"])


def test_the_images_have_the_torch_of_the_makefile():
    (pair,) = re.findall(r"(?m)^TORCH \?= (.+)$", (REPOSITORY / "Makefile").read_text())
    assert f"pip install --no-cache-dir {pair} $index" in (REPOSITORY / "Dockerfile").read_text()


def test_the_dev_container_is_json_and_sets_up():
    content = json.loads((REPOSITORY / ".devcontainer" / "devcontainer.json").read_text())
    assert content["postCreateCommand"] == "make setup"


ENGINES = [name for name in ("docker", "podman") if shutil.which(name)]


@pytest.mark.slow  # it downloads PyTorch
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_images_are_built_and_train(tmp_path, device):
    engine = next((e for e in ENGINES if command([e, "info"], cwd=tmp_path).returncode == 0), None)
    if engine is None:
        pytest.skip("neither Docker nor Podman is installed and running")
    tag = f"discern-test:{device}"
    built = [engine, "build", "--tag", tag, "--build-arg", f"DEVICE={device}", str(REPOSITORY)]
    subprocess.run(built, check=True)
    typed = ["train", "data.source=sample", "trainer.max_epochs=1", "accelerator=cpu"]
    done = command([engine, "run", "--rm", tag, *typed], cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "accuracy" in done.stdout
