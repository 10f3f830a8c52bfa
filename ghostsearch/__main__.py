"""`python -m ghostsearch` is the `ghostsearch` command."""

from ghostsearch.cli.main import main

if __name__ == "__main__":
    main()
