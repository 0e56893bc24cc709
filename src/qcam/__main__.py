"""`python -m qcam`: the same as `qcam`."""

from qcam.commands.qcam import main

if __name__ == "__main__":
    main()
