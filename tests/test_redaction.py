"""What may be secret reaches no file, no log and no terminal."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from urllib.parse import quote

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from discern.redaction import PLACEHOLDER, is_secret, redacted, redacted_setting, redacted_text
from run_files import own_model, summary
from starter import invoke

MARK = "mArKeD"
"""Stands in each secret of a test."""

ENVIRONMENT = {
    "HTTPS_PROXY": f"http://user:{MARK}1@127.0.0.1:9",
    "DATABASE_URL": f"postgresql://user:{MARK}2@host/db?sslpassword={MARK}3",
    "WANDB_API_KEY": f"{MARK}4",
    "AWS_SECRET_ACCESS_KEY": f"{MARK}5/{MARK}6",
    "HF_TOKEN": f"hf_{MARK}7",
    "PGPASSWORD": f"{MARK}8",
    "no_proxy": "127.0.0.1",
}

OWN_MODEL = """
import logging
from torch import nn

class Net(nn.Module):
    def __init__(self, input_shape, num_classes, api_key, password, note, url="", fails=False):
        super().__init__()
        logging.getLogger("own").warning("begun with %s, %s and %s", api_key, password, note)
        if fails:
            raise RuntimeError(f"no answer with {password} for {api_key}")
        self.output = nn.Linear(784, num_classes)

    def forward(self, images):
        return self.output(images.flatten(1))
"""

SECRETS = (
    f"+model.api_key={MARK}a",
    f"+model.password={MARK}b",
    "+model.note=${oc.env:HF_TOKEN}",
    f"+model.url='https://user:{MARK}c@host/x?sig={MARK}d&dl=1#{MARK}e'",
)


def written(folder: Path, *streams: str) -> str:
    """All that a command has written below a folder and printed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    content = [path.read_bytes().decode("latin-1") for path in files if path.suffix != ".py"]
    return "\n".join([*map(str, folder.rglob("*")), *content, *streams])


def no_secret_in(folder: Path, *streams: str) -> None:
    text = written(folder, *streams)
    found = [text[max(0, m.start() - 60) : m.end() + 20] for m in re.finditer(MARK, text)]
    assert not found, found[:5]


@pytest.fixture
def own(tmp_path):
    (tmp_path / "own.py").write_text(OWN_MODEL)
    few = ("data.source=sample", "data.fraction=0.03", "trainer.max_epochs=1")
    return (*few, "trainer.accelerator=cpu", *own_model("own.Net"))


