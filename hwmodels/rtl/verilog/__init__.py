"""Units as Verilog that people read, and test benches that check it. Needs the extra `rtl`."""
