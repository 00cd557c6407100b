from __future__ import annotations

import os

import pytest

from discern.commands.cli import main
from discern.config.env_file import MAX_BYTES, read_env_file
from discern.errors import DiscernError
from discern.redaction import redacted_text


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A working folder, and an environment that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return tmp_path


def test_variables_are_set_that_the_environment_lacks(here, monkeypatch):
    os.environ["SET_BEFORE"] = "1"
    (here / ".env").write_text(
        "# mine\nexport DISCERN_DATA_DIR='my data'\nSET_BEFORE=2\nBELOW=${SET_BEFORE}/x\nNOTHING\n"
    )
    read_env_file()
    assert os.environ["DISCERN_DATA_DIR"] == "my data"
    assert os.environ["SET_BEFORE"] == "1"
    assert os.environ["BELOW"] == "1/x"
    assert "NOTHING" not in os.environ


def test_what_is_secret_in_it_is_left_out_of_texts(here):
    (here / ".env").write_text("WANDB_API_KEY=0123456789abcdef\n")
    read_env_file()
    assert "0123456789abcdef" not in redacted_text("with 0123456789abcdef")


@pytest.mark.parametrize(
    "name",
    [
        "LD_PRELOAD", "PYTHONSTARTUP", "GIT_CONFIG_COUNT", "Ld_Audit", "OPENSSL_CONF", "CC", "CXX",
        "XDG_CONFIG_HOME", "MPLBACKEND", "OMP_TOOL_LIBRARIES", "TRITON_PTXAS_PATH", "BROWSER",
    ],
)  # fmt: skip
def test_it_does_not_decide_what_other_programs_run(here, name):
    os.environ.pop(name, None)
    (here / ".env").write_text(f"{name}=x\n")
    read_env_file()
    assert name not in os.environ


def test_a_file_that_cannot_be_read_is_one_sentence(here):
    (here / ".env").write_bytes(b"X=\xff\n")
    with pytest.raises(DiscernError, match=r"^\.env cannot be read: it is not UTF-8\.$"):
        read_env_file()
    (here / ".env").write_bytes(b"#" * (MAX_BYTES + 1))
    with pytest.raises(SystemExit, match=r"^Error: \.env cannot be read: it has more than"):
        main(["doctor"])


def test_commands_read_it(here, capsys):
    (here / ".env").write_text(f"DISCERN_DATA_DIR={here / 'pictures'}\n")
    main(["doctor"])
    assert f"{here / 'pictures'}:notthere" in "".join(capsys.readouterr().out.split())
