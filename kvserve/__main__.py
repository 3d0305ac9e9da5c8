"""`python -m kvserve` is the `kvserve` command."""

from kvserve.cli.main import main

if __name__ == "__main__":
    main()
