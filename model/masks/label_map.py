"""Label maps: (H, W) uint8, 0 for the background, k for a project's k-th label, `IGNORE` where no class is known."""

IGNORE = 255
