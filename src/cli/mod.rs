//! The command line: one file per subcommand, and the client that speaks to a running node.
