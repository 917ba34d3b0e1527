//! Duties over scripted neighbours.
