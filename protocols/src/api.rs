//! The JSON of the HTTP API, shared by the node that serves it, the command line and the testnet.
