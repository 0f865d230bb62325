"""``python -m fedm2ct``: the command line."""

from fedm2ct.cli import main

if __name__ == "__main__":
    main()
