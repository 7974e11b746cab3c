"""Ten thousand damaged and hostile images through the decoder, and what came of them: errors, warnings, memory, time.

    python benchmarks/fuzz_images.py                  under a minute

Twice: with a small pixel limit, where the ceiling on memory is tight, and with the service's own limit. Each round is a
process with a hard ceiling (RLIMIT_AS). The images are those of the tests (_image_mutations.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _machine import described
from puma.serve import ServeSettings
from puma.storage.folders import write_json

SURVEY = Path(__file__).with_name("_image_survey.py")
SMALL = 4_000_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "fuzz_pictures.json")
    options = parser.parse_args()
    rounds = {
        name: survey(options.count, options.seed, pixels)
        for name, pixels in (("small limit", SMALL), ("service's limit", ServeSettings().max_image_pixels))
    }
    result = {"format": 1, "seed": options.seed, "rounds": rounds, "pillow": version("pillow"), **described()}
    write_json(options.out, result)
    print(json.dumps(result, indent=1))
    if any(found["escaped"] or found["warned"] or found["starved"] for found in rounds.values()):
        raise SystemExit("not all pictures were opened or refused as they should be")


def survey(count: int, seed: int, max_pixels: int) -> dict[str, Any]:
    start = time.perf_counter()
    command = [sys.executable, str(SURVEY), str(count), str(seed), str(max_pixels)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"the decoder's process ended with {done.returncode}: {done.stderr[-2000:]}")
    return {"max_pixels": max_pixels, "seconds": round(time.perf_counter() - start, 1), **json.loads(done.stdout)}


if __name__ == "__main__":
    main()