def test_a_run_writes_no_secret_and_can_be_looked_at(tmp_path, own):
    done = invoke("train", *own, *SECRETS, "hydra.run.dir=run", cwd=tmp_path, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    no_secret_in(tmp_path, done.stdout, done.stderr)
    config = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert config["model"]["api_key"] == PLACEHOLDER
    assert config["model"]["url"] == f"https://{PLACEHOLDER}@host/x?{PLACEHOLDER}"
    assert f"+model.api_key={PLACEHOLDER}" in summary(tmp_path / "run")["overrides"]

    done = invoke("evaluate", "ckpt_path=run", cwd=tmp_path, **ENVIRONMENT)
    no_secret_in(tmp_path, done.stdout, done.stderr)


def test_a_run_that_fails_tells_no_secret(tmp_path, own):
    done = invoke(
        *("train", *own, *SECRETS, "+model.fails=true", "hydra.run.dir=run"),
        cwd=tmp_path,
        **ENVIRONMENT,
    )
    assert done.returncode == 1
    assert "no answer with" in done.stdout + done.stderr
    no_secret_in(tmp_path, done.stdout, done.stderr)


@pytest.mark.parametrize("full", ["", "1"])
def test_a_download_that_fails_tells_no_secret(tmp_path, full):
    url = f"http://127.0.0.1:9/x.zip?sig={MARK} with a space&token={MARK}"
    done = invoke(
        *("train", "data=catdog", f"data.url={url}", "data.dir=there", "hydra.run.dir=run"),
        *("model=mlp", "trainer.max_epochs=1"),
        cwd=tmp_path,
        **{**ENVIRONMENT, "HYDRA_FULL_ERROR": full},
    )
    assert done.returncode == 1
    assert f"http://127.0.0.1:9/x.zip?{PLACEHOLDER} cannot be downloaded" in done.stderr
    no_secret_in(tmp_path, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "wrong",
    [f"data.url=https://h/x?{MARK}", f"+optimizer.token={MARK}", f"model.hidden=user:{MARK}@h"],
)
def test_a_refusal_tells_no_secret(tmp_path, wrong):
    done = invoke("train", wrong, cwd=tmp_path)
    assert done.returncode == 1
    no_secret_in(tmp_path, done.stdout, done.stderr)


def test_a_sweep_writes_no_secret_and_goes_on_when_it_is_typed_again(tmp_path, own):
    sweep = ("-m", *own, *SECRETS, "optimizer.lr=1e-3,1e-2", "hydra.sweep.dir=sweep")
    done = invoke("train", *sweep, cwd=tmp_path, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    no_secret_in(tmp_path, done.stdout, done.stderr)
    (again,) = (line for line in done.stdout.splitlines() if "experiment=" in line)
    assert "best.yaml" in again

    jobs = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["jobs"]
    gone = tmp_path / "sweep" / jobs[1]["name"]
    gone.rename(tmp_path / "gone")
    resumed = ("-m", "sweep.resume=sweep")
    shown = invoke("train", *resumed, cwd=tmp_path, **ENVIRONMENT)
    assert "type allow_targets=[oc.env] if you know the file" in shown.stderr
    resumed = (*resumed, "allow_targets=[oc.env]")
    shown = invoke("train", *resumed, cwd=tmp_path, **ENVIRONMENT)
    assert f"own: begun with {PLACEHOLDER}" in (gone / "train.log").read_text()
    assert "+model.api_key was kept without what may be secret" in shown.stderr
    assert "secret; type it again" in (gone / "train.log").read_text()

    gone.rename(tmp_path / "again")
    done = invoke("train", *resumed, *SECRETS, cwd=tmp_path, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "was kept without" not in done.stderr
    assert "type it again" not in (gone / "train.log").read_text()
    no_secret_in(tmp_path, done.stdout, done.stderr)


def test_the_best_of_a_sweep_trains_again_and_says_what_was_left_out(tmp_path, own):
    sweep = ("-m", *own, *SECRETS, "optimizer.lr=1e-3,1e-2", "hydra.sweep.dir=sweep")
    swept = invoke("train", *sweep, cwd=tmp_path, **ENVIRONMENT)
    (printed,) = re.findall(r"or: python train\.py (.*)", swept.stdout)
    again = (*shlex.split(printed), "hydra.run.dir=run")
    assert again[:2] == ("experiment=sweep/best.yaml", "allow_targets=[oc.env]")
    done = invoke("train", *again, cwd=tmp_path, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "model.api_key was kept without what may be secret; type it again" in done.stdout


def test_a_search_writes_no_secret_of_its_storage(tmp_path, own):
    pytest.importorskip("optuna")
    place = f"sqlite:///{tmp_path}/study.db?timeout=7654321"
    done = invoke(
        *("train", "-m", *own, *SECRETS, "hydra/sweeper=optuna", "hydra.sweeper.n_trials=1"),
        *(f"hydra.sweeper.storage={place}", "optimizer.lr=interval(1e-3,1e-2)"),
        "hydra.sweep.dir=sweep",
        cwd=tmp_path,
        **ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    no_secret_in(tmp_path, done.stdout, done.stderr)
    assert "7654321" not in written(tmp_path, done.stdout, done.stderr)
    results = json.loads((tmp_path / "sweep" / "results.json").read_text())
    assert results["study"] == f"sqlite:///{tmp_path}/study.db?{PLACEHOLDER}"


@pytest.mark.slow
def test_submitit_keeps_no_secret_when_its_jobs_have_ended(tmp_path, own):
    pytest.importorskip("submitit")
    sweep = ("-m", *own, *SECRETS, "hydra/launcher=submitit_local", "hydra.sweep.dir=sweep")
    done = invoke("train", *sweep, "optimizer.lr=1e-3,1e-2", cwd=tmp_path, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    no_secret_in(tmp_path, done.stdout, done.stderr)
    assert (tmp_path / "sweep" / ".submitit").stat().st_mode & 0o077 == 0


def test_the_report_of_a_run_of_before_has_no_secret(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    changed = {"model.api_key": {"default": None, "value": MARK}}
    facts = {
        "format": 1,
        "state": "done",
        "overrides": [f"+model.api_key={MARK}"],
        "changed": changed,
    }
    (folder / "summary.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(f"model:\n  api_key: {MARK}\n  url: https://h/x?{MARK}\n")
    assert invoke("report", "run", cwd=tmp_path).returncode == 0
    assert MARK not in (folder / "report.html").read_text()


def test_an_address_that_lost_its_secret_is_not_downloaded(tmp_path):
    done = invoke(
        *("train", "data=catdog", f"data.url=https://h/x.zip?{PLACEHOLDER}", "data.dir=there"),
        cwd=tmp_path,
    )
    assert done.returncode == 1
    assert "kept without its secrets; type all of it again, as data.url=URL" in done.stderr


def test_names_of_secrets():
    secret = "token api_key logger.x.apiKey PGPASSWORD client_secret hf_token sslpassword auth"
    assert all(map(is_secret, [*secret.split(), "AWS_ACCESS_KEY_ID", "init._redis_password"]))
    assert not any(
        map(
            is_secret,
            ["lr", "hidden", "data.dir", "tokenizer", "passes", "author", "keys", "sha256"],
        )
    )


def test_what_is_below_a_secret_name_is_secret_too():
    nested = {"service": {"host": "h", "auth": {"login": "me", "number": 12}}}
    below = {"login": PLACEHOLDER, "number": PLACEHOLDER}
    assert redacted(nested) == {"service": {"host": "h", "auth": below}}
    assert redacted_text(str(nested)) == str(nested)


def test_counts_and_flags_are_no_secrets():
    plain = {"num_tokens": 3, "use_token": True, "password": None, "_target_": "auth.token"}
    assert redacted(plain) == plain
    assert redacted_setting("model.num_tokens=128") == "model.num_tokens=128"
    assert redacted_setting("x.token=${oc.env:TOKEN}") == "x.token=${oc.env:TOKEN}"


@pytest.mark.parametrize(
    "text",
    [
        "https://host:8080/a@b/c.zip",
        "sqlite:////shared/study.db",
        "Error: data.dir=/a/b is not a folder; see https://host/page.",
        "epoch 3/10  val/loss 0.3  12:30:11",
    ],
)
def test_other_texts_stay(text):
    assert redacted_text(text) == redacted_setting(text) == text


_users = st.text("abz09:/?#!$%&*+ ", min_size=1).map(lambda text: f"u:{MARK}{text}{MARK}")


@given(_users, st.text(min_size=0, max_size=20), st.sampled_from(["https", "postgresql+psycopg2"]))
def test_no_address_keeps_user_or_query(user, query, scheme):
    address = f"{scheme}://{user}@host/db?{quote(query)}{MARK}"
    for setting in (address, f"hydra.sweeper.storage={address}", f"'{address}'"):
        left = redacted_setting(setting)
        assert MARK not in left
        assert redacted_setting(left) == left


@pytest.mark.parametrize(
    "part",
    ["password_", "a.b://", "a:", "u@", "token ", "a-", "secret:'", "https://a:b@", "x=", "?a=#"],
)
def test_a_long_text_is_read_in_no_time(part):
    text = part * (100_000 // len(part))
    redacted_text(f"{text}://{text}")
    redacted_setting(text)
    is_secret(text)
