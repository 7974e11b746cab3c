"""Migrates the index that is named to the toy model "toy-2", one item a batch: for the tests of kills."""

import sys

from puma.search.migrating import migrate
from support.encoders import ToyEncoder

if __name__ == "__main__":
    print("begun", flush=True)
    done = migrate(sys.argv[1], ToyEncoder(48, "toy-2"), "toy-2", batch_size=1, progress=False)
    print(done.embedded, done.present, done.generation, flush=True)
