"""The embedding table: its layout, lookup by unique ids, and updates."""
