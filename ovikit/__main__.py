"""``python -m ovikit``: the command line, for launchers that start a module (``torchrun -m ovikit ...``)."""

from ovikit.cli import main

if __name__ == "__main__":
    main()
