"""onnxruntime-web is fetched by npm once, checked, and kept; the npm of these tests is a script."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from discern.data.published import onnxruntime_web
from discern.errors import DiscernError

FILES = {"one.mjs": b"export {};", "two.wasm": b"\0asm"}


def package(members: dict[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return content.getvalue()


WHOLE = package({f"package/dist/{name}": data for name, data in FILES.items()} | {
    "package/dist/other.js": b"other", "package/package.json": b"{}",
})  # fmt: skip

NPM = """#!{python}
import json, shutil, sys
from pathlib import Path
Path({calls!r}).open("a").write(" ".join(sys.argv[1:]) + "\\n")
source = {source!r}
if source is None:
    print(json.dumps({{"error": {{"code": "ENOTFOUND", "summary": "https://user:secret@host"}}}}))
    sys.exit(1)
shutil.copy(source, "onnxruntime-web.tgz")
"""


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Callable[[bytes | None], Path]:
    """Installs an npm that has a package, or no connection; gives the file of its calls."""
    monkeypatch.setenv("DISCERN_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    digest = base64.b64encode(hashlib.sha512(WHOLE).digest()).decode()
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", f"sha512-{digest}")
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()}
    monkeypatch.setattr(onnxruntime_web, "FILES", digests)

    def install(content: bytes | None) -> Path:
        source, calls = tmp_path / "source.tgz", tmp_path / "calls"
        if content is not None:
            source.write_bytes(content)
        script = tmp_path / "bin" / "npm"
        script.parent.mkdir(exist_ok=True)
        script.write_text(
            NPM.format(
                python=sys.executable, calls=str(calls),
                source=None if content is None else str(source),
            )
        )  # fmt: skip
        script.chmod(0o755)
        calls.touch()
        return calls

    return install


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_only_the_needed_files_are_kept_and_npm_is_asked_once(npm, tmp_path):
    calls = npm(WHOLE)
    assert contents(onnxruntime_web.kept()) == FILES
    (call,) = calls.read_text().splitlines()
    assert call.startswith(f"pack onnxruntime-web@{onnxruntime_web.VERSION} ")
    (tmp_path / "bin" / "npm").unlink()
    onnxruntime_web.check_available()
    assert contents(onnxruntime_web.kept()) == FILES
    kept = onnxruntime_web.kept()
    assert [path.name for path in kept.parent.iterdir() if not path.name.endswith(".lock")] == [
        kept.name
    ]


def test_a_damaged_kept_file_is_fetched_again(npm):
    calls = npm(WHOLE)
    (onnxruntime_web.kept() / "two.wasm").write_bytes(b"other")
    assert contents(onnxruntime_web.kept()) == FILES
    assert len(calls.read_text().splitlines()) == 2


def test_another_package_than_the_pinned_one_is_refused(npm):
    npm(package({"package/dist/one.mjs": b"alert()"}))
    with pytest.raises(DiscernError, match=r"is not the onnxruntime-web@\S+ expected: its SHA-512"):
        onnxruntime_web.kept()
    npm(WHOLE)
    assert contents(onnxruntime_web.kept()) == FILES


def test_without_npm_one_sentence_says_what_to_do(npm, tmp_path):
    for call in (onnxruntime_web.check_available, onnxruntime_web.kept):
        with pytest.raises(DiscernError) as caught:
            call()
        said = str(caught.value)
        assert said.startswith("format=web needs onnxruntime-web")
        assert "npm is not installed" in said
        assert str(onnxruntime_web.archive()) in said
    # As the sentence says.
    onnxruntime_web.archive().parent.mkdir(exist_ok=True)
    onnxruntime_web.archive().write_bytes(WHOLE)
    onnxruntime_web.check_available()
    assert contents(onnxruntime_web.kept()) == FILES


def test_without_a_connection_one_sentence_says_so_and_no_secret(npm):
    npm(None)
    with pytest.raises(DiscernError, match=r"which npm cannot fetch \(ENOTFOUND\)") as caught:
        onnxruntime_web.kept()
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("output", [b"", b"[]", b'{"error": "no"}', b"\xff"])
def test_an_npm_that_fails_without_a_reason_is_named_by_its_status(npm, tmp_path, output):
    npm(None)
    (tmp_path / "bin" / "npm").write_text(
        f"#!{sys.executable}\nimport sys\nsys.stdout.buffer.write({output!r})\nsys.exit(7)\n"
    )
    with pytest.raises(DiscernError, match=r"cannot fetch \(exit status 7\)"):
        onnxruntime_web.kept()


def test_a_package_that_leads_outside_is_refused(npm, tmp_path, monkeypatch):
    hostile = package({"package/dist/../../../outside": b"x"})
    digest = base64.b64encode(hashlib.sha512(hostile).digest()).decode()
    monkeypatch.setattr(onnxruntime_web, "INTEGRITY", f"sha512-{digest}")
    npm(hostile)
    with pytest.raises(DiscernError, match="leads outside"):
        onnxruntime_web.kept()
    assert not (tmp_path / "outside").exists()


def test_the_pinned_digests_are_of_the_form_that_npm_and_sha256sum_write():
    algorithm, _, digest = onnxruntime_web.INTEGRITY.partition("-")
    assert algorithm == "sha512"
    assert len(base64.b64decode(digest, validate=True)) == 64
    assert all(len(bytes.fromhex(sha256)) == 32 for sha256 in onnxruntime_web.FILES.values())
