//! A port over plain memory.
