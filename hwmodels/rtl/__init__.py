"""Hardware units generated from patterns and encodings, proven equal to the bit model, synthesised. Needs the extra `rtl`."""
