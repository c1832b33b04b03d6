"""A machine as its datasheet has it: numbers with units and sources, one TOML file per machine."""
