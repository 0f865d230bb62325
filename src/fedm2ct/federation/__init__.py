"""The federation: methods, and the engine (Flower) that carries what their halves return.

The engine phones home unless told otherwise when it is first imported. It is told here, because
this module runs before any other module of the package can import it.
"""

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
