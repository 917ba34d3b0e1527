//! Measurements against a running network.
