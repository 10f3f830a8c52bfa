"""What holds for every test; before any of them imports torch."""

import os

# Several workers on few cores: threads that spin while they wait for one another would take most of the time.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
# Ray's workers would stand behind every other test.
os.environ.setdefault("RAY_worker_niceness", "0")
