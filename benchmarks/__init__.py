"""Speed, measured side by side. Nothing here is a test."""

import os

# Since 1.29, ONNX Runtime sends names and hashes of models to Microsoft unless told not to before
# it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
