//! The local endpoint: HTTP over TCP and the Unix socket.
