"""Before any test imports torch."""

import os

# Several workers on few cores: threads that spin while they wait for one another would take most of the time.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
