"""The HTTP port: /metrics, /livez and /readyz for operators, /v2 for callers."""
