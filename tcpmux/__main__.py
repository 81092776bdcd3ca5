"""`python -m tcpmux` is `tcpmux`."""

from tcpmux.cli import main

if __name__ == "__main__":
    main()
