"""``python -m stride``."""

from stride.cli import main

if __name__ == "__main__":
    main()
