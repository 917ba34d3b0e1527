//! One node: its actors, started in order and closed in reverse.
