"""`python -m adlib` is `adlib`."""

from adlib.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
