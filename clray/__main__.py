"""`python -m clray` is `clray`."""

from clray.cli import main

if __name__ == "__main__":
    main()
