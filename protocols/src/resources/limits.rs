//! Defaults of the resource tree; the real limits follow the machine.
