"""`python -m infprune` is `infprune`."""

from infprune.cli import main

if __name__ == "__main__":
    main()
