"""`python scripts/bench` runs the benchmarks: see `command`."""

from command import main

if __name__ == "__main__":
    main()
