"""Fill Deno's cache with what the sandbox needs, and the image: ``python -m erlport_bridge.programs.sandbox``."""

import sys

from erlport_bridge.errors import OperationError
from erlport_bridge.programs.sandbox.sandboxes import prepare

try:
    prepare()
except OperationError as error:
    sys.exit(str(error))
