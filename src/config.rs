//! Configuration: parsed, then validated into a type that cannot hold nonsense.
