"""What clients talk to: listeners, connections, sessions, dispatch, and the commands about the server itself."""
