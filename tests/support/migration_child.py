"""Migrates the index that is named to the toy model "toy-2", one item a batch and slowly: for the tests of kills."""

import sys
import time

from puma.search.migrating import migrate
from support.encoders import ToyEncoder

SECONDS = 0.05
"""Each item takes at least so long, so that kills within the first second meet an unfinished migration."""


class Slow(ToyEncoder):
    def encode(self, items, *, instruction=None):
        time.sleep(SECONDS)
        return super().encode(items, instruction=instruction)


if __name__ == "__main__":
    print("begun", flush=True)
    done = migrate(sys.argv[1], Slow(48, "toy-2"), "toy-2", batch_size=1, progress=False)
    print(done.embedded, done.present, done.generation, flush=True)
