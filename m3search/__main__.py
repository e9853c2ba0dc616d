"""`python -m m3search` is `m3search`."""

from m3search.cli import main

if __name__ == "__main__":
    main()
