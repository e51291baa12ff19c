"""tools.corpus: what is fetched is checked, what cannot be fetched is made up and labelled."""

import hashlib
import io
import json
import subprocess
import tarfile
from pathlib import Path

import bsdiff4
import pytest
from intelhex import IntelHex

from tools import corpus
from tools.corpus import CorpusError, Source, Unreachable, find_hex, flash_area, load, provide, read_archive
from tools.synthetic import make_images

FLASH = bytes(range(200)) * 5
CONFIGURATION_WORDS = 0x10001000


def hex_text() -> str:
    image = IntelHex()
    image.frombytes(FLASH)
    image.frombytes(b"\x00" * 28, CONFIGURATION_WORDS)
    text = io.StringIO()
    image.write_hex_file(text)
    return text.getvalue()


def make_archive(path: Path, source: str, member: str = "uflash-9.9.9/uflash.py") -> Path:
    data = source.encode()
    with tarfile.open(path, "w:gz") as tar:
        # a module of the same name deeper in the archive must not be taken for the real one
        for name, content in (("uflash-9.9.9/docs/uflash.py", b"WRONG = 1\n"), (member, data)):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def make_source(text: str) -> str:
    return f'"""A flasher."""\nimport sys\nsys.exit("this module was run")\n_RUNTIME = """{text}"""\n'


@pytest.fixture
def source() -> Source:
    digest = hashlib.sha256(FLASH).hexdigest()
    return Source(role="new", package="uflash", version="9.9.9", archive_sha256="0" * 64, binary_sha256=digest)


@pytest.fixture
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: Source, into: Path) -> Path:
        raise Unreachable(f"{source.package} {source.version}: no answer")

    monkeypatch.setattr(corpus, "download", refuse)


class TestExtraction:
    def test_hex_constant_is_read_without_running_the_module(self, tmp_path: Path) -> None:
        archive = make_archive(tmp_path / "uflash-9.9.9.tar.gz", make_source(hex_text()))

        assert find_hex(read_archive(archive, "uflash")) == hex_text()

    def test_flash_area_leaves_the_configuration_words_out(self) -> None:
        assert flash_area(hex_text()) == FLASH

    @pytest.mark.parametrize("text", ["x = 1\n", "def broken(:\n", "_RUNTIME = 'plain words'\n"])
    def test_module_without_hex_is_refused(self, text: str) -> None:
        with pytest.raises(CorpusError):
            find_hex(text)

    @pytest.mark.parametrize("text", [":00000001FF\n", ":0000000155\n"])
    def test_empty_or_damaged_hex_is_refused(self, text: str) -> None:
        with pytest.raises(CorpusError):
            flash_area(text)

    def test_archive_without_the_module_is_refused(self, tmp_path: Path) -> None:
        archive = make_archive(tmp_path / "a.tar.gz", "x = 1\n", member="uflash-9.9.9/other.py")

        with pytest.raises(CorpusError, match=r"no uflash\.py"):
            read_archive(archive, "uflash")

    def test_truncated_archive_is_refused(self, tmp_path: Path) -> None:
        archive = make_archive(tmp_path / "a.tar.gz", make_source(hex_text()))
        archive.write_bytes(archive.read_bytes()[:-200])

        with pytest.raises(CorpusError, match="not a readable source archive"):
            read_archive(archive, "uflash")


