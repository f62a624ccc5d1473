"""`python -m console` is the `vigil` command: how `vigil up` starts the processes of this machine."""

import sys

from console.cli import main

__all__: list[str] = []

sys.exit(main())
