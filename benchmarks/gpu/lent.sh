#!/bin/bash
# One call on a machine that is lent for minutes: keep the parts that came with this call, and once all are there, run
# what is not done yet.   bash benchmarks/gpu/lent.sh PARTS_CARRIED KEEP OUT MINUTES
# PARTS_CARRIED: where this call's parts lie (may be empty); KEEP: a folder that outlives the call; OUT: results.
set -euo pipefail
carried=$1 keep=$2 out=$3 minutes=$4
mkdir -p "$keep/parts" "$keep/results" "$out"
cp -n "$carried"/*.tar "$carried"/*.tar.xz "$carried"/manifest.json "$keep/parts/" 2>/dev/null || true
missing=$(python3 - "$keep/parts" <<'PY'
import json, pathlib, sys
folder = pathlib.Path(sys.argv[1])
manifest = folder / "manifest.json"
if not manifest.is_file():
    print("manifest.json")
else:
    print(*(p["part"] for p in json.loads(manifest.read_text())["parts"] if not (folder / p["part"]).is_file()))
PY
)
parts=(--parts "$keep/parts")
if [ -n "$missing" ]; then
  echo "still to bring: $missing"
  parts=(--only tests shape encode feeding)  # what needs no parts
fi
if [ "$minutes" != 0 ]; then
  python3 benchmarks/gpu/run.py --minutes "$minutes" "${parts[@]}" --work "$keep/work" --out "$keep/results" || true
fi
cp "$keep/results"/*.json "$out/" 2>/dev/null || true
