"""``python -m dkmeans``: the command line."""

from dkmeans._cli import main

if __name__ == "__main__":
    main()
