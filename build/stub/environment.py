"""Runs in the frozen program before anything of ours: its environment is that of who started it.

PyInstaller's loader sets LD_LIBRARY_PATH to our libraries and leaves notes for itself. Whatever
we start (the embedded server, systemctl, this program once more) is to see neither; our own
process has read the path already.
"""

import os

os.environ.pop("LD_LIBRARY_PATH", None)
if (given := os.environ.pop("LD_LIBRARY_PATH_ORIG", None)) is not None:
    os.environ["LD_LIBRARY_PATH"] = given
for name in [name for name in os.environ if name.startswith("_PYI_")]:
    del os.environ[name]
