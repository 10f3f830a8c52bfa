"""`ghostsearch`, as `python -m ghostsearch` too: the command, which Ctrl-C stops quietly while it is still imported."""

import sys

try:
    from ghostsearch.cli.main import main
except KeyboardInterrupt:
    # The code of whatever Ctrl-C stops later.
    sys.exit(130)

if __name__ == "__main__":
    main()