class TestDownload:
    def answer(self, monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
        result = subprocess.CompletedProcess(args=[], returncode=1, stdout="", stderr=stderr)
        monkeypatch.setattr(subprocess, "run", lambda *_, **__: result)

    def test_archive_with_another_digest_is_refused_for_good(
        self, tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.answer(monkeypatch, "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.")

        with pytest.raises(CorpusError, match="another SHA-256") as caught:
            corpus.download(source, tmp_path)
        assert not isinstance(caught.value, Unreachable)

    def test_registry_without_the_package_counts_as_unreachable(
        self, tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.answer(monkeypatch, "WARNING: slow\nERROR: No matching distribution found for uflash==9.9.9\n")

        with pytest.raises(Unreachable, match="No matching distribution"):
            corpus.download(source, tmp_path)

    def test_registry_that_does_not_answer_in_time_counts_as_unreachable(
        self, tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def hang(*_: object, timeout: float, **__: object) -> None:
            raise subprocess.TimeoutExpired("pip", timeout)

        monkeypatch.setattr(subprocess, "run", hang)

        with pytest.raises(Unreachable, match="no answer within 55 s"):
            corpus.download(source, tmp_path)


class TestFetch:
    def test_set_is_written_once_and_not_fetched_again(
        self, tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fetched: list[str] = []

        def bring(source: Source, into: Path) -> Path:
            fetched.append(source.version)
            return make_archive(into / "uflash-9.9.9.tar.gz", make_source(hex_text()))

        monkeypatch.setattr(corpus, "download", bring)
        monkeypatch.setattr(corpus, "DEMO", (source,))
        first, reason = provide(tmp_path)
        second, _ = provide(tmp_path)

        assert first == second == load(tmp_path)
        assert not first.synthetic
        assert not reason
        assert (tmp_path / "microbit-9.9.9.bin").read_bytes() == FLASH
        assert fetched == ["9.9.9"]

        (tmp_path / "microbit-9.9.9.bin").write_bytes(FLASH[:-1])
        provide(tmp_path)
        assert fetched == ["9.9.9", "9.9.9"]

    def test_image_with_another_digest_is_refused_and_nothing_is_written(
        self, tmp_path: Path, source: Source, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = IntelHex()
        other.frombytes(FLASH[::-1])
        text = io.StringIO()
        other.write_hex_file(text)
        monkeypatch.setattr(
            corpus, "download", lambda _, into: make_archive(into / "a.tar.gz", make_source(text.getvalue()))
        )
        monkeypatch.setattr(corpus, "DEMO", (source,))

        assert corpus.main(["demo", "--into", str(tmp_path)]) == 1
        assert capsys.readouterr().err.count("\n") == 1
        assert list(tmp_path.iterdir()) == []


class TestSynthetic:
    def test_images_are_the_same_every_time_and_change_as_code_does(self) -> None:
        images = list(make_images(7, 2))

        assert images == list(make_images(7, 2))
        assert images != list(make_images(8, 2))
        old, new = images
        assert min(len(old), len(new)) >= 200_000
        moved = sum(a != b for a, b in zip(old, new, strict=False))
        delta = len(bsdiff4.diff(old, new))
        assert moved > len(old) // 2
        assert len(new) // 50 < delta < len(new) // 3

    @pytest.mark.usefixtures("unreachable")
    def test_synthetic_set_stands_in_when_the_registry_does_not_answer(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert corpus.main(["demo", "--into", str(tmp_path)]) == 0
        words = capsys.readouterr().out
        index = json.loads((tmp_path / "corpus.json").read_text())

        assert "SYNTHETIC" in words
        assert "no answer" in words
        assert index["synthetic"] is True
        assert [entry["role"] for entry in index["files"]] == ["older", "old", "new"]
        for entry in index["files"]:
            text, binary = (tmp_path / entry["file"]).read_text(), (tmp_path / entry["binary"]).read_bytes()
            assert flash_area(text) == binary
            assert hashlib.sha256(binary).hexdigest() == entry["sha256_binary"]

    @pytest.mark.usefixtures("unreachable")
    def test_files_of_the_set_it_replaces_are_removed(self, tmp_path: Path) -> None:
        provide(tmp_path, offline=True)
        index = json.loads((tmp_path / "corpus.json").read_text())
        for entry in index["files"]:
            (tmp_path / entry["file"]).rename(tmp_path / f"stale-{entry['file']}")
            entry["file"] = f"stale-{entry['file']}"
        index["synthetic"] = False
        (tmp_path / "corpus.json").write_text(json.dumps(index))

        provide(tmp_path)

        assert not list(tmp_path.glob("stale-*"))

    def test_folder_that_cannot_be_written_is_one_line(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "file").write_text("")

        assert corpus.main(["demo", "--offline", "--into", str(tmp_path / "file")]) == 1
        assert capsys.readouterr().err.startswith("corpus: cannot write ")
