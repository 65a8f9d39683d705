"""Speed, measured side by side. Nothing here is a test."""
