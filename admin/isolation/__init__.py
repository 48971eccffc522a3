"""The audit of isolation: every known way out, looked for on the server."""
